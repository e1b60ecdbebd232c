"""The line that a function says at its end: what it wrote where, what it returns and how long it took."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextvars import ContextVar
from functools import wraps
from typing import ParamSpec, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spade._checks import plural
from spade._said.settings import HINT

logger = logging.getLogger("spade")
P = ParamSpec("P")
R = TypeVar("R")
#: Most characters of what a line says of a value that is returned.
LONGEST = 100


class _Call:
    """What is known of a call that has not ended."""

    def __init__(self) -> None:
        self.samples: dict[str, list[str]] = {}
        self.keys: dict[str, None] = {}
        self.facts: list[str] = []

    def add(self, inner: _Call) -> None:
        """Add what a call within this one wrote."""
        self.keys |= inner.keys
        for sample, details in inner.samples.items():
            self.samples.setdefault(sample, []).extend(details)

    def parts(self, result: object) -> list[str]:
        """Return the parts of the line."""
        parts = [f"wrote {', '.join(self.keys)} in {self._where()}"] if self.keys else []
        tables = [one for one in (result if isinstance(result, tuple) else (result,)) if isinstance(one, pd.DataFrame)]
        if tables:
            parts.append(f"returns {' and '.join(plural(len(table), 'row') for table in tables)}")
        elif result is not None:
            first = repr(result).partition("\n")[0]
            parts.append(first if len(first) <= LONGEST else f"{first[:LONGEST].rpartition(', ')[0]}, …")
        return parts + self.facts

    def _where(self) -> str:
        """Return the sample that was written, with the details, or the number of samples."""
        if len(self.samples) > 1:
            return plural(len(self.samples), "sample")
        ((name, details),) = self.samples.items()
        return ": ".join([name, *([", ".join(details)] if details else [])])


#: The call of the user's that runs now.
_CALL: ContextVar[_Call | None] = ContextVar("call", default=None)


def speaks(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function say one line when it ends; those that it calls say theirs as hints."""
    name = f"{function.__module__.split('.')[1]}.{function.__name__}"

    @wraps(function)
    def speaking(*args: P.args, **kwargs: P.kwargs) -> R:
        outer, call, begun = _CALL.get(), _Call(), time.perf_counter()
        token = _CALL.set(call)
        try:
            result = function(*args, **kwargs)
        finally:
            _CALL.reset(token)
        if outer is not None:
            outer.add(call)
        took = duration(time.perf_counter() - begun)
        logger.log(
            logging.INFO if outer is None else HINT,
            "%s: %s (%s)",
            name,
            "; ".join(call.parts(result)) or "nothing to do",
            took,
        )
        return result

    return speaking


def hushed(function: Callable[P, R]) -> Callable[P, R]:
    """Make functions of the package that are called within this one, such as a plot, say their lines as hints."""

    @wraps(function)
    def quiet(*args: P.args, **kwargs: P.kwargs) -> R:
        token = _CALL.set(_Call())
        try:
            return function(*args, **kwargs)
        finally:
            _CALL.reset(token)

    return quiet


def wrote(sample: str, *keys: str, detail: str = "") -> None:
    """Note what was written in a sample, such as ``"obsm['X_spade']"``, and a detail, such as its size."""
    logger.log(HINT, "%s: wrote %s%s", sample, ", ".join(keys), detail and f": {detail}")
    if (call := _CALL.get()) is not None:
        call.samples.setdefault(sample, []).extend([detail] if detail else [])
        call.keys.update(dict.fromkeys(keys))


def told(fact: str) -> None:
    """Add a fact to the line of the call that runs."""
    if (call := _CALL.get()) is not None:
        call.facts.append(fact)


def duration(seconds: float) -> str:
    """Return a time in words: ``0.4 s``, ``38 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    minutes, hours = whole // 60, whole // 3600
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


def size(values: NDArray[np.generic]) -> str:
    """Return the size of an array in words: ``262 × 184``."""
    return " × ".join(f"{n:,}" for n in values.shape)
