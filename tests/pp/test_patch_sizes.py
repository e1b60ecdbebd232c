"""How large patches are, and every way in which that cannot be known."""

from __future__ import annotations

import re

import numpy as np
import pytest
from helpers.patches import SMALL, record
from helpers.sections import circles, no_warning, tiny, warns_here
from spatialdata import SpatialData

import spade as sp
from spade.core.spots.lattice import visium_mpp
from spade.io._recorded.scale import record_scale


def hexagonal(n: int = 36, pitch: float = 60.0) -> np.ndarray:
    row, column = np.divmod(np.arange(n), 6)
    return 40 + pitch * np.column_stack([column + (row % 2) / 2, row * np.sqrt(3) / 2])


def test_unknown_microns_per_pixel_ask_for_mpp():
    sdata = tiny(mpp=None)
    said = r"tiny: the microns per pixel of images\['image'\] are not known.*diameter 16 px, pitch 50 px.*Pass mpp="
    with pytest.raises(ValueError, match=said):
        sp.pp.patches(sdata)
    sp.pp.patches(sdata, mpp=2, **SMALL)
    assert record(sdata)["regions"]["spots"]["mpp"] == 2.0


@pytest.mark.parametrize("mpp", [0, -0.5, np.nan, np.inf])
def test_microns_per_pixel_are_positive(mpp):
    with pytest.raises(ValueError, match=rf"mpp={re.escape(repr(mpp))}: expected a positive number of microns"):
        sp.pp.patches(tiny(), mpp=mpp)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("size_um", 0, "size_um=0: expected a positive number"),
        ("size_um", np.nan, "size_um=nan: expected a positive number"),
        ("size_px", 0, "size_px=0: expected a whole number of at least 1"),
        ("size_px", 224.5, "size_px=224.5: expected a whole number"),
        ("key_added", "my patches", "key_added='my patches' cannot be stored.*Try 'my_patches'"),
        ("key_added", "__x", "cannot be stored.*Try 'x'"),
        ("key_added", "spots", r"key_added='spots': the patches would replace the spots shapes\['spots'\]"),
    ],
)
def test_settings_are_checked_and_nothing_is_written(name, value, said):
    sdata = tiny()
    with pytest.raises(ValueError, match=said):
        sp.pp.patches(sdata, **{name: value})
    assert set(sdata.shapes) == {"spots"}
    assert (sdata["spots"].geom_type == "Point").all()


def test_a_stated_pitch_in_conflict_is_an_error():
    sdata = tiny()
    record_scale(sdata, sample="tiny", pitch_um={"spots": 100.0})
    said = (
        r"tiny: at 1 µm/px neighbouring spots are 50\.0 µm apart, but the platform "
        r"states 100 µm. Check mpp=.*2 would fit"
    )
    with pytest.raises(ValueError, match=said):
        sp.pp.patches(sdata)
    sp.pp.patches(sdata, mpp=2.05, size_um=64, size_px=32)  # within 5 %


@pytest.mark.parametrize("ratio", [0.55, 0.65])
def test_visium_is_recognised_and_a_conflicting_mpp_refused(ratio):
    sdata = tiny(mpp=None, spots=circles(hexagonal(), radius=30 * ratio))
    sp.pp.patches(sdata, **SMALL)
    assert record(sdata)["regions"]["spots"]["mpp"] == pytest.approx(100 / 60)
    with pytest.raises(
        ValueError, match=r"recognised as Visium\): at 1 µm/px neighbouring spots are 60\.0 µm .* 100 µm.*1\.667 would"
    ):
        sp.pp.patches(sdata, mpp=1.0)


def test_sparse_visium_spots_are_recognised_by_their_array_positions():
    row, column = np.divmod(np.arange(200), 10)
    array = np.column_stack([row, 2 * column + row % 2])
    every = 30 + np.column_stack([array[:, 1] * 5, array[:, 0] * 5 * np.sqrt(3)])
    few = np.sort(np.random.default_rng(0).choice(200, 12, replace=False))
    assert visium_mpp(every[few], np.full(12, 3.25)) is None
    assert visium_mpp(every[few], np.full(12, 3.25), array[few]) == pytest.approx(10)
    assert visium_mpp(every[few], np.full(12, 4.5), array[few]) is None  # the diameter does not fit
    assert visium_mpp(every[few], np.full(12, 3.25), array[few][:, ::-1]) is None  # nor do rows and columns exchanged
    sdata = tiny(12, mpp=None, spots=circles(every[few], 3.25))
    sdata["table"].obs[["array_row", "array_col"]] = array[few]
    with warns_here("coarser than twice the wanted"):
        sp.pp.patches(sdata, size_um=112, size_px=112)
    assert record(sdata)["regions"]["spots"]["mpp"] == pytest.approx(10)


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("folder", "options", "image", "mpp"),
    [
        ("scanpy_v1", {}, "v_hires_image", 4.823),
        ("visiumio/10xVisium/section1/outs", {"counts_file": "raw_feature_bc_matrix.h5"}, "v_lowres_image", 14.17),
    ],
)
def test_real_visium_is_recognised(data_dir, folder, options, image, mpp):
    visium = pytest.importorskip("spatialdata_io").visium
    with pytest.warns(UserWarning):  # gene names, formats: the reader's own
        sdata = visium(data_dir / "visium" / folder, dataset_id="v", **options)
    with warns_here(r"coarser than twice the wanted 0\.5 µm/px: patches are enlarged"):
        sp.pp.patches(sdata, image_key=image)  # by name, as that of scanpy's folder is black
    facts = record(sdata)["regions"]["v"]
    assert facts["mpp"] == pytest.approx(mpp, rel=1e-3)
    assert facts["spot_diameter_um"] == pytest.approx(65, rel=0.01)
    assert sdata["table"].obs["spade_valid"].all()


@pytest.mark.parametrize(("mpp", "warned"), [(2.0, False), (2.1, True)])
def test_an_image_coarser_than_twice_the_wanted_warns(mpp, warned):
    with warns_here(r"2\.1 µm/px, coarser than twice the wanted 1 µm/px.*2\.1 times") if warned else no_warning():
        sp.pp.patches(tiny(mpp=mpp), **SMALL)


def test_sparse_spots_pass_the_check_of_the_pitch_and_wrong_scales_do_not():
    """A selection of spots has few neighbours left; those that are there stand at the pitch."""
    rng = np.random.default_rng(0)
    (full,) = sp.datasets.toy(1, 400)
    for share in (0.1, 0.2, 0.5):
        sample = SpatialData(images=dict(full.images), shapes=dict(full.shapes), attrs=dict(full.attrs))
        rows = np.sort(rng.choice(400, int(400 * share), replace=False))
        adata = full["table"][rows].copy()
        sample.shapes["spots"] = full["spots"].loc[adata.obs["spot_id"]]
        sample.tables["table"] = adata
        sp.pp.patches(sample)
        with pytest.raises(ValueError, match=r"neighbouring spots are .* µm apart, but the platform states 100 µm"):
            sp.pp.patches(sample, mpp=0.6)
