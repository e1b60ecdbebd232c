"""What spade says while it works, and how much of it."""

from __future__ import annotations

import logging
import os
import sys
from enum import IntEnum
from numbers import Integral

logger = logging.getLogger("spade")
#: Level of the lines on single samples, between those of whole calls and those for finding errors.
HINT = 15
logging.addLevelName(HINT, "HINT")


class Verbosity(IntEnum):
    """How much is said, with scanpy's names and numbers."""

    error = 0
    warning = 1
    info = 2
    hint = 3
    debug = 4

    @property
    def level(self) -> int:
        """The level of :mod:`logging` from which lines are shown."""
        return (logging.ERROR, logging.WARNING, logging.INFO, HINT, logging.DEBUG)[self]


class Settings:
    """Settings of the package, as ``sp.settings``.

    Examples
    --------
    >>> import spade as sp
    >>> sp.settings.verbosity = "warning"  # or 1: no line for each call
    >>> sp.settings.verbosity = "info"
    >>> sp.settings
    Settings(verbosity='info')
    """

    def __init__(self) -> None:
        self.verbosity = Verbosity.info

    @property
    def verbosity(self) -> Verbosity:
        """How much is said, as in scanpy.

        ``"error"`` (0), ``"warning"`` (1), ``"info"`` (2, the default: a line for each call of a function of ``sp.pp``
        and ``sp.tl`` says what was written where and how long it took), ``"hint"`` (3: each sample as well) or
        ``"debug"`` (4). Lines go to the logger ``"spade"``. Where no logging is configured they are shown in the
        notebook, or on standard error in a script.
        """
        return self._verbosity

    @verbosity.setter
    def verbosity(self, value: Verbosity | int | str) -> None:
        names = [one.name for one in Verbosity]
        if isinstance(value, str) and value in names:
            value = Verbosity[value]
        elif isinstance(value, bool) or not isinstance(value, Integral) or not 0 <= value < len(names):
            listed = ", ".join(f"{name!r} ({number})" for number, name in enumerate(names))
            raise ValueError(f"verbosity={value!r}: expected one of {listed}.")
        self._verbosity = Verbosity(value)
        logger.setLevel(self._verbosity.level)

    def __repr__(self) -> str:
        return f"Settings(verbosity={self.verbosity.name!r})"


class _Lines(logging.StreamHandler):
    """Shows lines where no logging is configured; of several processes under ``torchrun``, the first one speaks."""

    def emit(self, record: logging.LogRecord) -> None:
        """Show a line, on the stream that is there now."""
        others = logging.getLogger().handlers or [one for one in logger.handlers if one is not self]
        if others or (record.levelno < logging.WARNING and os.environ.get("RANK", "0") != "0"):
            return
        self.setStream(sys.stdout if _in_notebook() else sys.stderr)
        super().emit(record)


def _in_notebook() -> bool:
    """Whether the code runs in IPython or a notebook, where standard error is shown in red."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None


settings = Settings()
if not any(isinstance(one, _Lines) for one in logger.handlers):
    logger.addHandler(_Lines())
