"""Whole slides: levels, pixels, µm/px and facts, by both libraries, in any thread and process."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import sys
import tracemalloc
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dask
import numpy as np
import openslide
import pytest
import tifffile
from helpers.scans.dicom import dicom_slide
from helpers.scans.wsi import (
    HEIGHT,
    LEFT,
    MPP,
    SLIDE_HEIGHT,
    SLIDE_WIDTH,
    TOP,
    WIDTH,
    aperio_slide,
    leica_slide,
    page,
    plain_slide,
    pyramid,
    tissue,
)
from helpers.sections import circles
from PIL import Image
from spatialdata import read_zarr
from spatialdata.transformations import get_transformation

import spade as sp
from spade._samples.images import image_levels
from spade.io._images.tiff import TiffLevel
from spade.io._slides.opening import open_slide
from spade.io._slides.scanner import Handle, OpenSlideLevel

REAL = "slides/CMU-1-Small-Region.svs"


def arrays(sdata, key: str = "he"):
    return [sdata[key][name]["image"] for name in sdata[key]]


def facts(sdata, key: str = "he"):
    return sdata.attrs["spade"]["slides"][key]


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    return plain_slide(tmp_path_factory.mktemp("slides") / "plain.tif")


@pytest.fixture(scope="module")
def svs(tmp_path_factory) -> Path:
    return aperio_slide(tmp_path_factory.mktemp("slides") / "aperio.svs")


@pytest.mark.parametrize("subifds", [False, True])
def test_levels_of_a_plain_tiff_are_those_of_the_file(tmp_path, subifds):
    path = plain_slide(tmp_path / "a slide.tif", subifds=subifds)
    sdata = sp.io.read_wsi(path)
    stored = (
        [tifffile.imread(path, series=0, level=i) for i in range(3)] if subifds else [page(path, i) for i in (0, 1, 2)]
    )
    read = arrays(sdata)
    assert [(one.sizes["x"], one.sizes["y"]) for one in read] == [(WIDTH, HEIGHT), (401, 300), (100, 75)]
    for one, pixels in zip(read, stored, strict=True):
        assert one.dtype == np.uint8
        assert list(one.coords["c"].values) == ["r", "g", "b"]
        np.testing.assert_array_equal(one.to_numpy(), np.moveaxis(pixels, -1, 0) if subifds else pixels)
    assert sdata.attrs["spade"]["sample"] == "a slide"
    assert sdata.attrs["spade"]["mpp"] == {"he": MPP}
    assert facts(sdata) == {
        "file": "a slide.tif",
        "vendor": "generic-tiff",
        "backend": "tifffile",
        "levels": [[WIDTH, HEIGHT], [401, 300], [100, 75]],
    }


def test_levels_of_odd_sizes_lie_where_they_were_taken(plain):
    sdata = sp.io.read_wsi(plain)
    finest, *coarser = arrays(sdata)
    for level, factor in zip(coarser, (4, 16), strict=True):
        matrix = get_transformation(level, to_coordinate_system="global").to_affine_matrix(("x", "y"), ("x", "y"))
        ends = matrix[:2, :2] @ [level.sizes["x"], level.sizes["y"]]
        np.testing.assert_allclose(ends, [WIDTH, HEIGHT])
        # a pixel of the level is the mean of those that it lies on, to within one of its own widths
        x, y = level.sizes["x"] - 3, level.sizes["y"] - 3
        lies = matrix[:2, :2] @ [x + 0.5, y + 0.5]
        assert np.abs(lies - factor * np.array([x + 0.5, y + 0.5])).max() < factor
        around = finest.sel(x=slice(lies[0] - 1, lies[0] + 1), y=slice(lies[1] - 1, lies[1] + 1)).mean(("x", "y"))
        np.testing.assert_allclose(level[:, y, x], around, atol=12)


@pytest.mark.parametrize("backend", [None, "openslide"])
def test_an_aperio_slide_leaves_label_macro_and_thumbnail_alone(svs, backend):
    sdata = sp.io.read_wsi(svs, backend=backend, sample_id="S1", image_key="slide")
    assert sdata.attrs["spade"]["sample"] == "S1"
    assert sdata.attrs["spade"]["mpp"] == {"slide": MPP}
    assert facts(sdata, "slide") == {
        "file": "aperio.svs",
        "vendor": "aperio",
        "backend": backend or "tifffile",
        "scanner": "SS1",
        "objective": 20.0,
        "levels": [[WIDTH, HEIGHT], [401, 300], [100, 75]],
        "associated": ["label", "macro", "thumbnail"],
    }
    for one, place, within in zip(arrays(sdata, "slide"), (0, 2, 3), (0, 12, 12), strict=True):
        # OpenSlide shifts coarser levels by up to half a pixel of the finest
        off = np.abs(one.to_numpy().astype(int) - page(svs, place)).max()
        assert off <= (within if backend else 0)


def test_a_dicom_slide_of_several_files_with_tiles_left_out(tmp_path):
    levels = pyramid()
    path = dicom_slide(tmp_path, levels, MPP, left_out=[(0, 0), (256, 512)])
    sdata = sp.io.read_wsi(path, sample_id="S1")
    assert sdata.attrs["spade"]["mpp"] == {"he": MPP}
    assert facts(sdata) == {
        "file": "level2.dcm",
        "vendor": "dicom",
        "backend": "openslide",
        "scanner": "Model 7",
        "objective": 20.0,
        "levels": [[WIDTH, HEIGHT], [401, 300], [100, 75]],
    }
    wanted = np.moveaxis(levels[0], -1, 0).astype(int)
    for y, x in ((0, 0), (256, 512)):
        wanted[:, y : y + 256, x : x + 256] = 255
    finest, second, _ = (one.to_numpy() for one in arrays(sdata))
    assert (finest[:, :256, :256] == 255).all()
    assert np.abs(finest - wanted).max() < 40  # JPEG at hard edges
    assert np.abs(finest - wanted).mean() < 1.5
    assert np.abs(second.astype(int) - np.moveaxis(levels[1], -1, 0)).mean() < 3


def test_a_leica_slide_is_scanned_in_a_part(tmp_path):
    path = leica_slide(tmp_path / "a.scn")
    sdata = sp.io.read_wsi(path)
    assert sdata.attrs["spade"]["mpp"]["he"] == pytest.approx(MPP)
    assert facts(sdata) == {
        "file": "a.scn",
        "vendor": "leica",
        "backend": "openslide",
        "scanner": "SCN400",
        "objective": 20.0,
        "levels": [[SLIDE_WIDTH, SLIDE_HEIGHT], [1499, 999], [374, 250]],
        "associated": ["macro"],
        "bounds": [LEFT, TOP, WIDTH, HEIGHT],
    }
    finest = arrays(sdata)[0]
    part = finest[:, TOP : TOP + HEIGHT, LEFT : LEFT + WIDTH].to_numpy().astype(int)
    assert np.abs(part - page(path, 1)).max() <= 1
    assert (finest[:, : TOP - 1] == 255).all()


def test_jpeg_2000_is_left_to_openslide(tmp_path):
    path = tmp_path / "a.svs"
    description = "Aperio Image Library v11.2.1 \r\n960x960 (240x240) J2K/KDU Q=70|AppMag = 40|MPP = 0.25"
    with tifffile.TiffWriter(path) as tif:
        options = {"photometric": "rgb", "metadata": None, "description": description}
        tif.write(tissue(960, 960), tile=(240, 240), compression="APERIO_JP2000_RGB", **options)
    sdata = sp.io.read_wsi(path)
    assert facts(sdata)["backend"] == "openslide"
    np.testing.assert_allclose(arrays(sdata)[0], np.moveaxis(tissue(960, 960), -1, 0), atol=8)


@pytest.mark.parametrize("backend", ["tifffile", "openslide"])
def test_a_chunk_reads_its_own_region_alone(svs, backend, monkeypatch):
    read = []
    kind = {"tifffile": TiffLevel, "openslide": OpenSlideLevel}[backend]
    region = kind.region

    def counted(self, rows, columns):
        read.append((rows.start, rows.stop, columns.start, columns.stop))
        return region(self, rows, columns)

    data = arrays(sp.io.read_wsi(svs, backend=backend))[0].data
    monkeypatch.setattr(kind, "region", counted)
    assert data.chunks[1:] == ((480, 480, 243), (480, 480, 480, 166))  # whole tiles of 240 pixels
    data.blocks[0, 1, 2].compute()
    assert read == [(480, 960, 960, 1440)]


def test_wide_strips_make_low_chunks(tmp_path):
    path = plain_slide(tmp_path / "a.tif", [tissue(600, 2000)], tile=None, rowsperstrip=8, compression="deflate")
    assert arrays(sp.io.read_wsi(path))[0].data.chunksize == (3, 128, 2000)


@pytest.mark.parametrize("backend", ["tifffile", "openslide"])
def test_threads_and_pickles_read_the_same(svs, backend):
    data = arrays(sp.io.read_wsi(svs, backend=backend))[0].data
    whole = page(svs, 0)
    with ThreadPoolExecutor(8) as pool:
        blocks = list(pool.map(lambda i: data.blocks[0, i % 3, i % 4].compute(scheduler="sync"), range(48)))
    for i, block in enumerate(blocks):
        y, x = i % 3 * 480, i % 4 * 480
        np.testing.assert_array_equal(block, whole[:, y : y + 480, x : x + 480])
    content = pickle.dumps(data)
    assert len(content) < 20_000  # names the file, holds none of it
    np.testing.assert_array_equal(pickle.loads(content).compute(), whole)  # noqa: S301


def read_corner(level, out) -> None:
    out.put(int(level[:, :300, :300].astype(int).sum()))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux forks by default")
@pytest.mark.parametrize("backend", ["tifffile", "openslide"])
def test_a_process_that_was_forked_opens_the_slide_for_itself(svs, backend, monkeypatch):
    level = open_slide(svs, backend).levels[0]
    before = level[:, :300, :300]
    if backend == "tifffile":
        mine = level._page()[1]
        assert level._page()[1] is mine
    else:
        mine = level.handle.slide()
        assert level.handle.slide() is mine
    context = multiprocessing.get_context("fork")
    out = context.Queue()
    child = context.Process(target=read_corner, args=(level, out))
    child.start()
    assert out.get(timeout=60) == before.astype(int).sum()
    child.join()
    np.testing.assert_array_equal(level[:, :300, :300], before)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert (level._page()[1] if backend == "tifffile" else level.handle.slide()) is not mine


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are listed by Linux alone")
@pytest.mark.parametrize("backend", ["tifffile", "openslide"])
def test_files_are_closed_with_the_object(svs, backend, monkeypatch):
    slides = weakref.WeakSet()

    class Known(openslide.OpenSlide):
        def __init__(self, path) -> None:
            super().__init__(path)
            slides.add(self)

    def opened() -> int:
        links = (Path("/proc/self/fd") / fd for fd in os.listdir("/proc/self/fd"))
        return sum(os.path.realpath(link) == str(svs) for link in links) + len(slides)

    monkeypatch.setattr(openslide, "OpenSlide", Known)
    sdata = sp.io.read_wsi(svs, backend=backend)
    arrays(sdata)[1].to_numpy()
    assert opened() > 0
    del sdata
    gc.collect()
    assert opened() == 0


class Scripted:
    """An open slide of one region with transparency, which fails as often as it is told to."""

    def __init__(self, failures: int) -> None:
        self.failures = failures

    def read_region(self, at, level, size):
        if self.failures:
            self.failures -= 1
            raise openslide.OpenSlideError("Couldn't read tile")
        colours = np.zeros((2, 4, 4), np.uint8)
        colours[:, 1:, :3], colours[:, 1, 3], colours[:, 2:, 3] = 100, 51, 255
        return Image.fromarray(colours).crop((*at, at[0] + size[0], at[1] + size[1]))


def scripted(monkeypatch, slides) -> OpenSlideLevel:
    left = iter(slides)
    monkeypatch.setattr(openslide, "OpenSlide", lambda path: next(left))
    return OpenSlideLevel(Handle(Path("a.mrxs")), 0, (3, 2, 4), (2, 4), 1.0)


def test_what_the_scanner_left_out_is_white(monkeypatch):
    level = scripted(monkeypatch, [Scripted(0)])
    np.testing.assert_array_equal(level[:, 0, :], np.tile([255, 224, 100, 100], (3, 1)))


def test_a_region_that_fails_does_not_spoil_others(monkeypatch):
    level = scripted(monkeypatch, [Scripted(1), Scripted(0)])  # OpenSlide reads nothing more after an error
    assert level[0, 0, 3] == 100
    level = scripted(monkeypatch, [Scripted(1), Scripted(1), Scripted(0)])
    with pytest.raises(ValueError, match=r"'a\.mrxs' .*region of 1 × 1 pixels at x=3, y=0 of level 0 is damaged"):
        level[0, 0, 3]
    assert level[0, 0, 3] == 100


@pytest.mark.parametrize("backend", ["tifffile", "openslide"])
def test_writing_holds_a_few_chunks_and_keeps_everything(tmp_path, backend):
    path = aperio_slide(tmp_path / "a.svs", pyramid(tissue(2400, 3600)))
    sdata = sp.io.read_wsi(path, backend=backend)
    wanted = [one.to_numpy() for one in arrays(sdata)]
    chunk = 3 * 480 * 480
    tracemalloc.start()
    with dask.config.set(scheduler="threads", num_workers=2):
        sp.io.write(sdata, tmp_path / "a.zarr")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 15 * chunk < wanted[0].nbytes / 2
    back = read_zarr(tmp_path / "a.zarr")
    assert back.attrs["spade"] == sdata.attrs["spade"]
    for one, was, pixels in zip(arrays(back), arrays(sdata), wanted, strict=True):
        np.testing.assert_array_equal(one.to_numpy(), pixels)
        assert get_transformation(one) == get_transformation(was)


def spotted(sdata, side: int = HEIGHT):
    """Add spots, as a grid of tiles would."""
    places = np.arange(150, side - 150, 200.0)
    sdata.shapes["spots"] = circles(np.stack(np.meshgrid(places, places), -1).reshape(-1, 2), 40.0)
    return sdata


@pytest.mark.parametrize("backend", ["tifffile", "openslide"])
def test_patches_are_read_from_the_slide_as_from_a_store(svs, tmp_path, backend, monkeypatch):
    sdata = spotted(sp.io.read_wsi(svs, backend=backend))
    sp.io.write(sdata, tmp_path / "a.zarr")
    monkeypatch.setattr(dask.array.Array, "__getitem__", None)  # windows come from the file itself
    for sample in (sdata, read_zarr(tmp_path / "a.zarr")):
        sp.pp.patches(sample, shapes_key="spots", size_um=60, size_px=120)
        sp.pp.encode_patches(sample, "texture")
        sdata, other = sample, sdata
    assert sdata["table"].obs["spade_valid"].all()
    np.testing.assert_array_equal(sdata["table"].obsm["X_texture"], other["table"].obsm["X_texture"])


def test_opacity_of_a_tiff_says_what_was_scanned(tmp_path):
    pixels = np.dstack([tissue(), np.full((HEIGHT, WIDTH), 255, np.uint8)])
    pixels[:, :400] = 0
    options = {"extrasamples": ["unassalpha"], "compression": "deflate"}
    path = plain_slide(tmp_path / "a.tif", [pixels], **options)
    (image,) = arrays(sp.io.read_wsi(path))
    assert list(image.coords["c"].values) == ["r", "g", "b", "a"]
    assert (image[:3, :, :400] == 255).all()
    (level,) = image_levels(sp.io.read_wsi(path)["he"])
    np.testing.assert_array_equal(level.read(0, 20, 390, 410)[:, :, 10:], np.moveaxis(pixels[:20, 400:410, :3], -1, 0))


@pytest.mark.realdata
@pytest.mark.parametrize("backend", [None, "openslide"])
def test_a_real_aperio_slide(data_dir, backend):
    sdata = sp.io.read_wsi(data_dir / REAL, backend=backend)
    (image,) = arrays(sdata)
    off = np.abs(image.to_numpy().astype(int) - page(data_dir / REAL, 0))
    assert off.max() <= 1
    assert sdata.attrs["spade"]["mpp"] == {"he": 0.499}
    assert facts(sdata) == {
        "file": "CMU-1-Small-Region.svs",
        "vendor": "aperio",
        "backend": backend or "tifffile",
        "scanner": "CPAPERIOCS",
        "objective": 20.0,
        "levels": [[2220, 2967]],
        "associated": ["label", "macro", "thumbnail"],
    }
    spotted(sdata, 1400)
    sp.pp.patches(sdata, shapes_key="spots", size_um=112)
    sp.pp.encode_patches(sdata, "texture")
    assert sdata["table"].uns["spade"]["patches"]["regions"]["spots"]["mpp"] == 0.499
    assert np.isfinite(sdata["table"].obsm["X_texture"]).all()


@pytest.mark.realdata
def test_a_real_fluorescence_slide_is_refused(data_dir):
    with pytest.raises(ValueError, match=r"fluorescence_DAPI\.ndpi' is not a picture of stained tissue .*it is dark"):
        sp.io.read_wsi(data_dir / "slides/fluorescence_DAPI.ndpi")
