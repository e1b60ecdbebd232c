"""Whole slides: the file of a scanner as a lazy, multiscale image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spatialdata import SpatialData

from spade._keys import check_key
from spade.core.checks import check_choice, check_path, check_positive, check_text
from spade.io._images.multiscale import lazy, multiscale
from spade.io._recorded.scale import record_scale
from spade.io._slides.facts import slide_mpp
from spade.io._slides.opening import open_slide


def read_wsi(
    path: str | Path,
    *,
    mpp: float | None = None,
    sample_id: str | None = None,
    image_key: str = "he",
    backend: str | None = None,
) -> SpatialData:
    """Read a whole slide lazily: SVS, NDPI, MRXS, SCN, BIF, DICOM and pyramidal TIFF, each with its own levels.

    No pixel is held in memory: a chunk reads its own region of the file when it is asked for, from any thread or
    process. Labels, macro pictures and thumbnails are left alone.

    Parameters
    ----------
    path
        File of the slide. Of MRXS it is the ``.mrxs`` file, with its folder beside it; of DICOM, any file of the
        series.
    mpp
        Microns per pixel of the finest level, for files that do not state it. What a file states with a unit counts:
        OpenSlide's ``mpp-x`` and ``mpp-y``, Aperio's ``MPP``, ``PhysicalSizeX`` and ``Y`` of the first image of OME,
        and a resolution of TIFF per inch or cm, or per unit that ImageJ names. Values outside 0.02 to 20 µm/px, such as
        the 72 pixels per inch of a screen, do not.
    sample_id
        Name of the sample. None: that of the file, without its ending.
    image_key
        Name of the image element.
    backend
        ``"tifffile"`` or ``"openslide"``. None: by the format, see the notes.

    Returns
    -------
    SpatialData
        Multiscale image ``image_key`` (channels r, g and b; a plain TIFF with opacity has ``"a"`` too, see Notes) in
        the coordinate system ``"global"``, in pixels of the finest level. The levels are those of the file. Microns
        per pixel are recorded in ``attrs``, and ``attrs["spade"]["slides"][image_key]`` has what the file states:
        ``file``, ``vendor`` (format), ``backend``, ``scanner``, ``objective``, ``levels`` (width and height of each),
        ``associated`` (names of its other pictures) and ``bounds`` (x, y, width and height of the scanned part). What
        a file does not state is left out.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImportError
        If the format needs OpenSlide and it is not installed (``pip install openslide-python openslide-bin``, or the
        extra ``wsi``).
    ValueError
        If the file is not a slide or damaged, its pixels are not RGB of 8 bits, it is dark or grey as fluorescence is,
        a level is not the slide at another size, the µm/px are neither stated nor given, or ``mpp`` contradicts the
        file by more than 5 %, or pixels are not square. A tile that is damaged raises when it is read.

    Notes
    -----
    Plain pyramidal TIFF (OME-TIFF included) and Aperio SVS in JPEG are read by tifffile, whether or not OpenSlide is
    installed; everything else, Aperio SVS in JPEG 2000 included, by OpenSlide. Tifffile gives the pixels of every level
    as they are stored. OpenSlide takes positions in pixels of the finest level, so that coarser levels whose size is
    no whole fraction are shifted by up to half such a pixel.

    Transparent pixels, where a scanner left out glass, are laid on white. The channel ``"a"`` of a TIFF is 0 where a
    pixel is wholly transparent, and patches there are not valid.

    The level sizes of most files are rounded. A level is stretched to the whole finest level, so that its pixels lie
    within one of their own widths of where they were taken.

    Examples
    --------
    A small slide of two levels, at 20,000 pixels per cm:

    >>> import pathlib, tempfile
    >>> import numpy, tifffile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "slide.tif"
    >>> pixels = numpy.random.default_rng(0).integers(90, 255, (600, 800, 3)).astype("uint8")
    >>> facts = {"tile": (256, 256), "photometric": "rgb", "metadata": None}
    >>> with tifffile.TiffWriter(path) as file:
    ...     _ = file.write(pixels, resolution=(20_000, 20_000), resolutionunit="centimeter", **facts)
    ...     _ = file.write(pixels[::2, ::2], subfiletype=1, **facts)

    >>> import spade as sp
    >>> sdata = sp.io.read_wsi(path)
    >>> sdata.attrs["spade"]["mpp"], sdata.attrs["spade"]["slides"]["he"]["levels"]
    ({'he': 0.5}, [[800, 600], [400, 300]])
    """
    from spatialdata import SpatialData

    file = check_path("path", path)
    if mpp is not None:
        mpp = check_positive("mpp", mpp, "µm/px")
    if backend is not None:
        check_choice("backend", backend, ("tifffile", "openslide"))
    sample = file.stem if sample_id is None else check_text("sample_id", sample_id)
    check_key(image_key, "image_key")
    slide = open_slide(file, backend)
    scale = slide_mpp(file, slide.scales, mpp)
    image = multiscale([lazy(level, level.chunks) for level in slide.levels])
    sdata = SpatialData(images={image_key: image})
    record_scale(sdata, sample=sample, mpp={image_key: scale}, slides={image_key: slide.record(file)})
    return sdata
