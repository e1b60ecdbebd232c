"""Every function that takes spots takes the tiles of a slide, and finds there what it finds on spots."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import shapely
from geopandas import points_from_xy
from helpers.sections import circles
from helpers.whole_slides import GLASS, copied, glass, slide_of
from matplotlib.collections import EllipseCollection, PolyCollection
from matplotlib.patches import Circle
from spatialdata import SpatialData, get_values

import spade as sp
from spade._samples.open import add_empty_table
from spade.io._recorded.frames import image_arrays

MPP, GAP = 0.5, 400


@pytest.fixture(scope="module")
def slide(_cohort):
    """Both sections of the cohort side by side on glass, without their spots, encoded."""
    sections = [np.moveaxis(image_arrays(sample["image"])[0].to_numpy(), 0, -1) for sample in _cohort]
    height, width = sections[0].shape[:2]
    picture = glass(height + 2 * GAP, 2 * width + 3 * GAP)
    for i, section in enumerate(sections):
        left = GAP + i * (width + GAP)
        picture[GAP : GAP + height, left : left + width] = section
    sdata = slide_of(picture, name="slide", scale_factors=(4, 4), chunks=(3, 512, 512))
    sp.pp.tissue(sdata, mpp=MPP)
    sp.pp.tiles(sdata)
    sp.pp.encode_patches(sdata)
    return sdata


@pytest.fixture
def tiles(slide):
    return copied(slide)


def test_the_sections_are_found_and_the_glass_is_not(slide, _cohort):
    height, width = image_arrays(_cohort[0]["image"])[0].shape[1:]
    sections = shapely.union_all([shapely.box(x, GAP, x + width, GAP + height) for x in (GAP, 2 * GAP + width)])
    found = slide["tissue"].geometry
    assert len(found) >= 2
    assert 0.75 < found.area.sum() / sections.area < 1.02  # parts of the sections are white
    assert found.difference(sections).area.sum() < 0.01 * sections.area
    centres = slide["tiles_table"].obsm["spatial"]
    colours = image_arrays(slide["he"])[0].to_numpy()[:, centres[:, 1].astype(int), centres[:, 0].astype(int)]
    assert (np.abs(colours.T - np.array(GLASS)).max(1) > 10).mean() > 0.9  # some centres lie in white gaps of tissue


def test_features_of_a_tile_are_those_of_a_patch_around_a_spot_at_its_centre(slide):
    centres = slide["tiles_table"].obsm["spatial"]
    spots = circles(centres, ids=list(slide["tiles"].index))
    assert list(spots.geometry) == list(points_from_xy(*centres.T))
    sdata = SpatialData(images=dict(slide.images), shapes={"spots": spots}, attrs={"spade": slide.attrs["spade"]})
    add_empty_table(sdata, "spots")
    sp.pp.patches(sdata)
    sp.pp.encode_patches(sdata)
    np.testing.assert_array_equal(sdata["table"].obsm["X_texture"], slide["tiles_table"].obsm["X_texture"])


def test_tiles_take_the_road_of_spots(tiles, cohort, model):
    table = tiles["tiles_table"]
    n = table.n_obs
    sp.pp.spatial_context(tiles, use_rep="X_texture")
    assert table.uns["spade"]["X_texture_context"]["radius_um"] == pytest.approx(1.5 * 112)
    sp.tl.embed([tiles, *cohort], model)
    assert table.obsm["X_spade"].shape == (n, 256)
    assert "X_spade_expression" not in table.obsm
    np.testing.assert_allclose(table.obsm["spade_expert_weights"].sum(1), 1, rtol=1e-5)
    sp.tl.routing_scores([tiles, *cohort], model)
    beyond = np.percentile(cohort[0]["table"].obs["spade_distance"], 99)
    assert np.median(table.obs["spade_distance"]) < beyond
    sp.tl.predict_expression(tiles, model, reference=cohort, k=10)
    assert table.obsm["X_predicted"].shape == (n, len(table.uns["predicted_genes"]))
    assert np.isfinite(table.obsm["X_predicted"]).all()
    found = sp.tl.retrieve(tiles, cohort, model, k=2)
    assert (len(found), set(found["query_sample"])) == (2 * n, {"slide"})
    names = list(model.genes.names[:3])
    assert set(sp.tl.retrieve(names, tiles, model, k=5)["spot"]) <= set(table.obs_names)
    values = get_values("spade_expert", sdata=tiles, element_name="tiles", table_name="tiles_table")
    assert len(values) == n
    sp.pp.split(tiles, block_um=600, fractions=(0.5, 0, 0.5))
    assert set(table.obs["spade_split"]) >= {"train", "test"}


def test_tiles_are_annotated_as_the_spots_below_them_are(tiles, cohort):
    sp.tl.annotate([tiles, *cohort], label_key="domain", use_rep="X_texture")
    table, height = tiles["tiles_table"], image_arrays(cohort[0]["image"])[0].shape
    right = []
    for i, sample in enumerate(cohort):
        spots = np.column_stack([sample["spots"].geometry.x, sample["spots"].geometry.y])
        spots += [GAP + i * (height[2] + GAP), GAP]
        distance = np.linalg.norm(table.obsm["spatial"][:, None] - spots, axis=2)
        near = distance.min(1) < 60
        known = sample["table"].obs["domain"].to_numpy()[distance.argmin(1)]
        right.append((table.obs["domain_predicted"].astype(str) == known)[near])
    assert np.concatenate(right).mean() > 0.75


def test_attention_and_plots_take_tiles(tiles, cohort, model):
    sp.tl.embed(tiles, model)
    slides = sp.tl.attention(
        [tiles, *cohort], label_key="organ", use_rep="X_texture", n_epochs=1, hidden=16, groupby=None
    )
    assert slides["slide"].tolist()[0] == "slide"
    _, *panels = sp.pl.patches(tiles, n=3)[0]
    assert not [patch for panel in panels for patch in panel.patches if isinstance(patch, Circle)]
    for axes in (sp.pl.expert_clusters(tiles), sp.pl.attention(tiles, key="organ_attention")):
        for panel in axes[0]:
            assert not [one for one in panel.collections if isinstance(one, EllipseCollection)]
        (squares,) = [one for one in axes[0, 1].collections if isinstance(one, PolyCollection)]
        assert len(squares.get_paths()) == len(tiles["tiles"])
        corners = squares.get_paths()[0].vertices
        np.testing.assert_allclose(corners.max(0) - corners.min(0), 112)
    plt.close("all")
