"""Checks that all settings share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from numbers import Integral, Real
from typing import Any

import numpy as np

#: What settings with a default of this kind accept, what they become, and what that is called.
KINDS: dict[type, tuple[Any, Callable[[Any], Any], str]] = {
    bool: ((bool, np.bool_), bool, "True or False"),
    int: (Integral, int, "a whole number"),
    float: (Real, float, "a number"),
}


def check_kinds(config: Any) -> None:
    """Raise if a field of a frozen dataclass is not of the kind of its default; numbers of numpy become plain ones."""
    for one in fields(config):
        kind, value = type(one.default), getattr(config, one.name)
        if kind in KINDS:
            base, plain, what = KINDS[kind]
            if not isinstance(value, base) or (kind is not bool and isinstance(value, (bool, np.bool_))):
                raise ValueError(f"{one.name}={value!r}: expected {what}.")
            if type(value) not in KINDS:
                object.__setattr__(config, one.name, plain(value))
