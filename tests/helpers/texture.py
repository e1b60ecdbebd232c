"""Synthetic tissue whose stains and nuclei are known."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from spade.core.texture import stains
from spade.encoders import _texture as texture
from spade.encoders._texture import FEATURE_NAMES

VECTORS = np.linalg.inv(texture.UNMIXING)
PINK = 0.15  # eosin concentration of the synthetic stroma


def render(haematoxylin: np.ndarray, eosin: np.ndarray | float = PINK) -> np.ndarray:
    """RGB image of the two concentrations."""
    density = haematoxylin[..., None] * VECTORS[0] + np.broadcast_to(eosin, haematoxylin.shape)[..., None] * VECTORS[1]
    return np.clip(np.round(255 * 10.0**-density), 1, 255).astype(np.uint8)


def field(rng: np.random.Generator, shape: tuple[int, int], sigma: float) -> np.ndarray:
    """Smooth random field with mean 0 and deviation 1."""
    smooth = ndimage.gaussian_filter(rng.normal(size=shape), sigma)
    return (smooth - smooth.mean()) / smooth.std()


def scene(seed: int, shape: tuple[int, int] = (96, 128)) -> np.ndarray:
    """Tissue-like image: blobs of haematoxylin on wavy eosin, with a bright corner and camera noise."""
    rng = np.random.default_rng(seed)
    nuclei = 0.15 + 0.6 * (field(rng, shape, 3) > 1.1) + 0.03 * field(rng, shape, 1)
    eosin = 0.3 + 0.1 * field(rng, shape, 6) + 0.02 * field(rng, shape, 0.7)
    glass = field(rng, shape, 12) < -1
    image = render(np.where(glass, 0.01, nuclei), np.where(glass, 0.01, eosin))
    return np.clip(image + rng.normal(0, 3, image.shape), 1, 255).astype(np.uint8)


def discs(centres_um: np.ndarray, radius_um: float, mpp: float, side_um: float = 112.0) -> np.ndarray:
    """Patch with round nuclei of one radius."""
    y, x = (np.indices((round(side_um / mpp),) * 2) + 0.5) * mpp
    inside = ((y[..., None] - centres_um[:, 0]) ** 2 + (x[..., None] - centres_um[:, 1]) ** 2 < radius_um**2).any(-1)
    return render(np.where(inside, 0.8, 0.1))


def named(features: np.ndarray) -> dict[str, float]:
    return dict(zip(FEATURE_NAMES, features.tolist(), strict=True))


def stains_of(patch: np.ndarray) -> np.ndarray:
    return stains.unmix(patch, texture.DENSITY, texture.UNMIXING, texture.TISSUE_DENSITY)[0]


GRID = np.array([(y, x) for y in (20.0, 44.0, 68.0, 92.0) for x in (25.0, 55.0, 85.0)])


def pyramid(image: np.ndarray) -> list[np.ndarray]:
    from skimage.transform import downscale_local_mean

    return [downscale_local_mean(image.astype(float), (2**k, 2**k)) for k in texture.SCALES]
