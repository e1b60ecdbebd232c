"""Colours of pictures are read by their declared meaning, or refused with one clear error."""

from __future__ import annotations

import re

import numpy as np
import pytest
import tifffile
from PIL import Image

import spade as sp
from spade.io._images.multiscale import read_image

RNG = np.random.default_rng(0)
#: Smooth, so that JPEG keeps it to a few grey levels.
PIXELS = np.stack([np.add.outer(np.arange(64), np.arange(64)) + 60 * i for i in range(3)], axis=-1).astype(np.uint8)
ALPHA = np.zeros((64, 64), np.uint8)
ALPHA[:, 16:32], ALPHA[:, 32:] = 100, 255


def pixels_of(path) -> np.ndarray:
    """Read a file as readers do; rows, columns, channels."""
    return np.moveaxis(read_image(path, "image")["scale0"]["image"].to_numpy(), 0, -1)


def laid_on_white(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return colours * share + 255 * (1 - share)


@pytest.mark.parametrize(
    ("name", "options", "off_by"),
    [
        ("a.tif", {"photometric": "rgb"}, 0),
        ("a.tif", {"photometric": "rgb", "compression": "zlib", "tile": (16, 16)}, 0),
        ("a.tif", {"photometric": "rgb", "compression": "jpeg", "tile": (32, 32)}, 12),  # as YCbCr
        ("a.png", {}, 0),
        ("a.jpg", {"quality": 95}, 8),
    ],
)
def test_rgb_is_read_however_it_is_stored(tmp_path, name, options, off_by):
    path = tmp_path / name
    if name == "a.tif":
        tifffile.imwrite(path, PIXELS, **options)
    else:
        Image.fromarray(PIXELS).save(path, **options)
    assert np.abs(pixels_of(path).astype(int) - PIXELS).max() <= off_by


def test_a_palette_and_eight_bits_of_grey_become_the_colours_they_mean(tmp_path):
    indexed = Image.fromarray(RNG.integers(0, 3, (8, 8)).astype(np.uint8), "P")
    indexed.putpalette([200, 30, 90, 255, 255, 255, 0, 10, 20])
    indexed.save(tmp_path / "p.png")
    colours = np.array([[200, 30, 90], [255, 255, 255], [0, 10, 20]])
    np.testing.assert_array_equal(pixels_of(tmp_path / "p.png"), colours[np.asarray(indexed)])
    grey = PIXELS[..., 0]
    Image.fromarray(grey).save(tmp_path / "g.png")
    np.testing.assert_array_equal(pixels_of(tmp_path / "g.png"), np.repeat(grey[..., None], 3, axis=2))


def write_grey_16(path):
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(path)


@pytest.mark.parametrize(
    ("name", "write", "said"),
    [
        ("a.png", write_grey_16, r"mode 'I;16'"),
        ("a.jpg", lambda path: Image.new("CMYK", (8, 8), (9, 9, 9, 9)).save(path), r"mode 'CMYK'"),
        ("a.tif", lambda path: tifffile.imwrite(path, PIXELS, photometric="ycbcr"), "YCbCr colours without JPEG"),
        ("a.tif", lambda path: tifffile.imwrite(path, PIXELS[..., [0, 1, 2, 0]], photometric="separated"), "SEPARATED"),
        (
            "a.tif",
            lambda path: tifffile.imwrite(
                path, PIXELS[..., [0, 1, 2, 0]], photometric="minisblack", planarconfig="contig"
            ),
            "MINISBLACK pixels",
        ),
        (
            "a.tif",
            lambda path: tifffile.imwrite(
                path, PIXELS[..., 0] % 4, photometric="palette", colormap=np.zeros((3, 256), np.uint16)
            ),
            "PALETTE pixels",
        ),
        ("a.tif", lambda path: tifffile.imwrite(path, PIXELS.astype(np.uint16), photometric="rgb"), "uint16"),
        ("a.tif", lambda path: tifffile.imwrite(path, np.moveaxis(PIXELS, -1, 0), photometric="rgb"), "another kind"),
    ],
    ids=["grey16", "cmyk", "ycbcr", "inks", "fluorescence", "palette", "rgb16", "planes"],
)
def test_pixels_without_a_known_colour_are_refused(tmp_path, name, write, said):
    write(tmp_path / name)
    with pytest.raises(ValueError, match=rf"^image: {re.escape(repr(str(tmp_path / name)))}.*{said}.*Convert it"):
        read_image(tmp_path / name, "image")


@pytest.mark.parametrize("kind", ["png", "unassalpha", "assocalpha"])
def test_transparency_is_laid_on_white(tmp_path, kind):
    wanted = laid_on_white(PIXELS, ALPHA)
    given = np.dstack([PIXELS, ALPHA])
    if kind == "assocalpha":
        given[..., :3] = np.rint(PIXELS * (ALPHA[..., None] / 255))
    path = tmp_path / ("a.png" if kind == "png" else "a.tif")
    if kind == "png":
        Image.fromarray(given).save(path)
    else:
        tifffile.imwrite(path, given, photometric="rgb", extrasamples=[kind], tile=(16, 16))
    read = pixels_of(path)
    assert np.abs(read[..., :3] - wanted).max() <= 1
    np.testing.assert_array_equal(read[..., 3], np.where(ALPHA, 255, 0))


def test_a_fourth_channel_without_a_meaning_is_left_out(tmp_path):
    given = np.dstack([PIXELS, ALPHA])
    tifffile.imwrite(tmp_path / "a.tif", given, photometric="rgb", extrasamples=["unspecified"], tile=(16, 16))
    np.testing.assert_array_equal(pixels_of(tmp_path / "a.tif"), PIXELS)


def test_coarser_levels_keep_what_shows(tmp_path):
    given = np.full((2100, 2100, 4), 200, np.uint8)
    given[:1051, :, 3] = 0  # black and transparent above
    given[:1051, :, :3] = 0
    given[1051:, :, 3] = 255
    Image.fromarray(given).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", given, photometric="rgb", extrasamples=["unassalpha"], tile=(512, 512))
    for name in ("a.png", "a.tif"):
        coarse = read_image(tmp_path / name, "image")["scale1"]["image"].to_numpy()
        assert coarse.shape == (4, 1050, 1050)
        assert set(coarse[:, :525].reshape(4, -1).T[0].tolist()) == {255, 0}
        np.testing.assert_array_equal(coarse[:, 600, 9], [200, 200, 200, 255])
        np.testing.assert_array_equal(coarse[:, 525, 9], [228, 228, 228, 255])  # half of its rows show


def test_tiles_that_the_file_leaves_out_are_white(tmp_path):
    def tiles():
        for i in range(16):
            yield None if i > 11 else np.full((16, 16, 3), 90, np.uint8)

    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        tif.write(tiles(), shape=(64, 64, 3), dtype=np.uint8, tile=(16, 16), photometric="rgb")
    read = pixels_of(tmp_path / "a.tif")
    assert (read[48:] == 255).all()
    assert (read[:48] == 90).all()


def test_read_st_keeps_transparency(tmp_path):
    (tmp_path / "counts.tsv").write_text("\tA\n2x3\t1\n3x3\t2\n2x4\t3\n")
    image = Image.new("RGBA", (320, 340), (200, 90, 120, 255))
    image.save(tmp_path / "he.png")
    assert sp.io.read_st(tmp_path / "counts.tsv", tmp_path / "he.png")["image"]["scale0"]["image"].sizes["c"] == 3
    image.putpixel((0, 0), (0, 0, 0, 0))
    image.save(tmp_path / "he.png")
    assert sp.io.read_st(tmp_path / "counts.tsv", tmp_path / "he.png")["image"]["scale0"]["image"].sizes["c"] == 4
