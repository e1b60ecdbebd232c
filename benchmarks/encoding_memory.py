"""The peak of memory while the patches of a store are encoded, for few and for many patches of one image.

    python benchmarks/encoding_memory.py --patches 2000 20000

Every number of patches is encoded in a process of its own, whose peak is what the system has counted in the end. The
encoder is a cheap one (mean and deviation of the colours), so that reading and keeping patches is all there is.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
from _memory import peak_mib

DIM, SIDE_PX = 16, 4096


class Colours:
    """Mean and deviation of the colours of 224 px, repeated to a width of 16."""

    name, id, dim, input_px, mpp = "colours", "colours-1", DIM, 224, None

    def encode(self, patches, mpp):
        few = patches[:, ::8, ::8].reshape(len(patches), -1, 3).astype(np.float32)
        return np.resize(np.concatenate([few.mean(1), few.std(1)], axis=1).T, (DIM, len(patches))).T


def make(path: Path, n: int) -> None:
    """Write a store with an image and ``n`` patches all over it."""
    import pandas as pd
    from anndata import AnnData
    from geopandas import GeoDataFrame, points_from_xy
    from scipy.sparse import csr_matrix
    from spatialdata import SpatialData
    from spatialdata.models import Image2DModel, ShapesModel, TableModel

    import spade as sp

    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (3, SIDE_PX, SIDE_PX), dtype=np.uint8)
    frame = GeoDataFrame({"radius": np.full(n, 5.0)}, geometry=points_from_xy(*rng.uniform(0, SIDE_PX, (2, n))))
    obs = pd.DataFrame({"region": pd.Categorical(["spots"] * n), "spot_id": frame.index}, index=frame.index.astype(str))
    table = TableModel.parse(
        AnnData(csr_matrix((n, 1), dtype=np.float32), obs=obs),
        region="spots",
        region_key="region",
        instance_key="spot_id",
    )
    sdata = SpatialData(
        images={"image": Image2DModel.parse(image, dims=("c", "y", "x"), c_coords=[*"rgb"], chunks=(3, 1024, 1024))},
        shapes={"spots": ShapesModel.parse(frame)},
        tables={"table": table},
    )
    sp.pp.patches(sdata, mpp=0.5)
    sp.io.write(sdata, path)


def encode(path: Path) -> None:
    """Encode a store, and print the peak of this process in MiB."""
    import spade as sp

    sp.pp.encode_patches(path, Colours())
    print(peak_mib(), flush=True)


def peak(n: int) -> float:
    """Return the peak of memory for ``n`` patches, in MiB."""
    with tempfile.TemporaryDirectory(prefix="spade-memory-") as folder:
        path = Path(folder) / "sample.zarr"
        for step in ("--make", "--encode"):
            command = [sys.executable, __file__, step, str(path), "--patches", str(n)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def main(arguments: list[str] | None = None) -> list[float]:
    """Print a line for every number of patches; return the peaks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", nargs="+", type=int, default=[2_000, 20_000])
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--encode", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.make or options.encode:
        warnings.simplefilter("ignore")
        make(options.make, options.patches[0]) if options.make else encode(options.encode)
        return []
    peaks = []
    for n in options.patches:
        peaks.append(peak(n))
        pixels = n * 224 * 224 * 3 / 2**20
        print(
            f"{n:>7,} patches ({pixels:,.0f} MiB of pixels): peak {peaks[-1]:,.0f} MiB, {peaks[-1] / peaks[0]:.3f} of "
            "the first",
            flush=True,
        )
    return peaks


if __name__ == "__main__":
    main()
