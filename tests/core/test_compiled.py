"""Kernels are compiled where nothing can be kept as well, as in a container whose folders are read-only."""

from __future__ import annotations

import numpy as np
from numba.core.dispatcher import Dispatcher

from spade.core.compiled import compiled


def total(values):
    out = 0.0
    for value in values:
        out += value
    return out


def test_a_kernel_without_a_place_for_its_cache_is_compiled_all_the_same(monkeypatch):
    def no_place(self):
        raise RuntimeError("cannot cache function 'total': no locator available")

    monkeypatch.setattr(Dispatcher, "enable_caching", no_place)
    kernel = compiled(error_model="numpy")(total)
    assert kernel(np.array([1.0, 2.5])) == 3.5
    assert kernel.targetoptions["nogil"]
