"""What the variants of a switchboard share: features, expression and labels of the same spots, and who is held out."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack
from spatialdata import SpatialData

from spade import _keys
from spade._checks import shorten
from spade._samples.counts import read_expression
from spade._samples.encode import BATCH, encode_rows
from spade._samples.features import read_features
from spade._samples.obs import group_labels, read_labels
from spade._samples.open import iter_samples
from spade._samples.patches import patch_record, sample_points
from spade._samples.sample import Sample, check_names
from spade.core.arrays import Floats
from spade.core.errors import warn
from spade.core.evaluation.episodes import Episode
from spade.encoders import Encoder
from spade.models import GenePanel

Rows = NDArray[np.int64]
#: Column of the copies that says which spots train, and where they hold the features of an encoder that is tuned.
SPLIT, FEATURES = _keys.split(_keys.STEM), _keys.features("frozen")


@dataclass(frozen=True)
class SharedSpots:
    """Spots that have features and expression, of all samples together.

    Attributes
    ----------
    samples
        Copies that hold these spots alone, with the log-normalised expression of the panel to train on; images and shapes are those of the
        user.
    use_rep
        Where they hold the frozen features.
    panel
        The genes.
    x, y
        Frozen features ``(n, D)`` and log-normalised expression to measure on ``(n, G)``.
    sample
        Number of every row's sample.
    section, group
        Names per row.
    label
        Class number; -1: no label.
    classes
        Names of the classes.
    points
        ``(n, 2)`` centres in µm; NaN where there are no patches.
    guard
        Side of a patch in µm.
    """

    samples: list[SpatialData]
    use_rep: str
    panel: GenePanel
    x: NDArray[np.float32]
    y: csr_matrix
    sample: Rows
    section: NDArray[np.str_]
    group: NDArray[np.str_]
    label: Rows
    classes: list[str]
    points: Floats
    guard: float

    def training(self, fold: Fold) -> list[SpatialData]:
        """Return the copies that have spots to train on, marked in their column ``SPLIT``."""
        found = []
        for i, sdata in enumerate(self.samples):
            held_out = fold.held_out[self.sample == i]
            if not held_out.all():
                table = next(iter(sdata.tables.values()))
                table.obs[SPLIT] = np.where(held_out, _keys.TEST, _keys.TRAIN)
                found.append(sdata)
        return found


@dataclass(frozen=True)
class Fold:
    """One division into training and held-out groups.

    Attributes
    ----------
    name
        The group that is held out, or the number of the fold.
    train, test
        Rows; ``held_out`` says the same of all.
    held_out
        Whether a row is held out.
    inner
        Positions within ``train`` to learn from and to choose the ridge penalty on.
    mean, deviation
        Of every gene in training ``(G,)``.
    draws
        Labelled rows of ``train`` to learn classes from, and those of ``test``.
    """

    name: str
    train: Rows
    test: Rows
    held_out: NDArray[np.bool_]
    inner: list[tuple[Rows, Rows]]
    mean: Floats
    deviation: Floats
    draws: list[Episode]


def read_shared_spots(
    samples: Sequence[SpatialData | Path],
    panel: GenePanel,
    *,
    use_rep: str | None,
    encoder: Encoder | None,
    layer: str | None,
    measured_layer: str | None,
    normalized: bool,
    groupby: str | None,
    label_key: str | None,
    patches_key: str,
    table_key: str | None,
) -> SharedSpots:
    """Read all samples; their features are those of ``encoder`` if there is one; ``measured_layer=None`` is ``layer``."""
    key = use_rep or FEATURES
    names: list[str] = []
    copies: list[SpatialData] = []
    parts: dict[str, list[Any]] = {name: [] for name in ("x", "y", "sample", "section", "group", "label", "points")}
    side, without = 0.0, {"features": 0, "counts of the panel's genes": 0}
    for i, sample in enumerate(iter_samples(samples, table_key=table_key)):
        y = taught = _expression(sample, panel, layer, normalized)
        if measured_layer is not None:
            y = _expression(sample, panel, measured_layer, normalized)
        group = group_labels(sample, groupby)
        label = np.full(sample.table.n_obs, "")
        if label_key is not None:
            label = read_labels(sample, label_key, "label_key")[0].astype(str)
        x, origin = _features(sample, key, encoder, patches_key)
        there = ~np.isnan(x).any(1)
        filled = np.logical_and(*(np.asarray(abs(values).sum(1)).ravel() > 0 for values in (y, taught)))
        without["features"] += int((~there).sum())
        without["counts of the panel's genes"] += int((there & ~filled).sum())
        rows = np.flatnonzero(there & filled)
        _check_sections(sample, rows, group, groupby)
        names += [one.name for one in sample.sections]
        points, own_side = sample_points(sample, patches_key)
        side = max(side, own_side)
        section = sample.section_of_row()
        for name, values in (("section", section), ("group", group), ("label", label), ("points", points)):
            parts[name].append(values[rows])
        parts["x"].append(x[rows])
        parts["y"].append(y[rows])
        parts["sample"].append(np.full(len(rows), i))
        copies.append(_copy(sample, rows, key, x[rows], origin, taught[rows], panel))
    check_names(names, "sections")
    if len(widths := {part.shape[1] for part in parts["x"]}) > 1:
        raise ValueError(
            f"use_rep={use_rep!r} differs in width between samples: {sorted(widths)}. Make it alike in all."
        )
    for what, count in without.items():
        if count:
            warn(f"{count} spots without {what} are not used, for any variant.")
    label = np.concatenate(parts["label"])
    classes = sorted(set(label.tolist()) - {""})
    if label_key is not None and len(classes) < 2:
        raise ValueError(f"label_key={label_key!r}: it takes two classes to tell apart, and there is {classes}.")
    return SharedSpots(
        copies,
        key,
        GenePanel(panel.names),
        np.concatenate(parts["x"]),
        csr_matrix(vstack(parts["y"], format="csr")),
        np.concatenate(parts["sample"]),
        np.concatenate(parts["section"]),
        np.concatenate(parts["group"]),
        np.where(label == "", -1, np.searchsorted(classes, label)) if classes else np.full(len(label), -1),
        classes,
        np.concatenate(parts["points"]),
        side,
    )


def _expression(sample: Sample, panel: GenePanel, layer: str | None, normalized: bool) -> csr_matrix:
    """Log-normalised expression of the panel, of all rows."""
    if not sample.has_expression:
        raise ValueError(
            f"{sample.name}: has no expression (table of width 0), so no variant can be trained or measured on it; leave it out."
        )
    y, present, _ = read_expression(sample, panel, layer, normalized)
    if not present.all():
        missing = [name for name, there in zip(panel.names, present, strict=True) if not there]
        raise KeyError(
            f"{sample.name}: genes: {shorten(missing)} are not in the table. Genes are matched exactly; choose a common panel with "
            "sp.pp.select_genes(samples), or leave the sample out."
        )
    return y


def _features(
    sample: Sample, key: str, encoder: Encoder | None, patches_key: str
) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """Frozen features of all rows, and the record of their origin."""
    if encoder is None:
        return read_features(sample, key), dict(_keys.read_provenance(sample.table.uns, key))
    record = patch_record(sample, patches_key)
    if lacking := [one.name for one in sample.sections if one.region not in record["regions"]]:
        raise KeyError(f"{shorten(lacking)}: no patches to encode; run sp.pp.patches for every region first.")
    features, origin = encode_rows(sample, encoder, patches_key, BATCH)
    return features, {"function": "tl.switchboard"} | origin


def _check_sections(sample: Sample, rows: Rows, group: NDArray[np.str_], groupby: str | None) -> None:
    for section in sample.sections:
        own = section.rows[np.isin(section.rows, rows)]
        if len(own) < 2:
            raise ValueError(f"{section.name}: {len(own)} spots have features and counts; leave the section out.")
        if len(values := np.unique(group[own])) > 1:
            raise ValueError(
                f"{section.name}: obs[{groupby!r}] has several values ({shorten(values)}), but whole sections are held out. Choose a "
                "column that is the same throughout a section."
            )


def _copy(
    sample: Sample,
    rows: Rows,
    key: str,
    x: NDArray[np.float32],
    origin: dict[str, Any],
    y: csr_matrix,
    panel: GenePanel,
) -> SpatialData:
    """Copy some rows of a sample with their features and expression; images and shapes stay those of the sample."""
    table = sample.table
    records = copy.deepcopy(dict(table.uns.get(_keys.UNS, {})))
    own = ad.AnnData(y, obs=table.obs.iloc[rows].copy(), var=pd.DataFrame(index=list(panel.names)), obsm={key: x})
    own.uns = {"spatialdata_attrs": copy.deepcopy(table.uns["spatialdata_attrs"]), _keys.UNS: records | {key: origin}}
    attrs = copy.deepcopy(dict(sample.sdata.attrs))
    attrs[_keys.UNS] = {**attrs.get(_keys.UNS, {}), "sample": sample.name}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of shapes that the table annotates and the sample does not have
        return SpatialData(
            images=dict(sample.sdata.images),
            shapes=dict(sample.sdata.shapes),
            tables={sample.table_key: own},
            attrs=attrs,
        )
