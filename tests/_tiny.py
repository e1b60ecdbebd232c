"""Small sections whose every number is known, for tests of what users get wrong."""

from __future__ import annotations

import re
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from geopandas import GeoDataFrame, points_from_xy
from scipy.sparse import csr_matrix
from spatialdata import SpatialData
from spatialdata.models import Image2DModel, ShapesModel, TableModel
from spatialdata.transformations import Affine, set_transformation

from spade._scale import record_scale

SIDE = 400
GENES = tuple(f"G{i:02d}" for i in range(60))


def square_lattice(n: int, pitch: float = 50.0, start: float = 50.0) -> np.ndarray:
    """Six spots a row, (x, y); not what Visium looks like."""
    return start + pitch * np.column_stack([np.arange(n) % 6, np.arange(n) // 6]).astype(float)


def pixels(seed: int = 0, shape: tuple[int, ...] = (3, SIDE, SIDE), dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, shape).astype(dtype)


def picture(values: np.ndarray | None = None, c_coords: list[str] | None = None, **kwargs):
    values = pixels() if values is None else values
    names = c_coords or ([*"rgb"] if len(values) == 3 else None)
    return Image2DModel.parse(values, dims=("c", "y", "x"), c_coords=names, **kwargs)


def circles(centres: np.ndarray, radius: float = 8.0, ids=None) -> GeoDataFrame:
    ids = [f"s{i:02d}" for i in range(len(centres))] if ids is None else ids
    frame = GeoDataFrame({"radius": np.full(len(centres), radius)}, geometry=points_from_xy(*centres.T), index=ids)
    return ShapesModel.parse(frame)


def table(ids, genes=GENES, seed: int = 0, region="spots", counts: np.ndarray | None = None, **obs) -> AnnData:
    """Counts whose rates follow the row, so that there is something to learn."""
    if counts is None:
        rng = np.random.default_rng(seed)
        wave = np.sin(np.linspace(0, 6, len(ids))[:, None] * np.linspace(0.2, 2, len(genes)))
        counts = rng.poisson(np.exp(1 + wave))
    regions = [region] * len(ids) if isinstance(region, str) else list(region)
    frame = pd.DataFrame({"region": pd.Categorical(regions), "spot_id": ids, **obs}, index=[str(i) for i in ids])
    adata = AnnData(csr_matrix(counts, dtype=np.float32), obs=frame, var=pd.DataFrame(index=list(genes)))
    return TableModel.parse(adata, region=sorted(set(regions)), region_key="region", instance_key="spot_id")


def tiny(
    n: int = 36, *, name: str = "tiny", mpp: float | None = 1.0, genes=GENES, seed: int = 0, **elements
) -> SpatialData:
    """One section: an image without pyramid, ``n`` spots on a square lattice and their counts."""
    centres = square_lattice(n)
    spots = elements.pop("spots", None)
    spots = circles(centres) if spots is None else spots
    obs = {"patient": pd.Categorical([f"p_{name}"] * n), "organ": pd.Categorical(["a", "b"] * (n // 2) + ["a"] * (n % 2))}
    sdata = SpatialData(
        images=elements.pop("images", None) or {"image": picture(pixels(seed))},
        shapes={"spots": spots, **elements.pop("shapes", {})},
        tables={"table": table(list(spots.index), genes, seed, **obs)},
    )
    if name:
        record_scale(sdata, sample=name, mpp=None if mpp is None else {"image": mpp})
    return sdata


def featured(n: int = 36, *, width: int = 8, key: str = "X_f", seed: int = 0, **kwargs) -> SpatialData:
    """A section with made-up image features in two clusters."""
    sdata = tiny(n, seed=seed, **kwargs)
    rng = np.random.default_rng(seed + 100)
    far = 6.0 * (np.arange(n) % 2)[:, None]
    sdata["table"].obsm[key] = (rng.normal(size=(n, width)) + far).astype(np.float32)
    return sdata


def place_by(element, matrix: np.ndarray, system: str = "global") -> None:
    """Give an element an affine transformation (3, 3) on (x, y)."""
    set_transformation(element, Affine(matrix, input_axes=("x", "y"), output_axes=("x", "y")), system)


@contextmanager
def warns_here(match: str):
    """Expect a warning that points at the test's own line, as a user would see it."""
    with pytest.warns(UserWarning, match=match) as record:
        yield record
    where = {one.filename for one in record if re.search(match, str(one.message))}
    assert {Path(file).parent for file in where} == {Path(__file__).parent}, where


@contextmanager
def no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield
