"""Regions and samples without spots, and shapes without geometry: the rest gives what it gives alone, or an error."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from geopandas import GeoDataFrame
from helpers.sections import GENES, circles, featured, picture, pixels, square_lattice, table, train
from shapely import Point, Polygon, box
from spatialdata import SpatialData
from spatialdata.transformations import Identity, set_transformation

import spade as sp
from spade.io._recorded.scale import record_scale

N = 36


def two_regions(emptied: bool = False) -> SpatialData:
    """One object with two sections; the second may have lost its spots, as by ``scanpy.pp.filter_cells``."""
    centres = square_lattice(N)
    ids = [f"s{i:02d}" for i in range(N)]
    sdata = SpatialData(
        images={"i1": picture(), "i2": picture(pixels(1))},
        shapes={"one": circles(centres), "two": circles(centres)},
        tables={"table": table(ids + ids, region=["one"] * N + ["two"] * N, seed=3)},
    )
    for image, spots in (("i1", "one"), ("i2", "two")):
        for element in (sdata[image], sdata[spots]):
            set_transformation(element, {spots: Identity()}, set_all=True)
    record_scale(sdata, sample="t", mpp={"i1": 1.0, "i2": 1.0})
    adata = sdata["table"]
    far = 6.0 * (np.arange(2 * N) % 2)[:, None]
    adata.obsm["X_f"] = (np.random.default_rng(0).normal(size=(2 * N, 8)) + far).astype(np.float32)
    adata.obs["organ"] = pd.Categorical(["a", "b"] * N)
    adata.obs["patient"] = pd.Categorical(["p"] * N + ["q"] * N)
    if emptied:
        adata._inplace_subset_obs(np.arange(2 * N) < N)
    return sdata


@pytest.fixture(scope="module")
def model():
    return train([featured(name="m0"), featured(name="m1", seed=1)])


@pytest.fixture
def other():
    sdata = featured(name="z", seed=2)
    sp.pp.patches(sdata, size_um=40)
    return sdata


@pytest.fixture
def emptied():
    sdata = two_regions(emptied=True)
    sp.pp.patches(sdata, size_um=40)
    return sdata


@pytest.mark.parametrize(
    "function", ["patches", "encode_patches", "select_genes", "smooth_expression", "spatial_context"]
)
def test_pp_gives_what_the_rest_gives(emptied, function):
    whole = two_regions()
    sp.pp.patches(whole, size_um=40)
    options = {
        "select_genes": {"min_genes": 5, "n_top_genes": 20},
        "spatial_context": {"use_rep": "X_f", "radius_um": 60, "key_added": "X_new"},
        "patches": {"size_um": 40},
    }.get(function, {})
    for sdata in (whole, emptied):
        getattr(sp.pp, function)(sdata, **options)
    key = {"encode_patches": "X_texture", "spatial_context": "X_new"}.get(function)
    if key:
        np.testing.assert_allclose(emptied["table"].obsm[key], whole["table"].obsm[key][:N], rtol=1e-5)
    if function == "smooth_expression":
        ours, theirs = (sdata["table"].layers["smoothed"].toarray() for sdata in (emptied, whole))
        np.testing.assert_allclose(ours, theirs[:N], rtol=1e-6)


def test_splits_pass_an_emptied_region_over(emptied, other):
    sp.pp.split(emptied, groupby=None, block_um=60, fractions=(0.5, 0.25, 0.25))
    assert {"train", "val", "test"} <= set(emptied["table"].obs["spade_split"])
    sp.pp.split([emptied, other], groupby=None, fractions=(0.5, 0.5, 0))
    assert {sdata["table"].obs["spade_split"].iloc[0] for sdata in (emptied, other)} == {"train", "val"}
    with pytest.raises(ValueError, match="1 section cannot fill 2 parts"):
        sp.pp.split(emptied, groupby=None, fractions=(0.5, 0.5, 0))


def test_the_rest_is_one_image_for_polygons(emptied):
    sp.pp.label_patches(emptied, GeoDataFrame({"label": ["x"]}, geometry=[box(0, 0, 400, 400)]))
    assert set(emptied["table"].obs["label"]) == {"x"}


CALLS = {
    "cluster": lambda s, o, m: sp.tl.cluster_experts(s, use_rep="X_f", n_prototypes=4, n_experts=2),
    "train": lambda s, o, m: train([s]),
    "embed": lambda s, o, m: sp.tl.embed(s, m),
    "scores": lambda s, o, m: sp.tl.routing_scores(s, m),
    "few_shot": lambda s, o, m: sp.tl.few_shot(s, label_key="organ", use_rep="X_f", shots=(1,), n_repeats=1),
    "annotate": lambda s, o, m: sp.tl.annotate(s, label_key="organ", use_rep="X_f"),
    "predict": lambda s, o, m: sp.tl.predict_expression(s, m, reference=o, k=3),
    "predict from": lambda s, o, m: sp.tl.predict_expression(o, m, reference=s, k=3),
    "trust": lambda s, o, m: sp.tl.expression_trust([s, o], m, k=3, n_boot=10),
    "mixing": lambda s, o, m: sp.tl.mixing([s, o], use_rep="X_f"),
    "benchmark": lambda s, o, m: sp.tl.expression_benchmark([s, o], use_rep="X_f", groupby=None, n_genes=5),
    "metrics": lambda s, o, m: sp.tl.retrieval_metrics(s, m),
    "retrieve": lambda s, o, m: sp.tl.retrieve(s, [s, o], m, k=2),
    "switchboard": lambda s, o, m: sp.tl.switchboard(
        [s, o], use_rep="X_f", genes=list(GENES[:8]), groupby=None, variants=["spade"], control=False, k=3,
        spade_settings={"n_prototypes": 2, "n_experts": 1, "n_epochs": 1},
    ),
    "seal": lambda s, o, m: sp.tl.train_seal(
        [s, o], on_features="X_f", genes=list(GENES[:8]), dim=8, hidden=8, n_epochs=1
    ),
}  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
def test_tl_works_with_an_emptied_region(emptied, other, model, call):
    CALLS[call](emptied, other, model)
    assert emptied["table"].n_obs == N


@pytest.mark.parametrize("call", CALLS)
def test_a_sample_without_rows_is_named(other, model, call):
    nothing = two_regions()
    nothing["table"]._inplace_subset_obs(np.zeros(2 * N, dtype=bool))
    with pytest.raises(ValueError, match=r"t: tables\['table'\] has no rows left; leave the sample out"):
        CALLS[call](nothing, other, model)


@pytest.mark.parametrize("function", ["patches", "select_genes", "split"])
def test_pp_names_a_sample_without_rows(function):
    nothing = two_regions()
    nothing["table"]._inplace_subset_obs(np.zeros(2 * N, dtype=bool))
    with pytest.raises(ValueError, match=r"t: tables.* has no rows left"):
        getattr(sp.pp, function)(nothing)


@pytest.mark.parametrize("geometry", [None, Polygon(), Point()], ids=["None", "polygon", "point"])
def test_a_spot_without_geometry_is_named(geometry):
    sdata = featured()
    spots = sdata.shapes["spots"]
    shapes = [point.buffer(8) for point in spots.geometry]
    shapes[3] = geometry
    frame = GeoDataFrame(geometry=shapes, index=spots.index)
    frame.attrs = spots.attrs
    sdata.shapes.data["spots"] = frame  # as an object may become that is changed in place
    with pytest.raises(ValueError, match=r"tiny: 1 of 36 shapes\['spots'\] have no geometry, such as 's03'"):
        sp.pp.patches(sdata, size_um=40)
