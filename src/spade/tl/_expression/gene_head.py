"""Prediction of expression by the image-to-gene head of a tuned encoder, which needs no reference."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from spade import _keys
from spade._checks import shorten
from spade._samples.model_features import Model, features_key, read_model_features
from spade._samples.open import Samples, as_list, iter_samples
from spade._samples.sample import Sample
from spade.core.checks import brief
from spade.models import GenePanel, SealModel

logger = logging.getLogger("spade")


def predict_by_head(
    samples: Samples,
    model: Model | None,
    genes: GenePanel | Sequence[str] | None,
    use_rep: object,
    *,
    key_added: str,
    table_key: str | None,
) -> None:
    """As :func:`spade.tl.predict_expression` with ``method="head"``."""
    if not isinstance(model, SealModel):
        raise TypeError(
            f'model={model!r}: method="head" needs a SealModel, from sp.tl.train_seal or sp.models.SealModel.load.'
        )
    if not (use_rep is None or isinstance(use_rep, str)):
        raise ValueError(f"use_rep={brief(use_rep)}: a model reads one obsm key; name it, or leave it out.")
    model.check_head()
    panel = model.genes if genes is None else GenePanel.of(genes)
    columns = panel.columns(model.genes.names)
    if (columns < 0).any():
        missing = [name for name, column in zip(panel.names, columns, strict=True) if column < 0]
        raise KeyError(f"genes: {shorten(missing)} are not among the {model.n_genes} genes that the model predicts.")
    use_rep = features_key(model, use_rep)
    if use_rep == _keys.predicted(key_added):
        raise ValueError(f"key_added={key_added!r} would replace obsm[{use_rep!r}], which the prediction reads.")
    listed = as_list(samples, writes=True)
    for sample in iter_samples(listed, table_key=table_key):  # nothing is written unless all can be predicted
        read_model_features(sample, use_rep, model)
    for sample in tqdm(
        iter_samples(listed, table_key=table_key, writes=True), total=len(listed), desc="predicting", unit="sample"
    ):
        values = model.predict_expression(read_model_features(sample, use_rep, model))[:, columns]
        _write(sample, values, panel, key_added, use_rep=use_rep, model_id=model.id)


def _write(sample: Sample, values: NDArray[np.float32], panel: GenePanel, key_added: str, **facts: object) -> None:
    """Write predicted expression ``(n_obs, G)``, the names of its genes and its record."""
    key = _keys.predicted(key_added)
    sample.table.obsm[key] = values
    if _keys.predicted_deviation(key_added) in sample.table.obsm:  # of an earlier call, by another method
        del sample.table.obsm[_keys.predicted_deviation(key_added)]
    sample.table.uns[_keys.predicted_genes(key_added)] = np.array(panel.names)
    _keys.write_provenance(
        sample.table.uns,
        key,
        function="tl.predict_expression",
        method="head",
        **facts,
        fold_case=panel.fold_case or None,
    )
    sample.save()
    logger.info("%s: wrote obsm[%r], %d × %d", sample.name, key, *values.shape)
