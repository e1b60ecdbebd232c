"""Prediction of expression by a model that needs no reference: a tuned encoder's head, or clusters of expression."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from spade import _keys
from spade._checks import check_idle, shorten
from spade._said.lines import size, wrote
from spade._samples.given.output import FeatureOutput, check_out
from spade._samples.listed import Listed
from spade._samples.model_features import Model, features_key, read_model_features, read_program_features
from spade._samples.open import Item, Samples, as_list, iter_samples
from spade._samples.sample import Sample
from spade.core.checks import brief
from spade.core.files import digest
from spade.io._feature_files import GENES
from spade.models import GenePanel, ProgramModel, SealModel
from spade.tl._embedding.embed_files import OF_TABLES


def listed_for(
    samples: Samples, out: str | PathLike[str] | None, key_added: str, table_key: str | None
) -> tuple[Listed[Item], Path | None]:
    """Return the samples to predict, and the folder for what is predicted of feature files."""
    listed = as_list(samples)
    folder = check_out(listed, out)
    if folder is None:
        return as_list(listed, writes=True), None
    check_idle([("key_added", key_added, _keys.PREDICTED), ("table_key", table_key, None)], OF_TABLES)
    return listed, folder


def predict_by_head(
    samples: Samples,
    model: Model | ProgramModel | None,
    genes: GenePanel | Sequence[str] | None,
    use_rep: object,
    *,
    key_added: str,
    table_key: str | None,
    out: str | PathLike[str] | None,
) -> None:
    """As :func:`spade.tl.predict_expression` with ``method="head"``."""
    if not isinstance(model, (SealModel, ProgramModel)):
        raise TypeError(
            f'model={model!r}: method="head" needs a SealModel, from sp.tl.train_seal or sp.models.SealModel.load, or '
            "a ProgramModel."
        )
    if not (use_rep is None or isinstance(use_rep, str)):
        raise ValueError(f"use_rep={brief(use_rep)}: a model reads one obsm key; name it, or leave it out.")
    known, reader = _reader(model, use_rep)
    panel = known if genes is None else GenePanel.of(genes)
    columns = panel.columns(known.names)
    if (columns < 0).any():
        missing = [name for name, column in zip(panel.names, columns, strict=True) if column < 0]
        raise KeyError(f"genes: {shorten(missing)} are not among the {len(known)} genes that the model predicts.")
    if _keys.predicted(key_added) in reader.keys:
        raise ValueError(
            f"key_added={key_added!r} would replace obsm[{_keys.predicted(key_added)!r}], which the prediction reads."
        )
    method = "programs" if isinstance(model, ProgramModel) else "head"
    listed, folder = listed_for(samples, out, key_added, table_key)
    facts = {"method": method, "use_rep": " + ".join(reader.keys), "model_id": model.id}
    if folder is not None:
        names = np.array(panel.names)
        record = {"function": "tl.predict_expression", **facts, **panel.reading(), "genes_id": digest("\n".join(names))}
        output = FeatureOutput(folder, record)
        pending = output.pending(listed)
        for sample in tqdm(iter_samples(pending) if pending else (), total=len(pending), desc="predicting"):
            output.write(sample, reader.predict(sample)[:, columns], {GENES: names})
        return
    for sample in iter_samples(listed, table_key=table_key):  # nothing is written unless all can be predicted
        reader.features(sample)
    for sample in tqdm(
        iter_samples(listed, table_key=table_key, writes=True), total=len(listed), desc="predicting", unit="sample"
    ):
        values = reader.predict(sample)[:, columns]
        _write(sample, values, panel, key_added, **facts)


class _Reader(NamedTuple):
    """The keys that a model reads, its features of a sample, and the expression ``(n_obs, G)`` that it predicts."""

    keys: tuple[str, ...]
    features: Callable[[Sample], NDArray[np.floating]]
    predict: Callable[[Sample], NDArray[np.float32]]


def _reader(model: SealModel | ProgramModel, use_rep: str | None) -> tuple[GenePanel, _Reader]:
    """Return the genes that a model predicts, and how; raise if it cannot predict any."""
    if isinstance(model, SealModel):
        model.check_head()
        key = features_key(model, use_rep)

        def features(sample: Sample) -> NDArray[np.floating]:
            return read_model_features(sample, key, model)

        return model.genes, _Reader((key,), features, lambda sample: model.predict_expression(features(sample)))
    genes = model.check_expression("predict_expression")
    check_idle([("use_rep", use_rep, None)], f"this model reads {model.config.use_rep}")

    def predict(sample: Sample) -> NDArray[np.float32]:
        return model.predict_expression(read_program_features(sample, model), sample.section_of_row())

    return genes, _Reader(model.config.keys, lambda sample: read_program_features(sample, model), predict)


def _write(sample: Sample, values: NDArray[np.float32], panel: GenePanel, key_added: str, **facts: object) -> None:
    """Write predicted expression ``(n_obs, G)``, the names of its genes and its record."""
    key = _keys.predicted(key_added)
    sample.table.obsm[key] = values
    if _keys.predicted_deviation(key_added) in sample.table.obsm:  # of an earlier call, by another method
        del sample.table.obsm[_keys.predicted_deviation(key_added)]
        _keys.forget_provenance(sample.table.uns, _keys.predicted_deviation(key_added))
    sample.table.uns[_keys.predicted_genes(key_added)] = np.array(panel.names)
    _keys.write_provenance(
        sample.table.uns,
        key,
        function="tl.predict_expression",
        **facts,
        **panel.reading(),
    )
    sample.save()
    wrote(sample.name, f"obsm[{key!r}]", detail=size(values))
