"""Image features and representations of a sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from spade import _keys
from spade._checks import shorten
from spade._samples.sample import Sample
from spade.core.arrays import Floats, Rows
from spade.core.checks import brief, check_choice, check_not_negative, check_ordered, check_text
from spade.core.errors import warn
from spade.core.evaluation.scaling import column_scale, within_sections
from spade.io._feature_files import FEATURES
from spade.io._files.matrices import to_dense

SCALINGS = ("block", "section", "support", "none")
#: What other programs make of the expression of a spot, and how keys of it end that ``tl.embed`` writes.
MADE_OF_EXPRESSION, OF_EXPRESSION = ("X_pca", "X_umap", "X_tsne", "X_diffmap", "X_scVI"), "_expression"
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


def key_in(sample: Sample, use_rep: str) -> str:
    """Return the key under which a sample has a representation that a model or a reference has as ``use_rep``.

    A feature file of an encoder has but one representation, whatever the others call theirs.
    """
    if sample.file is None or use_rep in sample.table.obsm:
        return use_rep
    maker = _keys.read_provenance(sample.table.uns, FEATURES).get("function", "")
    if maker != _keys.FEATURE_FILE:
        raise ValueError(
            f"{sample.name}: {str(sample.file)!r} holds what sp.{maker} wrote, not {use_rep!r}. Pass the feature files "
            f"of the encoder, or name what there is with use_rep=: {shorten(sample.table.obsm)}."
        )
    return FEATURES


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


def check_scaling(scaling: str) -> None:
    """Raise if the scaling is unknown."""
    check_choice("scaling", scaling, SCALINGS)


def check_weights(weights: object, named: Mapping[str, tuple[str, ...]]) -> dict[str, float]:
    """Return the weight of every block that has one; none with ``"auto"``, which chooses them later."""
    if weights is None or (isinstance(weights, str) and weights == "auto"):
        return {}
    blocks = {key for keys in named.values() if len(keys) > 1 for key in keys}
    if not isinstance(weights, Mapping):
        raise ValueError(f'weights={brief(weights)}: expected "auto", or a dict from obsm key to weight.')
    if idle := [key for key in weights if key not in blocks]:
        raise ValueError(
            f"weights: {shorten(idle)} is not among the keys of a tuple in use_rep; these are "
            f"{shorten(sorted(blocks)) or 'none'}. A weight only has a meaning beside other keys."
        )
    return {str(key): check_not_negative(f"weights[{key!r}]", weight) for key, weight in weights.items()}


def support_scale(support: NDArray[np.floating], scaling: str) -> tuple[Floats, Floats]:
    """Mean and deviation to scale rows by, as ``(x - mean) / deviation``, once the support is known."""
    return column_scale(support) if scaling == "support" else (np.zeros(support.shape[1]), np.ones(support.shape[1]))


def read_blocks(
    sample: Sample, named: Mapping[str, tuple[str, ...]], scaling: str, weights: Mapping[str, float]
) -> tuple[dict[str, NDArray[np.float32]], Rows]:
    """Return the features of every key, scaled and weighted, of the rows that have all of them, and these rows."""
    blocks = {key: read_features(sample, key) for key in dict.fromkeys(key for keys in named.values() for key in keys)}
    rows = np.flatnonzero(np.logical_and.reduce([~np.isnan(block).any(1) for block in blocks.values()]))
    section = sample.section_of_row()[rows]
    for key, block in blocks.items():
        values: NDArray[np.floating] = block[rows]
        if scaling in ("block", "section"):
            by_column = scaling == "section" or is_image_features(sample, key)
            values = within_sections(values, section, block=scaling == "block", by_column=by_column)
        blocks[key] = np.asarray(values * weights.get(key, 1.0), dtype=np.float32)
    return blocks, rows


def read_representations(
    sample: Sample, named: Mapping[str, tuple[str, ...]], scaling: str
) -> tuple[dict[str, NDArray[np.float32]], Rows]:
    """Return every representation of the rows that have all of them, and these rows."""
    blocks, rows = read_blocks(sample, named, scaling, {})
    return beside(named, blocks), rows


def beside(
    named: Mapping[str, tuple[str, ...]], blocks: Mapping[str, NDArray[np.float32]]
) -> dict[str, NDArray[np.float32]]:
    """Put the blocks of every representation side by side."""
    return {
        name: blocks[keys[0]] if len(keys) == 1 else np.concatenate([blocks[key] for key in keys], 1)
        for name, keys in named.items()
    }


def block_widths(
    named: Mapping[str, tuple[str, ...]], blocks: Mapping[str, NDArray[np.float32]]
) -> dict[str, list[int]]:
    """Return the number of columns of every block of every representation."""
    return {name: [blocks[key].shape[1] for key in keys] for name, keys in named.items()}


def is_image_features(sample: Sample, key: str) -> bool:
    """Whether an encoder wrote ``obsm[key]``, or it is the context of such features."""
    record = _keys.read_provenance(sample.table.uns, key)
    if record.get("function") == "pp.spatial_context":
        return is_image_features(sample, str(record.get("use_rep", "")))
    return record.get("function") in _keys.ENCODING


def holds_expression(sample: Sample, key: str) -> bool:
    """Whether ``obsm[key]`` was made from the measured expression of the spots themselves, as far as is known."""
    record = _keys.read_provenance(sample.table.uns, key)
    if record.get("function") in ("pp.spatial_context", "tl.umap"):
        return holds_expression(sample, str(record.get("use_rep", "")))
    if record.get("function") == _keys.PATHWAY_SCORING:
        return "predicted" not in record
    if record.get("function") == "tl.embed":
        obsm = sample.table.obsm
        return any(
            key == name or (key == name.removesuffix(OF_EXPRESSION)) for name in obsm if name.endswith(OF_EXPRESSION)
        )
    return key in MADE_OF_EXPRESSION


def warn_of_expression(sample: Sample, named: Mapping[str, tuple[str, ...]], what: str) -> None:
    """Warn of representations with the measured expression of the spots that are classified."""
    for name, keys in named.items():
        if own := [key for key in keys if holds_expression(sample, key)]:
            warn(
                f"use_rep={name!r}: obsm[{own[0]!r}] of {sample.name} was made from the measured expression of the "
                f"spots. {what} then say how well expression tells the classes; tissue that has only an image will "
                "do worse. The image side alone is in keys such as 'X_spade_image' or 'X_programs'."
            )
