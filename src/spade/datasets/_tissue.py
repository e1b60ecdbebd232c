"""The tissue of a synthetic section: smooth fields of domains and cell states, and the scene made from them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import product

import numpy as np
from scipy.ndimage import map_coordinates
from scipy.spatial import KDTree

from spade.datasets._render import RADIUS, Scene, Y

ORGANS = ("colon", "thyroid")
DOMAINS = ("epithelium", "stroma", "tumour", "adipose", "lymphoid", "necrosis", "muscle")
#: Distance of the nodes of all maps in µm.
STEP = 8.0
#: Mean OD of haematoxylin and eosin in red, green and blue.
STAINS = np.array([[0.60, 0.72, 0.35], [0.16, 0.82, 0.47]])


@dataclass(frozen=True)
class Look:
    """Appearance of a domain: lengths in µm, densities per mm², amounts of stain, and shares."""

    density: float = 1500.0
    size: float = 3.6
    ratio: float = 0.6
    dark: float = 1.15
    pale: float = 0.2
    eosin: float = 0.42
    wash: float = 0.05
    fibre: float = 0.5
    grain: float = 0.0
    fat: float = 0.0
    gland: float = 0.0
    gland_size: float = 0.9
    height: float = 20.0
    lumen: float = 0.05
    rows: float = 1.0
    lymph: float = 150.0


_LOOKS: dict[str, dict[str, Look]] = {
    "colon": {
        "epithelium": Look(density=2200, gland=0.97, gland_size=0.94, height=22, lumen=0.06, eosin=0.34, fibre=0.35),
        "stroma": Look(density=1100, size=6.0, ratio=0.24, eosin=0.62, fibre=0.85),
        "tumour": Look(
            density=3800, size=5.0, ratio=0.72, dark=1.05, pale=0.5, eosin=0.40, wash=0.2, fibre=0.3,
            gland=0.85, gland_size=0.8, height=17, lumen=0.12, rows=2.4,
        ),
        "adipose": Look(density=700, size=4.0, ratio=0.35, eosin=0.45, fat=0.97, fibre=0.4),
        "lymphoid": Look(density=700, eosin=0.32, wash=0.14, fibre=0.25, lymph=10500),
        "necrosis": Look(density=900, size=1.8, ratio=0.8, eosin=0.50, wash=0.07, fibre=0.1, grain=0.9, lymph=80),
        "muscle": Look(density=900, size=8.0, ratio=0.17, dark=0.95, eosin=0.95, fibre=0.45, lymph=40),
    },
    "thyroid": {
        "epithelium": Look(
            density=900, gland=0.99, gland_size=0.97, height=7, lumen=0.50, eosin=0.36, fibre=0.4, ratio=0.85, size=3.3
        ),
        "stroma": Look(density=650, size=7.0, ratio=0.18, eosin=0.80, fibre=0.6),
        "tumour": Look(
            density=7000, size=4.6, ratio=0.85, dark=1.1, pale=0.6, eosin=0.46, wash=0.16, fibre=0.15,
            gland=0.3, gland_size=0.5, height=8, lumen=0.55, rows=1.5,
        ),
        "adipose": Look(density=600, size=4.0, ratio=0.35, eosin=0.5, fat=0.8, fibre=0.5),
        "lymphoid": Look(
            density=900, eosin=0.40, wash=0.10, fibre=0.4, lymph=8500, gland=0.2, gland_size=0.6, height=8,
            lumen=0.5,
        ),
        "necrosis": Look(density=600, size=2.0, ratio=0.8, eosin=0.62, wash=0.03, fibre=0.1, grain=0.7, lymph=80),
        "muscle": Look(density=700, size=8.0, ratio=0.17, dark=0.95, eosin=1.05, fibre=0.6, lymph=40),
    },
}  # fmt: skip
#: Distance of neighbouring glands in µm.
_GLAND_PITCH = {"colon": 92.0, "thyroid": 128.0}
_FAT_PITCH = {"colon": 58.0, "thyroid": 44.0}


def domain_names(n: int) -> list[str]:
    """Return names of ``n`` domains; after the first seven they repeat as ``"<name>-2"`` and so on."""
    rounds = [f"-{1 + k // len(DOMAINS)}" if k >= len(DOMAINS) else "" for k in range(n)]
    return [DOMAINS[k % len(DOMAINS)] + suffix for k, suffix in enumerate(rounds)]


def look(organ: str, k: int) -> Look:
    """Return the appearance of domain ``k``: from a table for the first seven, and as variations of it beyond."""
    base = _LOOKS[organ][DOMAINS[k % len(DOMAINS)]]
    turn = k // len(DOMAINS)
    if not turn:
        return base
    # low-discrepancy factors keep every further round far from earlier ones
    swing = {name: 2 * ((turn * golden + 0.5) % 1) - 1 for name, golden in _GOLDEN.items()}
    values = {field.name: float(getattr(base, field.name)) for field in fields(base)}
    for name, amount in swing.items():
        values[name] *= float(np.exp(0.7 * amount))
    values["gland_size"] = min(values["gland_size"], 1.0)
    return Look(**values)


_GOLDEN = {"density": 0.618, "size": 0.755, "eosin": 0.570, "height": 0.430, "gland_size": 0.325, "wash": 0.245}


@dataclass(frozen=True)
class Field:
    """A smooth random function of position in µm, a sum of random waves with mean 0 and deviation 1."""

    waves: np.ndarray
    phase: np.ndarray
    height: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator, length: float, rough: float = 0.0, n: int = 96) -> Field:
        """Draw a field of correlation length ``length`` µm; a share ``rough`` of its variance has a fifth of that."""
        parts = [n - n // 3, n // 3] if rough else [n, 0]
        scale = np.repeat([length, length / 5], parts)
        variance = np.repeat([(1 - rough) / parts[0], rough / max(parts[1], 1)], parts)
        waves = rng.normal(size=(n, 2)) / scale[:, None]
        return cls(waves, rng.uniform(0, 2 * np.pi, n), np.sqrt(2 * variance))

    def at(self, xy: np.ndarray) -> np.ndarray:
        """Return values at places ``(n, 2)``."""
        return np.asarray(np.cos(xy @ self.waves.T + self.phase) @ self.height)

    def grid(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return values at every ``y`` (rows) and ``x`` (columns)."""
        rows = np.exp(1j * (np.outer(y, self.waves[:, 1]) + self.phase)) * self.height
        return np.asarray((rows @ np.exp(1j * np.outer(self.waves[:, 0], x))).real)


