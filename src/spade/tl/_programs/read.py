"""Read image features and targets of many samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from spade import _keys
from spade._checks import shorten
from spade._samples.collect import Collector
from spade._samples.counts import read_expression
from spade._samples.features import read_features
from spade._samples.model_features import OF_EARLIER_SAMPLES, check_keys
from spade._samples.obs import read_labels, read_roles
from spade._samples.open import Item, iter_samples
from spade._samples.patches import row_centres
from spade._samples.sample import Sample
from spade.core.roles import NOT_USED, TRAIN
from spade.models import GenePanel, ProgramConfig
from spade.models._gene_names import MATCHING, common_genes
from spade.models._rows import scale_by_section
from spade.tl._programs.rows import EXPRESSION, IMAGE, ProgramRows
from spade.tl._training.panel import ALL_DROPPED, tell_left_out


def training_panel(
    samples: Sequence[Item], genes: GenePanel | Sequence[str] | None, table_key: str | None
) -> GenePanel:
    """Return the genes given, or all that the samples have in common."""
    if genes is not None:
        return GenePanel.of(genes)
    names = {}
    for sample in iter_samples(samples, table_key=table_key):
        if not sample.has_expression:
            raise ValueError(
                f"{sample.name}: has no expression (table of width 0) and cannot be trained on; leave it out."
            )
        names[sample.name] = sample.table.var_names
    return GenePanel(tuple(sorted(common_genes(names, "Train them apart, or rename the genes."))))


def read_rows(
    samples: Sequence[Item], config: ProgramConfig, panel: GenePanel | None, table_key: str | None
) -> tuple[ProgramRows, ProgramConfig]:
    """Read the rows that train or validate and have a target; note widths and origin of the features in the settings.

    The target is expression of ``panel``, or an ``obs`` column that ``config.targets`` names.
    """
    collector, side, names, left_out = Collector("training"), 0.0, [], []
    for sample in iter_samples(samples, table_key=table_key):
        if panel is not None and sample.name in panel.dropped:
            left_out.append(sample.name)
            continue
        blocks = [read_features(sample, key) for key in config.keys]
        widths = tuple(block.shape[1] for block in blocks)
        if config.widths and widths != config.widths:
            raise ValueError(
                f"{sample.name}: use_rep={config.use_rep!r} has {widths} features, but {config.widths} in samples "
                "before it. Encode all of them alike."
            )
        origin = check_keys(sample, config, OF_EARLIER_SAMPLES)
        config = replace(config, widths=widths, **origin)
        x = np.concatenate(blocks, axis=1)
        valid, role = ~np.isnan(x).any(1), read_roles(sample, config.split_key)
        expression, labels = _targets(sample, config, panel)
        known = labels != ""
        collector.skip("without a valid patch", int((~valid).sum()))
        collector.skip("without counts" if panel is not None else "without a label", int((valid & ~known).sum()))
        rows = np.flatnonzero(valid & known & (role != NOT_USED))
        points, sample_side = row_centres(sample, _keys.PATCHES, required=False)
        side = max(side, sample_side)
        names.append(sample.name)
        collector.add(
            sample, rows, {config.use_rep: x[rows]},
            expression=expression[rows], role=role[rows], groups=labels[rows], points=points[rows],
        )  # fmt: skip
    tell_left_out(left_out)
    if not names:
        raise ValueError(ALL_DROPPED)
    features, columns = collector.joined()
    if not (columns["role"] == TRAIN).any():
        raise ValueError(f"no spot is left to train on (split_key={config.split_key!r}, targets={config.targets!r}).")
    scaled = scale_by_section(features[config.use_rep], columns["section"])
    rows_read = ProgramRows(scaled, lambda: "", **columns, samples=names, side=side)
    if config.shuffle_pairs:
        rows_read = replace(rows_read, expression=rows_read.shuffled(config.seed).expression)
    return rows_read, config


def _targets(sample: Sample, config: ProgramConfig, panel: GenePanel | None) -> tuple[csr_matrix, NDArray[np.str_]]:
    """Return expression ``(n_obs, G)`` and labels of all rows; rows without a target have the label ``""``."""
    n = sample.table.n_obs
    if panel is None:
        labels = np.full(n, IMAGE) if config.targets == IMAGE else read_labels(sample, config.targets, "targets")[0]
        return csr_matrix((n, 0), dtype=np.float32), labels.astype(str)
    if not sample.has_expression:
        raise ValueError(f"{sample.name}: has no expression (table of width 0) and cannot be trained on; leave it out.")
    expression, present, filled = read_expression(sample, panel, config.layer, normalized=False)
    if not present.all():
        missing = [name for name, is_present in zip(panel.names, present, strict=True) if not is_present]
        raise ValueError(
            f"genes: {sample.name} lacks {len(missing)} of {len(panel)}, such as {shorten(missing)}. "
            f"{MATCHING[panel.fold_case]} Choose genes that all samples have, or leave genes= out."
        )
    return expression, np.where(filled, EXPRESSION, "")
