"""Tissue told from glass, grey things, pen marks and folds by colour."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.whole_slides import EOSIN, INKS, MPP, disc, draw_pen, glass, pieces, stain
from scipy import ndimage

from spade.core.patches.tissue import TissueSettings, find_tissue, glass_colour, otsu

#: What lies this near to an outline (px of 8 µm) is not counted.
NEAR = 3


def seen_from_afar(picture, step=int(8 / MPP)):
    height, width = (n // step * step for n in picture.shape[:2])
    blocks = picture[:height, :width].reshape(height // step, step, width // step, step, -1)
    return np.round(blocks.mean((1, 3))).astype(picture.dtype)


def find(picture, **settings):
    return find_tissue(seen_from_afar(picture), 8.0, TissueSettings(**settings))


def afar(mask):
    return seen_from_afar(mask[..., None].astype(float) * 2)[..., 0] > 1


def off_border(mask):
    return ndimage.binary_erosion(mask, iterations=NEAR), ~ndimage.binary_dilation(mask, iterations=NEAR)


@pytest.mark.parametrize("strength", [1.0, 0.35])
def test_tissue_is_found_also_where_it_is_pale(strength):
    picture, masks = glass(), []
    for i, (x, y, radius, how) in enumerate([(400, 450, 300, 1.0), (1050, 600, 250, strength)]):
        masks.append(disc(picture.shape, x, y, radius))
        stain(picture, masks[-1], i, how)
    found, truth = find(picture), afar(masks[0] | masks[1])
    within, outside = off_border(truth)
    assert found[within].mean() > 0.99
    assert not found[outside].any()
    assert 0.97 < found.sum() / truth.sum() < 1.06


def test_a_picture_of_tissue_alone_is_all_tissue_and_glass_alone_is_none():
    picture = stain(glass(600, 600), np.ones((600, 600), dtype=bool))
    assert find(picture).all()
    assert not find(glass(600, 600)).any()
    assert not find(glass(600, 600, colour=(236, 219, 235))).any()  # glass with a tint


def test_the_tint_of_the_glass_does_not_count():
    picture, _ = pieces()
    tinted = np.round(picture * (np.array([236, 219, 235]) / 255)).astype(np.uint8)
    assert np.abs(glass_colour(tinted) - np.array([220, 201, 221])).max() <= 2
    same = find(tinted) == find(picture)
    assert same.mean() > 0.99


def test_an_even_smear_of_stain_is_glass_and_as_pale_tissue_is_tissue():
    picture, masks = pieces()
    smear = disc(picture.shape, 400, 450, 400) & ~masks[0]
    picture[smear] = (picture[smear] * [1, 0.9, 1]).astype(np.uint8)
    found = find(picture)
    assert found.sum() == pytest.approx(afar(masks[0] | masks[1]).sum(), rel=0.06)
    picture[masks[1]] = glass(*picture.shape[:2])[masks[1]]
    stain(picture, masks[1], 1, strength=0.25)
    assert find(picture)[off_border(afar(masks[1]))[0]].mean() > 0.95


def test_grey_and_black_things_are_no_tissue():
    picture, _ = pieces()
    before = find(picture)
    for x, grey in ((850, 120), (1200, 30)):
        picture[disc(picture.shape, x, 150, 90)] = grey
    np.testing.assert_array_equal(find(picture), before)


@pytest.mark.parametrize("ink", INKS)
def test_pen_marks_are_left_out_and_tissue_below_them_is_cut_out(ink):
    picture, masks = pieces()
    truth = afar(masks[0] | masks[1])
    rows, columns = np.indices(picture.shape[:2])
    pen = (np.abs(rows - 0.2 * columns - 20) < 25) | (
        disc(picture.shape, 1050, 600, 330) & ~disc(picture.shape, 1050, 600, 290)
    )
    draw_pen(picture, pen, INKS[ink])
    found, marked = find(picture), afar(pen)
    clean = ~ndimage.binary_dilation(marked, iterations=9)
    within, outside = off_border(truth)
    assert not found[marked & ~truth].any()
    assert not found[outside & clean].any()
    assert found[within & clean].mean() > 0.99
    kept = find(picture, drop_pen=False)
    assert kept[marked & ~truth].mean() > (0.9 if ink in ("blue", "red") else -1)


def test_folds_are_kept_unless_they_are_to_be_cut_out():
    picture, masks = pieces()
    fold = (np.abs(np.indices(picture.shape[:2])[0] - 450) < 30) & masks[0]
    picture[fold] = (picture[fold].astype(float) ** 2 / 238).astype(np.uint8)  # two layers
    marked = afar(fold)
    assert find(picture)[marked].all()
    without = find(picture, drop_folds=True)
    assert without[ndimage.binary_erosion(marked, iterations=NEAR)].mean() < 0.25
    away = afar(masks[0] | masks[1]) & ~ndimage.binary_dilation(marked, iterations=NEAR + 4)
    assert without[away].mean() > 0.97


def test_small_pieces_go_and_small_holes_are_filled():
    picture = glass()
    ring = disc(picture.shape, 400, 450, 300) & ~disc(picture.shape, 400, 450, 60)  # a hole of 0.045 mm²
    stain(picture, ring | disc(picture.shape, 1000, 300, 50))  # a piece of 0.031 mm²
    found = find(picture)
    assert found[112, 100]
    assert not found[75, 250]
    assert not find(picture, max_hole_mm2=0)[112, 100]
    assert find(picture, min_area_mm2=0.01)[75, 250]


def test_the_threshold_parts_two_groups():
    values = np.concatenate([np.random.default_rng(0).normal(1, 0.1, 900), np.full(100, 3.0)])
    assert 1.2 < otsu(values) < 2.9
    assert otsu(np.zeros(5)) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_area_mm2": -1}, "min_area_mm2=-1: expected a number of mm² of at least 0"),
        ({"max_hole_mm2": "x"}, "max_hole_mm2='x': expected a number"),
        ({"drop_pen": 1}, "drop_pen=1: expected True or False"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        TissueSettings(**settings)


def test_eosin_is_no_ink():
    picture = glass(600, 600)
    picture[100:500, 100:500] = EOSIN
    assert find(picture)[30:120, 30:120].all()
