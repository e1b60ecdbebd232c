"""Features and expression of many samples as the arrays that core works on."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from spatialdata import SpatialData

from spade import _keys
from spade._checks import shorten
from spade._samples import Sample, check_names, group_labels, iter_samples, obs_column, read_counts, read_features
from spade.core.expression.normalise import log_normalise
from spade.core.rng import numpy_stream
from spade.core.roles import NOT_USED, TRAIN, VAL
from spade.models import GenePanel, SealConfig, SealModel, SpadeConfig, SpadeModel
from spade.models._gene_names import MATCHING, common_genes

Model: TypeAlias = SpadeModel | SealModel
ROLES = {_keys.TRAIN: TRAIN, _keys.VAL: VAL}
#: Origin of features: names in the settings, and in the record that ``pp.encode_patches`` writes.
SOURCE = {"encoder": "encoder", "encoder_id": "encoder_id", "patch_um": "size_um", "patch_px": "input_px"}
#: What the features of a sample are compared with, in messages.
EARLIER = "those of the routing or samples before it are"


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


def read_expression(
    sample: Sample, panel: GenePanel, layer: str | None, normalized: bool
) -> tuple[csr_matrix, NDArray[np.bool_], NDArray[np.bool_]]:
    """Return log-normalised expression in panel order, which genes are present, and which spots have any counts."""
    values = read_counts(sample, layer, normalized)
    filled = np.asarray(abs(values).sum(1)).ravel() > 0  # zeros may be stored
    matrix, present = panel.take(
        values if normalized else log_normalise(values, panel.target_sum), sample.table.var_names
    )
    return matrix, present, filled


def check_source(sample: Sample, use_rep: str, expected: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Return what is known of the origin of ``obsm[use_rep]``, or raise if it is known not to be the expected one.

    Names are those of :class:`SpadeConfig`; what is not known of either side is not compared.
    """
    facts = _keys.read_provenance(sample.table.uns, use_rep)
    found = {name: facts[key] for name, key in SOURCE.items() if key in facts}
    found = {name: value.item() if isinstance(value, np.generic) else value for name, value in found.items()}
    known = {name: value for name, value in expected.items() if value is not None}
    if any(found.get(name, value) != value for name, value in known.items() if name != "encoder"):
        raise ValueError(
            f"{sample.name}: obsm[{use_rep!r}] comes from {_describe(found)}, but {what} from {_describe(known)}. Encode patches of "
            "the same size with the same encoder and weights."
        )
    return found | known


def _describe(source: Mapping[str, Any]) -> str:
    parts = [f"encoder {source.get('encoder')!r} (id {source.get('encoder_id')})"]
    if "patch_um" in source:
        parts.append(f"patches of {source['patch_um']:g} µm at {source.get('patch_px')} px")
    return ", ".join(parts)


def check_model(model: object, argument: str = "model") -> None:
    """Raise if this is no trained model."""
    if not isinstance(model, (SpadeModel, SealModel)):
        raise TypeError(
            f"{argument}={model!r}: expected a SpadeModel or a SealModel; read one with sp.models.SpadeModel.load(path)."
        )


def check_spade(model: object, argument: str = "model") -> None:
    """Raise if this is no mixture of experts."""
    if not isinstance(model, SpadeModel):
        raise TypeError(f"{argument}={model!r}: expected a SpadeModel; read one with sp.models.SpadeModel.load(path).")


def tuned(model: Model) -> bool:
    """Whether the model is a tuned encoder, which reads pixels."""
    return isinstance(model, SealModel) and model.reads_pixels


def features_key(model: Model, use_rep: str | None) -> str:
    """Return the key given, else that of the model's training, or of what :func:`spade.tl.embed` writes by a tuned encoder."""
    known = _keys.image(_keys.SEAL) if tuned(model) else model.config.use_rep
    if not (use_rep or known):
        raise ValueError(
            "use_rep=None, and the model does not know the key of its features: name it, such as use_rep='X_uni'."
        )
    return use_rep or known


def check_patch_size(sample: str, size_um: float, tuned_on: float | None) -> None:
    """Raise if patches are not of the size that an encoder was tuned on."""
    if tuned_on is not None and abs(size_um - tuned_on) > 1e-6:
        raise ValueError(
            f"{sample}: patches of {size_um:g} µm, but the model was tuned on patches of {tuned_on:g} µm. Make them with "
            f"sp.pp.patches(samples, size_um={tuned_on:g})."
        )


def read_model_features(sample: Sample, use_rep: str, model: Model) -> NDArray[np.floating]:
    """Return ``obsm[use_rep]``, or raise if it is not what the model was trained on."""
    if tuned(model):
        origin = _keys.read_provenance(sample.table.uns, use_rep)
        if origin.get("encoder_id") != model.id:
            raise ValueError(
                f"{sample.name}: obsm[{use_rep!r}] is not there or not by this model. Encode the patches with "
                "sp.tl.embed(samples, model), or with sp.pp.encode_patches(samples, encoder=model) and name its key with use_rep=."
            )
        check_patch_size(sample.name, origin["size_um"], model.config.patch_um)
    features = read_features(sample, use_rep)
    if features.shape[1] != model.n_features:
        raise ValueError(
            f"{sample.name}: obsm[{use_rep!r}] has {features.shape[1]} features, but the model reads {model.n_features} of "
            f"encoder {model.config.encoder!r}. Encode the patches with that encoder, or name its features with use_rep=."
        )
    if not tuned(model):
        check_source(sample, use_rep, source_of(model.config), "the model's features are")
    return features


def source_of(config: SpadeConfig | SealConfig) -> dict[str, Any]:
    """Return the origin of the features that a model was trained on."""
    return {name: getattr(config, name) for name in SOURCE}


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
        config = replace(config, **check_source(sample, config.use_rep, source_of(config), EARLIER))
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
        g, present, filled = read_expression(sample, panel, config.layer, config.normalized)
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
        warnings.warn(
            f"{', '.join(left_out)}: left out of training, as when its genes were selected (genes.dropped).",
            stacklevel=3,
        )
    for reason, count in excluded.items():
        if count:
            warnings.warn(f"{count} spots {reason} are left out of training.", stacklevel=3)
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


def read_roles(sample: Sample, split_key: str | None) -> NDArray[np.int64]:
    """Role of every row; without a split every row trains."""
    if split_key is None:
        return np.full(sample.table.n_obs, TRAIN)
    column = obs_column(sample, split_key, "split_key").astype(object)
    known = {*ROLES, _keys.TEST, _keys.GUARD}
    odd = sorted({str(value) for value in column.dropna()} - known)
    if odd:
        raise ValueError(
            f"{sample.name}: obs[{split_key!r}] has the values {shorten(odd)}; expected 'train', 'val' and 'test' ('guard' or missing: "
            "not used), as sp.pp.split writes them."
        )
    return column.map(lambda value: ROLES.get(value, NOT_USED)).to_numpy(dtype=np.int64)
