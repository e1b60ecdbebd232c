"""Tissue on a real section made a slide: four copies on its own glass, with pen marks and a fold drawn on it."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
import tifffile
from _sections import read_tumour
from helpers.hest.folder import Colours
from helpers.whole_slides import INKS, disc, draw_pen, slide_of
from PIL import Image
from scipy import ndimage

import spade as sp

pytestmark = [pytest.mark.realdata, pytest.mark.slow]
#: The image at its own µm/px is halved, so that the canvas holds four sections.
MPP, SIDE = 2 * 0.686, 7200


@pytest.fixture(scope="module")
def canvas(data_dir):
    """The slide, where it has tissue, pen marks and a fold."""
    with Image.open(data_dir / "her2st" / "C2" / "5714_HE_BT_C2.jpg") as file:
        section = np.asarray(file.convert("RGB").reduce(2))
    dense = ndimage.uniform_filter(255.0 - section[..., 1], 41) > 50  # green is absent where tissue is
    pieces = ndimage.label(dense)[0]
    truth = ndimage.binary_fill_holes(pieces == np.bincount(pieces.ravel())[1:].argmax() + 1)
    rows, columns = np.nonzero(truth)
    cut = np.s_[rows.min() - 60 : rows.max() + 60, columns.min() - 60 : columns.max() + 60]
    piece, of_piece = section[cut], truth[cut]
    picture = np.tile(section[:400, :400], (18, 18, 1))  # glass with its own tint and noise
    tissue = np.zeros((SIDE, SIDE), dtype=bool)
    for y, x in ((300, 300), (300, 3700), (3400, 300), (3400, 3700)):
        place = np.s_[y : y + piece.shape[0], x : x + piece.shape[1]]
        picture[place], tissue[place] = piece, of_piece
    pen = np.zeros((SIDE, SIDE), dtype=bool)
    for (name, colour), (y, x) in zip(
        INKS.items(), ((3130, 800), (3130, 2500), (3130, 4200), (3130, 5900)), strict=True
    ):
        mark = disc(pen.shape, x, y, 230) & ~disc(pen.shape, x, y, 170) & ~tissue
        assert mark.sum() > 20_000, name
        draw_pen(picture, mark, colour)
        pen |= mark
    fold = np.zeros_like(pen)
    fold[900:1000, 400:2600] = tissue[900:1000, 400:2600]
    white = np.median(section[:400, :400], axis=(0, 1))
    picture[fold] = np.clip(picture[fold].astype(float) ** 2 / white, 0, 255)
    return slide_of(picture, name="canvas", scale_factors=(2, 2)), tissue, pen, fold


def inside(polygons, mask, n=4000):
    """Share of random pixels of a mask that lie in polygons."""
    rows, columns = np.nonzero(mask)
    chosen = np.random.default_rng(0).integers(0, len(rows), n)
    points = shapely.points(columns[chosen] + 0.5, rows[chosen] + 0.5)
    area = shapely.union_all(polygons)
    shapely.prepare(area)
    return shapely.contains(area, points).mean()


def test_tissue_is_found_and_glass_and_pen_marks_are_not(canvas):
    slide, tissue, pen, fold = canvas
    sp.pp.tissue(slide, mpp=MPP)
    found = slide["tissue"].geometry.to_numpy()
    assert len(found) == 4
    assert inside(found, tissue) > 0.98
    assert inside(found, pen) < 0.01
    near = ndimage.binary_dilation(tissue, iterations=40)
    assert inside(found, ~near) < 0.001
    assert inside(found, fold) > 0.98  # folds are kept


def test_the_fold_is_cut_out_on_request(canvas):
    slide, tissue, _, fold = canvas
    sp.pp.tissue(slide, mpp=MPP, drop_folds=True, key_added="flat")
    found = slide["flat"].geometry.to_numpy()
    # over pale tissue a fold is no denser than tissue elsewhere, so only part of it is told
    assert inside(found, ndimage.binary_erosion(fold, iterations=15)) < 0.75
    assert inside(found, tissue & ~ndimage.binary_dilation(fold, iterations=40)) > 0.96


def test_tiles_lie_on_tissue(canvas):
    slide, tissue, _, _ = canvas
    sp.pp.tissue(slide, mpp=MPP)
    sp.pp.tiles(slide, size_px=82)
    side = 112 / MPP
    corners = slide["tiles"].geometry.bounds[["minx", "miny"]].to_numpy()
    shares = np.array([tissue[int(y) : int(y + side), int(x) : int(x + side)].mean() for x, y in corners])
    assert len(corners) == pytest.approx(tissue.sum() / side**2, rel=0.06)
    assert np.mean(shares >= 0.4) > 0.98
    assert np.abs(shares - slide["tiles_table"].obs["tissue_share"]).mean() < 0.03


def test_a_scanned_slide_from_its_file_to_predicted_genes(data_dir):
    path = data_dir / "slides" / "CMU-1-Small-Region.svs"
    slide = sp.io.read_wsi(path)
    assert set(slide.images) == {"he"}  # label, macro and thumbnail are left alone
    assert slide.attrs["spade"]["mpp"] == {"he": 0.499}
    sp.pp.tissue(slide)
    assert 0.5 < slide["tissue"]["area_mm2"].sum() < 0.9  # about 0.7 of 1.64 mm², by eye
    sp.pp.tiles(slide)
    sp.pp.encode_patches(slide, Colours())
    table, picture = slide["tiles_table"], tifffile.imread(path, key=0) / 255.0
    corners = slide["tiles"].geometry.bounds[["minx", "miny"]].to_numpy()
    side = 112 / 0.499
    inside = np.flatnonzero((corners + side <= picture.shape[1::-1]).all(1))
    assert len(inside) > 30
    for tile in inside:
        x, y = corners[tile].round().astype(int)
        pixels = picture[y : y + round(side), x : x + round(side)].reshape(-1, 3)
        np.testing.assert_allclose(table.obsm["X_colours"][tile, :3], pixels.mean(0), atol=0.004)

    section = read_tumour(data_dir / "her2st", "B4")
    sp.pp.patches(section)
    sp.pp.encode_patches([section, slide])
    panel = sp.pp.select_genes(section, n_top_genes=200, include=["ERBB2", "COL1A1"])
    model = sp.tl.train_spade(section, use_rep="X_texture", genes=panel, n_experts=2, n_epochs=20)
    sp.tl.embed(slide, model)
    sp.tl.predict_expression(slide, model, reference=section, genes=["ERBB2", "COL1A1"])
    predicted = table.obsm["X_predicted"]
    assert predicted.shape == (table.n_obs, 2) and table.obsm["X_spade"].shape[0] == table.n_obs
    assert np.isfinite(predicted).all() and (predicted.std(0) > 0).all()


def test_a_fluorescence_slide_is_refused_in_one_sentence(data_dir):
    path = data_dir / "slides" / "fluorescence_DAPI.ndpi"
    with pytest.raises(ValueError, match=r"fluorescence_DAPI.*(grey|dark)"):
        sp.io.read_wsi(path)
    pixels = tifffile.imread(path, key=0)
    rgb = np.repeat(pixels[..., None], 3, -1) if pixels.ndim == 2 else pixels[..., :3]
    with pytest.raises(ValueError, match="no tissue found"):
        sp.pp.tissue(slide_of(rgb.astype(np.uint8), name="DAPI"), mpp=0.228)
