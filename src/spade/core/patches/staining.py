"""Stain normalisation: the colours of a slide, told from its tissue, and patches in the colours of another slide."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spade.core.arrays import Floats
from spade.core.patches.overview import read_region
from spade.core.patches.tiles import Level, Pixels, iter_patches
from spade.core.patches.tissue import RESOLUTION_UM, TissueSettings, find_tissue

METHODS = ("macenko", "reinhard", "vahadane")
#: Colours are told from windows of tissue of this side, so many at most, spread over the slide, and at this µm/px.
WINDOW_UM, N_WINDOWS, PIXEL_UM, PIXEL_MM2 = 128.0, 200, 1.0, 1e-6
#: Share of a window that is tissue, and least number of pixels of tissue that say what its colours are.
WINDOW_TISSUE, LEAST_PIXELS = 0.5, 20_000
#: Mean optical density (natural logarithm) below which a pixel is glass.
GLASS = 0.15
#: Percentiles: of the angles between which all but noise lies, and of the amounts of stain (Macenko et al. 2009).
ANGLE, AMOUNT = 1.0, 99.0
#: Sparse stains (Vahadane et al. 2016): weight of the amounts beside half of the squared error, most pixels that are
#: looked at, most rounds, and least change of a vector in a round.
SPARSITY, FACTORED_PIXELS, ROUNDS, LEAST_CHANGE = 0.1, 100_000, 300, 1e-5
#: Two stains are at least this far apart, and each at most this far from its vector below, in degrees. On sections of
#: brain, breast and lung they are 15 to 33 and 10 to 18 apart by the two methods; closer ones are both of one stain.
LEAST_ANGLE, MOST_ANGLE = {"macenko": 12.0, "vahadane": 7.0}, 45.0
#: Cone responses to red, green and blue, and the decorrelated axes lαβ of their logarithms (Reinhard et al. 2001).
LMS = np.array([[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]])
LAB = np.array([[1, 1, 1], [1, 1, -2], [1, -1, 0]]) / np.sqrt([[3], [6], [2]])
#: Vectors of haematoxylin and eosin (columns), and their amounts, that slides are normalised to: those of the
#: implementation of Macenko's method by M. Veta (github.com/mitkovetta/staining-normalization).
VECTORS, AMOUNTS = np.array([[0.5626, 0.2159], [0.7201, 0.8012], [0.4062, 0.5581]]), np.array([1.9705, 1.0308])
#: Mean and deviation in lαβ that slides are normalised to: a region of TCGA-A2-A3XS-DX1 (Amgad et al. 2019), from the
#: tests of HistomicsTK.
MEAN, DEVIATION = np.array([8.74108109, -0.12440419, 0.0444982]), np.array([0.6135447, 0.10989545, 0.0286032])


@dataclass(frozen=True)
class Staining:
    """The colours of a slide: axes through the logarithms of its pixels, and where the pixels lie along them.

    Attributes
    ----------
    method
        One of :data:`METHODS`.
    axes
        ``(3, 3)``, one per column. Macenko, Vahadane: unit vectors of optical density of haematoxylin, eosin, and
        across both. Reinhard: the axes lαβ.
    centre, spread
        ``(3,)``. Macenko, Vahadane: 0; and the amounts of both that 99 % of the pixels do not exceed, and 1. Reinhard:
        mean and deviation.
    """

    method: str
    axes: Floats
    centre: Floats
    spread: Floats

    @classmethod
    def of_stains(cls, method: str, vectors: Floats, amounts: Floats) -> Staining:
        """Complete the vectors ``(3, 2)`` of two stains by the one across both, whose amount stays as it is."""
        return cls(method, _with_third(vectors), np.zeros(3), np.append(amounts, 1.0))

    @classmethod
    def of_lab(cls, mean: Floats, deviation: Floats) -> Staining:
        """Return the colours of Reinhard's method."""
        return cls("reinhard", np.linalg.inv(LAB), mean, deviation)


def shipped(method: str) -> Staining:
    """Return the colours that slides are normalised to without a reference slide."""
    return Staining.of_lab(MEAN, DEVIATION) if method == "reinhard" else Staining.of_stains(method, VECTORS, AMOUNTS)


