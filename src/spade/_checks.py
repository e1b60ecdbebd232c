"""Checks of plain arguments."""

from __future__ import annotations

import numpy as np


def check_count(name: str, value: int, least: int = 1) -> int:
    """Return ``value`` if it is a whole number of at least ``least``, else raise."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"{name}={value!r}: expected a whole number of at least {least}.")
    return int(value)
