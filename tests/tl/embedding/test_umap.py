"""A representation in two dimensions."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from helpers.sections import cohort, spoil
from spatialdata import read_zarr

import spade as sp
from spade.tl._embedding.umap import METRICS, UmapSettings


def clusters(n=40):
    x = np.random.default_rng(0).normal(size=(n, 5))
    x[: n // 2] += 30
    return x.astype(np.float32)


def flat(metric="euclidean", seed=0):
    return UmapSettings(10, 0.5, metric, seed).coordinates(clusters(), "x")


def test_far_clusters_stay_apart_and_a_seed_repeats(caplog):
    caplog.set_level("INFO", "spade")
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(sys.modules, "umap", raising=False)  # as in a new process
        xy = flat()
    assert xy.shape == (40, 2)
    near = np.linalg.norm(xy[:, None] - xy, axis=2) + 1e9 * np.eye(40)
    assert ((near.argmin(1) < 20) == (np.arange(40) < 20)).all()
    np.testing.assert_array_equal(xy, flat())
    assert [record.message.partition(",")[0] for record in caplog.records] == [
        "the first UMAP of a process compiles its code"
    ]
    assert not np.array_equal(xy, flat(seed=1))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.slow
def test_every_metric_works(metric):
    assert np.isfinite(flat(metric)).all()


def test_all_samples_share_a_umap_which_is_stored_with_its_settings(tmp_path):
    samples = cohort()
    spoil(samples[1], "X_f", [5])
    sp.io.write(samples[1], tmp_path / "other.zarr")
    sp.tl.umap([samples[0], tmp_path / "other.zarr"], use_rep="X_f", n_neighbors=8, rng=3)
    tables = samples[0]["table"], read_zarr(tmp_path / "other.zarr")["table"]
    x = np.concatenate([table.obsm["X_f"] for table in tables])
    expected = UmapSettings(8, 0.5, "euclidean", 3).coordinates(x, "x")
    np.testing.assert_allclose(np.concatenate([table.obsm["X_f_umap"] for table in tables]), expected)
    assert np.isnan(expected).all(1).tolist() == [i == 36 + 5 for i in range(72)]
    for table in tables:
        record = table.uns["spade"]["X_f_umap"]
        assert (record["function"], record["use_rep"], record["n_neighbors"], record["seed"]) == (
            "tl.umap",
            "X_f",
            8,
            3,
        )
    assert tables[0].uns["spade"]["X_f_umap"]["rows_id"] == tables[1].uns["spade"]["X_f_umap"]["rows_id"]


def test_too_few_rows_and_other_widths_are_errors():
    samples = cohort()
    spoil(samples[0], "X_f", range(30))
    with pytest.raises(ValueError, match=r"use_rep='X_f' has 6 rows without NaN of 36; at least 10 are needed"):
        sp.tl.umap(samples[0], use_rep="X_f")
    samples[0]["table"].obsm["X_f"] = np.ones((36, 3), np.float32)
    with pytest.raises(ValueError, match=r"use_rep='X_f' differs in width between samples"):
        sp.tl.umap(samples, use_rep="X_f")
    assert "X_f_umap" not in samples[1]["table"].obsm