def tissue_pixels(levels: list[Level], um_per_px: float) -> tuple[Pixels, Pixels]:
    """Return pixels ``(n, 3)`` of the tissue on a slide at 1 µm/px, and the picture in which the tissue was found.

    Both depend on the image alone. Memory holds the picture, at 8 µm/px, and some windows. At the resolution of the
    picture nuclei and their surroundings are mixed, so that the colours of stains cannot be told.

    Parameters
    ----------
    levels
        Resolutions, finest first.
    um_per_px
        Of the finest level.
    """
    height, width = levels[0].shape
    most_px = max(1, round(max(height, width) * um_per_px / RESOLUTION_UM))
    picture, box = read_region(levels, np.array([0.0, 0, width, height]), most_px)
    step = box[3] / picture.shape[0]  # pixels of the finest level per pixel of the picture
    mask = find_tissue(picture, step * um_per_px, TissueSettings(min_area_mm2=0))
    side = max(1, round(WINDOW_UM / (step * um_per_px)))
    rows, columns = (n // side for n in mask.shape)
    shares = mask[: rows * side, : columns * side].reshape(rows, side, columns, side).mean((1, 3))
    windows = np.argwhere(shares >= WINDOW_TISSUE)
    if len(windows) > N_WINDOWS:
        windows = windows[np.linspace(0, len(windows) - 1, N_WINDOWS).round().astype(int)]
    centres, n_px = (windows + 0.5) * side * step, round(WINDOW_UM / PIXEL_UM)
    found = [np.empty((0, 3), dtype=np.uint8)]
    for _, batch in iter_patches(levels, centres, side * step, n_px, 16):
        pixels = batch.reshape(-1, 3)
        found.append(pixels[densities(pixels).mean(1) >= GLASS])
    return np.concatenate(found), picture


def staining(pixels: Pixels, method: str, name: str) -> Staining:
    """Return the colours of the tissue of a slide; raise if there is too little of it, or no H&E.

    ``"macenko"``, ``"vahadane"``: two stains, and their amounts (Macenko et al., ISBI 2009; Vahadane et al., IEEE
    Transactions on Medical Imaging 2016). ``"reinhard"``: mean and deviation in lαβ (Reinhard et al., IEEE Computer
    Graphics and Applications 2001).

    Parameters
    ----------
    pixels
        ``(n, 3)``, of tissue.
    method
        One of :data:`METHODS`.
    name
        Of the slide, for errors.
    """
    if len(pixels) < LEAST_PIXELS:
        raise ValueError(
            f"{name}: colour={method!r} tells the colours of a slide from at least {LEAST_PIXELS * PIXEL_MM2:g} mm² of "
            f"tissue, but {len(pixels) * PIXEL_MM2:.2g} mm² were found on the image. Leave the section out, or encode "
            "all sections without colour=."
        )
    if method == "reinhard":
        lab = _log_lms(pixels) @ LAB.T
        return Staining.of_lab(lab.mean(0), np.maximum(lab.std(0), 1e-6))
    density = densities(pixels)
    vectors = stain_vectors(density)
    if method == "vahadane":
        vectors = sparse_stain_vectors(density, vectors)
    vectors = vectors[:, np.argsort(-vectors[0])]  # haematoxylin absorbs more red
    between = _angle(vectors[:, 0], vectors[:, 1])
    away = max(_angle(*pair) for pair in zip(vectors.T, VECTORS.T, strict=True))
    if not (between >= LEAST_ANGLE[method] and away <= MOST_ANGLE):
        raise ValueError(
            f"{name}: colour={method!r} finds no haematoxylin and eosin on the image: the two colours of its tissue "
            f"are {between:.0f}° apart, and up to {away:.0f}° from those of H&E. Is it stained otherwise, or has "
            "it hardly any nuclei? colour='reinhard' looks for no stains."
        )
    amounts = np.percentile(density @ np.linalg.inv(_with_third(vectors)).T[:, :2], AMOUNT, axis=0)
    return Staining.of_stains(method, vectors, np.maximum(amounts, 1e-6))


def stain_vectors(density: Floats) -> Floats:
    """Return unit vectors ``(3, 2)`` of two stains: the edges of optical densities ``(n, 3)`` in their main plane."""
    products = np.einsum("ni,nj->ij", density, density)  # no BLAS: the same sums for any number of threads
    plane = np.linalg.eigh(products)[1][:, :0:-1]
    plane *= np.where(density.mean(0) @ plane < 0, -1, 1)  # the angles then lie around 0
    along = density @ plane
    angles = np.percentile(np.arctan2(along[:, 1], along[:, 0]), [ANGLE, 100 - ANGLE])
    return np.asarray(plane @ np.array([np.cos(angles), np.sin(angles)]))


def sparse_stain_vectors(density: Floats, start: Floats) -> Floats:
    """Return unit vectors ``(3, 2)`` of two stains that part optical densities ``(n, 3)`` with few stains a pixel.

    Minimises ``|density − amounts · vectorsᵀ|² / 2 + SPARSITY · Σ amounts`` with amounts and vectors of at least 0
    (Vahadane et al. 2016), one after the other: the amounts of two stains have a closed form, and the vectors are
    renewed one at a time (Mairal et al., JMLR 2010). At most :data:`FACTORED_PIXELS` pixels are looked at.

    Parameters
    ----------
    density
        Of the pixels of the tissue.
    start
        ``(3, 2)``, such as those of :func:`stain_vectors`.
    """
    density = density[np.linspace(0, len(density) - 1, min(len(density), FACTORED_PIXELS)).astype(int)]
    vectors = _unit(np.maximum(start, 0))
    for _ in range(ROUNDS):
        before, amounts = vectors.copy(), sparse_amounts(density, vectors)
        products = np.einsum("ni,nj->ij", amounts, amounts)  # no BLAS, as above
        onto = np.einsum("nc,ni->ci", density, amounts)
        for i in np.flatnonzero(products.diagonal() > 0):
            step = (onto[:, i] - vectors @ products[:, i]) / products[i, i]
            vectors[:, i] = _unit(np.maximum(vectors[:, i] + step, 0))
        if np.abs(vectors - before).max() < LEAST_CHANGE:
            break
    return vectors


def sparse_amounts(density: Floats, vectors: Floats) -> Floats:
    """Return the amounts ``(n, 2)`` of two stains that minimise the loss of :func:`sparse_stain_vectors`."""
    alone = np.einsum("nc,ci->ni", density, vectors) - SPARSITY
    cosine = vectors[:, 0] @ vectors[:, 1]
    both = (alone - cosine * alone[:, ::-1]) / (1 - cosine**2)
    return np.where((both > 0).all(1, keepdims=True), both, np.where(both > both[:, ::-1], np.maximum(alone, 0), 0))


def recoloured(patches: Pixels, source: Staining, target: Staining) -> Pixels:
    """Return patches ``(n, height, width, 3)`` of one slide in the colours of another.

    Along each axis the pixels of the source get the centre and spread of the target. White stays white: it has no
    stain; with Reinhard, pixels between white and the density of tissue change in part.
    """
    growth = target.spread / source.spread
    onto = (target.axes * growth @ np.linalg.inv(source.axes)).T.astype(np.float32)
    shift = (target.axes @ (target.centre - growth * source.centre)).astype(np.float32)
    out = np.empty_like(patches)
    for patch, changed in zip(patches, out, strict=True):
        pixels = patch.reshape(-1, 3)
        density = densities(pixels, np.float32)
        if source.method == "reinhard":
            new = (np.exp(_log_lms(pixels, np.float32) @ onto + shift) - 1) @ np.linalg.inv(LMS).T.astype(np.float32)
            new = pixels + np.minimum(density.mean(1, keepdims=True) / GLASS, 1) * (new - pixels)
        else:
            new = 256 * np.exp(-(density @ onto)) - 1
        changed[:] = np.clip(np.round(new), 0, 255).reshape(patch.shape)
    return out


def densities(pixels: Pixels, dtype: type = np.float64) -> Floats:
    """Return optical densities as natural logarithms; white has 0."""
    return np.asarray(-np.log((np.arange(256) + 1) / 256)).astype(dtype)[pixels]


def _log_lms(pixels: Pixels, dtype: type = np.float64) -> Floats:
    """Return the logarithms of the cone responses."""
    return np.asarray(np.log(pixels.astype(dtype) @ LMS.T.astype(dtype) + 1))


def _unit(vectors: Floats) -> Floats:
    """Return columns of length 1."""
    return vectors / np.linalg.norm(vectors, axis=0)


def _with_third(vectors: Floats) -> Floats:
    """Return two vectors and the unit vector across both, as columns."""
    return np.column_stack([vectors, _unit(np.cross(vectors[:, 0], vectors[:, 1]))])


def _angle(a: Floats, b: Floats) -> float:
    """Return the angle between two vectors in degrees."""
    return float(np.degrees(np.arccos(np.clip(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)), -1, 1))))
