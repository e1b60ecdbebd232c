"""Small sections whose every number is known, for tests of what users get wrong."""

from __future__ import annotations

import json
import re
import warnings
from contextlib import contextmanager
from io import StringIO
from pathlib import Path

import dask.array as da
import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from geopandas import GeoDataFrame, points_from_xy
from scipy.sparse import csr_matrix
from scipy.sparse import random as random_sparse
from shapely.geometry import Point
from spatialdata import SpatialData
from spatialdata.models import Image2DModel, ShapesModel, TableModel
from spatialdata.transformations import Affine, set_transformation

import spade as sp
from spade._keys import REVISION, write_provenance
from spade.io._recorded.frames import image_arrays
from spade.io._recorded.scale import record_scale

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
    names = [str(i) if isinstance(region, str) else f"{r}-{i}" for r, i in zip(regions, ids, strict=True)]
    frame = pd.DataFrame({"region": pd.Categorical(regions), "spot_id": ids, **obs}, index=names)
    adata = AnnData(csr_matrix(counts, dtype=np.float32), obs=frame, var=pd.DataFrame(index=list(genes)))
    return TableModel.parse(adata, region=sorted(set(regions)), region_key="region", instance_key="spot_id")


def tiny(
    n: int = 36, *, name: str = "tiny", mpp: float | None = 1.0, genes=GENES, seed: int = 0, **elements
) -> SpatialData:
    """One section: an image without pyramid, ``n`` spots on a square lattice and their counts."""
    centres = square_lattice(n)
    spots = elements.pop("spots", None)
    spots = circles(centres) if spots is None else spots
    obs = {
        "patient": pd.Categorical([f"p_{name}"] * n),
        "organ": pd.Categorical(["a", "b"] * (n // 2) + ["a"] * (n % 2)),
    }
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


#: Settings of a training that takes a moment.
FAST = {
    "n_prototypes": 4, "n_experts": 2, "n_epochs": 2, "dim": 8, "batch_size": 16, "lr": 1e-2, "warm_start": 0,
}  # fmt: skip


def train(samples, genes=GENES[:20], **options):
    return sp.tl.train_spade(samples, **{"use_rep": "X_f", "genes": genes, **FAST, **options})


def spoil(sdata, key: str, rows, value=np.nan) -> None:
    """Set rows of an obsm array."""
    values = sdata["table"].obsm[key].copy()
    values[rows] = value
    sdata["table"].obsm[key] = values


def said_of(sdata, key: str = "X_f", **facts) -> None:
    """Write the record that ``pp.encode_patches`` leaves with features."""
    write_provenance(sdata["table"].uns, key, **{"function": "pp.encode_patches", **facts})


def empty_rows(sdata, rows, stored: bool = True) -> None:
    """Take the counts of some spots away; the zeros may stay stored."""
    counts = sdata["table"].X.tocsr(copy=True)
    for row in rows:
        counts.data[counts.indptr[row] : counts.indptr[row + 1]] = 0
    if not stored:
        counts.eliminate_zeros()
    sdata["table"].X = counts


def assert_same(one: SpatialData, other: SpatialData, tables: bool = True) -> None:
    """Everything in both objects is equal, bit for bit, whenever they were last written."""
    assert sorted(one.elements_paths_in_memory()) == sorted(other.elements_paths_in_memory())
    assert one.attrs | {REVISION: None} == other.attrs | {REVISION: None}
    for key in one.images:
        for level, (a, b) in enumerate(zip(image_arrays(one[key]), image_arrays(other[key]), strict=True)):
            np.testing.assert_array_equal(a, b, err_msg=f"{key} {level}")
    for key in one.shapes:
        assert list(one[key].index) == list(other[key].index)
        assert one[key].geometry.geom_equals(other[key].geometry).all()
    for key in one.tables if tables else ():
        assert_same_tables(one[key], other[key])


#: Endings of entries of ``uns`` that are arrays of names.
LISTS = ("_colors", "_genes", "_names")


def assert_same_tables(a: AnnData, b: AnnData) -> None:
    pd.testing.assert_frame_equal(a.obs, b.obs, check_dtype=False)
    pd.testing.assert_frame_equal(a.var, b.var, check_dtype=False)
    assert set(a.layers) == set(b.layers)
    for x, y in ((a.X, b.X), *((a.layers[key], b.layers[key]) for key in a.layers)):
        np.testing.assert_array_equal(x.toarray(), y.toarray())
    assert set(a.obsm) == set(b.obsm)
    for key in a.obsm:
        assert a.obsm[key].dtype == b.obsm[key].dtype
        np.testing.assert_array_equal(a.obsm[key], b.obsm[key], err_msg=key)
    assert set(a.uns) == set(b.uns)
    for key in set(a.uns):
        assert np.array_equal(a.uns[key], b.uns[key]) if key.endswith(LISTS) else a.uns[key] == b.uns[key], key


def place_by(element, matrix: np.ndarray, system: str = "global") -> None:
    """Give an element an affine transformation (3, 3) on (x, y)."""
    set_transformation(element, Affine(matrix, input_axes=("x", "y"), output_axes=("x", "y")), system)


@contextmanager
def warns_here(match: str):
    """Expect a warning that points at the test's own line, as a user would see it."""
    with pytest.warns(UserWarning, match=match) as record:
        yield record
    where = {one.filename for one in record if re.search(match, str(one.message))}
    assert all(Path(__file__).parents[1] in Path(file).parents for file in where), where


@contextmanager
def no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def through_csv(table: pd.DataFrame) -> pd.DataFrame:
    """Write a table as text and read it back as pandas does by default, by which empty strings become missing."""
    return pd.read_csv(StringIO(table.to_csv(index=False)))


def edit(folder, change):
    """Change what a saved model says of itself."""
    description = json.loads((folder / "config.json").read_text())
    change(description)
    (folder / "config.json").write_text(json.dumps(description))


def cohort():
    return [featured(name="a"), featured(name="b", seed=1)]


def split(samples):
    """Rows 0–3 are held out in four ways, rows 4–9 validate."""
    for sample in samples:
        values = ["test", "guard", None, "test", *["val"] * 6, *["train"] * (sample["table"].n_obs - 10)]
        sample["table"].obs["fold"] = pd.Categorical(values, categories=["train", "val", "test", "guard"])
    return samples


def arrays(model):
    return {name: array.tobytes() for name, array in model._arrays().items()}


def with_experts(sdata, names, key="spade_expert"):
    """Write experts by hand, ``""`` for none."""
    values = np.array(names, dtype=object)
    values[values == ""] = None
    sdata["table"].obs[key] = pd.Categorical(values, categories=sorted(set(names) - {""}))
    return sdata


def made_of(name, region, experts, **obs):
    sdata = with_experts(tiny(len(experts), name=name), experts)
    sdata["table"].obs["area"] = region
    for column, values in obs.items():
        sdata["table"].obs[column] = values
    return sdata


def valued(value: int = 1, n: int = 40, side: int = 200, chunk: int = 128) -> SpatialData:
    """An object to save, whose values tell which one it is."""
    rng = np.random.default_rng(value)
    pixels = da.from_array(rng.integers(0, 255, (3, side, side), dtype=np.uint8), chunks=(3, chunk, chunk))
    image = Image2DModel.parse(pixels, dims=("c", "y", "x"), c_coords=["r", "g", "b"], scale_factors=[2])
    ids = [f"spot_{i}" for i in range(n)]
    spots = gpd.GeoDataFrame(
        {"radius": np.full(n, 3.0)}, geometry=[Point(*p) for p in rng.random((n, 2)) * side], index=ids
    )
    adata = AnnData(random_sparse(n, 12, density=0.5, format="csr", dtype=np.float32, rng=rng))
    adata.obs_names = ids
    adata.obs["region"] = pd.Categorical(["spots"] * n)
    adata.obs["spot_id"] = ids
    adata.obs["value"] = value
    adata.obs["domain"] = pd.Categorical(rng.choice(["a", "b"], n))
    adata.obsm["X_spade"] = np.full((n, 4), value, np.float32)
    adata.uns["spade"] = {"X_spade": {"version": "1", "seed": value, "rate": 0.5, "done": True}}
    adata.uns["domain_colors"] = ["#ffffff", "#000000"]
    table = TableModel.parse(adata, region="spots", region_key="region", instance_key="spot_id")
    return SpatialData(
        images={"image": image},
        shapes={"spots": ShapesModel.parse(spots)},
        tables={"table": table},
        attrs={"spade": {"value": value, "mpp": {"image": 0.5}}},
    )
