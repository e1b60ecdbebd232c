"""Spot-centred patches from a stored image: spade against other ways to read the same pixels.

``python benchmarks/patch_reading.py``
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from spatialdata import bounding_box_query, read_zarr

import spade as sp
from spade._samples.images import image_levels
from spade.core.patches.tiles import iter_patches


def ours(element, centres):
    for _, patches in iter_patches(image_levels(element), centres, 224, 224, 64):
        yield from patches


def dask_slices(element, centres):
    array = element["scale0"]["image"].data
    for y, x in np.round(centres - 112).astype(int):
        yield array[:, y : y + 224, x : x + 224].compute()


def queries(element, centres):
    image = element["scale0"]["image"]
    for y, x in centres:
        box = bounding_box_query(
            image,
            axes=("y", "x"),
            min_coordinate=[y - 112, x - 112],
            max_coordinate=[y + 112, x + 112],
            target_coordinate_system="global",
        )
        yield box.data.compute()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--spots", type=int, default=900)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "toy.zarr"
        (sample,) = sp.datasets.toy(1, options.spots)
        sp.io.write(sample, path)
        centres = np.asarray(sample["table"].obsm["spatial"])[:, ::-1]
        element = read_zarr(path).images["image"]
        ways = {"spade": (ours, 1), "dask slice per patch": (dask_slices, 4), "bounding_box_query": (queries, 20)}
        rows = []
        for name, (read, share) in ways.items():
            chosen = centres[::share]
            seconds = []
            for _ in range(options.repeats):
                start = time.perf_counter()
                for patch in read(element, chosen):
                    patch.sum()
                seconds.append(time.perf_counter() - start)
            rows.append((name, len(chosen) / statistics.median(seconds)))
    table = pd.DataFrame(rows, columns=["way", "patches/s"])
    table["spade is faster by"] = table["patches/s"].iloc[0] / table["patches/s"]
    print(table.round(1).to_string(index=False))


if __name__ == "__main__":
    main()
