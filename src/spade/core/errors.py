"""The errors and warnings of the package."""

from __future__ import annotations

import sys
import warnings


class NonFiniteLossError(FloatingPointError):
    """The loss became NaN or infinite."""


def warn(message: str) -> None:
    """Warn users at the line of theirs that called the package, however deep in the package this happens."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] == "spade":
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)
