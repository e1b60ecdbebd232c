"""Checks of plain arguments and settings; every message names the argument, what was got and what is expected."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sized
from dataclasses import fields
from numbers import Integral, Real
from os import PathLike, fspath
from os.path import expanduser
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

Choice = TypeVar("Choice")
#: What settings with a default of this kind accept, what they become, and what that is called.
KINDS: dict[type, tuple[Any, Callable[[Any], Any], str]] = {
    bool: ((bool, np.bool_), bool, "True or False"),
    int: (Integral, int, "a whole number"),
    float: (Real, float, "a number"),
}
#: How an address begins, ``s3://`` or ``https://``; a path has made ``s3:/`` of it. One letter is a drive of Windows.
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
#: Longest text of a value in a message.
MOST_SHOWN = 100
#: Intervals that a share may lie in, and how they are said.
SHARES = {
    "(0, 1)": "between 0 and 1",
    "[0, 1)": "from 0 to below 1",
    "(0, 1]": "above 0 and up to 1",
    "[0, 1]": "from 0 to 1",
}


def brief(value: object) -> str:
    """Return how a message shows a value: as Python writes it if that is short, else its type."""
    if isinstance(value, str):
        return repr(value if len(value) <= MOST_SHOWN else value[:MOST_SHOWN] + "…")
    if isinstance(value, Sized) and not isinstance(value, np.ndarray) and len(value) > MOST_SHOWN:
        return f"<{type(value).__name__} of {len(value):,}>"
    if isinstance(value, type):
        return f"<class {value.__name__}>"
    text = repr(value)
    return text if len(text) <= MOST_SHOWN and "\n" not in text else f"<{type(value).__name__}>"


def is_number(value: object) -> bool:
    """Whether a value is a finite number; True, False and text are none."""
    return isinstance(value, Real) and not isinstance(value, (bool, np.bool_)) and math.isfinite(value)


def check_flag(name: str, value: object) -> bool:
    """Return ``value`` if it is True or False, else raise."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name}={brief(value)}: expected True or False.")
    return bool(value)


def check_count(name: str, value: object, least: int = 1) -> int:
    """Return ``value`` if it is a whole number of at least ``least``, else raise."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Integral) or int(value) < least:
        raise ValueError(f"{name}={brief(value)}: expected a whole number of at least {least}.")
    return int(value)


def check_positive(name: str, value: object, unit: str = "") -> float:
    """Return ``value`` if it is a finite number above 0 (of some unit, which the message names), else raise."""
    if not is_number(value) or not value > 0:  # type: ignore[operator]
        raise ValueError(f"{name}={brief(value)}: expected a positive number{f' of {unit}' if unit else ''}.")
    return float(value)  # type: ignore[arg-type]


def check_not_negative(name: str, value: object, unit: str = "") -> float:
    """Return ``value`` if it is a finite number of at least 0 (of some unit, which the message names), else raise."""
    if not is_number(value) or not value >= 0:  # type: ignore[operator]
        raise ValueError(f"{name}={brief(value)}: expected a number{f' of {unit}' if unit else ''} of at least 0.")
    return float(value)  # type: ignore[arg-type]


def check_share(name: str, value: object, interval: str = "(0, 1)") -> float:
    """Return ``value`` if it is a number in an interval of :data:`SHARES`, else raise."""
    if not (
        is_number(value)
        and 0 <= value <= 1  # type: ignore[operator]
        and (value > 0 or interval[0] == "[")  # type: ignore[operator]
        and (value < 1 or interval[-1] == "]")  # type: ignore[operator]
    ):
        raise ValueError(f"{name}={brief(value)}: expected a number {SHARES[interval]}.")
    return float(value)  # type: ignore[arg-type]


def check_choice(name: str, value: object, choices: Iterable[Choice]) -> Choice:
    """Return the choice that ``value`` is, else raise with all choices."""
    known = list(choices)
    for choice in known:
        if isinstance(value, type(choice)) and value == choice:
            return choice
    raise ValueError(f"{name}={brief(value)}: expected one of {', '.join(map(repr, known))}.")


def check_text(name: str, value: object) -> str:
    """Return ``value`` if it is a string that is not empty, such as a key or a column, else raise."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name}={brief(value)}: expected a name, as text.")
    return value


def check_path(name: str, value: object) -> Path:
    """Return ``value`` as a path on this machine, ``~`` expanded; raise if it is no path, empty or an address."""
    if not isinstance(value, (str, PathLike)) or isinstance(path := fspath(value), bytes):
        raise TypeError(f"{name}: got {type(value).__name__}; expected a path.")
    if not path:
        raise ValueError(f"{name}='': expected a path.")
    if ADDRESS.match(path):
        raise ValueError(
            f"{name}={brief(path)} is an address, but only files on this machine are read and written. Download it, or "
            "mount the place, and give the local path."
        )
    return Path(expanduser(path))  # unlike that of Path, it leaves an unknown user as it is


def check_ordered(name: str, value: object) -> None:
    """Raise if ``value`` is a set, whose order differs from run to run."""
    if isinstance(value, (set, frozenset)):
        raise TypeError(f"{name}: a set has no order, so results would differ from run to run; pass a list.")


def check_names_given(name: str, value: object) -> list[str]:
    """Return names as a list, in order (one string is one name); raise if these are none, or a set."""
    check_ordered(name, value)
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, Iterable) or isinstance(names, Mapping):
        raise TypeError(f"{name}={brief(value)}: expected a list of names.")
    given = list(map(str, names))
    if not given:
        raise ValueError(f"{name}= is empty: name some, or leave it out.")
    return given


def check_kinds(config: Any) -> None:
    """Raise if a field of a frozen dataclass is not of the kind of its default; numbers of numpy become plain ones."""
    for one in fields(config):
        kind, value = type(one.default), getattr(config, one.name)
        if kind in KINDS:
            base, plain, what = KINDS[kind]
            if not isinstance(value, base) or (kind is not bool and isinstance(value, (bool, np.bool_))):
                raise ValueError(f"{one.name}={brief(value)}: expected {what}.")
            if type(value) not in KINDS:
                object.__setattr__(config, one.name, plain(value))
