"""What must hold for every function: copies of a small section, and comparisons before and after a call."""

from __future__ import annotations

import copy
from contextlib import contextmanager
from functools import cache

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.sparse import csr_matrix, issparse
from spatialdata import SpatialData

import spade as sp
from helpers.sections import featured


@cache
def _sections() -> list[SpatialData]:
    """Sections with patches, features, labels, a split, a layer and keys of others."""
    samples = [featured(name=f"s{i}", seed=i, mpp=1.0) for i in range(3)]
    for number, sdata in enumerate(samples):
        table = sdata["table"]
        rng = np.random.default_rng(number)
        table.obs["organ_of_section"] = pd.Categorical([["lung", "skin"][number % 2]] * table.n_obs)
        table.obs["part"] = pd.Categorical(rng.choice(["train", "val"], table.n_obs, p=[0.8, 0.2]))
        table.obs["array_row"], table.obs["array_col"] = np.arange(36) // 6, np.arange(36) % 6
        table.obs["theirs"] = rng.normal(size=table.n_obs)
        table.var["theirs"] = rng.normal(size=table.n_vars)
        table.obsm["X_theirs"] = rng.normal(size=(table.n_obs, 2))
        table.layers["theirs"] = csr_matrix(table.X * 2)
        table.uns["theirs"] = {"a": np.arange(3)}
    sp.pp.patches(samples, size_um=40, size_px=40)
    return samples


def section(number: int) -> SpatialData:
    """A fresh copy of a section; images and shapes are shared."""
    source = _sections()[number]
    return SpatialData(
        images=dict(source.images),
        shapes={name: shapes.copy() for name, shapes in source.shapes.items()},
        tables={"table": source["table"].copy()},
        attrs=copy.deepcopy(source.attrs),
    )


def order_of(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(n)


def shuffled(sdata: SpatialData, seed: int) -> SpatialData:
    """The same section with the rows of its table in another order."""
    sdata.tables["table"] = sdata["table"][order_of(sdata["table"].n_obs, seed)].copy()
    return sdata


def contents(table: AnnData) -> dict[tuple[str, str], object]:
    """Everything in a table, by place and key."""
    found: dict[tuple[str, str], object] = {("X", ""): table.X}
    for place in ("obs", "var", "obsm", "layers", "uns"):
        holder = getattr(table, place)
        found |= {(place, key): holder[key] for key in holder if key is not None}
    records = found.pop(("uns", "spade"), {})
    return found | {("record", key): record for key, record in records.items()}


def same(one: object, other: object) -> None:
    if isinstance(one, pd.Series):
        pd.testing.assert_series_equal(one, other)
    elif issparse(one):
        assert one.dtype == other.dtype
        for part in ("data", "indices", "indptr"):
            np.testing.assert_array_equal(getattr(one, part), getattr(other, part))
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key, value in one.items():
            same(value, other[key])
    elif isinstance(one, pd.DataFrame):
        pd.testing.assert_frame_equal(one, other)
    else:
        np.testing.assert_equal(one, other)


@contextmanager
def unchanged(samples: list[SpatialData], options: dict, written: set[str]):
    """Raise if a call changes rows, keys other than those it writes, elements or its arguments."""
    before = [(contents(s["table"].copy()), s["table"].obs_names, s["table"].var_names, set(s.shapes)) for s in samples]
    given = copy.deepcopy(options)
    images = [list(map(id, s.images.values())) for s in samples]
    yield
    for sdata, (kept, rows, genes, shapes), same_images in zip(samples, before, images, strict=True):
        table = sdata["table"]
        assert table.obs_names.equals(rows)
        assert table.var_names.equals(genes)
        after = contents(table)
        new = {key for _, key in set(after) - set(kept)}
        assert {key.removesuffix("_colors") for key in new} <= written, new
        for place, value in kept.items():
            assert place in after, place
            if place[1].removesuffix("_colors") not in written:
                same(value, after[place])
        assert set(sdata.shapes) - written == shapes
        assert list(map(id, sdata.images.values())) == same_images
    for name, value in given.items():
        same(value, options[name])


def following(one: AnnData, other: AnnData, written: set[str], rtol: float = 1e-5) -> None:
    """Raise unless rows of one table have the values of the rows of the same name in the other."""
    rows = other.obs_names.get_indexer(one.obs_names)
    assert (rows >= 0).all()
    n = 0
    for place, value in contents(one).items():
        if place[1] not in written or place[0] in ("uns", "record"):
            continue
        n += 1
        theirs = contents(other)[place]
        if place[0] == "var":
            same(value, theirs)
            continue
        if place[0] == "obs" and value.dtype.kind in "fc":
            np.testing.assert_allclose(value.to_numpy(), theirs.to_numpy()[rows], rtol=rtol, atol=1e-6)
        elif place[0] == "obs":
            assert value.astype(str).tolist() == theirs.astype(str).iloc[rows].tolist()
        else:
            a, b = (x.toarray() if issparse(x) else np.asarray(x) for x in (value, theirs))
            np.testing.assert_allclose(a, b[rows], rtol=rtol, atol=1e-6)
    assert n, f"none of {written} was written"
