"""Features of the surroundings of a spot."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.sections import featured, spoil
from spatialdata import read_zarr

import spade as sp
from spade.core.spots.blocks import spacing
from spade.pp._spatial_context import neighbour_means


def test_means_are_those_of_a_loop_over_spots():
    sample = featured()
    sp.pp.patches(sample, size_um=40, size_px=16)
    spoil(sample, "X_f", [7])
    for radius, wanted in ((None, 75), (60, 60), (110, 110)):  # spots are 50 µm apart
        sp.pp.spatial_context(sample, use_rep="X_f", radius_um=radius, key_added="X_near")
        x, near = sample["table"].obsm["X_f"], sample["table"].obsm["X_near"]
        points = np.column_stack([np.arange(36) % 6, np.arange(36) // 6]) * 50.0
        for i in range(36):
            others = (np.linalg.norm(points - points[i], axis=1) <= wanted) & (np.arange(36) != 7)
            if i == 7:
                assert np.isnan(near[i]).all()
            else:
                np.testing.assert_allclose(near[i], x[others].mean(0), rtol=1e-5)


def test_sections_do_not_see_each_other_and_stores_are_saved(cohort, tmp_path):
    alone = tmp_path / "one.zarr"
    sp.io.write(cohort[0], alone)
    sp.pp.spatial_context(alone, use_rep="X_texture")
    sp.pp.spatial_context(cohort, use_rep="X_texture")
    stored = read_zarr(alone)["table"]
    np.testing.assert_array_equal(stored.obsm["X_texture_context"], cohort[0]["table"].obsm["X_texture_context"])
    record = stored.uns["spade"]["X_texture_context"]
    assert (record["use_rep"], record["radius_um"]) == ("X_texture", pytest.approx(150, rel=0.05))
    assert stored.obsm["X_texture_context"].dtype == np.float32


def test_points_at_one_place_count_each():
    x = np.array([[1.0], [3.0], [10.0]], dtype=np.float32)
    points = np.array([[0.0, 0], [0, 0], [9, 9]])
    np.testing.assert_allclose(neighbour_means(x, points, 1.0).ravel(), [2, 2, 10])
    np.testing.assert_array_equal(neighbour_means(x[:1], points[:1], spacing(points[:1])), x[:1])


def test_what_is_not_there_is_named(cohort):
    with pytest.raises(KeyError, match="use_rep='X_no' is not in obsm"):
        sp.pp.spatial_context(cohort, use_rep="X_no")
    with pytest.raises(KeyError, match="patches_key='no' is not there"):
        sp.pp.spatial_context(cohort, use_rep="X_texture", patches_key="no")
    with pytest.raises(ValueError, match="radius_um=0: expected a positive number"):
        sp.pp.spatial_context(cohort, use_rep="X_texture", radius_um=0)


def test_context_does_not_replace_what_it_is_made_of():
    sample = featured()
    sp.pp.patches(sample, size_um=40, size_px=16)
    before = sample["table"].obsm["X_f"].copy()
    with pytest.raises(ValueError, match=r"key_added='X_f' would replace the features use_rep= that are averaged"):
        sp.pp.spatial_context(sample, use_rep="X_f", key_added="X_f")
    sp.pp.spatial_context(sample, use_rep="X_f")
    sp.pp.spatial_context(sample, use_rep="X_f_context", key_added="X_wide")
    for source in ("X_f_context", "X_wide"):
        with pytest.raises(ValueError, match=rf"key_added='X_f' would replace what obsm\['{source}'\] was made from"):
            sp.pp.spatial_context(sample, use_rep=source, key_added="X_f")
    np.testing.assert_array_equal(sample["table"].obsm["X_f"], before)
    sp.pp.spatial_context(sample, use_rep="X_f", radius_um=110)  # an earlier result is replaced
