"""Compilation of numerical kernels, which is kept for the next process where there is a place to keep it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

Kernel = TypeVar("Kernel", bound=Callable[..., Any])


def compiled(**options: Any) -> Callable[[Kernel], Kernel]:
    """Return the decorator of a kernel that releases the interpreter lock; ``options`` are those of ``numba.njit``.

    Where neither the folder of the package nor the home folder can be written, as in many containers, every process
    compiles anew.
    """

    def decorate(kernel: Kernel) -> Kernel:
        try:
            return numba.njit(cache=True, nogil=True, **options)(kernel)
        except RuntimeError:  # no place for the cache
            return numba.njit(nogil=True, **options)(kernel)

    return decorate
