"""Features and expression of many samples as the arrays that core works on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from spatialdata import SpatialData

from spade import _keys
from spade._samples.counts import read_expression
from spade._samples.features import read_features
from spade._samples.model_features import OF_EARLIER_SAMPLES, check_source, source_of
from spade._samples.obs import group_labels, read_roles
from spade._samples.open import iter_samples
from spade._samples.sample import Sample, check_names
from spade.core.errors import warn
from spade.core.rng import numpy_stream
from spade.core.roles import NOT_USED, TRAIN
from spade.models import GenePanel
from spade.models._gene_names import MATCHING, common_genes


@dataclass
class TrainingData:
    """Rows of all samples together; rows that cannot be used are not among them."""

    features: Any
    expression: csr_matrix
    role: NDArray[np.int64]
    groups: NDArray[np.str_]
    section: NDArray[np.str_]
    samples: list[str]

    def shuffled(self, seed: int) -> TrainingData:
        """Deal the expression anew among the rows of each section and role."""
        rows = np.arange(len(self.role))
        for index, pair in enumerate(sorted(set(zip(self.section.tolist(), self.role.tolist(), strict=True)))):
            own = np.flatnonzero((self.section == pair[0]) & (self.role == pair[1]))
            rows[own] = numpy_stream(seed, "shuffled pairs", index).permutation(own)
        return replace(self, expression=self.expression[rows])

    def trained_on(self) -> NDArray[np.float32]:
        """Features of the rows to train on, copied only if they are not all."""
        train = self.role == TRAIN
        return self.features if train.all() else self.features[train]


def resolve_panel(
    samples: Sequence[SpatialData | Path], genes: GenePanel | Sequence[str] | None, table_key: str | None
) -> GenePanel:
    """Return the panel given, or the one that ``pp.select_genes`` marked in the samples."""
    if genes is not None:
        return GenePanel.of(genes)
    key = _keys.gene(_keys.STEM)
    marked: dict[str, GenePanel] = {}
    dropped = []
    for sample in iter_samples(samples, table_key=table_key):
        if sample.has_expression and key in sample.table.var:
            genes_marked = sample.table.var_names[sample.table.var[key].to_numpy(dtype=bool)]
            fold_case = bool(_keys.read_provenance(sample.table.uns, key).get("fold_case", False))
            if len(genes_marked):
                names = map(str.upper, genes_marked) if fold_case else genes_marked
                marked[sample.name] = GenePanel(tuple(sorted(names)), fold_case=fold_case)
            else:
                dropped.append(sample.name)
    if not marked:
        raise ValueError(
            f"genes=None, and no sample has var[{key!r}]: choose genes with sp.pp.select_genes(samples), or pass a list of names."
        )
    if len(set(marked.values())) > 1:
        sizes = ", ".join(f"{name}: {len(names)}" for name, names in marked.items())
        raise ValueError(
            f"genes=None, but var[{key!r}] differs between samples ({sizes}). Run sp.pp.select_genes on all of them."
        )
    return replace(next(iter(marked.values())), dropped=tuple(dropped))


class FeatureReader:
    """Image features of samples that come one after another, put together."""

    def __init__(self) -> None:
        self.parts: list[NDArray[np.float32]] = []
        self.widths: dict[str, int] = {}

    def read(self, sample: Sample, config: Any) -> tuple[NDArray[np.bool_], Any]:
        """Read a sample; return which rows have features, and the settings with their origin."""
        self.x = read_features(sample, config.use_rep)
        config = replace(config, **check_source(sample, config.use_rep, source_of(config), OF_EARLIER_SAMPLES))
        self.widths[sample.name] = self.x.shape[1]
        if len(set(self.widths.values())) > 1:
            raise ValueError(
                f"obsm[{config.use_rep!r}] differs in width between samples: {self.widths}. Encode all of them alike."
            )
        return np.asarray(~np.isnan(self.x).any(1)), config

    def keep(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Keep some rows of the sample that was read last; return them in the order they are kept in."""
        self.parts.append(self.x[rows])
        return rows

    def joined(self) -> NDArray[np.float32]:
        """All rows that were kept."""
        return _joined(self.parts)


