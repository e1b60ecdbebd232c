"""Draw a synthetic H&E section from stain densities, one chunk at a time; the bytes do not depend on the chunks."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from scipy.ndimage import maximum_filter

from spade.core.compiled import compiled
from spade.core.patches.ahead import n_cores

#: Channels of ``Scene.maps``, in order: µm inside the outline, displacement of the fibres in µm, eosin and haematoxylin
#: between the nuclei, strength of fibres, and of debris.
TISSUE, BEND, EOSIN, WASH, FIBRE, GRAIN = range(6)
#: Columns of ``Scene.nuclei`` (half axes ``A`` ≥ ``B``) and of ``Scene.glands``.
X, Y, A, B, COS, SIN, DARK, PALE = range(8)
RADIUS, OVAL, LOBED, HEIGHT, LUMEN = 2, 3, 6, 7, 8
#: Intensity by optical density, in steps of 1/512.
_INTENSITY = (255 * np.exp(-np.arange(8 * 512) / 512)).astype(np.float32)

#: Place of cells of the grid without an adipocyte; a third column below 0 says so too.
_NOWHERE = -1e6
#: Sums are never reordered: the value of a pixel must not depend on how a loop is vectorised.
_njit = compiled(error_model="numpy", fastmath={"nnan", "ninf", "nsz"})


@dataclass(frozen=True)
class Scene:
    """Everything to draw, in µm from the upper left corner of the image."""

    #: (rows, columns, 6) float32 values at nodes ``step`` apart, interpolated linearly.
    maps: np.ndarray
    step: float
    #: (n, 8) float64, sorted by ``Y``.
    nuclei: np.ndarray
    #: (n, 9) float64: x, y, radius, its second harmonic, cosine and sine of the axis, third harmonic, thickness of the
    #: wall in µm, eosin of the lumen.
    glands: np.ndarray
    #: (rows, columns, 3) float64 adipocytes on a jittered grid: x, y, and 1 if there is one.
    fat: np.ndarray
    fat_step: float
    #: (2, 3) optical density of haematoxylin and eosin in red, green and blue.
    stains: np.ndarray
    #: Main direction of the fibres in radians.
    angle: float
    seed: int


class Tile(NamedTuple):
    """Pixels ``(3, height, width)`` of a chunk, and its upper left corner in the image."""

    pixels: np.ndarray
    y0: int
    x0: int
    mpp: float


class Ground(NamedTuple):
    """Maps of a scene, and the direction of its fibres (cosine and sine)."""

    maps: np.ndarray
    step: float
    direction: np.ndarray


class Glands(NamedTuple):
    """Depth of the pixels of a tile in a gland in µm, the row of that gland, and the table of glands."""

    depth: np.ndarray
    owner: np.ndarray
    table: np.ndarray


class Fat(NamedTuple):
    """Adipocytes on their grid with a border of one cell, which cells are near one, and the distance of cells in µm."""

    cells: np.ndarray
    near: np.ndarray
    step: float


class Paint(NamedTuple):
    """Stain vectors, tables of noise, and intensity by optical density."""

    stains: np.ndarray
    tables: np.ndarray
    intensity: np.ndarray


Stroma: TypeAlias = tuple[float, float, float]


@_njit
def _noise(x: float, y: float, table: np.ndarray) -> float:
    """Return smooth noise in [-1, 1] from a table with one value per unit square, which repeats after 256."""
    i, j = np.floor(x), np.floor(y)
    u, v = x - i, y - j
    u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
    p, q = np.int64(i) & 255, np.int64(j) & 255
    r, s = (p + 1) & 255, (q + 1) & 255
    return (table[q, p] * (1 - u) + table[q, r] * u) * (1 - v) + (table[s, p] * (1 - u) + table[s, r] * u) * v


@_njit
def _clip(value: float) -> float:
    """Return a value limited to [0, 1]."""
    return min(max(value, 0.0), 1.0)


@_njit
def _draw_glands(depth: np.ndarray, owner: np.ndarray, y0: int, x0: int, mpp: float, glands: np.ndarray) -> None:
    """Write how many µm every pixel lies inside a gland (negative outside), and in which."""
    height, width = depth.shape
    for g in range(len(glands)):
        x, y, radius, oval, cos, sin, lobed = glands[g, :7]
        reach = radius * (1 + abs(oval) + abs(lobed)) + 4
        for row in range(max(int((y - reach) / mpp) - y0, 0), min(int((y + reach) / mpp) + 2 - y0, height)):
            dy = (row + y0 + 0.5) * mpp - y
            for col in range(max(int((x - reach) / mpp) - x0, 0), min(int((x + reach) / mpp) + 2 - x0, width)):
                dx = (col + x0 + 0.5) * mpp - x
                r = np.sqrt(dx * dx + dy * dy)
                c = (dx * cos + dy * sin) / max(r, 1e-6)
                edge = radius * (1 + oval * (2 * c * c - 1) + lobed * c * (4 * c * c - 3))
                if edge - r > depth[row, col]:
                    depth[row, col] = edge - r
                    owner[row, col] = g


@_njit
def _draw_nuclei(dark: np.ndarray, y0: int, x0: int, mpp: float, nuclei: np.ndarray) -> None:
    """Write the haematoxylin of the darkest nucleus at each pixel."""
    height, width = dark.shape
    for n in range(len(nuclei)):
        x, y, a, b, cos, sin, ink, pale = nuclei[n]
        for row in range(max(int((y - a) / mpp) - y0, 0), min(int((y + a) / mpp) + 2 - y0, height)):
            dy = (row + y0 + 0.5) * mpp - y
            for col in range(max(int((x - a) / mpp) - x0, 0), min(int((x + a) / mpp) + 2 - x0, width)):
                dx = (col + x0 + 0.5) * mpp - x
                s, t = (dx * cos + dy * sin) / a, (dy * cos - dx * sin) / b
                q = s * s + t * t
                if q < 1:
                    inside = min((1 - np.sqrt(q)) * b / 0.7, 1.0)
                    # a vesicular nucleus: pale inside, with a dark rim and a nucleolus
                    tone = 1 - pale * (1 - q) if (s - 0.2) ** 2 + t * t > 0.05 else 1.0
                    dark[row, col] = max(dark[row, col], ink * inside * tone)


@_njit
def _fat_depth(x: float, y: float, fat: np.ndarray, near: np.ndarray, step: float) -> float:
    """Return how many µm a point lies inside an adipocyte, 0 outside."""
    i, j = int(x / step), int(y / step)
    if not near[j, i]:
        return 0.0
    first, second, third, present = 1e12, 1e12, 1e12, 0.0
    for v in range(3):
        for u in range(3):
            # the grid has a border of one cell
            dx, dy = x - fat[j + v, i + u, 0], y - fat[j + v, i + u, 1]
            d = dx * dx + dy * dy
            present = fat[j + v, i + u, 2] if d < first else present
            third = min(third, max(second, d))
            second = min(second, max(first, d))
            first = min(first, d)
    p, q = np.sqrt(second) - np.sqrt(first), np.sqrt(third) - np.sqrt(first)
    # the harmonic sum of the distances to both walls rounds the corners
    return max(present, 0.0) * p * q / max(2 * (p + q), 1e-6)


@_njit
def _stroma(x: float, y: float, m: np.ndarray, cloud: float, direction: np.ndarray, tables: np.ndarray) -> Stroma:
    """Draw bent fibres that are torn apart here and there: haematoxylin, eosin and fine noise."""
    along = x * direction[0] + y * direction[1]
    across = y * direction[0] - x * direction[1] + m[BEND]
    coarse = _noise(along / 38, across / 5.5, tables[1])
    fine = _noise(along / 17, across / 1.7, tables[2])
    fibre = m[FIBRE] * (0.55 * coarse + 0.45 * fine)
    tear = _clip(m[FIBRE] * 1.6 - 0.2) * _clip((-0.38 - coarse - 0.25 * fine) * 4)
    e = m[EOSIN] * (1 + 0.65 * fibre + 0.1 * cloud) * (1 - 0.85 * tear)
    h = m[WASH] * (1 + 0.25 * cloud) * (1 - 0.8 * tear)
    return h, e, fine


@_njit
def _gland(inside: float, gland: np.ndarray, h: float, e: float, fine: float, cloud: float) -> Stroma:
    """Draw the wall and the lumen of a gland over the stroma: haematoxylin, eosin and share of the wall."""
    height = gland[HEIGHT]
    inside += 1.2 * cloud
    wall = _clip(inside + 0.5)
    lumen = _clip((inside - height) * 0.7)
    apical = _clip(inside / height)
    e_wall = (0.50 - 0.14 * apical) * (1 + 0.15 * fine)
    h_wall = 0.34 - 0.16 * apical
    rim = 0.6 * _clip(1 - abs(inside + 1.5) / 1.5)  # a pale slit around the gland
    e = (e * (1 - wall) + e_wall * wall) * (1 - rim * (1 - wall))
    h = h * (1 - wall) * (1 - rim) + h_wall * wall
    e = e * (1 - lumen) + gland[LUMEN] * (1 + 0.06 * cloud) * lumen
    h = h * (1 - lumen) + 0.02 * lumen
    return h, e, wall


@_njit
def _expose(tile: Tile, row: int, col: int, h: float, e: float, paint: Paint) -> None:
    """Write the colour of a pixel with its haematoxylin and eosin, and the grain of the sensor."""
    y, x = (row + tile.y0) & 255, (col + tile.x0) & 255
    for c in range(3):
        od = h * paint.stains[0, c] + e * paint.stains[1, c] + 0.025 + 0.025 * paint.tables[4 + c, y, x]
        level = min(int(od * 512 + 0.5), len(paint.intensity) - 1)
        tile.pixels[c, row, col] = np.uint8(paint.intensity[level])


@_njit
def _draw(tile: Tile, ground: Ground, glands: Glands, dark: np.ndarray, fat: Fat, paint: Paint) -> None:
    """Draw a tile, pixel by pixel; ``dark`` is the haematoxylin of nuclei."""
    maps, step, mpp, tables = ground.maps, ground.step, tile.mpp, paint.tables
    left = int((tile.x0 + 0.5) * mpp / step)
    line = np.empty((int((tile.x0 + dark.shape[1] - 0.5) * mpp / step) + 2 - left, maps.shape[2]), np.float64)
    m = np.empty(maps.shape[2], np.float64)
    for row in range(dark.shape[0]):
        y = (row + tile.y0 + 0.5) * mpp
        j = int(y / step)
        v = y / step - j
        for i in range(len(line)):
            for k in range(len(m)):
                line[i, k] = maps[j, left + i, k] * (1 - v) + maps[j + 1, left + i, k] * v
        for col in range(dark.shape[1]):
            x = (col + tile.x0 + 0.5) * mpp
            i = int(x / step)
            u = x / step - i
            for k in range(len(m)):
                m[k] = line[i - left, k] * (1 - u) + line[i - left + 1, k] * u
            cloud = _noise(x / 9, y / 9, tables[0])
            tissue = _clip((m[TISSUE] + 5 * cloud) / 2)
            h, e = 0.0, 0.02
            if tissue > 0:
                h, e, fine = _stroma(x, y, m, cloud, ground.direction, tables)
                ink = dark[row, col]
                speckle = 0.0
                if ink > 0 or m[GRAIN] > 0.02:
                    speckle = _noise(x / 1.3, y / 1.3, tables[3])
                    e *= 1 + m[GRAIN] * (0.5 * speckle + 0.35 * cloud)
                    h *= 1 + m[GRAIN] * max(speckle, 0.0) * 2
                wall = 0.0
                inside = glands.depth[row, col]
                if inside > -4:
                    h, e, wall = _gland(inside, glands.table[glands.owner[row, col]], h, e, fine, cloud)
                hollow = _clip((_fat_depth(x, y, fat.cells, fat.near, fat.step) - 1.3) / 1.2) * (1 - wall)
                e = e * (1 - hollow) + 0.03 * hollow
                h *= 1 - hollow
                if ink > 0:
                    e *= 1 - 0.3 * _clip(ink)
                    h = max(h, ink * (1 + 0.22 * speckle))
                h, e = h * tissue, e * tissue + 0.02 * (1 - tissue)
            _expose(tile, row, col, h, e, paint)


def render(scene: Scene, shape: tuple[int, int], mpp: float, chunk: int = 512) -> np.ndarray:
    """Draw ``scene`` as a ``(3, height, width)`` uint8 image; ``chunk`` changes the speed, not the image."""
    image = np.empty((3, *shape), np.uint8)
    # the image may be a few pixels larger than the section
    maps = _grow(scene.maps, [int(side * mpp / scene.step) + 2 for side in shape], mode="edge")
    ground = Ground(maps, scene.step, np.array([np.cos(scene.angle), np.sin(scene.angle)]))
    cells = _grow(scene.fat, [int(side * mpp / scene.fat_step) + 1 for side in shape], constant_values=_NOWHERE)
    near = maximum_filter(cells[..., 2], 3) > 0
    fat = Fat(np.pad(cells, ((1, 1), (1, 1), (0, 0)), constant_values=_NOWHERE), near, scene.fat_step)
    tables = np.random.default_rng(scene.seed).uniform(-1, 1, (7, 256, 256))
    paint = Paint(scene.stains, tables, _INTENSITY)
    reach = scene.nuclei[:, A].max(initial=0.0) + 2 * mpp
    gland_reach = scene.glands[:, RADIUS] * (1 + np.abs(scene.glands[:, OVAL]) + np.abs(scene.glands[:, LOBED])) + 5

    def draw(corner: tuple[int, int]) -> None:
        y0, x0 = corner
        out = image[:, y0 : y0 + chunk, x0 : x0 + chunk]
        top, left, bottom, right = y0 * mpp, x0 * mpp, (y0 + out.shape[1]) * mpp, (x0 + out.shape[2]) * mpp
        start, stop = np.searchsorted(scene.nuclei[:, Y], [top - reach, bottom + reach])
        nuclei = scene.nuclei[start:stop]
        nuclei = nuclei[(nuclei[:, X] > left - reach) & (nuclei[:, X] < right + reach)]
        x, y = scene.glands[:, X], scene.glands[:, Y]
        touched = (x > left - gland_reach) & (x < right + gland_reach)
        touched &= (y > top - gland_reach) & (y < bottom + gland_reach)
        glands = scene.glands[touched]
        depth = np.full(out.shape[1:], -1e3, np.float64)
        owner = np.zeros(out.shape[1:], np.int32)
        dark = np.zeros(out.shape[1:], np.float64)
        _draw_glands(depth, owner, y0, x0, mpp, glands)
        _draw_nuclei(dark, y0, x0, mpp, nuclei)
        _draw(Tile(out, y0, x0, mpp), ground, Glands(depth, owner, glands), dark, fat, paint)

    corners = list(product(range(0, shape[0], chunk), range(0, shape[1], chunk)))
    with ThreadPoolExecutor(n_cores()) as pool:
        for _ in pool.map(draw, corners):
            pass
    return image


def _grow(grid: np.ndarray, sides: list[int], **how: Any) -> np.ndarray:
    """Pad a grid at its lower and right border to at least ``sides`` rows and columns."""
    short = [max(side - have, 0) for side, have in zip(sides, grid.shape[:2], strict=True)]
    return np.pad(grid, ((0, short[0]), (0, short[1]), (0, 0)), **how)


def halve(image: np.ndarray) -> np.ndarray:
    """Return the means of 2 × 2 pixels of an image with even sides."""
    total = np.full((3, image.shape[1] // 2, image.shape[2] // 2), 2, np.uint16)
    for dy, dx in product((0, 1), (0, 1)):
        total += image[:, dy::2, dx::2]
    return (total >> 2).astype(np.uint8)
