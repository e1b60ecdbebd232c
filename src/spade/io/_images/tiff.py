"""Pyramidal TIFF and SVS: which pages are levels of the slide, and their tiles on demand."""

from __future__ import annotations

import os
import re
import threading
import weakref
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from spade.io._files.damaged import DamagedFileError, check_claim, damaged, reading
from spade.io._images.colours import WHITE, Pixels, flattened
from spade.io._images.levels import CHUNK, LazyLevel, same_view

#: A page of tifffile, and its place in the file.
Page: TypeAlias = tuple[tuple[int, ...], Any]
TIFF_SUFFIXES = {".tif", ".tiff", ".btf", ".svs"}
#: What tags of TIFF say of colours.
RGB, YCBCR = 2, 6
JPEG, JPEG_2000_IN_YCBCR = (6, 7), 33003
PREMULTIPLIED, OPACITY = 1, 2
#: The bit of NewSubfileType that marks a smaller copy; others mark masks, and what scanners add.
REDUCED = 1
#: Description of a page that shows something else than the slide at another size.
OTHER_VIEW = re.compile(r"^\W*(label|macro|thumbnail)\b", re.IGNORECASE | re.MULTILINE)
#: Bytes of pixels per byte of the file that the emptiest slide has, and bytes of the largest tile.
MAX_RATIO, MAX_TILE = 20_000, 2**31


