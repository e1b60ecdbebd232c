"""Slides whose class a few planted patches decide, as samples and as files."""

from __future__ import annotations

import h5py
import numpy as np
import pandas as pd

import spade as sp
from helpers.sections import featured

FAST = {"hidden": 16, "lr": 5e-3, "n_epochs": 12, "device": "cpu"}


def slide(i, n=36, width=8, patient=None, n_planted=3):
    """Slide ``i``: in class ``b`` a feature is high in a few patches.

    In all slides it is low in others, some more, some fewer, so that its mean tells little.
    """
    sample = featured(n, width=width, name=f"s{i:02d}", seed=i)
    rng = np.random.default_rng(i)
    x = rng.normal(size=(n, width)).astype(np.float32)
    rows = rng.permutation(n)
    planted, low = rows[: n_planted * (i % 2)], rows[n_planted : n_planted + int(rng.integers(0, 9))]
    x[planted, 0] += 5
    x[low, 0] -= 5
    table = sample["table"]
    table.obsm["X_f"] = x
    table.obsm["X_noise"] = rng.normal(size=(n, 4)).astype(np.float32)
    table.obs["kind"] = "ab"[i % 2]
    table.obs["patient"] = patient or f"p{i}"
    table.obs["planted"] = np.isin(np.arange(n), planted)
    return sample


def quick(options):
    """Three folds, and a short training of what is trained by steps."""
    fast = {} if options.get("head", "mean") in ("mean", ["mean"]) else FAST
    return ({} if "fold_key" in options else {"n_folds": 3}) | fast | options


def run(samples, **options):
    return sp.tl.slide_task(samples, **quick({"label_key": "kind", "use_rep": "X_f"} | options))


def write_cohort(folder, n=40, n_patches=6, width=6, sites="AAAB", seed=0):
    """Feature files of two slides per patient, and what is known of them.

    The second feature is the age, scaled, and the grade is cut from it.
    """
    rng = np.random.default_rng(seed)
    folder.mkdir(exist_ok=True)
    value = rng.normal(size=n)
    for i in range(n):
        x = rng.normal(size=(n_patches, width)).astype(np.float32)
        x[:, 1] += 2 * value[i]
        write_h5(folder / f"s{i:02d}.h5", x)
    patient = np.arange(n) // 2
    return pd.DataFrame(
        {
            "sample": [f"s{i:02d}" for i in range(n)],
            "patient": [f"p{p:02d}" for p in patient],
            "age": 50 + 10 * value,
            "grade": np.searchsorted([-0.6, 0.2, 0.9], value),
            "kind": np.where(value > 0, "b", "a"),
            "site": [sites[p % len(sites)] for p in patient],
        }
    )


def means_of(folder):
    """Mean over the patches of every slide."""
    with_files = sorted(folder.glob("*.h5"))
    means = []
    for path in with_files:
        with h5py.File(path) as file:
            means.append(np.asarray(file["features"], dtype=np.float64).mean(0))
    return np.array(means)


def write_trident(path, x, coords, encoder="uni_v1", **attributes):
    """Write a file as TRIDENT does: a chunk per patch, attributes of both arrays."""
    with h5py.File(path, "w") as file:
        for name, values in (("features", x), ("coords", coords)):
            file.create_dataset(name, data=values, maxshape=(None, values.shape[1]), chunks=(1, values.shape[1]))
        file["features"].attrs.update({"name": path.stem, "savetodir": "out", "encoder": encoder})
        file["coords"].attrs.update(
            {
                "patch_size": 256, "patch_size_level0": 512, "level0_magnification": 40, "target_magnification": 20,
                "overlap": 0, "name": path.stem, "savetodir": "out", "level0_width": 4096, "level0_height": 2048,
                **attributes,
            }
        )  # fmt: skip


def write_h5(path, x, coords=None, three=False, **more):
    with h5py.File(path, "w") as file:
        file["features"] = x[None] if three else x
        file["coords"] = np.zeros((len(x), 2), dtype=np.int64) if coords is None else coords
        for name, value in more.items():
            file[name] = value


def write_clam(path, x, coords, **attributes):
    """Write features as CLAM does, without attributes, or with those that its file of coordinates has."""
    with h5py.File(path, "w") as file:
        for name, values in (("features", x), ("coords", coords)):
            file.create_dataset(name, data=values, maxshape=(None, values.shape[1]), chunks=(1, values.shape[1]))
        file["coords"].attrs.update(attributes)
