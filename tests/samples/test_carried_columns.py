"""Squares around spots carry the columns of ``obs`` that functions write, so that viewers colour squares by them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from helpers.sections import featured
from spatialdata import get_element_annotators, get_values, read_zarr

import spade as sp

CLUSTERS = {"use_rep": "X_f", "n_prototypes": 4, "n_experts": 3}


@pytest.fixture
def sdata():
    sdata = featured()
    sp.pp.patches(sdata, size_um=40, size_px=40)
    return sdata


def columns(sdata, element="patches"):
    return sdata[element].columns.drop("geometry").tolist()


def same_as_table(sdata, key):
    """Whether the squares have the values of the rows with their instance ids, as spatialdata finds them."""
    values = get_values(key, sdata=sdata, element_name="patches")[key]
    obs = sdata["table"].obs.set_index("spot_id")[key]
    pd.testing.assert_series_equal(values, obs.reindex(values.index), check_names=False)


def test_what_a_function_writes_is_on_the_squares(sdata):
    assert columns(sdata) == ["spade_valid"]
    sdata.tables["table"] = sdata["table"][np.random.default_rng(0).permutation(36)[:30]].copy()
    sp.tl.cluster_experts(sdata, **CLUSTERS)
    assert columns(sdata) == ["spade_valid", "spade_prototype", "spade_cluster"]
    same_as_table(sdata, "spade_cluster")
    assert sdata["patches"]["spade_cluster"].isna().sum() == 6
    assert list(sdata.tables) == ["table"]
    assert not get_element_annotators(sdata, "patches")


@pytest.mark.slow
def test_they_are_kept_in_step_and_survive_a_store(sdata, tmp_path):
    path = tmp_path / "sample.zarr"
    sp.io.write(sdata, path)
    for rng in (0, 1):
        sp.tl.cluster_experts(path, rng=rng, **CLUSTERS)
        stored = read_zarr(path)
        same_as_table(stored, "spade_cluster")
        sp.tl.cluster_experts(sdata, rng=rng, **CLUSTERS)
        pd.testing.assert_frame_equal(pd.DataFrame(sdata["patches"]), pd.DataFrame(stored["patches"]))
    file = path / "shapes/patches/shapes.parquet"
    before = file.stat().st_ino, file.read_bytes()
    sp.pp.spatial_context(path, use_rep="X_f", radius_um=60, key_added="X_new")
    assert (file.stat().st_ino, file.read_bytes()) == before  # nothing new in obs: not written


def test_new_patches_begin_anew(sdata):
    sp.tl.cluster_experts(sdata, **CLUSTERS)
    sp.pp.patches(sdata, size_um=30, size_px=40)
    assert columns(sdata) == ["spade_valid"]
    sp.pp.patches(sdata, size_um=60, size_px=40, key_added="large")
    sp.tl.cluster_experts(sdata, key_added="other", **CLUSTERS)
    assert columns(sdata, "large") == columns(sdata) == ["spade_valid", "other_prototype", "other_cluster"]


def test_columns_of_others_stay_where_they_are(sdata):
    sdata["table"].obs["mine"] = 1.0
    sdata["table"].obs["pair"] = [("a", 1)] * 36
    sdata["patches"]["theirs"] = 2.0
    sp.tl.cluster_experts(sdata, **CLUSTERS)
    assert set(columns(sdata)) == {"spade_valid", "theirs", "spade_prototype", "spade_cluster"}
    assert (sdata["patches"]["theirs"] == 2).all()
    assert columns(sdata, "spots") == ["radius"]


def test_tiles_have_a_table_of_their_own(sdata):
    sp.pp.tiles(sdata, tissue_key=None, size_um=40, size_px=40)
    sp.pp.split(sdata, table_key="tiles", groupby=None, fractions=(1, 0, 0))
    assert columns(sdata, "tiles") == []
    assert "spade_split" in get_values("spade_split", sdata=sdata, element_name="tiles", table_name="tiles_table")
