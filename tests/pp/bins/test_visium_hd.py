"""Bins of Visium HD, from files as Space Ranger writes them to embeddings."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
import spatialdata_io
from helpers.technologies.road import embed_bins
from helpers.technologies.tenx import GENES, IDS
from helpers.technologies.visium_hd import MPP, N, counts_of_small_bins, joined, write_visium_hd
from helpers.whole_slides import copied
from shapely import get_coordinates
from spatialdata import read_zarr

import spade as sp


def read(folder, version):
    image = write_visium_hd(folder / "outs", version=version)
    return spatialdata_io.visium_hd(
        folder / "outs", dataset_id="A1", fullres_image_file=image, load_segmentations_only=False
    )


@pytest.fixture(scope="module")
def _third(tmp_path_factory):
    return read(tmp_path_factory.mktemp("hd"), 3)


@pytest.fixture
def sdata(_third):
    return copied(_third)


def by_place(table):
    """Counts as a frame, by row and column of the array."""
    places = pd.MultiIndex.from_frame(table.obs[["array_row", "array_col"]].astype(int))
    return pd.DataFrame(table.X.toarray(), index=places, columns=table.var_names).sort_index()


@pytest.mark.parametrize(("small", "large"), [(2, 8), (2, 16), (8, 16)])
def test_squares_of_bins_are_those_of_space_ranger(sdata, small, large):
    """Rows, columns, counts and outlines of the larger bins that Space Ranger writes itself."""
    sp.pp.bin_expression(sdata, size_um=large, from_="bins", table_key=f"square_{small:03}um")
    mine, theirs = sdata["bins_table"], sdata[f"square_{large:03}um"]
    assert mine.X.dtype == np.int32
    pd.testing.assert_frame_equal(by_place(mine), by_place(theirs), check_dtype=False)
    assert mine.var["gene_ids"].tolist() == IDS.tolist()
    assert int(mine.obs["n_bins"].sum()) == sdata[f"square_{small:03}um"].n_obs
    squares = dict(
        zip(map(tuple, mine.obs[["array_row", "array_col"]].to_numpy()), sdata["bins"].geometry, strict=True)
    )
    outlines = sdata[f"A1_square_{large:03}um"].geometry
    for row, column, outline in zip(theirs.obs["array_row"], theirs.obs["array_col"], outlines, strict=True):
        square = squares[row, column]
        # spatialdata-io draws bins upright, though the array is turned
        assert square.centroid.distance(outline.centroid) < 1e-6
        assert square.area == pytest.approx(outline.area)


def test_squares_are_turned_as_the_array_is(sdata):
    sp.pp.bin_expression(sdata, size_um=32, from_="bins", table_key="square_016um")
    corners = get_coordinates(sdata["bins"].geometry.iloc[0])
    edge = corners[1] - corners[0]
    assert np.linalg.norm(edge) == pytest.approx(32 / MPP)
    assert np.arctan2(edge[1], edge[0]) == pytest.approx(0.02)


def test_any_multiple_and_nothing_else(sdata):
    row, column, counts = counts_of_small_bins()
    for size in (6, 26):
        sp.pp.bin_expression(sdata, size_um=size, from_="bins", table_key="square_002um")
        np.testing.assert_array_equal(by_place(sdata["bins_table"]), joined(row, column, counts, size // 2)[2])
    with pytest.raises(ValueError, match=r"size_um=9: squares must hold whole bins, which are 2 µm .* multiple"):
        sp.pp.bin_expression(sdata, size_um=9, from_="bins", table_key="square_002um")
    with pytest.raises(ValueError, match=r"several tables, .*square_002um.*; choose one with table_key="):
        sp.pp.bin_expression(sdata, size_um=8, from_="bins")


def test_bins_that_are_not_on_tissue_are_left_out(sdata, caplog):
    table = sdata["square_002um"]
    off = table.obs["array_row"].to_numpy() < N // 2
    table.obs["in_tissue"] = (~off).astype(int)
    with caplog.at_level(logging.INFO, logger="spade"):
        sp.pp.bin_expression(sdata, size_um=16, from_="bins", table_key="square_002um")
    assert f"{off.sum()} of {len(off)} bins are not on tissue" in caplog.text
    assert sdata["bins_table"].X.sum() == table.X[~off].sum()
    table.obs["in_tissue"] = 0
    with pytest.raises(ValueError, match="none is on tissue"):
        sp.pp.bin_expression(sdata, size_um=16, from_="bins", table_key="square_002um")


@pytest.mark.parametrize("kind", [bool, str, "category"])
def test_on_tissue_may_be_said_in_words(sdata, kind):
    """As tables have it that were written as text, where "False" is no zero."""
    off = np.zeros(sdata["square_008um"].n_obs, dtype=bool)
    off[5:40] = True
    sums = []
    for values in (1 - off, pd.Series(~off).astype(kind).to_numpy()):
        sdata["square_008um"].obs["in_tissue"] = values
        sp.pp.bin_expression(sdata, table_key="square_008um", size_um=16, from_="bins", key_added="coarse")
        sums.append(sdata["coarse_table"].X.sum())
    assert sums[0] == sums[1] == sdata["square_008um"].X[~off].sum() < sdata["square_008um"].X.sum()
    sdata["square_008um"].obs["in_tissue"] = "tissue"
    with pytest.raises(ValueError, match=r"obs\['in_tissue'\] holds 'tissue', which does not say"):
        sp.pp.bin_expression(sdata, table_key="square_008um", size_um=16, from_="bins", key_added="coarse")


def test_segmented_cells_of_the_fourth_version(tmp_path):
    sdata = read(tmp_path, 4)
    sp.pp.bin_expression(sdata, size_um=64, from_="cells", table_key="cell_segmentations")
    cells, table = sdata["cell_segmentations"], sdata["bins_table"]
    centres = sdata["A1_cell_segmentations"].geometry.centroid
    places = np.floor(np.column_stack([centres.y, centres.x]) * MPP / 64).astype(int)
    expected = pd.DataFrame(cells.X.toarray(), columns=GENES).groupby([places[:, 0], places[:, 1]]).sum()
    np.testing.assert_array_equal(by_place(table), expected)
    assert int(table.obs["n_cells"].sum()) == 30
    assert sdata.attrs["spade"]["mpp"]["A1_full_image"] == pytest.approx(MPP, rel=1e-6)


def test_from_files_to_embeddings(sdata, tmp_path):
    """Bins, patches, features, genes, training and embedding; the same comes back from a store."""
    sp.pp.bin_expression(sdata, size_um=24, from_="bins", table_key="square_008um", min_counts=20)
    embed_bins(sdata)
    sdata.write(tmp_path / "hd.zarr")
    table = read_zarr(tmp_path / "hd.zarr")["bins_table"]
    np.testing.assert_array_equal(table.X.toarray(), sdata["bins_table"].X.toarray())
    np.testing.assert_array_equal(table.obsm["X_spade"], sdata["bins_table"].obsm["X_spade"])
    assert table.obs["spade_valid"].all()
    assert table.obsm["X_spade"].shape == (table.n_obs, 256)
    assert np.isfinite(table.obsm["X_spade"]).all()
    facts = table.uns["spade"]["patches"]["regions"]["bins"]
    assert facts["image"] == "A1_full_image"
    assert facts["mpp"] == pytest.approx(MPP, rel=1e-6)
    assert facts["spot_diameter_um"] == pytest.approx(24, rel=1e-6)
