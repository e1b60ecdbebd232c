"""Files that are no slide, or not one of stained tissue, and what they must say about their scale."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest
import tifffile
from helpers.scans.wsi import HEIGHT, WIDTH, aperio, aperio_slide, plain_slide, pyramid, tissue
from PIL import Image

import spade as sp
from spade.io._slides.scanner import INSTALL

PER_CM = {"resolutionunit": "CENTIMETER"}


def refused(path, error, message, **options) -> None:
    """Reading must raise one sentence (or two) that names the file."""
    with pytest.raises(error) as caught:
        sp.io.read_wsi(path, **options)
    assert re.search(message, str(caught.value)), caught.value
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("backend", [None, "tifffile", "openslide"])
def test_a_file_that_is_missing(tmp_path, backend):
    refused(tmp_path / "a.svs", FileNotFoundError, r"path: there is no file", backend=backend)
    refused(tmp_path, FileNotFoundError, r"is a folder; give the file of the slide", backend=backend)


def write_mrxs(path) -> None:
    path.write_bytes(b"\xff\xd8\xff\xe0" + bytes(100))


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("a.svs", lambda path: path.write_bytes(b""), "is not a slide"),
        ("a.txt", lambda path: path.write_text("x,y\n1,2\n"), "is not a slide"),
        ("a.jpg", lambda path: Image.fromarray(tissue(60, 60)).save(path), "is not a slide"),
        ("a.mrxs", write_mrxs, r"incomplete \(an \.mrxs needs its folder"),
        ("a.dcm", lambda path: path.write_bytes(bytes(128) + b"DICM" + bytes(100)), "is not a slide"),
        ("a.tif", lambda path: path.write_bytes(b"II*\0\x08\0\0\0" + bytes(50)), "cannot be read as a slide|image"),
        ("a.svs", lambda path: path.write_bytes(b"II*\0" + b"\xff" * 60), "cannot be read as a slide|image"),
    ],
    ids=["empty", "text", "JPEG", "MRXS without its folder", "DICOM", "TIFF without pages", "TIFF of noise"],
)
def test_a_file_that_is_no_slide(tmp_path, name, write, message):
    write(tmp_path / name)
    refused(tmp_path / name, ValueError, message, mpp=0.5)


@pytest.mark.parametrize("value", ["vips", "", 1, True])
def test_backends_are_two(tmp_path, value):
    with pytest.raises(ValueError, match=r"backend=.*'tifffile', 'openslide'"):
        sp.io.read_wsi(tmp_path / "a.svs", backend=value)


@pytest.mark.parametrize("value", [0, -1, np.nan, np.inf, "0.5", True])
def test_given_scales_are_positive(tmp_path, value):
    with pytest.raises(ValueError, match=r"^mpp=.*positive number of µm/px"):
        sp.io.read_wsi(tmp_path / "a.svs", mpp=value)


@pytest.mark.parametrize(
    ("name", "value"), [("sample_id", ""), ("sample_id", 3), ("image_key", "a/b"), ("image_key", "")]
)
def test_names_are_text_that_can_be_stored(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"^{name}="):
        sp.io.read_wsi(tmp_path / "a.svs", **{name: value})


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"resolution": None, "resolutionunit": None}, "there is no entry with a unit"),
        ({"resolution": (20_000, 20_000), "resolutionunit": "NONE"}, "there is no entry with a unit"),
        ({"resolution": (72, 72), "resolutionunit": "INCH"}, r"72 pixels per inch says 352\.8 × 352\.8 µm"),
        ({"resolution": (96, 96), "resolutionunit": "INCH"}, r"96 pixels per inch says 264\.6 × 264\.6 µm"),
        ({"resolution": (10, 10), **PER_CM}, r"10 pixels per cm says 1000 × 1000 µm"),
        ({"resolution": (0, 0), **PER_CM}, r"0 pixels per cm says 0 × 0 µm"),
        ({"resolution": (20_000, 0), **PER_CM}, r"says 0\.5 × 0 µm"),
        ({"description": aperio(tissue(9, 9), 0), "resolution": None}, r"Aperio's MPP says 0 × 0 µm"),
        ({"description": aperio(tissue(9, 9), "nan"), "resolution": None}, r"Aperio's MPP says 'nan' × 'nan' µm"),
        ({"description": aperio(tissue(9, 9), -0.5), "resolution": None}, r"Aperio's MPP says -0\.5 × -0\.5 µm"),
        (
            {"description": '<OME><Pixels PhysicalSizeX="1" PhysicalSizeXUnit="pixel"/></OME>', "resolution": None},
            r"OME's PhysicalSize says '1 pixel' × '' µm",
        ),
    ],
    ids=["none", "no unit", "72 dpi", "96 dpi", "1 px/mm", "zero", "one zero", "MPP 0", "MPP nan", "MPP < 0", "OME px"],
)
def test_only_a_scale_of_a_microscope_counts(tmp_path, options, why):
    path = plain_slide(tmp_path / "a.tif", **options)
    refused(path, ValueError, rf"states no µm/px of a microscope \(.*{why}.*give mpp=")
    sdata = sp.io.read_wsi(path, mpp=0.25)
    assert sdata.attrs["spade"]["mpp"] == {"he": 0.25}


@pytest.mark.parametrize("backend", [None, "openslide"])
def test_a_scale_that_contradicts_the_file(tmp_path, backend):
    path = aperio_slide(tmp_path / "a.svs")
    refused(path, ValueError, r"^mpp=1 contradicts .*states 0\.5 µm/px \(.*; leave mpp= out", mpp=1.0, backend=backend)
    refused(aperio_slide(tmp_path / "b.svs", mpp=None), ValueError, r"no µm/px of a microscope", backend=backend)


def test_pixels_that_are_not_square(tmp_path):
    path = plain_slide(tmp_path / "a.tif", resolution=(20_000, 10_000), **PER_CM)
    for mpp in (None, 0.5, 1.0):
        refused(path, ValueError, r"pixels are 0\.5 µm wide and 1 µm high", mpp=mpp)


def fluorescence(channel: int | None) -> np.ndarray:
    """Bright cells on black, in one colour or in grey."""
    light = 255 - tissue()[..., 1]
    if channel is None:
        return np.repeat(light[..., None], 3, axis=-1)
    return np.stack([light if i == channel else light // 12 for i in range(3)], axis=-1)


@pytest.mark.parametrize("backend", ["tifffile", "openslide"])
@pytest.mark.parametrize(
    ("pixels", "why"),
    [
        (fluorescence(2), "it is dark"),
        (fluorescence(0), "it is dark"),
        (fluorescence(None), "it is grey|it is dark"),
        (255 - fluorescence(None), "it is grey"),
        (np.zeros((HEIGHT, WIDTH, 3), np.uint8), "it is dark"),
    ],
    ids=["blue", "red", "grey on black", "grey on white", "black"],
)
def test_fluorescence_and_grey_slides(tmp_path, pixels, why, backend):
    path = aperio_slide(tmp_path / "a.svs", pyramid(pixels))
    refused(path, ValueError, rf"not a picture of stained tissue in bright light, such as H&E \({why}", backend=backend)


def part_of(background: int) -> np.ndarray:
    """A slide of which one hundredth shows tissue."""
    pixels = np.full((HEIGHT, WIDTH, 3), background, np.uint8)
    pixels[:150, :150] = tissue(150, 150)
    return pixels


@pytest.mark.parametrize("background", [0, 180, 245], ids=["black filling", "grey glass", "white glass"])
def test_slides_with_little_tissue_are_read(tmp_path, background):
    sp.io.read_wsi(aperio_slide(tmp_path / "a.svs", pyramid(part_of(background))))


def test_an_empty_slide_is_read(tmp_path):
    sp.io.read_wsi(aperio_slide(tmp_path / "a.svs", pyramid(np.full((HEIGHT, WIDTH, 3), 243, np.uint8))))


@pytest.mark.parametrize("backend", [None, "tifffile", "openslide"])
@pytest.mark.parametrize("kind", [np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_of_other_kinds(tmp_path, backend, kind, channels):
    pixels = tissue().astype(kind)[..., :channels].squeeze()
    photometric = "rgb" if channels == 3 else "minisblack"
    options = {"tile": (256, 256), "photometric": photometric, "metadata": None}
    tifffile.imwrite(tmp_path / "a.tif", pixels, resolution=(20_000, 20_000), resolutionunit="CENTIMETER", **options)
    refused(tmp_path / "a.tif", ValueError, "expected an (8-bit )?RGB", backend=backend)


def test_levels_that_are_not_the_slide(tmp_path):
    levels = pyramid()
    path = plain_slide(tmp_path / "a.tif", [levels[0], levels[1][:, :300]])
    refused(path, ValueError, r"wrong pyramid: page 1 of 300 × 300 pixels is not the first one of 1606 × 1203")
    path = plain_slide(tmp_path / "b.tif", [levels[1], levels[0], levels[2]])
    refused(path, ValueError, r"wrong pyramid: page 1 of 1606 × 1203 pixels is not the first one of 401 × 300")
    path = aperio_slide(tmp_path / "c.svs", [levels[0], levels[1][:200]])
    for backend in (None, "openslide"):
        refused(path, ValueError, r"wrong pyramid: (page 2|level 1) of 401 × 200 pixels", backend=backend)


def test_one_huge_strip(tmp_path):
    path = tmp_path / "a.tif"
    pixels = np.broadcast_to(np.uint8(240), (10_000, 10_000, 3))
    options = {"rowsperstrip": 10_000, "photometric": "rgb", "compression": "deflate", "metadata": None}
    tifffile.imwrite(path, pixels, **options)
    refused(path, ValueError, r"stored in pieces of 300,000,000 bytes.*convert it to a tiled", mpp=0.5)


def cut(path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


@pytest.mark.parametrize("backend", [None, "openslide"])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
def test_a_slide_that_is_cut_off(tmp_path, backend, share):
    path = aperio_slide(tmp_path / "a.svs")
    cut(path, share)
    message = "cannot be read as|is not a slide|wrong pyramid|was the file cut off"
    refused(path, ValueError, message, backend=backend)


def spoil_tile(path, tile: int) -> None:
    """Overwrite a tile of the finest level."""
    with tifffile.TiffFile(path) as tif:
        offset, size = tif.pages[0].dataoffsets[tile], tif.pages[0].databytecounts[tile]
    content = bytearray(path.read_bytes())
    content[offset : offset + size] = bytes(size)
    path.write_bytes(content)


@pytest.mark.parametrize("backend", ["tifffile", "openslide"])
def test_a_tile_that_is_damaged_is_named_and_the_others_are_read(tmp_path, backend):
    path = aperio_slide(tmp_path / "a.svs")
    spoil_tile(path, 0)
    image = sp.io.read_wsi(path, backend=backend)["he"]["scale0"]["image"]
    for _ in range(2):
        with pytest.raises(ValueError, match=rf"{re.escape(repr(str(path)))} cannot be read as .* is damaged"):
            image[:, :10, :10].to_numpy()
        assert image[:, 600:700, 600:700].to_numpy().any()


@pytest.mark.parametrize("name", ["a.mrxs", "a.dcm", "a.tiff"])
def test_what_needs_openslide_says_how_to_install_it(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "openslide", None)
    path = tmp_path / name
    options = {"photometric": "rgb", "metadata": None}
    if name == "a.tiff":
        philips = {"software": "Philips DP v1.0", "description": "<?xml?><DataObject></DataObject>"}
        tifffile.imwrite(path, tissue(300, 300), tile=(256, 256), **philips, **options)
    else:
        write_mrxs(path)
    refused(path, ImportError, rf"read through OpenSlide, which is not installed: {INSTALL}")
    refused(path, ImportError, "not installed", backend="openslide")


@pytest.mark.realdata
def test_a_real_slide_that_needs_openslide(data_dir, monkeypatch):
    monkeypatch.setitem(sys.modules, "openslide", None)
    refused(
        data_dir / "slides/fluorescence_DAPI.ndpi",
        ImportError,
        INSTALL,
    )


def test_without_openslide_plain_and_aperio_slides_are_read(tmp_path, monkeypatch):
    paths = plain_slide(tmp_path / "a.tif"), aperio_slide(tmp_path / "b.svs")
    monkeypatch.setitem(sys.modules, "openslide", None)
    for path in paths:
        assert sp.io.read_wsi(path).attrs["spade"]["slides"]["he"]["backend"] == "tifffile"
    (tmp_path / "c.txt").write_text("no slide")
    refused(tmp_path / "c.txt", ValueError, r"is not a slide.*OpenSlide, which knows more, is not installed")


def test_tifffile_is_for_plain_tiff(tmp_path):
    (tmp_path / "a.txt").write_text("no slide")
    refused(tmp_path / "a.txt", ValueError, r"backend='tifffile': .* is no TIFF", backend="tifffile")
