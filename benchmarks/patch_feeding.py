"""Random batches of patches, as training draws them: spade's sources against one xarray selection per patch.

``python benchmarks/patch_feeding.py``
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
from spatialdata import read_zarr

import spade as sp
from spade._samples.images import image_levels
from spade.core.patches.sources import LivePatches, SectionPatches, batches, write_patches

PX = 224


class Selected:
    """One ``isel`` per patch of the finest level."""

    n_px = PX

    def __init__(self, images, centres):
        self.arrays = [image["scale0"]["image"] for image in images]
        self.section = np.repeat(np.arange(len(centres)), [len(of_section) for of_section in centres])
        self.corners = np.round(np.concatenate(centres) - PX / 2).astype(int)

    def __len__(self):
        return len(self.corners)

    def take(self, rows):
        found = []
        for row in rows:
            y, x = self.corners[row]
            patch = self.arrays[self.section[row]].isel(y=slice(y, y + PX), x=slice(x, x + PX))
            found.append(patch.transpose("y", "x", "c").to_numpy())
        return np.stack(found)


def main(arguments=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--sections", type=int, default=4)
    parser.add_argument("--spots", type=int, default=900)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--batches", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        images, centres = [], []
        for i, sample in enumerate(sp.datasets.toy(options.sections, options.spots)):
            path = Path(folder) / f"{i}.zarr"
            sp.io.write(sample, path)
            images.append(read_zarr(path).images["image"])
            shape = [images[-1]["scale0"].sizes[axis] for axis in "yx"]
            own = np.asarray(sample["table"].obsm["spatial"])[:, ::-1]
            centres.append(own[((own >= PX / 2) & (own <= np.array(shape) - PX / 2)).all(1)])
        placed = [SectionPatches(image_levels(image), own, PX) for image, own in zip(images, centres, strict=True)]
        live, uncached, selected = (
            LivePatches(placed, PX),
            LivePatches(placed, PX, max_bytes=0),
            Selected(images, centres),
        )
        start = time.perf_counter()
        mapped = write_patches(Path(folder) / "patches.npy", live)
        print(f"{len(mapped):,} patches written at {len(mapped) / (time.perf_counter() - start):,.0f} a second")
        ways = {
            "file": (mapped, 0),
            "file, 2 workers": (mapped, 2),
            "images": (live, 0),
            "images, 2 workers": (live, 2),
            "images, nothing cached": (uncached, 0),
            "images, nothing cached, 2 workers": (uncached, 2),
            "isel per patch": (selected, 0),
            "isel per patch, 2 workers": (selected, 2),
        }
        rng = np.random.default_rng(0)
        rows = [rng.permutation(len(mapped))[: options.batch] for _ in range(options.batches)]
        seconds = {name: [] for name in ways}
        sums = dict.fromkeys(ways, 0)
        for _ in range(options.repeats):
            for name, (source, n_workers) in ways.items():
                start = time.perf_counter()
                sums[name] = sum(int(batch.sum()) for batch in batches(source, rows, n_workers))
                seconds[name].append(time.perf_counter() - start)
    if len(set(sums.values())) > 1:
        raise RuntimeError(f"the ways read different pixels: {sums}")
    n = sum(map(len, rows))
    table = pd.DataFrame(
        [(name, n / statistics.median(times)) for name, times in seconds.items()], columns=["way", "patches/s"]
    ).set_index("way")
    table["times isel"] = table["patches/s"] / table["patches/s"]["isel per patch"]
    print(f"random batches of {options.batch} of {PX} px from {options.sections} sections, median of {options.repeats}")
    print(table.round(1).to_string())
    return table


if __name__ == "__main__":
    main()
