"""Slides without spots: glass with tissue, pen marks and folds drawn on it, of which every place is known."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
from spatialdata import SpatialData
from spatialdata.models import Image2DModel

GLASS = (238, 234, 240)
EOSIN, HEMATOXYLIN = (226, 150, 196), (110, 80, 150)
#: Microns per pixel of the small slides.
MPP = 2.0
INKS = {"blue": (40, 70, 170), "green": (30, 130, 80), "black": (35, 35, 40), "red": (215, 35, 50)}


class Means:
    """An encoder that takes a moment: the mean colour of a patch."""

    name, id, dim, input_px = "means", "means", 3, None

    def encode(self, patches, mpp):
        return patches.reshape(len(patches), -1, 3).mean(1, dtype=np.float32)


def glass(height=1000, width=1400, seed=0, colour=GLASS):
    """Glass with the noise of a camera, ``(height, width, 3)``."""
    noise = np.random.default_rng(seed).normal(0, 2, (height, width, 3))
    return np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)


def disc(shape, x, y, radius):
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def blocks(values, size, shape):
    """Enlarge an array to ``size`` px per value."""
    return np.repeat(np.repeat(values, size, 0), size, 1)[: shape[0], : shape[1], None]


def stain(picture, where, seed=0, strength=1.0):
    """Draw tissue: pink and uneven, with purple nuclei, all of it as pale as ``strength`` says."""
    rng, shape = np.random.default_rng(seed), picture.shape
    nuclei = blocks(rng.random((shape[0] // 5 + 1, shape[1] // 5 + 1)) < 0.2, 5, shape)
    uneven = blocks(rng.uniform(0.6, 1.2, (shape[0] // 15 + 1, shape[1] // 15 + 1)), 15, shape)
    passing = np.where(nuclei, HEMATOXYLIN, EOSIN) / np.array(GLASS)
    stained = picture * passing ** (strength * uneven) + rng.normal(0, 3, shape)
    picture[where] = np.clip(stained[where], 0, 255)
    return picture


def draw_pen(picture, where, colour):
    """Draw ink, through which what is below shows."""
    inked = picture * (np.array(colour) / np.array(GLASS))
    picture[where] = np.clip(inked[where], 0, 255)
    return picture


def pieces(seed=0):
    """A slide with two round pieces of tissue, and where they are."""
    picture = glass(seed=seed)
    masks = [disc(picture.shape, 400, 450, 300), disc(picture.shape, 1050, 600, 250)]
    for i, mask in enumerate(masks):
        stain(picture, mask, seed + i)
    return picture, masks


def slide_of(picture, *, name="slide_1", key="he", scale_factors=(2, 2), **options):
    """An object with nothing but an image; its µm/px are not recorded."""
    image = Image2DModel.parse(
        np.moveaxis(picture, -1, 0),
        dims=("c", "y", "x"),
        c_coords=[*"rgb"],
        scale_factors=list(scale_factors) or None,
        **options,
    )
    return SpatialData(images={key: image}, attrs={"spade": {"sample": name}} if name else {})


def copied(sdata):
    """Copy an object but for its images, labels and points."""
    shapes = {key: shapes.copy() for key, shapes in sdata.shapes.items()}
    tables = {key: table.copy() for key, table in sdata.tables.items()}
    same = {"images": dict(sdata.images), "labels": dict(sdata.labels), "points": dict(sdata.points)}
    return SpatialData(**same, shapes=shapes, tables=tables, attrs=deepcopy(dict(sdata.attrs)))
