"""Transcripts and cells of Xenium, from files as Xenium Ranger writes them to embeddings."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
import spatialdata_io
from helpers.technologies.road import embed_bins
from helpers.technologies.xenium import ALIGNMENT, CONTROLS, HE_MPP, PIXEL, write_xenium
from spatialdata import SpatialData

import spade as sp


@pytest.fixture(scope="module")
def _written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("xenium") / "outs"
    written = write_xenium(folder)
    return spatialdata_io.xenium(folder), written.transcripts


@pytest.fixture
def sdata(_written):
    """A copy without the squares of another test."""
    elements = {name: element for _, name, element in _written[0].gen_elements()}
    elements["table"] = elements["table"].copy()
    return SpatialData.init_from_elements(elements, attrs=dict(_written[0].attrs))


def places_on_he(x_um, y_um, size_um):
    """Row and column of squares on the H&E image, by the inverse of the alignment written out."""
    x, y = x_um / PIXEL, y_um / PIXEL
    he_x = (y - ALIGNMENT[1, 2]) * PIXEL / HE_MPP
    he_y = (ALIGNMENT[0, 2] - x) * PIXEL / HE_MPP
    return np.floor(he_y * HE_MPP / size_um).astype(int), np.floor(he_x * HE_MPP / size_um).astype(int)


def by_place(table):
    places = pd.MultiIndex.from_frame(table.obs[["array_row", "array_col"]].astype(int))
    return pd.DataFrame(table.X.toarray(), index=places, columns=table.var_names).sort_index()


@pytest.mark.parametrize("min_qv", [20, None])
def test_transcripts_are_counted_where_they_lie_on_the_he(sdata, _written, min_qv, caplog):
    transcripts = _written[1]
    with caplog.at_level(logging.INFO, logger="spade"):
        sp.pp.bin_expression(sdata, size_um=25, from_="points", min_qv=min_qv)
    counted = transcripts[~transcripts["feature_name"].isin(CONTROLS)]
    assert f"300 of {len(transcripts)} transcripts left out: control probes" in caplog.text
    if min_qv is not None:
        poor = counted["qv"] < 20
        assert f"{poor.sum()} of {len(transcripts)} transcripts left out: quality below min_qv=20" in caplog.text
        counted = counted[~poor]
    row, column = places_on_he(*(counted[f"{axis}_location"].to_numpy(float) for axis in "xy"), 25)
    expected = counted.groupby([row, column, counted["feature_name"].to_numpy()]).size().unstack(fill_value=0)
    table = sdata["bins_table"]
    np.testing.assert_array_equal(by_place(table), expected)
    assert table.var_names.tolist() == sorted(expected.columns)
    facts = table.uns["spade"]["bins"]
    assert facts["source"] == "transcripts"
    assert facts["image"] == "he_image"
    assert facts["mpp"] == pytest.approx(HE_MPP)


def test_cells_of_the_label_image(sdata):
    """The table annotates the labels, as the reader returns it; centres of the masks are those of the cells."""
    assert sdata["table"].uns["spatialdata_attrs"]["region"] == "cell_labels"
    sp.pp.bin_expression(sdata, size_um=40, from_="cells")
    cells = sdata["table"]
    row, column = places_on_he(*cells.obsm["spatial"].T, 40)
    expected = pd.DataFrame(cells.X.toarray()).groupby([row, column]).sum()
    np.testing.assert_array_equal(by_place(sdata["bins_table"]), expected)
    assert sdata["bins_table"].X.sum() == cells.X.sum()


def test_labels_that_are_not_there(sdata):
    sdata["table"].obs["cell_labels"] += 5
    with pytest.raises(
        KeyError, match=r"5 of 144 rows of the table are not among labels\['cell_labels'\], such as 145"
    ):
        sp.pp.bin_expression(sdata, size_um=40, from_="cells")


def test_a_stated_scale_is_held_against_the_coordinates(sdata):
    """0.2125 is that of the morphology image, not of the H&E."""
    with pytest.raises(ValueError, match=r"mpp is 0\.2125 .*images\['he_image'\].* lie on it at 0\.5 µm/px"):
        sp.pp.bin_expression(sdata, size_um=25, from_="points", mpp=PIXEL)
    sdata.attrs.pop("spatialdata_io_reader")
    with pytest.raises(ValueError, match=r"microns per pixel of images\['he_image'\] are not known"):
        sp.pp.bin_expression(sdata, size_um=25, from_="points")
    sp.pp.bin_expression(sdata, size_um=25, from_="points", mpp=HE_MPP)
    assert "bins_table" in sdata.tables


def test_without_the_he_image(sdata):
    del sdata.images["he_image"]
    with pytest.raises(ValueError, match=r"no 8-bit RGB image; images: 'morphology_focus'.*Add the H&E image"):
        sp.pp.bin_expression(sdata, size_um=25, from_="points")


@pytest.mark.parametrize("version", ["2.0.0.6", "4.0.0.1"])
def test_from_files_to_embeddings(tmp_path, version):
    write_xenium(tmp_path / "outs", version=version)
    sdata = spatialdata_io.xenium(tmp_path / "outs")
    sp.pp.bin_expression(sdata, size_um=25, from_="points")
    embed_bins(sdata)


def test_patches_around_outlines_of_cells(sdata):
    """The scale of polygons in µm is known from the reader: no ``mpp=`` is needed."""
    table = sdata["table"]
    table.obs["region"] = pd.Categorical(["cell_boundaries"] * table.n_obs)
    sdata.set_table_annotates_spatialelement("table", "cell_boundaries", "region", "cell_id")
    del table.obs["cell_area"]
    sp.pp.patches(sdata, size_um=16, size_px=32)
    record = table.uns["spade"]["patches"]["regions"]["cell_boundaries"]
    assert record["image"] == "he_image"
    assert record["mpp"] == pytest.approx(HE_MPP)
