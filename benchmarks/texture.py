"""Texture features on one thread and on all, and the first batch of a new process, whose kernels are cached.

``python benchmarks/texture.py``: times alternate within one process. Then two processes encode their first batch: one
with an empty cache of compiled kernels, and one that finds them there.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time

import numba
import numpy as np
from _timing import timed

import spade as sp
from spade._samples.images import image_levels

PX, UM = 224, 0.5


def patches_of(n):
    """Patches ``(n, 224, 224, 3)`` of the toy tissue."""
    (sample,) = sp.datasets.toy(1, 60)
    (picture,) = image_levels(next(iter(sample.images.values())))[:1]
    pixels = np.moveaxis(picture.read(0, picture.shape[0], 0, picture.shape[1]), 0, -1)
    rng = np.random.default_rng(0)
    corners = rng.integers(0, np.array(pixels.shape[:2]) - PX, (n, 2))
    return np.stack([pixels[y : y + PX, x : x + PX] for y, x in corners])


def first_batch(n):
    """Seconds until the first batch is encoded, imports aside."""
    patches, encoder = patches_of(n), sp.encoders.get("texture")
    start = time.perf_counter()
    encoder.encode(patches, UM)
    return time.perf_counter() - start


def in_new_process(cache):
    command = [sys.executable, __file__, "--first", "64"]
    environment = {**os.environ, "NUMBA_CACHE_DIR": cache, "TQDM_DISABLE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return float(done.stdout.splitlines()[-1])


def main(arguments=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--patches", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--first", type=int, help="only encode a first batch of so many patches")
    options = parser.parse_args(arguments)
    if options.first:
        seconds = first_batch(options.first)
        print(seconds)
        return seconds
    patches, encoder = patches_of(options.patches), sp.encoders.get("texture")
    threads = numba.config.NUMBA_NUM_THREADS

    def on(n):
        numba.set_num_threads(n)
        return encoder.encode(patches, UM)

    on(threads)
    seconds, found = timed({n: lambda n=n: on(n) for n in (1, threads)}, options.repeats)
    np.testing.assert_array_equal(found[1], found[threads])
    for n, value in seconds.items():
        print(f"{n} threads: {len(patches) / value:.0f} patches/s, {seconds[1] / value:.2f} of one thread")
    with tempfile.TemporaryDirectory() as cache:
        first, second = in_new_process(cache), in_new_process(cache)
    print(f"first batch of a process: {first:.1f} s with an empty cache, {second:.1f} s afterwards")
    return seconds[1] / seconds[threads], first, second


if __name__ == "__main__":
    main()
