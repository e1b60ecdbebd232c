"""Image features and representations of a sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse

from spade._checks import shorten
from spade._samples.sample import Sample
from spade.core.arrays import Floats, scale_of

SCALINGS = ("section", "support", "none")
#: A representation: an ``obsm`` key, or several that are put side by side.
Representation = str | tuple[str, ...]


def read_features(sample: Sample, use_rep: str) -> NDArray[np.float32]:
    """Return ``obsm[use_rep]`` as float32 ``(n_obs, d)``; a row is NaN throughout (no valid patch) or not at all."""
    table = sample.table
    if use_rep not in table.obsm:
        raise KeyError(
            f"{sample.name}: use_rep={use_rep!r} is not in obsm; there is {shorten(table.obsm) or 'nothing'}. Image "
            "features are made by sp.pp.encode_patches(samples)."
        )
    values = table.obsm[use_rep]
    if issparse(values):
        values = values.toarray()
    features = np.asarray(values, dtype=np.float32)
    if features.ndim != 2 or features.shape[1] == 0:
        raise ValueError(
            f"{sample.name}: obsm[{use_rep!r}] has shape {features.shape}; expected (n_obs, d) with d > 0."
        )
    if np.isinf(features).any():
        raise ValueError(f"{sample.name}: obsm[{use_rep!r}] has infinite values. Encode the patches again.")
    missing = np.isnan(features)
    partial = missing.any(1) & ~missing.all(1)
    if partial.any():
        raise ValueError(
            f"{sample.name}: obsm[{use_rep!r}] has NaN in part of {int(partial.sum())} rows, such as "
            f"{shorten(table.obs_names[partial], 3)}. Only rows without a valid patch may be NaN, and then throughout."
        )
    return features


def named_representations(use_rep: object) -> dict[str, tuple[str, ...]]:
    """Return a name and the keys of every representation asked for."""
    if isinstance(use_rep, (str, tuple)):
        use_rep = [use_rep]
    if isinstance(use_rep, Mapping):
        named = dict(use_rep)
    elif isinstance(use_rep, Sequence):
        named = {one if isinstance(one, str) else " + ".join(map(str, one)): one for one in use_rep}
    else:
        named = {}
    keys = {name: (one,) if isinstance(one, str) else tuple(one) for name, one in named.items()}
    if not keys or not all(one and all(isinstance(key, str) for key in one) for one in keys.values()):
        raise ValueError(
            f"use_rep={use_rep!r}: expected an obsm key, a tuple of keys that are put side by side, a list of these, or a dict that "
            "names them."
        )
    return keys


def column_scale(x: NDArray[np.floating]) -> tuple[Floats, Floats]:
    """Mean and deviation of every column; a constant one gets deviation 1."""
    mean = x.mean(0, dtype=np.float64)
    return mean, scale_of(mean, x.var(0, dtype=np.float64))


def support_scale(support: NDArray[np.floating], scaling: str) -> tuple[Floats, Floats]:
    """What rows are scaled by, as ``(x - mean) / deviation``, once the support is known."""
    return column_scale(support) if scaling == "support" else (np.zeros(support.shape[1]), np.ones(support.shape[1]))


def read_representations(
    sample: Sample, named: Mapping[str, tuple[str, ...]], scaling: str
) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.int64]]:
    """Return every representation, over the rows that have all of them, and these rows."""
    blocks = {key: read_features(sample, key) for keys in named.values() for key in keys}
    there = np.logical_and.reduce([~np.isnan(block).any(1) for block in blocks.values()])
    rows = np.flatnonzero(there)
    if scaling == "section":
        of_row = sample.section_of_row()
        for key, block in blocks.items():
            scaled = np.full_like(block, np.nan)
            for name in np.unique(of_row[rows]):
                own = rows[of_row[rows] == name]
                mean, deviation = column_scale(block[own])
                scaled[own] = (block[own] - mean) / deviation
            blocks[key] = scaled
    return {name: np.concatenate([blocks[key][rows] for key in keys], 1) for name, keys in named.items()}, rows


def check_scaling(scaling: str, named: Mapping[str, tuple[str, ...]]) -> None:
    """Raise if features cannot be scaled so."""
    if scaling not in SCALINGS:
        raise ValueError(f"scaling={scaling!r}: expected one of {', '.join(map(repr, SCALINGS))}.")
    if scaling == "none" and (several := [name for name, keys in named.items() if len(keys) > 1]):
        raise ValueError(
            f'scaling="none": {shorten(several)} puts features of different scale side by side. Use "section" or "support".'
        )
