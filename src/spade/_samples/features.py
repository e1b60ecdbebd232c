"""Image features and representations of a sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from spade._checks import shorten
from spade._samples.sample import Sample
from spade.core.arrays import Floats, scale_of
from spade.core.checks import brief, check_choice, check_ordered, check_text
from spade.io._files.matrices import to_dense

SCALINGS = ("section", "support", "none")
#: A representation: an ``obsm`` key, or several keys whose features are concatenated.
Representation = str | tuple[str, ...]


def read_features(sample: Sample, use_rep: str) -> NDArray[np.float32]:
    """Return ``obsm[use_rep]`` as float32 ``(n_obs, d)``; a row is all NaN (no valid patch) or has no NaN."""
    table = sample.table
    check_text("use_rep", use_rep)
    if use_rep not in table.obsm:
        raise KeyError(
            f"{sample.name}: use_rep={use_rep!r} is not in obsm; there is {shorten(table.obsm) or 'nothing'}. Image "
            "features are made by sp.pp.encode_patches(samples)."
        )
    sample.check_current(use_rep)
    features = to_dense(table.obsm[use_rep], f"{sample.name}: obsm[{use_rep!r}]")
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
            f"{shorten(table.obs_names[partial], 3)}. Only rows without a valid patch may be NaN, in every column."
        )
    return features


def named_representations(use_rep: object) -> dict[str, tuple[str, ...]]:
    """Return a name and the keys of every representation asked for."""
    if isinstance(use_rep, (str, tuple)):
        use_rep = [use_rep]
    check_ordered("use_rep", use_rep)
    asked = list(use_rep.values()) if isinstance(use_rep, Mapping) else use_rep
    if not isinstance(asked, Sequence) or not asked or not all(map(_is_representation, asked)):
        raise ValueError(
            f"use_rep={brief(use_rep)}: expected an obsm key, a tuple of keys whose features are concatenated, a list "
            "of these, or a dict that names them."
        )
    keys = [(one,) if isinstance(one, str) else tuple(one) for one in asked]
    names = map(str, use_rep) if isinstance(use_rep, Mapping) else map(" + ".join, keys)
    return dict(zip(names, keys, strict=True))


def _is_representation(value: object) -> bool:
    """Whether a value is an ``obsm`` key, or several of them."""
    keys = [value] if isinstance(value, str) else value
    return isinstance(keys, Sequence) and bool(keys) and all(isinstance(key, str) and key for key in keys)


def column_scale(x: NDArray[np.floating]) -> tuple[Floats, Floats]:
    """Mean and deviation of every column; that of a constant column is 1."""
    mean = x.mean(0, dtype=np.float64)
    return mean, scale_of(mean, x.var(0, dtype=np.float64))


def support_scale(support: NDArray[np.floating], scaling: str) -> tuple[Floats, Floats]:
    """Mean and deviation to scale rows by, as ``(x - mean) / deviation``, once the support is known."""
    return column_scale(support) if scaling == "support" else (np.zeros(support.shape[1]), np.ones(support.shape[1]))


def read_representations(
    sample: Sample, named: Mapping[str, tuple[str, ...]], scaling: str
) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.int64]]:
    """Return every representation of the rows that have all of them, and these rows."""
    blocks = {key: read_features(sample, key) for keys in named.values() for key in keys}
    rows = np.flatnonzero(np.logical_and.reduce([~np.isnan(block).any(1) for block in blocks.values()]))
    if scaling == "section":
        section = sample.section_of_row()
        for key, block in blocks.items():
            scaled = np.full_like(block, np.nan)
            for name in np.unique(section[rows]):
                section_rows = rows[section[rows] == name]
                mean, deviation = column_scale(block[section_rows])
                scaled[section_rows] = (block[section_rows] - mean) / deviation
            blocks[key] = scaled
    return {name: np.concatenate([blocks[key][rows] for key in keys], 1) for name, keys in named.items()}, rows


def check_scaling(scaling: str, named: Mapping[str, tuple[str, ...]]) -> None:
    """Raise if the scaling is unknown or does not suit the representations."""
    check_choice("scaling", scaling, SCALINGS)
    if scaling == "none" and (several := [name for name, keys in named.items() if len(keys) > 1]):
        raise ValueError(
            f'scaling="none": {shorten(several)} concatenates features of different scales. Use "section" or "support".'
        )
