"""Feature files as TRIDENT writes them, and what reading them and training a head on them need in memory.

``python _feature_folder.py FOLDER STEP ...`` prints, for each step in turn, seconds, CPU seconds and the peak of memory
so far in MiB beyond the imports, as JSON.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
import time
import warnings
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from _memory import peak_mib


def write_features(folder, n_slides, n_patches, width):
    """Write ``.h5`` of features in chunks of one row, and of coordinates; two classes, told by the mean."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(n_slides):
        values = rng.standard_normal((n_patches, width), dtype=np.float32)
        values[:, : width // 8] += i % 2
        with h5py.File(folder / f"slide_{i:03d}.h5", "w") as file:
            file.create_dataset("features", data=values, chunks=(1, width), maxshape=(None, width))
            file.create_dataset(
                "coords", data=rng.integers(0, 40_000, (n_patches, 2)), chunks=(1, 2), maxshape=(None, 2)
            )
    return folder


def abmil(folder):
    import spade as sp

    task = sp.tl.slide_task
    names = sorted(path.stem for path in folder.iterdir())
    labels = pd.DataFrame({"sample": names, "kind": [("a", "b")[i % 2] for i in range(len(names))]})
    options = {"head": "abmil", "groupby": None, "n_folds": 2, "n_epochs": 1, "inner_val": 0.0, "device": "cpu"}
    return lambda: task(folder, label_key="kind", labels=labels, **options)


def embedding(folder):
    """Embed every slide with a model that was trained on features of this width; results go into a folder beside."""
    import spade as sp

    with h5py.File(next(folder.iterdir())) as file:
        width = file["features"].shape[1]
    sample = sp.datasets.toy(1, 60, n_genes=100)[0]
    sample["table"].obsm["X_features"] = np.random.default_rng(0).standard_normal((60, width), dtype=np.float32)
    options = {"genes": list(sample["table"].var_names), "n_prototypes": 4, "n_experts": 2, "n_epochs": 1}
    model = sp.tl.train_spade([sample], use_rep="X_features", device="cpu", **options)
    out = folder.with_name(f"{folder.name}_embedded")

    def run():
        shutil.rmtree(out, ignore_errors=True)
        sp.tl.embed(folder, model, out=out)

    return run


def read(folder):
    """Only read every file once."""
    from spade.io._feature_files import read_feature_file

    return lambda: [read_feature_file(path).sum() for path in sorted(folder.iterdir())]


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable()
    place, *names = sys.argv[1:]
    ways = {"abmil": abmil, "reading": read, "embedding": embedding}
    steps = {name: ways[name](Path(place)) for name in names}
    before, found = peak_mib(), {}
    for name, step in steps.items():
        wall, cpu = time.perf_counter(), time.process_time()
        step()
        seconds = [time.perf_counter() - wall, time.process_time() - cpu]
        found[name] = {"seconds": seconds, "peak": peak_mib() - before}
    print(json.dumps(found))