@dataclass(frozen=True)
class Tissue:
    """The hidden state of one section, which its image and its expression share."""

    organ: str
    domains: tuple[Field, ...]
    bias: np.ndarray
    density: Field
    inflammation: Field

    @classmethod
    def draw(cls, rng: np.random.Generator, organ: str, n_domains: int, size: tuple[float, float]) -> Tissue:
        """Draw a section of ``size`` (width, height) µm in which all domains cover about the same area."""
        domains = tuple(Field.draw(rng, 230.0, rough=0.015) for _ in range(n_domains))
        x, y = (np.arange(0, length + 40, 40.0) for length in size)
        scores = np.stack([field.grid(x, y).ravel() for field in domains], axis=1)
        bias = -scores.mean(axis=0)
        for _ in range(40):
            share = np.bincount(np.argmax(scores + bias, axis=1), minlength=n_domains) / len(scores)
            bias = bias - 0.25 * np.log(np.maximum(share * n_domains, 0.05))
        return cls(organ, domains, bias, Field.draw(rng, 170.0), Field.draw(rng, 140.0))

    def weights(self, scores: np.ndarray) -> np.ndarray:
        """Return shares of the domains from scores in the last axis: a single domain except at narrow borders."""
        z = (scores + self.bias) / 0.04
        z = np.exp(z - z.max(axis=-1, keepdims=True))
        return np.asarray(z / z.sum(axis=-1, keepdims=True))

    def domains_at(self, xy: np.ndarray) -> np.ndarray:
        """Return shares ``(n, n_domains)`` of the domains at places in µm."""
        return self.weights(np.stack([field.at(xy) for field in self.domains], axis=1))

    def states_at(self, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return cell density and inflammation in [0, 1] at places in µm."""
        return _density(self.density.at(xy)), _inflammation(self.inflammation.at(xy))


def _density(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-1.6 * z))


def _inflammation(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-2.2 * (z - 0.6)))


def patient_stains(rng: np.random.Generator) -> np.ndarray:
    """Draw the stain vectors of a patient, which differ from slide to slide in hue and strength."""
    stains = STAINS * np.exp(rng.normal(0, 0.07, (2, 3)))
    stains *= np.linalg.norm(STAINS, axis=1, keepdims=True) / np.linalg.norm(stains, axis=1, keepdims=True)
    return np.asarray(stains * np.exp(rng.normal(0, 0.09, (2, 1))))


def build_scene(tissue: Tissue, rng: np.random.Generator, size: tuple[float, float], margin: float) -> Scene:
    """Place fibres, glands, adipocytes and nuclei on a section of ``size`` (width, height) µm."""
    stains, rng = patient_stains(rng), rng.spawn(1)[0]
    x, y = (np.arange(0, length + 2 * STEP, STEP) for length in size)
    weights = tissue.weights(np.stack([field.grid(x, y) for field in tissue.domains], axis=-1))
    looks = [look(tissue.organ, k) for k in range(len(tissue.domains))]
    at = {f.name: weights @ np.array([getattr(one, f.name) for one in looks]) for f in fields(Look)}
    cells, lymph = _density(tissue.density.grid(x, y)), _inflammation(tissue.inflammation.grid(x, y))
    clumps = Field.draw(rng, 30.0).grid(x, y)
    # tissue with few cells is pale and loose; tissue with many is dark and has fewer adipocytes
    at["crowding"] = cells
    at["density"] *= 0.2 + 1.6 * cells
    at["eosin"] *= 0.84 + 0.3 * cells
    at["wash"] += 0.07 * cells**2
    at["dark"] *= 0.85 + 0.3 * cells
    at["fat"] *= 1 - 0.3 * cells**2
    at["lymph"] += 8500 * lymph**1.5 * np.clip(1 + 0.7 * clumps, 0, None) * (1 - 0.5 * at["grain"])

    edge = np.minimum(np.minimum(x, size[0] - x)[None, :], np.minimum(y, size[1] - y)[:, None])
    outline = edge - margin * 0.28 * (1 + 0.35 * Field.draw(rng, 90.0).grid(x, y))
    bend = 55 * Field.draw(rng, 110.0).grid(x, y)
    angle = rng.uniform(0, np.pi)
    by, bx = np.gradient(bend, STEP)
    # fibres run along the lines of equal cos·y − sin·x + bend
    at["angle"] = np.arctan2(np.sin(angle) - bx, np.cos(angle) + by)

    glands = _glands(rng, at, size, _GLAND_PITCH[tissue.organ])
    fat_pitch = _FAT_PITCH[tissue.organ]
    fat = _fat(rng, at["fat"], size, fat_pitch)
    at["fibre"] *= 1 - 0.5 * lymph
    nuclei = np.concatenate([
        _ring_nuclei(rng, at, glands),
        _free_nuclei(rng, at, glands, fat, fat_pitch, size),
        _lymphocytes(rng, at, glands, fat, fat_pitch, size),
    ])  # fmt: skip
    nuclei = nuclei[_sample(outline, nuclei) > 3]
    maps = [outline, bend, at["eosin"], at["wash"], at["fibre"], at["grain"]]
    return Scene(
        maps=np.stack(maps, axis=-1).astype(np.float32),
        step=STEP,
        nuclei=nuclei[np.argsort(nuclei[:, Y], kind="stable")],
        glands=glands,
        fat=fat,
        fat_step=fat_pitch,
        stains=stains,
        angle=float(angle),
        seed=int(rng.integers(2**31)),
    )


def _sample(grid: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Return values of a map at places in µm."""
    return np.asarray(map_coordinates(grid, [xy[:, 1] / STEP, xy[:, 0] / STEP], order=1, mode="nearest"))


def _jittered(rng: np.random.Generator, size: tuple[float, float], pitch: float, jitter: float) -> np.ndarray:
    """Draw one place in each square of a grid, ``(rows, columns, 2)`` in µm."""
    columns, rows = (int(length / pitch) + 1 for length in size)
    corner = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1)
    return (corner + 0.5 + jitter * rng.uniform(-0.5, 0.5, corner.shape)) * pitch


