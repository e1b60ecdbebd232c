"""Slides that tifffile reads: plain pyramidal TIFF, and Aperio SVS whose tiles are not JPEG 2000."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from spade.io._files.damaged import DamagedFileError, damaged, reading
from spade.io._images.levels import same_view
from spade.io._images.tiff import OTHER_VIEW, REDUCED, Page, colours_lacking, tiff_levels
from spade.io._slides.facts import Slide, number, wrong_pyramid

#: First bytes of a TIFF or BigTIFF.
MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PLAIN, APERIO = "generic-tiff", "aperio"
#: Scanners whose TIFF are not plain, by what tifffile calls them, and the software that writes those of Trestle.
SCANNERS = {"is_ndpi": "hamamatsu", "is_scn": "leica", "is_bif": "ventana", "is_philips": "philips"}
TRESTLE = "MedScan"
JPEG_2000 = (33003, 33004, 33005, 34712)
#: Tags of TIFF, and µm per unit of resolution by what the tag of the unit says: inches and centimetres.
X_RESOLUTION, Y_RESOLUTION, UNIT, MAKE, MODEL = 282, 283, 296, 271, 272
UNITS = {2: ("inch", 25_400.0), 3: ("cm", 10_000.0)}
#: µm by the names of units in OME-XML, where µm are meant without one, and as ImageJ writes them.
NAMED_UNITS = dict.fromkeys(["", "µm", "μm", "um", "micron", "microns"], 1.0)
NAMED_UNITS |= {"nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6, "in": 25_400.0, "inch": 25_400.0}


def tiff_vendor(path: Path) -> str:
    """Return the name of a TIFF's format: :data:`PLAIN`, that of a scanner, or nothing if the file is no TIFF.

    Aperio SVS in JPEG 2000 are ``"aperio-jpeg-2000"``.
    """
    import tifffile

    with path.open("rb") as file:
        if file.read(4) not in MAGIC:
            return ""
    with reading(path, "a slide", "path"), tifffile.TiffFile(path) as tif:
        if not len(tif.pages):
            raise damaged(path, "a slide", "it has no pages", "path")
        first = tif.pages[0].aspage()
        for mark, vendor in SCANNERS.items():
            if getattr(tif, mark):
                return vendor
        if first.software.startswith(TRESTLE):
            return "trestle"
        if tif.is_svs:
            return f"{APERIO}-jpeg-2000" if first.compression in JPEG_2000 else APERIO
        return PLAIN


def check_bits(path: Path) -> None:
    """Raise unless the first page of a TIFF has colours of 8 bits; OpenSlide makes such of any others."""
    import tifffile

    with reading(path, "a slide", "path"), tifffile.TiffFile(path) as tif:
        first = tif.pages[0].aspage()
        if first.dtype != "uint8" or first.samplesperpixel not in (3, 4):
            raise DamagedFileError(
                f"path={str(path)!r} holds {first.samplesperpixel} channels of {first.dtype}; expected an RGB slide of "
                "8 bits per channel, such as an H&E scan."
            )


def open_tiff(path: Path, vendor: str) -> Slide:
    """Return a slide that tifffile reads."""
    import tifffile

    levels = tiff_levels(path, "path")
    with reading(path, "a slide", "path"), tifffile.TiffFile(path) as tif:
        first = tif.pages[0].aspage()
        used = {level.page for level in levels}
        _check_others(path, tif, first, used)
        said = dict(_aperio(first.description)) if vendor == APERIO else _ome(first.description)
        objective = said.get("AppMag") or said.get("NominalMagnification", "")
        make = " ".join(str(first.tags[tag].value).strip() for tag in (MAKE, MODEL) if tag in first.tags)
        return Slide(
            levels,
            "tifffile",
            vendor,
            list(_scales(first, said)),
            objective,
            said.get("ScanScope ID") or make,
            sorted(_associated(tif, used, vendor)),
        )


def _check_others(path: Path, tif: Any, first: Any, used: set[tuple[int, ...]]) -> None:
    """Raise if a page claims to be the slide at another size, but is not, or is larger than the first."""
    pages: list[Page] = [((i,), page.aspage()) for i, page in enumerate(tif.pages[1:], start=1)]
    pages += [((0, i), page.aspage()) for i, page in enumerate(first.pages or ())]
    for place, page in pages:
        if place in used or page.subfiletype & ~REDUCED or OTHER_VIEW.search(page.description) or colours_lacking(page):
            continue
        larger = page.shape[0] > first.shape[0] and page.shape[1] > first.shape[1]
        claims = page.is_tiled and (tif.is_svs or len(place) > 1 or page.is_reduced)
        if larger or (claims and not same_view(page.shape, first.shape)):
            raise wrong_pyramid(path, f"page {'.'.join(map(str, place))}", page.shape, first.shape)


def _aperio(description: str) -> Iterator[tuple[str, str]]:
    """Yield the entries ``key = value`` of an Aperio description."""
    for entry in description.split("|")[1:]:
        key, equals, value = entry.partition("=")
        if equals:
            yield key.strip(), value.strip()


def _ome(description: str) -> dict[str, str]:
    """Return what OME-XML says of the pixels of its first image, which is the slide, and of the objective of that.

    Further images show something else, such as the whole glass. XML that is broken, or declares entities, as OME-XML
    never does, says nothing.
    """
    if "<OME" not in description or "<!DOCTYPE" in description:
        return {}
    try:
        root = ElementTree.fromstring(description)  # noqa: S314, without entities, as checked above
    except ElementTree.ParseError:
        return {}
    images = root.findall("{*}Image") or [root]
    pixels = images[0].find("{*}Pixels")
    said = {} if pixels is None else dict(pixels.attrib)
    used = images[0].find("{*}ObjectiveSettings")
    objectives = root.findall("{*}Instrument/{*}Objective")
    if used is not None or len(images) > 1:
        objectives = [one for one in objectives if used is not None and one.get("ID") == used.get("ID")]
    if len(objectives) == 1:
        said["NominalMagnification"] = objectives[0].get("NominalMagnification", "")
    return said


def _scales(first: Any, said: dict[str, str]) -> Iterator[tuple[str, object, object]]:
    """Yield what states the size of a pixel, and its width and height in µm."""
    if "MPP" in said:
        yield "Aperio's MPP", said["MPP"], said["MPP"]
    if said.get("PhysicalSizeX"):
        yield "OME's PhysicalSize", _ome_um(said, "X"), _ome_um(said, "Y")
    name, um = _resolution_unit(first)
    if um and {X_RESOLUTION, Y_RESOLUTION} <= set(first.tags.keys()):
        x, y = (_per_unit(first.tags[tag].value) for tag in (X_RESOLUTION, Y_RESOLUTION))
        yield f"a resolution of {x:.4g} pixels per {name}", um / x if x else 0.0, um / y if y else 0.0


def _ome_um(said: dict[str, str], axis: str) -> float | str:
    """Return the size of a pixel along an axis in µm, or as it is said if the unit is not known."""
    size, unit = (said.get(f"PhysicalSize{axis}{ending}", "") for ending in ("", "Unit"))
    um = NAMED_UNITS.get(unit)
    return f"{size} {unit}".strip() if um is None or not size else number(size) * um


def _resolution_unit(first: Any) -> tuple[str, float]:
    """Return the unit of a resolution and its µm, 0 if there is none; ImageJ names it in its own words."""
    tag = first.tags.get(UNIT)
    if tag is not None and int(tag.value) in UNITS:
        return UNITS[int(tag.value)]
    said = re.search(r"^unit=(.+)$", first.description, re.MULTILINE) if first.is_imagej else None
    unit = said[1].strip().replace("\\u00B5", "µ") if said else ""
    return unit, NAMED_UNITS.get(unit, 0.0) if unit else 0.0


def _per_unit(value: Any) -> float:
    """Return a resolution that is stored as numerator and denominator."""
    above, below = value if isinstance(value, tuple) else (value, 1)
    return float(above) / float(below) if below else 0.0


def _associated(tif: Any, used: set[tuple[int, ...]], vendor: str) -> Iterator[str]:
    """Yield the names of the pages that show something else than the slide."""
    for i, page in enumerate(tif.pages):
        page = page.aspage()
        if found := OTHER_VIEW.search(page.description):
            yield found.group(1).lower()
        elif (i,) not in used and vendor == APERIO and not page.is_tiled:
            yield "thumbnail"
