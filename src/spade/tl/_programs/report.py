"""Which clusters and programs can be predicted, and the genes that go with them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from spade.core.arrays import Floats
from spade.core.expression.activity import gene_correlations
from spade.core.roles import TRAIN
from spade.tl._programs.clusterings import Clusterings
from spade.tl._programs.rows import ProgramRows

#: A score counts as predictable if it is above this, and three standard errors above chance.
MIN_AUROC, MIN_CORRELATION, ERRORS = 0.65, 0.25, 3
N_TOP_GENES = 5
COLUMNS = ["kind", "column", "n_clusters", "name", "measure", "held_out", "predictable", "n_spots", "genes"]


def report(
    rows: ProgramRows,
    found: Clusterings,
    activity: Floats,
    scores: tuple[Floats, Floats],
    centred: Floats,
    genes: Sequence[str],
) -> pd.DataFrame:
    """Return a row per cluster and program: how well held-out rows are predicted, and the genes that go with it."""
    train = rows.role == TRAIN
    entries: list[list[object]] = []
    member = np.concatenate(
        [(found.labels[train, [column]][:, None] == np.arange(k)) for column, k in enumerate(found.sizes)], axis=1
    ).astype(np.float64)
    top = _top_genes(np.concatenate([member, activity[train]], axis=1), centred[train], genes)
    n, sizes = int(train.sum()), np.repeat(found.sizes, found.sizes).tolist()
    for column, score in enumerate([*scores[0], *scores[1]]):
        genes_of, k = ", ".join(top[column]), member.shape[1]
        short = ", ".join(top[column][:3])
        if column < k:
            spots = int(member[:, column].sum())
            chance = 0.5 + ERRORS * np.sqrt((n + 1) / (12 * max(spots, 1) * max(n - spots, 1)))
            name = found.names[column] if found.names else short or f"image cluster {column}"
            facts = [
                "cluster",
                column,
                sizes[column],
                name,
                "auroc",
                float(score),
                bool(score > max(MIN_AUROC, chance)),
            ]
        else:
            spots = int((activity[train, column - k] > 0).sum())
            good = bool(score > max(MIN_CORRELATION, ERRORS / np.sqrt(n)))
            facts = ["program", column, 0, short, "correlation", float(score), good]
        entries.append([*facts, spots, genes_of])
    return pd.DataFrame(entries, columns=COLUMNS)


def _top_genes(scores: Floats, centred: Floats, genes: Sequence[str]) -> list[list[str]]:
    """Return the genes that correlate most with every score; none if there is no expression."""
    if not centred.shape[1]:
        return [[] for _ in range(scores.shape[1])]
    order = np.argsort(-gene_correlations(scores, centred), axis=1, kind="stable")[:, :N_TOP_GENES]
    return [[genes[i] for i in row] for row in order]
