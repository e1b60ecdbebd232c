"""Bins and cells of Stereo-seq, from files as SAW writes them to embeddings."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import spatialdata_io
from helpers.technologies.road import embed_bins
from helpers.technologies.stereoseq import MPP, binned, write_stereoseq
from helpers.whole_slides import copied
from spatialdata import read_zarr

import spade as sp


@pytest.fixture(scope="module")
def _written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stereoseq") / "outs"
    molecules = write_stereoseq(folder)
    sdata = spatialdata_io.stereoseq(folder)
    sdata["he"] = sp.io.read_wsi(folder.parent / "he.tif", mpp=MPP)["he"]
    return sdata, molecules


@pytest.fixture
def sdata(_written):
    return copied(_written[0])


def by_place(table):
    places = pd.MultiIndex.from_frame(table.obs[["array_row", "array_col"]].astype(int))
    return pd.DataFrame(table.X.toarray(), index=places, columns=table.var_names.astype(str)).sort_index()


@pytest.mark.parametrize(("small", "large"), [(1, 20), (1, 50), (20, 100), (50, 100)])
def test_squares_of_bins_are_those_of_saw(sdata, _written, small, large):
    """Places, counts and outlines of the larger bins that SAW writes itself; of bins of one spot, most are empty."""
    sp.pp.bin_expression(sdata, size_um=large * MPP, from_="bins", table_key=f"bin{small}_table")
    table, theirs = sdata["bins_table"], binned(_written[1], large)
    expected = theirs.assign(x=theirs["x"] // large, y=theirs["y"] // large)
    expected = expected.pivot_table(index=["y", "x"], columns="gene", values="count", fill_value=0)
    np.testing.assert_array_equal(by_place(table)[expected.columns], expected)
    corners = table.obs[["array_col", "array_row"]].to_numpy() * large
    np.testing.assert_allclose(sdata["bins"].bounds.to_numpy(), np.hstack([corners, corners + large]), atol=1e-6)
    np.testing.assert_allclose(table.obsm["spatial"], corners + large / 2)
    assert table.uns["spade"]["bins"]["mpp"] == pytest.approx(MPP)


def test_cells_and_the_scale_that_the_file_states(sdata):
    """500 nm from spot to spot, in ``resolution`` of the file of cells."""
    cells = sdata["cells_table"]
    sp.pp.bin_expression(sdata, size_um=40, from_="cells", table_key="cells_table")
    places = np.floor(cells.obsm["spatial"][:, ::-1] * MPP / 40).astype(int)
    expected = pd.DataFrame(cells.X.toarray()).groupby([places[:, 0], places[:, 1]]).sum()
    np.testing.assert_array_equal(by_place(sdata["bins_table"]), expected)
    sdata.attrs.pop("spade")
    with pytest.raises(ValueError, match=r"mpp is 0\.25 .*images\['he'\].* lie on it at 0\.5 µm/px"):
        sp.pp.bin_expression(sdata, size_um=25, from_="bins", table_key="bin50_table", mpp=0.25)
    with pytest.raises(ValueError, match=r"size_um=30: .* whole bins, which are 25 µm large here.*such as 25"):
        sp.pp.bin_expression(sdata, size_um=30, from_="bins", table_key="bin50_table")
    del cells.uns["cellBin_attrs"]
    with pytest.raises(ValueError, match=r"microns per pixel of images\['he'\] are not known.*Pass mpp="):
        sp.pp.bin_expression(sdata, size_um=25, from_="bins", table_key="bin50_table")


def test_from_files_to_embeddings(sdata, tmp_path):
    """The same comes back from a store."""
    sp.pp.bin_expression(sdata, size_um=20, from_="bins", table_key="bin20_table")
    embed_bins(sdata)
    sdata.write(tmp_path / "stereoseq.zarr")
    table = read_zarr(tmp_path / "stereoseq.zarr")["bins_table"]
    np.testing.assert_array_equal(table.obsm["X_spade"], sdata["bins_table"].obsm["X_spade"])
