"""Sections whose stains are known: the same tissue, rendered in the colours of different laboratories."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

import spade as sp
from helpers.sections import SIDE, picture, tiny

#: Unit vectors of haematoxylin and eosin (rows) of two laboratories, and how strongly they stain.
OURS = np.array([[0.65, 0.70, 0.29], [0.22, 0.85, 0.48]])
THEIRS = np.array([[0.75, 0.60, 0.28], [0.40, 0.82, 0.41]])
OURS, THEIRS = (stains / np.linalg.norm(stains, axis=1, keepdims=True) for stains in (OURS, THEIRS))
STRONG, PALE = np.array([1.0, 1.0]), np.array([0.6, 0.8])


def amounts(seed=0, side=SIDE) -> np.ndarray:
    """Amounts of both stains ``(2, side, side)``: nuclei on eosin, and glass on the right."""
    noise = np.random.default_rng(seed).normal(size=(2, side, side))
    bumps, texture = (gaussian_filter(one, sigma) for one, sigma in zip(noise, (3, 6), strict=True))
    nuclei = bumps > np.quantile(bumps, 0.85)
    eosin = np.clip(0.6 + 0.25 * texture / texture.std(), 0.1, 1.5)
    both = np.array([np.where(nuclei, 1.4, 0.05), np.where(nuclei, 0.1, eosin)])
    both[:, :, side - side // 8 :] = 0
    return both


def rendered(stains=OURS, strength=STRONG, **options) -> np.ndarray:
    """Pixels ``(3, side, side)``."""
    density = np.einsum("sc,syx->cyx", stains * strength[:, None], amounts(**options))
    return np.clip(np.round(256 * np.exp(-density) - 1), 0, 255).astype(np.uint8)


def section(stains=OURS, strength=STRONG, **options):
    """A section at 1 µm/px."""
    return tiny(images={"image": picture(rendered(stains, strength))}, **options)


def stained(path: Path, stains=OURS, strength=STRONG) -> Path:
    """The same with patches, in a store, named like it."""
    sdata = section(stains, strength, name=path.stem)
    sp.pp.patches(sdata, size_um=48, size_px=48)
    sp.io.write(sdata, path)
    return path
