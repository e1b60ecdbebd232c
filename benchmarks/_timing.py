"""Run times of several implementations of the same computation."""

from __future__ import annotations

import statistics
import time

import torch


def timed(ways, repeats, device="cpu"):
    """Run all functions in turn, ``repeats`` times; return the median seconds and the last result of each."""
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    seconds, result = {name: [] for name in ways}, {}
    for _ in range(repeats):
        for name, run in ways.items():
            wait()
            start = time.perf_counter()
            result[name] = run()
            wait()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}, result
