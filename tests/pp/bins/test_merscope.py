"""Transcripts and cells of MERSCOPE, from files as the instrument writes them to embeddings."""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
import pandas as pd
import pytest
import spatialdata_io
from helpers.technologies.merscope import BLANKS, HE_MPP, HE_TO_MOSAIC, PIXEL, TO_MOSAIC, write_merscope
from helpers.technologies.road import embed_bins
from helpers.whole_slides import copied
from spatialdata.transformations import Affine, set_transformation

import spade as sp

#: spatialdata-io 0.7.1 makes the table with an argument that anndata 0.13 does not have.
TABLE = tuple(map(int, version("anndata").split(".")[:2])) < (0, 13)
POLYGONS = "202305010900_U2OS_VMSC00000_region_0_polygons"


@pytest.fixture(scope="module")
def _written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("merscope") / "202305010900_U2OS_VMSC00000" / "region_0"
    transcripts, cells = write_merscope(folder)
    return spatialdata_io.merscope(folder, cells_table=TABLE), transcripts, cells, folder.parent / "he.tif"


@pytest.fixture
def sdata(_written):
    """The H&E image is laid on the mosaic by the matrix of its registration."""
    sdata = copied(_written[0])
    sdata["he"] = sp.io.read_wsi(_written[3], mpp=HE_MPP)["he"]
    set_transformation(sdata["he"], Affine(HE_TO_MOSAIC, input_axes=("x", "y"), output_axes=("x", "y")), "global")
    return sdata


def places_on_he(x_um, y_um, size_um):
    """Row and column of squares on the H&E image, by the inverse of its registration written out."""
    x, y = x_um / PIXEL + TO_MOSAIC[0, 2], y_um / PIXEL + TO_MOSAIC[1, 2]
    he_x, he_y = (y - HE_TO_MOSAIC[1, 2]) * PIXEL, (HE_TO_MOSAIC[0, 2] - x) * PIXEL
    return np.floor(he_y / size_um).astype(int), np.floor(he_x / size_um).astype(int)


def by_place(table):
    places = pd.MultiIndex.from_frame(table.obs[["array_row", "array_col"]].astype(int))
    return pd.DataFrame(table.X.toarray(), index=places, columns=table.var_names).sort_index()


def test_transcripts_are_counted_where_they_lie_on_the_he(sdata, _written):
    """At ``global_x`` and ``global_y``, at all depths; ``x`` and ``y`` of the file are those of a field of view."""
    sp.pp.bin_expression(sdata, size_um=25, from_="points", mpp=HE_MPP)
    counted = _written[1][~_written[1]["gene"].isin(BLANKS)]
    row, column = places_on_he(counted["global_x"], counted["global_y"], 25)
    expected = counted.groupby([row, column, counted["gene"].to_numpy()]).size().unstack(fill_value=0)
    table = sdata["bins_table"]
    np.testing.assert_array_equal(by_place(table), expected)
    assert table.var_names.tolist() == sorted(expected.columns)
    np.testing.assert_allclose(table.obsm["spatial"], (table.obs[["array_col", "array_row"]] + 0.5) * 25 / HE_MPP)
    assert table.uns["spade"]["bins"]["image"] == "he"
    assert table.uns["spade"]["bins"]["mpp"] == pytest.approx(HE_MPP)


def test_an_he_image_that_was_not_registered(sdata, _written):
    """As it was read, its pixels would be those of the mosaic; stains are never taken for H&E."""
    sdata["he"] = sp.io.read_wsi(_written[3], mpp=HE_MPP)["he"]
    with pytest.raises(ValueError, match=r"mpp is 0\.5 .*images\['he'\].* lie on it at 0\.108 µm/px"):
        sp.pp.bin_expression(sdata, size_um=25, from_="points", mpp=HE_MPP)
    del sdata.images["he"]
    with pytest.raises(ValueError, match=r"no 8-bit RGB image; images: .*2 channels of uint16.*Add the H&E image"):
        sp.pp.bin_expression(sdata, size_um=25, from_="points")


@pytest.mark.skipif(not TABLE, reason="spatialdata-io 0.7.1 makes no table with this anndata")
def test_cells_by_their_outlines(sdata, _written):
    """An outline that crosses itself is left out by the reader, but its row of the table is not."""
    sp.pp.bin_expression(sdata, size_um=40, from_="cells", table_key="table")
    cells = _written[2]
    row, column = places_on_he(*(cells.index.get_level_values(axis) for axis in "xy"), 40)
    np.testing.assert_array_equal(by_place(sdata["bins_table"]), cells.groupby([row, column]).sum())
    sdata.shapes[POLYGONS] = sdata[POLYGONS].iloc[1:]
    with pytest.raises(KeyError, match=r"1 of 144 rows of the table have no spot .*Leave such rows out: table\[.*\]"):
        sp.pp.bin_expression(sdata, size_um=40, from_="cells", table_key="table")
    table = sdata["table"]
    sdata.tables["table"] = table[table.obs["EntityID"].isin(sdata[POLYGONS].index)].copy()
    sp.pp.bin_expression(sdata, size_um=40, from_="cells", table_key="table")
    assert sdata["bins_table"].X.sum() == cells.iloc[1:].to_numpy().sum()


def test_from_files_to_embeddings(sdata):
    sp.pp.bin_expression(sdata, size_um=25, from_="points")
    embed_bins(sdata)
