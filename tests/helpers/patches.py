"""Patches on spots, lattices of spots, and polygons that label them."""

from __future__ import annotations

import json

import numpy as np
import shapely
from geopandas import GeoDataFrame

import spade as sp
from helpers.sections import GENES, circles, square_lattice, table, tiny

SMALL = {"size_um": 32, "size_px": 32}


def centres(sdata, key="patches"):
    bounds = sdata.shapes[key].geometry.bounds.to_numpy()
    return (bounds[:, :2] + bounds[:, 2:]) / 2


def record(sdata, key="patches"):
    return sdata["table"].uns["spade"][key]


def affine(scale=1.0, turn=0.0, shift=(0.0, 0.0), flip=False):
    cos, sin = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    matrix = np.eye(3)
    matrix[:2, :2] = scale * np.array([[cos, -sin], [sin, cos]]) @ np.diag([1, -1 if flip else 1])
    matrix[:2, 2] = shift
    return matrix


def lattice(kind, n=12, jitter=0.0, keep=1.0, seed=0):
    """Spots at pitch 1, turned, with some scatter, and some missing."""
    rng = np.random.default_rng(seed)
    i, j = (axis.ravel().astype(float) for axis in np.meshgrid(np.arange(n), np.arange(n)))
    points = np.column_stack([i, j] if kind == "square" else [i + (j % 2) / 2, j * np.sqrt(3) / 2])
    points = points[rng.random(n * n) < keep] + 0.0
    cos, sin = np.cos(0.3), np.sin(0.3)
    return (points @ np.array([[cos, -sin], [sin, cos]])) + rng.normal(0, jitter, points.shape)


#: Squares of 40 px around spots that are 50 px apart, the first at (50, 50).
PATCH = 40.0


def section(n=36, *, mpp=1.0, **kwargs):
    sdata = tiny(n, mpp=mpp, **kwargs)
    sp.pp.patches(sdata, size_um=PATCH * mpp, size_px=int(PATCH))
    return sdata


def polygons(*pairs, **columns):
    """Frame of (label, box or polygon) pairs."""
    shapes = [shapely.box(*shape) if isinstance(shape, tuple) else shape for _, shape in pairs]
    return GeoDataFrame({"label": [label for label, _ in pairs], **columns}, geometry=shapes)


def got(sdata, key="label"):
    column = sdata["table"].obs[key]
    return column.astype(object).where(column.notna(), None).tolist()


LEFT, RIGHT = (0, 0, 200, 400), (200, 0, 400, 400)  # the border runs through the fourth column
HALVES = [*"llllrr"] * 6  # equally large, so the tie goes to the alphabet


def geojson(frame):
    """What QuPath would write of a frame."""
    features = [
        {
            "type": "Feature",
            "geometry": json.loads(shapely.to_geojson(shape)),
            "properties": {"objectType": "annotation", "classification": {"name": label}},
        }
        for label, shape in zip(frame["label"], frame.geometry, strict=True)
    ]
    return json.dumps({"type": "FeatureCollection", "features": features})


def two_regions():
    sdata = tiny(36)
    sdata.shapes["more"] = circles(square_lattice(36))
    sdata.tables["table"] = table(list(sdata["spots"].index) * 2, GENES, region=["spots"] * 36 + ["more"] * 36)
    sp.pp.patches(sdata, size_um=PATCH, size_px=40)
    return sdata
