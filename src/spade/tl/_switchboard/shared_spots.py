"""Spots that all variants share: their features, expression and labels, and copies of the samples to train on."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from spatialdata import SpatialData

from spade import _keys
from spade._checks import check_classes, plural, shorten
from spade._samples.collect import Collector
from spade._samples.counts import read_expression
from spade._samples.encode import BATCH, encode_rows
from spade._samples.features import read_features
from spade._samples.obs import read_labels, section_groups
from spade._samples.open import Item, iter_samples
from spade._samples.patches import patch_record, row_centres
from spade._samples.sample import Sample, table_keys
from spade.core.arrays import Floats, Rows
from spade.encoders import Encoder
from spade.models import GenePanel
from spade.tl._training.panel import ALL_DROPPED, tell_left_out

#: ``obsm`` key of the copies for the frozen features of an encoder that SEAL fine-tunes.
FEATURES = _keys.features("frozen")


@dataclass(frozen=True)
class SharedSpots:
    """Spots of all samples that have features and expression.

    Attributes
    ----------
    samples
        Copies with only these spots and the log-normalised expression of the panel to train on; images and shapes are
        those of the user's samples.
    use_rep
        ``obsm`` key of the frozen features in the copies.
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
    patch
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
    patch: float


def read_shared_spots(
    samples: Sequence[Item],
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
    """Read all samples; features come from ``encoder`` if there is one; ``measured_layer=None`` is ``layer``."""
    key = FEATURES if use_rep is None else use_rep
    copies: list[SpatialData] = []
    collector = Collector("all variants")
    left_out: list[str] = []
    patch = 0.0
    for sample in iter_samples(samples, table_key=table_key):
        if sample.name in panel.dropped:
            left_out.append(sample.name)
            continue
        y = trained_on = _expression(sample, panel, layer, normalized=normalized)
        if measured_layer is not None:
            y = _expression(sample, panel, measured_layer, normalized=normalized)
        x, origin = _features(sample, key, encoder, patches_key)
        has_features = ~np.isnan(x).any(1)
        has_counts = _has_counts(y) & _has_counts(trained_on)
        collector.skip("without features", int((~has_features).sum()))
        collector.skip("without counts of the panel's genes", int((has_features & ~has_counts).sum()))
        rows = np.flatnonzero(has_features & has_counts)
        groups = section_groups(sample, groupby)
        group = np.array([groups[name] for name in sample.section_of_row()])
        label = np.full(sample.table.n_obs, "")
        if label_key is not None:
            label = read_labels(sample, label_key, "label_key")[0].astype(str)
        _check_sections(sample, rows)
        points, side = row_centres(sample, patches_key, required=False)
        patch = max(patch, side)
        x = x[rows]
        collector.add(
            sample, rows, {key: x}, y=y[rows], number=np.full(len(rows), len(copies)), group=group[rows],
            label=label[rows], points=points[rows],
        )  # fmt: skip
        copies.append(_copy(sample, rows, {key: x}, origin, trained_on[rows], panel))
    tell_left_out(left_out)
    if not copies:
        raise ValueError(ALL_DROPPED)
    features, columns = collector.joined()
    label = columns["label"]
    classes = [] if label_key is None else check_classes(label, label_key)
    return SharedSpots(
        samples=copies,
        use_rep=key,
        panel=GenePanel(panel.names),
        x=features[key],
        y=columns["y"],
        sample=columns["number"],
        section=columns["section"],
        group=columns["group"],
        label=np.where(label == "", -1, np.searchsorted(classes, label)) if classes else np.full(len(label), -1),
        classes=classes,
        points=columns["points"],
        patch=patch,
    )


def _has_counts(y: csr_matrix) -> NDArray[np.bool_]:
    return np.asarray(abs(y).sum(1)).ravel() > 0


def _expression(sample: Sample, panel: GenePanel, layer: str | None, *, normalized: bool) -> csr_matrix:
    """Log-normalised expression of the panel, of all rows."""
    if not sample.has_expression:
        raise ValueError(
            f"{sample.name}: has no expression (table of width 0), so no variant can be trained or measured on it; "
            "leave it out."
        )
    y, present, _ = read_expression(sample, panel, layer, normalized=normalized)
    if not present.all():
        missing = [name for name, is_present in zip(panel.names, present, strict=True) if not is_present]
        raise KeyError(
            f"{sample.name}: genes: {shorten(missing)} are not in the table. Genes are matched exactly; choose a "
            "common panel with sp.pp.select_genes(samples), or leave the sample out."
        )
    return y


def _features(
    sample: Sample, key: str, encoder: Encoder | None, patches_key: str
) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """Frozen features of all rows, and the record of their origin."""
    if encoder is None:
        return read_features(sample, key), dict(_keys.read_provenance(sample.table.uns, key))
    record = patch_record(sample, patches_key)
    if lacking := [section.name for section in sample.sections if section.region not in record["regions"]]:
        raise KeyError(f"{shorten(lacking)}: no patches to encode; run sp.pp.patches for every region first.")
    features, origin = encode_rows(sample, encoder, patches_key, BATCH)
    return features, {"function": "tl.switchboard"} | origin


def _check_sections(sample: Sample, rows: Rows) -> None:
    """Raise if a section has too few spots."""
    for section in sample.sections:
        n_spots = int(np.isin(section.rows, rows).sum())
        if n_spots < 2:
            raise ValueError(
                f"{section.name}: {plural(n_spots, 'spot')} with features and counts, expected at least 2; leave the "
                "section out."
            )


def _copy(
    sample: Sample,
    rows: Rows,
    features: dict[str, NDArray[np.float32]],
    origin: dict[str, Any],
    y: csr_matrix,
    panel: GenePanel,
) -> SpatialData:
    """Copy some rows of a sample with their features and expression; images and shapes stay those of the sample."""
    table = sample.table
    (key,) = features
    records = copy.deepcopy(dict(table.uns.get(_keys.UNS, {})))
    copied = ad.AnnData(y, obs=table.obs.iloc[rows].copy(), var=pd.DataFrame(index=list(panel.names)), obsm=features)
    regions, region_key, instance_key = table_keys(table, sample.name, sample.table_key)
    left = [region for region in regions if (copied.obs[region_key] == region).any()]  # spatialdata wants no others
    copied.uns = {
        "spatialdata_attrs": {"region": left, "region_key": region_key, "instance_key": instance_key},
        _keys.UNS: records | {key: origin},
    }
    attrs = copy.deepcopy(dict(sample.sdata.attrs))
    name = f"{sample.name}/{left[0]}" if len(left) == 1 < len(regions) else sample.name  # as the section was called
    attrs[_keys.UNS] = {**attrs.get(_keys.UNS, {}), "sample": name}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the table may annotate shapes that the sample lacks
        return SpatialData(
            images=dict(sample.sdata.images),
            shapes=dict(sample.sdata.shapes),
            tables={sample.table_key: copied},
            attrs=attrs,
        )
