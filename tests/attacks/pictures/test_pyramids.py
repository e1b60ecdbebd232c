"""Which pages of a TIFF or SVS are levels of the slide, and what its header may claim."""

from __future__ import annotations

import re
import struct

import numpy as np
import pytest
import tifffile

from spade.io._images.multiscale import read_image

SLIDE = np.random.default_rng(0).integers(0, 255, (1200, 1600, 3)).astype(np.uint8)
APERIO = "Aperio Image Library v11.2.1\r\n1600x1200 [0,0 1600x1200] (256x256) J2K/KDU Q=30|AppMag = 20|MPP = 0.5"


def shown(page: int, height: int, width: int) -> np.ndarray:
    """A page of one colour, by which it is known."""
    return np.full((height, width, 3), page, np.uint8)


def svs(path, others) -> None:
    """Write a slide and pages (value, height, width, options) as scanners do, without marks on levels."""
    with tifffile.TiffWriter(path) as tif:
        options = {"photometric": "rgb", "metadata": None}
        tif.write(SLIDE, tile=(256, 256), description=APERIO, **options)
        for value, height, width, more in others:
            tif.write(shown(value, height, width), **options, **more)


def levels(path) -> list[tuple[int, int, int]]:
    """Value of a pixel, height and width of every level but the finest."""
    tree = read_image(path, "slide")
    arrays = [tree[name]["image"] for name in tree][1:]
    return [(int(a[0, 1, 1]), a.sizes["y"], a.sizes["x"]) for a in arrays]


TILED = {"tile": (256, 256)}


def test_levels_without_marks_are_found(tmp_path):
    svs(
        tmp_path / "a.svs",
        [
            (9, 768, 1024, {"rowsperstrip": 16}),  # the thumbnail, of the same aspect ratio
            (4, 300, 400, {**TILED, "description": APERIO + "\r\n-> 400x300"}),
            (2, 600, 800, TILED),
            (8, 300, 401, {"description": "Aperio Image Library v11\r\nlabel 401x300", "rowsperstrip": 16}),
            (7, 120, 160, {"description": "Aperio Image Library v11\r\nmacro 160x120", "subfiletype": 9}),
        ],
    )
    assert levels(tmp_path / "a.svs") == [(2, 600, 800), (4, 300, 400)]


@pytest.mark.parametrize(
    ("height", "width", "options"),
    [
        (600, 800, {"subfiletype": 1, "description": "Aperio Image Library v11\r\nlabel 800x600", **TILED}),
        (600, 800, {"subfiletype": 9, **TILED}),
        (600, 800, {"description": "macro", **TILED}),
        (600, 800, {"subfiletype": 1}),
        (600, 800, {"subfiletype": 3, **TILED}),
        (600, 600, TILED),
        (600, 830, TILED),
    ],
    ids=["label", "macro", "macro in words", "striped", "one of several pages", "square", "four per cent wider"],
)
def test_other_views_are_never_levels(tmp_path, height, width, options):
    svs(tmp_path / "a.svs", [(9, height, width, options), (2, 300, 400, TILED)])
    assert levels(tmp_path / "a.svs") == [(2, 300, 400)]


@pytest.mark.parametrize("subfiletype", [1, 9, 3])
def test_other_files_mark_their_levels(tmp_path, subfiletype):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        tif.write(SLIDE, photometric="rgb", tile=(256, 256), metadata=None)
        tif.write(shown(3, 600, 800), photometric="rgb", subfiletype=subfiletype, metadata=None)
        tif.write(shown(5, 300, 400), photometric="rgb", tile=(256, 256), metadata=None)  # another picture, not marked
    values = [value for value, _, _ in levels(tmp_path / "a.tif")]
    assert (3 in values) == (subfiletype == 1)
    assert 5 not in values


@pytest.mark.parametrize(
    "key", [(0, 5, 7), (slice(None), slice(3, 900, 7), slice(None, None, -5)), (2, slice(0, 0), 4), (1, [3, 900, 2], 1)]
)
def test_any_index_reads_the_same_pixels(tmp_path, key):
    tifffile.imwrite(tmp_path / "a.tif", SLIDE, photometric="rgb", tile=(256, 256))
    image = read_image(tmp_path / "a.tif", "image")["scale0"]["image"]
    wanted = np.moveaxis(SLIDE, -1, 0)[key]
    read = image.data[key].compute()
    assert np.shape(read) == wanted.shape
    np.testing.assert_array_equal(read, wanted)


def claim(path, width: int, height: int, *, tiles: bool, n_bytes: int) -> None:
    """Write the header of a TIFF of any size with one tile or strip of ``n_bytes``."""
    entries = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 2), (277, 3, 3), (284, 3, 1)]
    if tiles:
        entries += [(322, 4, 256), (323, 4, 256), (324, 4, 8), (325, 4, n_bytes)]
    else:
        entries += [(273, 4, 8), (278, 4, height), (279, 4, n_bytes)]
    body = struct.pack("<H", len(entries))
    body += b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in sorted(entries))
    path.write_bytes(struct.pack("<2sHI", b"II", 42, 8) + body + struct.pack("<I", 0))


@pytest.mark.parametrize("tiles", [True, False])
@pytest.mark.parametrize("n_bytes", [0, 50, 2**32 - 1])
@pytest.mark.parametrize("side", [10**6, 2**31])
def test_a_small_file_cannot_claim_a_huge_image(tmp_path, tiles, n_bytes, side):
    path = tmp_path / "a.tif"
    claim(path, side, side, tiles=tiles, n_bytes=n_bytes)
    assert path.stat().st_size < 300
    with pytest.raises(ValueError, match=rf"^image: {re.escape(repr(str(path)))} cannot be read as an image"):
        read_image(path, "image")


def test_a_tile_that_is_damaged_is_named_when_it_is_read(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, SLIDE, photometric="rgb", tile=(256, 256), compression="zlib")
    with tifffile.TiffFile(path) as tif:
        place, count = tif.pages[0].dataoffsets[0], tif.pages[0].databytecounts[0]
    raw = bytearray(path.read_bytes())
    raw[place : place + count] = bytes(count)
    path.write_bytes(raw)
    image = read_image(path, "image")["scale0"]["image"]
    np.testing.assert_array_equal(image[:, 512:, 512:], np.moveaxis(SLIDE, -1, 0)[:, 512:, 512:])
    with pytest.raises(ValueError, match=rf"{re.escape(repr(str(path)))} .*tile 0 of page \(0,\) is damaged"):
        image[:, :10, :10].compute()


@pytest.mark.parametrize("tag", [256, 257])
def test_a_page_without_pixels_is_damaged(tmp_path, tag):
    path = tmp_path / "he.tif"
    tifffile.imwrite(path, SLIDE, photometric="rgb", tile=(256, 256))
    with tifffile.TiffFile(path, mode="r+") as tif:
        tif.pages[0].tags[tag].overwrite(0)
    with pytest.raises(ValueError, match=r"he\.tif' cannot be read as an image \(it has \d+ × \d+ pixels\)"):
        read_image(path, "slide")
