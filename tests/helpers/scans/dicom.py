"""Small slides in DICOM, written byte by byte: several levels in tiles, of which some are left out."""

from __future__ import annotations

import io
import struct
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

SLIDE_STORAGE, JPEG_BASELINE = "1.2.840.10008.5.1.4.1.1.77.1.6", "1.2.840.10008.1.2.4.50"
ITEM, END = 0xFFFEE000, 0xFFFEE0DD
TILE = 256


def _head(tag: int) -> bytes:
    return struct.pack("<HH", tag >> 16, tag & 0xFFFF)


def element(tag: int, kind: str, value: str | int) -> bytes:
    """A data element in explicit, little-endian form."""
    if isinstance(value, int):
        content = struct.pack({"US": "<H", "UL": "<I", "SL": "<i"}[kind], value)
    else:
        content = value.encode() + (b"\0" if kind == "UI" else b" ") * (len(value) % 2)
    return _head(tag) + kind.encode() + struct.pack("<H", len(content)) + content


def item(content: bytes) -> bytes:
    return _head(ITEM) + struct.pack("<I", len(content)) + content


def sequence(tag: int, items: Iterable[bytes]) -> bytes:
    content = b"".join(map(item, items))
    return _head(tag) + b"SQ" + struct.pack("<HI", 0, len(content)) + content


def jpeg(pixels: np.ndarray) -> bytes:
    """A tile, filled up with white, as JPEG of an even number of bytes."""
    tile = np.full((TILE, TILE, 3), 255, np.uint8)
    tile[: pixels.shape[0], : pixels.shape[1]] = pixels
    buffer = io.BytesIO()
    Image.fromarray(tile).save(buffer, "JPEG", quality=95)
    return buffer.getvalue() + b"\0" * (len(buffer.getvalue()) % 2)


def _level(pixels: np.ndarray, number: int, mpp: float, left_out: Collection[tuple[int, int]]) -> bytes:
    """One level as a file."""
    height, width = pixels.shape[:2]
    corners = [(y, x) for y in range(0, height, TILE) for x in range(0, width, TILE) if (y, x) not in left_out]
    kind = "ORIGINAL\\PRIMARY\\VOLUME\\NONE" if number == 0 else "DERIVED\\PRIMARY\\VOLUME\\RESAMPLED"
    spacing = element(0x00280030, "DS", f"{mpp / 1000:.9f}\\{mpp / 1000:.9f}")
    places = [element(0x0048021E, "SL", x + 1) + element(0x0048021F, "SL", y + 1) for y, x in corners]
    meta = element(0x00020002, "UI", SLIDE_STORAGE) + element(0x00020003, "UI", f"1.2.3.4.{number}")
    meta += element(0x00020010, "UI", JPEG_BASELINE)
    content = [
        element(0x00080008, "CS", kind),
        element(0x00080016, "UI", SLIDE_STORAGE),
        element(0x00080018, "UI", f"1.2.3.4.{number}"),
        element(0x00080060, "CS", "SM"),
        element(0x00081090, "LO", "Model 7"),
        element(0x0020000D, "UI", "1.2.3"),
        element(0x0020000E, "UI", "1.2.3.4"),
        element(0x00209311, "CS", "TILED_SPARSE"),
        element(0x00280002, "US", 3),
        element(0x00280004, "CS", "YBR_FULL_422"),
        element(0x00280006, "US", 0),
        element(0x00280008, "IS", str(len(corners))),
        *(element(0x00280010 + axis, "US", TILE) for axis in (0, 1)),
        *(element(0x00280100 + i, "US", value) for i, value in enumerate((8, 8, 7, 0))),
        element(0x00480006, "UL", width),
        element(0x00480007, "UL", height),
        sequence(0x00480105, [element(0x00480112, "DS", "20")]),
        sequence(0x52009229, [sequence(0x00289110, [spacing])]),
        sequence(0x52009230, [sequence(0x0048021A, [place]) for place in places]),
        _head(0x7FE00010) + b"OB" + struct.pack("<HI", 0, 0xFFFFFFFF) + item(b""),
        *(item(jpeg(pixels[y : y + TILE, x : x + TILE])) for y, x in corners),
        _head(END) + struct.pack("<I", 0),
    ]
    return bytes(128) + b"DICM" + element(0x00020000, "UL", len(meta)) + meta + b"".join(content)


def dicom_slide(
    folder: Path, levels: Sequence[np.ndarray], mpp: float, left_out: Collection[tuple[int, int]] = ()
) -> Path:
    """Write the files of a slide and return one of them; ``left_out`` has (y, x) of tiles of the finest level."""
    for number, pixels in enumerate(levels):
        grown = mpp * levels[0].shape[1] / pixels.shape[1]
        content = _level(pixels, number, grown, left_out if number == 0 else ())
        (folder / f"level{number}.dcm").write_bytes(content)
    return folder / f"level{len(levels) - 1}.dcm"
