"""Peak memory of ``train_spade`` on many stores, beside the size of the joined features and expression.

``python benchmarks/cohort_memory.py`` writes stores with random features and counts, and trains on some of them in a
new process each, in memory and with ``on_disk=True``. The peak is that of anonymous memory, because pages of a mapped
file can be dropped at any time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from _memory import AnonymousPeak
from scipy.sparse import random as random_sparse
from spatialdata import SpatialData
from spatialdata.models import TableModel

WIDTH, GENES, DENSITY = 1_536, 1_000, 0.2


def write_store(path: Path, n_spots: int, seed: int) -> None:
    """Write a table of random features ``(n, 1536)`` and counts of 1,000 genes, a fifth of them above zero."""
    rng = np.random.default_rng(seed)
    counts = random_sparse(
        n_spots, GENES, DENSITY, "csr", np.float32, rng=rng, data_rvs=lambda n: rng.integers(1, 9, n)
    )
    table = ad.AnnData(counts, obsm={"X_f": rng.standard_normal((n_spots, WIDTH), dtype=np.float32)})
    table.obs_names = [f"spot{i}" for i in range(n_spots)]
    table.var_names = [f"GENE{i}" for i in range(GENES)]
    table.obs["region"], table.obs["spot"] = pd.Categorical(["spots"] * n_spots), np.arange(n_spots)
    keys = {"region": "spots", "region_key": "region", "instance_key": "spot"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        SpatialData(tables={"table": TableModel.parse(table, **keys)}).write(path)


def train(small: str, on_disk: str, *paths: str) -> None:
    """Train on stores, and print what this takes in MiB beyond a training on one small store."""
    import spade as sp

    settings = {
        "use_rep": "X_f", "genes": [f"GENE{i}" for i in range(GENES)], "n_experts": 4, "n_prototypes": 8,
        "n_epochs": 1, "warm_start": 1, "device": "cpu",
    }  # fmt: skip
    sp.tl.train_spade(small, **settings)
    with AnonymousPeak() as memory:
        start = time.perf_counter()
        sp.tl.train_spade(list(paths), **settings, on_disk=bool(int(on_disk)))
    print(json.dumps({"seconds": time.perf_counter() - start, "peak": memory.peak}))


def main(arguments=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--stores", type=int, nargs="+", default=[5, 20])
    parser.add_argument("--spots", type=int, default=4_000)
    options = parser.parse_args(arguments)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_store(folder / "small.zarr", 200, 0)
        for i in range(max(options.stores)):
            write_store(folder / f"s{i}.zarr", options.spots, i + 1)
        for n in options.stores:
            for on_disk in ("0", "1"):
                paths = [str(folder / f"s{i}.zarr") for i in range(n)]
                command = [sys.executable, __file__, "train", str(folder / "small.zarr"), on_disk, *paths]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ)
                found = json.loads(done.stdout.splitlines()[-1])
                joined = n * options.spots * (WIDTH * 4 + GENES * DENSITY * 8) / 2**20
                facts = {"stores": n, "on_disk": int(on_disk), **found}
                rows.append(row := facts | {"joined": joined, "ratio": found["peak"] / joined})
                print(", ".join(f"{key} {value:.4g}" for key, value in row.items()), flush=True)
    return rows


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    train(*sys.argv[2:]) if sys.argv[1:2] == ["train"] else main()