def _glands(rng: np.random.Generator, at: dict[str, np.ndarray], size: tuple[float, float], pitch: float) -> np.ndarray:
    places = _jittered(rng, (size[0] + pitch, size[1]), pitch, 0.45)
    places[1::2, :, 0] -= pitch / 2
    xy = places.reshape(-1, 2)
    xy = xy[rng.random(len(xy)) < _sample(at["gland"], xy)]
    n = len(xy)
    turn = rng.uniform(0, 2 * np.pi, n)
    oval, lobed = rng.uniform(0, 0.2, n), rng.uniform(0, 0.08, n)
    # as large as the nearest neighbour allows
    room = KDTree(xy).query(xy, k=2)[0][:, 1] if n > 1 else np.full(n, pitch)
    radius = np.minimum(room / (1 + oval + lobed), pitch) / 2 * 1.08
    radius *= _sample(at["gland_size"], xy) * rng.uniform(0.85, 1.0, n)
    height, lumen = _sample(at["height"], xy), _sample(at["lumen"], xy)
    return np.column_stack([xy, radius, oval, np.cos(turn), np.sin(turn), lobed, height, lumen])


def _fat(rng: np.random.Generator, share: np.ndarray, size: tuple[float, float], pitch: float) -> np.ndarray:
    places = _jittered(rng, size, pitch, 0.75)
    present = rng.random(places.shape[:2]) < _sample(share, places.reshape(-1, 2)).reshape(places.shape[:2])
    return np.dstack([places, present])


