"""Scores of a classification as rows of a table, and where such a table is stored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spade import _keys
from spade._said.lines import wrote
from spade._samples.open import Item, iter_samples
from spade.core.arrays import Floats
from spade.core.evaluation.metrics import balanced_accuracy, macro_auroc, macro_f1, recalls

RECALL = "recall"
#: One row of a table of results, by column.
Row: TypeAlias = dict[str, str | int | float]


def scores(truth: NDArray[np.int64], probabilities: Floats, classes: list[str]) -> Iterator[Row]:
    """Yield the scores of one unit over the classes in its truth; ``label`` is the class of a recall, else ``""``."""
    predicted, n = probabilities.argmax(1), len(classes)
    for metric, value in (
        ("balanced_accuracy", balanced_accuracy(truth, predicted, n)),
        ("macro_auroc", macro_auroc(truth, probabilities)),
        ("macro_f1", macro_f1(truth, predicted, n)),
    ):
        yield {"metric": metric, "label": "", "value": value, "n_query": len(truth)}
    for k, value in enumerate(recalls(truth, predicted, n)):
        if not np.isnan(value):
            yield {"metric": RECALL, "label": classes[k], "value": value, "n_query": int((truth == k).sum())}


def store_table(item: Item, table: pd.DataFrame, key: str, table_key: str | None, **facts: object) -> None:
    """Write a table and its provenance to ``uns[key]`` of one sample."""
    for sample in iter_samples([item], table_key=table_key, writes=True):
        sample.table.uns[key] = table.copy()
        _keys.write_provenance(sample.table.uns, key, **facts)
        sample.save()
        wrote(sample.name, f"uns[{key!r}]")
