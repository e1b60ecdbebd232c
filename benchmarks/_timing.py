"""Times of ways to do the same."""

from __future__ import annotations

import statistics
import time

import torch


def timed(ways, repeats, device="cpu"):
    """Run the ways in turn, so often; return the median seconds of each, and what each returned last."""
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