def _ring_nuclei(rng: np.random.Generator, at: dict[str, np.ndarray], glands: np.ndarray) -> np.ndarray:
    """Draw nuclei along the walls of glands, with the long axis towards the lumen in thick walls."""
    radius = glands[:, RADIUS]
    spacing = 10.5 - 5.0 * _sample(at["crowding"], glands)
    rows = _sample(at["rows"], glands)
    count = np.maximum(2 * np.pi * radius * rows / spacing, 3).astype(int)
    g = np.repeat(np.arange(len(glands)), count)
    first = np.cumsum(count) - count
    phi = 2 * np.pi * (np.arange(len(g)) - first[g] + rng.uniform(-0.3, 0.3, len(g))) * (rows / count)[g]
    x, y, radius, oval, cos, sin, lobed, height, _ = glands[g].T
    edge = radius * (1 + oval * np.cos(2 * phi) + lobed * np.cos(3 * phi))
    spread = np.clip((rows[g] - 1) * 0.45, 0.06, 0.5)
    inner = edge - height * np.clip(0.3 + spread * rng.uniform(-0.5, 1.0, len(g)), 0.15, 0.85)
    c, s = np.cos(phi), np.sin(phi)
    dx, dy = c * cos - s * sin, s * cos + c * sin
    xy = np.column_stack([x + inner * dx, y + inner * dy])
    keep = inner > 2
    xy, dx, dy, height, g = xy[keep], dx[keep], dy[keep], height[keep], g[keep]
    tall = np.clip(height / 14, 0.0, 1.0)
    large = np.maximum(_sample(at["size"], xy), 3.2) * rng.uniform(0.85, 1.2, len(xy))
    angle = np.arctan2(dy, dx) + rng.normal(0, 0.2, len(xy)) + np.where(height > 10, 0, np.pi / 2)
    return _nuclei(rng, at, xy, large * (0.95 + 0.25 * tall), 0.8 - 0.25 * tall, angle)