class TiffLevel(LazyLevel):
    """One level of a TIFF as an array (3 or 4, height, width) that decodes tiles (or strips) on demand.

    The fourth channel of a level with transparency is 255, or 0 where a pixel is wholly transparent. Tiles that the
    file leaves out are white.
    """

    def __init__(
        self, path: Path, page: tuple[int, ...], shape: tuple[int, int, int], tile: tuple[int, int] = (CHUNK, CHUNK)
    ) -> None:
        self.path, self.page, self.shape, self.tile = path, page, shape, tile
        self._open: tuple[int, Any, Any] | None = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "page": self.page, "shape": self.shape, "tile": self.tile}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def region(self, rows: slice, columns: slice) -> Pixels:
        """Return the pixels of a region, (height, width, channels)."""
        out = np.full((rows.stop - rows.start, columns.stop - columns.start, self.shape[0]), WHITE, np.uint8)
        page, _ = self._page()
        height, width = page.chunks[:2]
        per_row = -(-self.shape[2] // width)
        for i in range(rows.start // height, -(-rows.stop // height)):
            for j in range(columns.start // width, -(-columns.stop // width)):
                tile = self._tile(i * per_row + j)
                if tile is None:
                    continue
                top, left = i * height, j * width
                y0, y1 = max(rows.start, top), min(rows.stop, top + tile.shape[0])
                x0, x1 = max(columns.start, left), min(columns.stop, left + tile.shape[1])
                out[y0 - rows.start : y1 - rows.start, x0 - columns.start : x1 - columns.start] = tile[
                    y0 - top : y1 - top, x0 - left : x1 - left
                ]
        return out

    def _page(self) -> tuple[Any, Any]:
        """Return page and file, opened on first use in every process: a process that was forked shares no position."""
        import tifffile

        with self._lock:
            if self._open is None or self._open[0] != os.getpid():
                tif = tifffile.TiffFile(self.path)
                weakref.finalize(self, tif.close)
                self._open = (os.getpid(), _page(tif, self.page), tif)
            return self._open[1:]

    def _tile(self, index: int) -> Pixels | None:
        """Return a decoded tile (height, width, channels); None if the file leaves it out."""
        page, tif = self._page()
        offset, count = page.dataoffsets[index], page.databytecounts[index]
        if count == 0:
            return None
        with self._lock:
            tif.filehandle.seek(offset)
            data = tif.filehandle.read(count)
        what = f"an image: tile {index} of page {self.page} is damaged"
        with reading(self.path, what):
            decoded = page.decode(data, index, jpegtables=page.jpegtables)[0]
            if decoded is None:
                return None
            tile: Pixels = np.asarray(decoded[0], dtype=np.uint8)
            if self.shape[0] == 4:
                return flattened(tile, premultiplied=_alpha(page) == PREMULTIPLIED)
            return tile[..., :3]


def tiff_levels(path: Path, argument: str) -> list[TiffLevel]:
    """Return the levels of a TIFF, finest first, checked against the size of the file."""
    import tifffile

    with reading(path, "an image", argument), tifffile.TiffFile(path) as tif:
        if not len(tif.pages):
            raise damaged(path, "an image", "it has no pages", argument)
        first = tif.pages[0].aspage()
        if wrong := colours_lacking(first):
            raise DamagedFileError(
                f"{argument}: {str(path)!r} holds {wrong}: {first.shape} {first.dtype} ({first.axes}); expected an "
                "8-bit RGB image with interleaved channels. Convert it."
            )
        if min(first.shape) < 1:
            raise damaged(path, "an image", f"it has {first.shape[1]} × {first.shape[0]} pixels", argument)
        levels: list[Page] = [((0,), first)]
        for place, page in sorted(_others(tif, first), key=lambda other: -other[1].shape[0]):
            if all(side < finer for side, finer in zip(page.shape[:2], levels[-1][1].shape[:2], strict=True)):
                levels.append((place, page))
        for _, page in levels:
            _check_tiles(page, tif.filehandle.size, path, argument)
        n_channels = 4 if _alpha(first) else 3
        return [TiffLevel(path, place, (n_channels, *page.shape[:2]), tuple(page.chunks[:2])) for place, page in levels]


def _page(tif: Any, place: tuple[int, ...]) -> Any:
    page = tif.pages[place[0]].aspage()
    return page.pages[place[1]].aspage() if len(place) > 1 else page


def _others(tif: Any, first: Any) -> list[Page]:
    """Return place and page of every page that shows the first one at another size.

    A level is marked as a smaller copy of the slide; in SVS of Aperio, which marks none, levels alone are in tiles.
    Labels, macro images and thumbnails are told by their descriptions, marks and strips.
    """
    pages: list[Page] = [((0, i), page.aspage()) for i, page in enumerate(first.pages or ())]
    for i, page in enumerate(tif.pages[1:], start=1):
        page = page.aspage()
        if page.is_tiled if tif.is_svs else page.is_reduced:
            pages.append(((i,), page))
    return [
        (place, page)
        for place, page in pages
        if not page.subfiletype & ~REDUCED
        and not OTHER_VIEW.search(page.description)
        and not colours_lacking(page)
        and min(page.shape) > 0
        and _alpha(page) == _alpha(first)
        and same_view(page.shape, first.shape)
    ]


def colours_lacking(page: Any) -> str:
    """Return what kind of pixels a page holds if these are not colours of 8 bits, else nothing."""
    if page.photometric == YCBCR and page.compression not in JPEG:
        return "YCbCr colours without JPEG compression"
    if page.compression == JPEG_2000_IN_YCBCR:
        return "YCbCr colours in JPEG 2000"
    if page.photometric not in (RGB, YCBCR):
        return f"{getattr(page.photometric, 'name', page.photometric)} pixels"
    if page.ndim != 3 or page.shape[2] not in (3, 4) or page.planarconfig != 1 or page.dtype != np.uint8:
        return "channels of another kind"
    return ""


def _alpha(page: Any) -> int:
    """Return the kind of opacity that a fourth channel holds, 0 if it is none."""
    extra = page.extrasamples
    return int(extra[0]) if extra and extra[0] in (PREMULTIPLIED, OPACITY) else 0


def _check_tiles(page: Any, end: int, path: Path, argument: str) -> None:
    """Raise unless the tiles of a page are all listed, lie in the file, and are not larger than they can be."""
    offsets, counts = page.dataoffsets, page.databytecounts
    n_tiles = int(np.prod(page.chunked, dtype=object))
    if not len(offsets) == len(counts) == n_tiles:
        raise damaged(path, "an image", f"it lists {len(offsets)} of {n_tiles:,} tiles of a page", argument)
    if any(offset + count > end for offset, count in zip(offsets, counts, strict=True)):
        raise damaged(path, "an image", f"its tiles reach beyond the end of the file at {end:,} bytes", argument)
    if not any(counts):
        raise damaged(path, "an image", "none of its tiles is there", argument)
    check_claim(
        path, "an image", int(np.prod(page.shape, dtype=object)), stored=end, ratio=MAX_RATIO, argument=argument
    )
    if (tile := int(np.prod(page.chunks, dtype=object))) > MAX_TILE:
        raise damaged(path, "an image", f"one of its tiles or strips takes {tile:,} bytes", argument)
