"""Counts averaged over neighbouring spots."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import squidpy as sq
from anndata import AnnData
from helpers.patches import lattice
from helpers.sections import FAST, circles, empty_rows, featured, no_warning, square_lattice, table, tiny, warns_here
from scipy.sparse import csr_matrix, issparse
from spatialdata import SpatialData, read_zarr

import spade as sp
from spade._samples.counts import read_counts
from spade._samples.open import iter_samples
from spade.core.expression.smoothing import smoothing_matrix
from spade.io._recorded.scale import record_scale
from spade.pp._smooth_expression import _lattice_pairs

SQUARE, HEXAGONAL = 1.5, 1.2


PLACES = np.column_stack([np.arange(36) % 6, np.arange(36) // 6]).astype(float)


def patched(n=36, **kwargs):
    sdata = tiny(n, **kwargs)
    sp.pp.patches(sdata, size_um=40, size_px=16)
    return sdata


def smoothed_by_a_loop(counts, near, share=0.5):
    """The rule, spot by spot; ``near`` says who is whose neighbour, oneself aside."""
    filled = counts.sum(1) > 0
    out = np.zeros_like(counts, dtype=float)
    for i in np.flatnonzero(filled):
        others = [j for j in range(len(counts)) if j == i or (near(i, j) and filled[j])]
        out[i] = (1 - share) * counts[i] + share * counts[others].mean(0)
    return out


def apart(i, j):
    return np.linalg.norm(PLACES[i] - PLACES[j])


@pytest.mark.parametrize(("kind", "inner"), [("square", 8), ("hexagonal", 6)])
def test_neighbours_are_those_of_squidpys_grid_where_none_is_missing(kind, inner):
    points = lattice(kind)
    pairs = _lattice_pairs(points, "a")
    assert np.bincount(np.bincount(pairs.ravel())).argmax() == inner
    grid = sq.gr.neighbors.GridBuilder(n_neighs=inner).build(points)[0].tocoo()
    assert {tuple(sorted(pair)) for pair in pairs.tolist()} == {
        tuple(sorted(pair)) for pair in zip(grid.row.tolist(), grid.col.tolist(), strict=True)
    }


@pytest.mark.parametrize(("kind", "reach"), [("square", SQUARE), ("hexagonal", HEXAGONAL)])
def test_a_gap_is_not_bridged(kind, reach):
    points = lattice(kind, 24, keep=0.4)
    apart = np.linalg.norm(points[:, None] - points[None], axis=2)
    near = np.argwhere(np.triu(apart <= reach, k=1))
    assert sorted(map(sorted, _lattice_pairs(points, "a").tolist())) == near.tolist()


def test_the_toy_section_is_hexagonal_and_inner_spots_have_six(cohort):
    degree = counted_neighbours(cohort[0])
    assert degree.max() == 6
    assert (degree == 6).sum() > 20


def counted_neighbours(sdata) -> np.ndarray:
    """Neighbours of every spot, read off what a gene found in that spot alone leaves with the others."""
    table = sdata["table"]
    n = table.n_obs
    marks = AnnData(csr_matrix(np.eye(n, table.n_vars, dtype=np.float32)), obs=table.obs, uns=table.uns)
    assert n <= table.n_vars
    sdata.tables["table"] = marks
    sp.pp.smooth_expression(sdata)
    near = sdata["table"].layers["smoothed"].toarray()[:, :n] > 0
    np.testing.assert_array_equal(near, near.T)
    return near.sum(1) - 1


@pytest.mark.realdata
def test_a_real_section_is_square_and_inner_spots_have_eight(data_dir):
    folder = data_dir / "mob" / "MOB_11"
    sdata = sp.io.read_st(folder / "Rep11_MOB_count_matrix-1.tsv.gz", folder / "11.jpg", sample_id="MOB_11")
    sp.pp.patches(sdata)
    obs = sdata["table"].obs[["array_row", "array_col"]].to_numpy()
    true = np.abs(obs[:, None] - obs[None]).max(2) <= 1
    degree = counted_neighbours(sdata)
    np.testing.assert_array_equal(degree, true.sum(1) - 1)
    assert (degree == 8).sum() > 100


# --- the rule


def test_half_is_the_spots_own_and_half_the_mean_of_it_and_its_neighbours():
    sdata = patched()
    before = sdata["table"].X.toarray()
    with no_warning():
        sp.pp.smooth_expression(sdata)
    layer = sdata["table"].layers["smoothed"]
    assert issparse(layer)
    assert (layer.format, layer.dtype) == ("csr", np.float32)
    np.testing.assert_allclose(
        layer.toarray(), smoothed_by_a_loop(before, lambda i, j: apart(i, j) < SQUARE), rtol=1e-5
    )
    np.testing.assert_array_equal(sdata["table"].X.toarray(), before)
    record = sdata["table"].uns["spade"]["smoothed"]
    assert (record["function"], record["method"], record["share"], record["layer"]) == (
        "pp.smooth_expression", "lattice", 0.5, "X",
    )  # fmt: skip
    assert "radius_um" not in record


@pytest.mark.parametrize("share", [0.1, 1])
def test_share_and_radius_are_followed(share):
    sdata = patched()
    counts = sdata["table"].X.toarray()
    sp.pp.smooth_expression(
        sdata, method="radius", radius_um=100, share=share, key_added="wide"
    )  # spots are 50 µm apart
    np.testing.assert_allclose(
        sdata["table"].layers["wide"].toarray(),
        smoothed_by_a_loop(counts, lambda i, j: apart(i, j) <= 2, share),
        rtol=1e-5,
    )
    assert sdata["table"].uns["spade"]["wide"]["radius_um"] == 100
    sp.pp.smooth_expression(sdata, method="radius", radius_um=10, key_added="none")
    np.testing.assert_allclose(sdata["table"].layers["none"].toarray(), counts, rtol=1e-6)


def test_the_authors_count_only_four_of_six_on_visium(cohort):
    sdata = cohort[0]
    obs = sdata["table"].obs
    row, column = obs["array_row"].to_numpy(), obs["array_col"].to_numpy()
    counts = sdata["table"].X.toarray()
    sp.pp.smooth_expression(sdata, method="published")
    near = (np.abs(np.subtract.outer(row, row)) == 1) & (np.abs(np.subtract.outer(column, column)) == 1)
    assert near.sum(1).max() == 4
    np.testing.assert_allclose(
        sdata["table"].layers["smoothed"].toarray(), smoothed_by_a_loop(counts, lambda i, j: near[i, j]), rtol=1e-5
    )


def test_the_authors_rule_needs_no_patches_but_array_positions():
    sdata = tiny()
    with pytest.raises(
        KeyError, match=r"needs array positions, but obs lacks .*array_row.*array_col.*columns: .*region"
    ):
        sp.pp.smooth_expression(sdata, method="published")
    sdata["table"].obs[["array_col", "array_row"]] = PLACES.astype(int)
    counts = sdata["table"].X.toarray()
    sp.pp.smooth_expression(sdata, method="published")
    np.testing.assert_allclose(
        sdata["table"].layers["smoothed"].toarray(),
        smoothed_by_a_loop(counts, lambda i, j: apart(i, j) < SQUARE),  # all 8 on a square lattice
        rtol=1e-5,
    )
    sdata["table"].obs["array_row"] = [None, *range(35)]
    with pytest.raises(ValueError, match=r"tiny: 1 of 36 spots have no number in obs\[\"array_row\"\]"):
        sp.pp.smooth_expression(sdata, method="published")


@pytest.mark.parametrize("stored", [True, False])
def test_a_spot_without_counts_stays_so_and_is_no_neighbour(stored):
    sdata = patched()
    empty_rows(sdata, [7, 35], stored)
    counts = sdata["table"].X.toarray()
    with warns_here("tiny: 2 of 36 spots have no counts; they keep none and are nobody's neighbours"):
        sp.pp.smooth_expression(sdata)
    found = sdata["table"].layers["smoothed"]
    assert np.flatnonzero(found.getnnz(1) == 0).tolist() == [7, 35]
    np.testing.assert_allclose(
        found.toarray(), smoothed_by_a_loop(counts, lambda i, j: apart(i, j) < SQUARE), rtol=1e-5
    )


def test_sections_of_one_table_do_not_mix():
    pairs = np.array([[0, 1], [2, 3]])
    matrix = smoothing_matrix(pairs, np.ones(4, dtype=bool), 0.5).toarray()
    np.testing.assert_allclose(matrix, np.kron(np.eye(2), [[0.75, 0.25], [0.25, 0.75]]))
    one, two = patched(), patched(seed=1)
    both = two_regions(one, two)
    for sdata in (one, two, both):
        sp.pp.smooth_expression(sdata)
    np.testing.assert_allclose(
        both["table"].layers["smoothed"].toarray(),
        np.vstack([one["table"].layers["smoothed"].toarray(), two["table"].layers["smoothed"].toarray()])[order()],
        rtol=1e-6,
    )


def order():
    """Rows of two sections of 36 spots, taken in turns."""
    return np.arange(72).reshape(2, 36).T.ravel()


def two_regions(one, two):
    """Both sections in one object, at the same places of the same image, their rows in turns."""
    ids = list(one["spots"].index)
    counts = np.vstack([one["table"].X.toarray(), two["table"].X.toarray()])[order()]
    rows = table(np.repeat(ids, 2).tolist(), region=["left", "right"] * 36, counts=counts)
    sdata = SpatialData(
        images={"image": one["image"]},
        shapes={"left": circles(square_lattice(36)), "right": circles(square_lattice(36))},
        tables={"table": rows},
    )
    record_scale(sdata, sample="both", mpp={"image": 1.0})
    sp.pp.patches(sdata, size_um=40, size_px=16)
    return sdata


def test_stores_are_saved_and_smoothing_again_replaces(tmp_path):
    sdata = patched()
    sp.io.write(sdata, tmp_path / "one.zarr")
    sp.pp.smooth_expression(sdata)
    for share in (0.9, 0.5):
        sp.pp.smooth_expression(tmp_path / "one.zarr", share=share)
    stored = read_zarr(tmp_path / "one.zarr")["table"]
    np.testing.assert_array_equal(stored.layers["smoothed"].toarray(), sdata["table"].layers["smoothed"].toarray())
    assert stored.uns["spade"]["smoothed"] == sdata["table"].uns["spade"]["smoothed"]
    sample = next(iter_samples(tmp_path / "one.zarr"))
    assert read_counts(sample, "smoothed").dtype == np.float32


# --- what is refused


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "grid"}, "method='grid': expected one of 'lattice', 'published', 'radius'"),
        ({"method": "radius"}, "radius_um=None: expected a positive number of µm"),
        ({"method": "radius", "radius_um": np.nan}, "radius_um=nan"),
        ({"radius_um": 50}, "radius_um=50 is not used by method='lattice'"),
        ({"share": 0}, "share=0: expected a number above 0 and up to 1"),
        ({"share": 1.5}, "share=1.5"),
        ({"key_added": "my layer"}, "key_added='my layer' cannot be stored"),
        ({"key_added": "patches"}, "key_added='patches' already holds something else"),
        ({"key_added": "raw"}, "key_added='raw' already holds something else"),
        ({"key_added": "X"}, "key_added='X' already holds something else"),
    ],
)
def test_settings_are_checked_and_nothing_is_replaced(options, said):
    sdata = patched()
    sdata["table"].layers["raw"] = sdata["table"].X.copy()
    with pytest.raises(ValueError, match=said):
        sp.pp.smooth_expression(sdata, **options)
    assert [key for key in sdata["table"].layers if key] == ["raw"]
    assert sdata["table"].uns["spade"]["patches"]["function"] == "pp.patches"


def test_spots_on_no_lattice_and_without_patches_are_refused():
    with pytest.raises(KeyError, match="patches_key='patches' is not there"):
        sp.pp.smooth_expression(tiny())
    places = np.random.default_rng(0).uniform(30, 370, (36, 2))
    sdata = patched(spots=circles(places))
    with pytest.raises(
        ValueError, match=r"tiny: the 36 spots do not lie on a hexagonal or square lattice. Choose method=\"radius\""
    ):
        sp.pp.smooth_expression(sdata)
    sp.pp.smooth_expression(sdata, method="radius", radius_um=60)


def test_smoothing_over_patches_that_changed_is_outdated():
    sdata = tiny(36, mpp=None)
    sp.pp.patches(sdata, mpp=0.5, size_um=20, size_px=40)
    sp.pp.smooth_expression(sdata, method="radius", radius_um=30)
    sp.pp.patches(sdata, mpp=1.0, size_um=20, size_px=40)
    with pytest.raises(ValueError, match=r"'smoothed' was made from 'patches', which sp.pp.patches has written anew"):
        sp.pp.select_genes(sdata, layer="smoothed")


def test_only_raw_counts_are_smoothed_and_genes_are_chosen_from_them():
    sdata = patched()
    sp.pp.smooth_expression(sdata)
    for call in (
        lambda: sp.pp.smooth_expression(sdata, layer="smoothed", key_added="twice"),
        lambda: sp.pp.select_genes(sdata, layer="smoothed", min_genes=20),
    ):
        with pytest.raises(ValueError, match=r"layers\['smoothed'\] has values that are not whole numbers"):
            call()


def test_what_is_read_as_counts_must_be_a_smoothing_without_nan_or_negative_values():
    sdata = patched()
    sp.pp.smooth_expression(sdata)
    table = sdata["table"]
    sample = next(iter_samples(sdata))
    np.testing.assert_array_equal(read_counts(sample, "smoothed").toarray(), table.layers["smoothed"].toarray())
    table.layers["mine"] = table.layers["smoothed"].copy()
    with pytest.raises(ValueError, match=r"layers\['mine'\] has values that are not whole numbers"):
        read_counts(sample, "mine")
    for value, said in ((np.nan, "1 values that are NaN"), (-0.5, "negative values")):
        table.layers["smoothed"].data[3] = value
        with pytest.raises(ValueError, match=said):
            read_counts(sample, "smoothed")


# --- and on


def test_a_model_is_trained_on_smoothed_counts_and_embeds_them():
    samples = [featured(name="a"), featured(name="b", seed=1)]
    for sample in samples:
        sp.pp.patches(sample, size_um=40, size_px=16)
    empty_rows(samples[0], [3])
    panel = sp.pp.select_genes(samples[1], n_top_genes=20)
    with pytest.warns(UserWarning, match="a: 1 of 36 spots have no counts"):
        sp.pp.smooth_expression(samples)
    options = {"use_rep": "X_f", "genes": panel, **FAST}
    with warns_here("1 spot without counts is left out of training"):
        model = sp.tl.train_spade(samples, layer="smoothed", **options)
    assert model.config.layer == "smoothed"
    with pytest.warns(UserWarning, match="without counts"):
        assert sp.tl.train_spade(samples, **options).id != model.id
    with pytest.warns(UserWarning, match="a: 1 of 36 spots have no counts"):
        sp.tl.embed(samples, model)
    embedded = samples[0]["table"].obsm["X_spade_expression"].copy()
    assert np.flatnonzero(np.isnan(embedded).any(1)).tolist() == [3]
    with pytest.warns(UserWarning, match="no counts"):
        sp.tl.embed(samples, model, layer="X")
    assert not np.allclose(embedded, samples[0]["table"].obsm["X_spade_expression"], equal_nan=True)
    scores = sp.tl.retrieval_metrics(samples[1], model)
    assert isinstance(scores, pd.DataFrame)
    assert len(scores)