def load_training(
    samples: Sequence[SpatialData | Path],
    config: Any,
    panel: GenePanel,
    table_key: str | None,
    images: Any = None,
    *,
    keep_unused: bool = True,
) -> tuple[TrainingData, Any]:
    """Read every usable row of every sample, and note the origin of the images in the settings.

    ``images`` reads them, as :class:`FeatureReader` does, which is taken if it is None. Without ``keep_unused`` rows that neither train nor
    validate are left out.
    """
    images = images or FeatureReader()
    expression, role, groups, section, left_out = [], [], [], [], []
    excluded = {"without a valid patch": 0, "without counts": 0}
    n_usable = 0
    absent: dict[str, int] = {}
    var_names: dict[str, pd.Index] = {}
    groupby = getattr(config, "groupby", None)
    for sample in iter_samples(samples, table_key=table_key):
        names = sample.table.var_names
        if sample.name in panel.dropped and (panel.columns(names) < 0).any():
            left_out.append(sample.name)
            continue
        check_names([*var_names, sample.name])
        if not sample.has_expression:
            raise ValueError(
                f"{sample.name}: has no expression (table of width 0) and cannot be trained on; leave it out."
            )
        valid, config = images.read(sample, config)
        var_names[sample.name] = names
        g, present, filled = read_expression(sample, panel, config.layer, normalized=config.normalized)
        absent[sample.name] = int((~present).sum())
        excluded["without a valid patch"] += int((~valid).sum())
        excluded["without counts"] += int((valid & ~filled).sum())
        roles = read_roles(sample, config.split_key)
        n_usable += int((valid & filled).sum())
        rows = images.keep(np.flatnonzero(valid & filled & (keep_unused | (roles != NOT_USED))))
        expression.append(g[rows])
        role.append(roles[rows])
        section.append(sample.section_of_row()[rows])
        groups.append(group_labels(sample, groupby)[rows] if groupby else np.zeros(len(rows), dtype="U1"))
    if not var_names:
        raise ValueError("samples: none is left to train on; all were dropped when the genes were selected.")
    if any(absent.values()):
        listed = ", ".join(f"{name} lacks {count} of {len(panel)}" for name, count in absent.items() if count)
        raise ValueError(
            f"genes: training needs every gene of the panel in every sample, but {listed}. {MATCHING[panel.fold_case]} Are the samples of different species, or "
            "named by other ids? Choose a common panel with sp.pp.select_genes(samples)."
        )
    common_genes(var_names, "Train them apart, or rename the genes.", panel.fold_case)
    if left_out:
        warn(f"{', '.join(left_out)}: left out of training, as when its genes were selected (genes.dropped).")
    for reason, count in excluded.items():
        if count:
            warn(f"{count} spots {reason} are left out of training.")
    if not any((part == TRAIN).any() for part in role):
        raise ValueError(f"no spot is left to train on among {n_usable} usable ones (split_key={config.split_key!r}).")
    data = TrainingData(
        images.joined(),
        _stacked(expression),
        np.concatenate(role),
        np.concatenate(groups),
        np.concatenate(section),
        list(var_names),
    )
    if config.shuffle_pairs:
        data = data.shuffled(config.seed)
    return data, config


def _joined(parts: list[Any]) -> NDArray[Any]:
    """Concatenate arrays; each is let go once it is copied, so that no two copies of all are in memory."""
    out = np.empty((sum(map(len, parts)), *parts[0].shape[1:]), np.result_type(*parts))
    start = 0
    while parts:
        part = parts.pop(0)
        out[start : start + len(part)] = part
        start += len(part)
    return out


def _stacked(parts: list[csr_matrix]) -> csr_matrix:
    """As :func:`_joined`, of the rows of CSR matrices."""
    width = parts[0].shape[1]
    counts = _joined([np.diff(part.indptr) for part in parts])
    indices, data = [part.indices for part in parts], [part.data for part in parts]
    parts.clear()
    indptr = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    return csr_matrix((_joined(data), _joined(indices), indptr), shape=(len(counts), width))