def _free_nuclei(
    rng: np.random.Generator,
    at: dict[str, np.ndarray],
    glands: np.ndarray,
    fat: np.ndarray,
    fat_pitch: float,
    size: tuple[float, float],
) -> np.ndarray:
    """Draw nuclei between the glands; long ones lie along the fibres."""
    pitch = 8.0
    xy = _jittered(rng, size, pitch, 0.8).reshape(-1, 2)
    xy = xy[rng.random(len(xy)) < _sample(at["density"], xy) * pitch**2 / 1e6]
    xy = xy[_outside(xy, glands, fat, fat_pitch)]
    ratio = np.clip(_sample(at["ratio"], xy) * rng.uniform(0.8, 1.2, len(xy)), 0.15, 1)
    angle = _sample(at["angle"], xy) + rng.normal(0, 1, len(xy)) * np.clip(ratio, 0.12, 1)
    return _nuclei(rng, at, xy, _sample(at["size"], xy) * rng.uniform(0.7, 1.25, len(xy)), ratio, angle)


def _lymphocytes(
    rng: np.random.Generator,
    at: dict[str, np.ndarray],
    glands: np.ndarray,
    fat: np.ndarray,
    fat_pitch: float,
    size: tuple[float, float],
) -> np.ndarray:
    """Draw lymphocytes: small, round, dark nuclei."""
    pitch = 6.5
    xy = _jittered(rng, size, pitch, 0.75).reshape(-1, 2)
    xy = xy[rng.random(len(xy)) < _sample(at["lymph"], xy) * pitch**2 / 1e6]
    xy = xy[_outside(xy, glands, fat, fat_pitch)]
    n = len(xy)
    angle = rng.uniform(0, np.pi, n)
    dark = rng.uniform(1.3, 1.65, n)
    return np.column_stack([
        xy, rng.uniform(2.5, 3.3, n), rng.uniform(2.2, 2.9, n), np.cos(angle), np.sin(angle), dark, np.zeros(n)
    ])  # fmt: skip


def _nuclei(
    rng: np.random.Generator,
    at: dict[str, np.ndarray],
    xy: np.ndarray,
    large: np.ndarray,
    ratio: np.ndarray,
    angle: np.ndarray,
) -> np.ndarray:
    dark = _sample(at["dark"], xy) * rng.uniform(0.75, 1.25, len(xy))
    small = np.maximum(large * ratio, 0.8)
    return np.column_stack([xy, large, small, np.cos(angle), np.sin(angle), dark, _sample(at["pale"], xy)])


def _outside(xy: np.ndarray, glands: np.ndarray, fat: np.ndarray, fat_pitch: float) -> np.ndarray:
    """Return which places lie in neither a gland nor an adipocyte."""
    free = np.ones(len(xy), bool)
    if len(glands):
        distance, index = KDTree(glands[:, :2]).query(xy, k=min(3, len(glands)))
        for d, g in zip(distance.reshape(len(xy), -1).T, index.reshape(len(xy), -1).T, strict=True):
            x, y, radius, oval, cos, sin, lobed = glands[g, :7].T
            c = ((xy[:, 0] - x) * cos + (xy[:, 1] - y) * sin) / np.maximum(d, 1e-6)
            free &= d > radius * (1 + oval * (2 * c * c - 1) + lobed * c * (4 * c * c - 3)) + 1
    i, j = (np.minimum(xy.T / fat_pitch, [[fat.shape[1] - 1], [fat.shape[0] - 1]])).astype(int)
    around = []
    for v, u in product((-1, 0, 1), (-1, 0, 1)):
        cell = fat[np.clip(j + v, 0, fat.shape[0] - 1), np.clip(i + u, 0, fat.shape[1] - 1)]
        around.append((np.hypot(cell[:, 0] - xy[:, 0], cell[:, 1] - xy[:, 1]), cell[:, 2]))
    distance = np.stack([d for d, _ in around], axis=1)
    order = np.argsort(distance, axis=1)
    nearest = np.take_along_axis(np.stack([p for _, p in around], axis=1), order[:, :1], axis=1)[:, 0]
    # at the border a neighbour can occur twice: the distance to the second cell is then that to the first
    first, second = np.take_along_axis(distance, order[:, :2], axis=1).T
    return free & ~((nearest > 0) & ((second - first) / 2 > 2.5))
