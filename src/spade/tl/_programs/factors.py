"""Genes that vary, expression centred within sections, and its programs."""

from __future__ import annotations

import warnings

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.decomposition import NMF
from sklearn.exceptions import ConvergenceWarning

from spade.core.arrays import Floats, Rows
from spade.core.expression.activity import program_activity
from spade.core.rng import as_seed, numpy_stream
from spade.core.roles import TRAIN
from spade.models import ProgramConfig
from spade.models._rows import scale_by_section
from spade.tl._programs.rows import ProgramRows

#: Genes that are chosen, the share of the spots that they must occur in, and the fewest to choose from.
N_GENES, MIN_SHARE, FEWEST = 1_000, 0.1, 10


def variable_columns(rows: ProgramRows) -> Rows:
    """Return the columns of the genes that vary most within sections, among those in a tenth of the training spots."""
    train = rows.role == TRAIN
    y = rows.expression[train]
    share = np.asarray((y > 0).mean(0)).ravel()
    squares = np.zeros(y.shape[1])
    for name in np.unique(rows.section[train]):
        part = y[rows.section[train] == name]
        mean = np.asarray(part.mean(0)).ravel()
        squares += np.asarray(part.multiply(part).sum(0)).ravel() - part.shape[0] * mean**2
    frequent = np.flatnonzero(share >= MIN_SHARE)
    if len(frequent) <= FEWEST:
        raise ValueError(
            f"genes=None: only {len(frequent)} genes of all samples are found in {MIN_SHARE:.0%} of the spots; name "
            "the genes with genes=."
        )
    return np.sort(frequent[np.argsort(-squares[frequent], kind="stable")[:N_GENES]])


def centred_expression(rows: ProgramRows) -> tuple[Floats, Floats]:
    """Return expression minus its mean over the training rows of each section, and the mean of these means.

    A section without training rows is centred by its validation rows.
    """
    y = rows.expression.toarray().astype(np.float64)
    means = []
    for name in np.unique(rows.section):
        inside = rows.section == name
        train = inside & (rows.role == TRAIN)
        mean = y[train if train.any() else inside].mean(0)
        y[inside] -= mean
        if train.any():
            means.append(mean)
    return y, np.mean(means, axis=0)


def find_programs(rows: ProgramRows, config: ProgramConfig) -> tuple[Floats, Floats]:
    """Return loadings ``(P, G)`` of non-negative matrix factorisation, and activities ``(n, P)`` scaled by section."""
    if not config.n_programs:
        return np.zeros((0, rows.expression.shape[1])), np.zeros((len(rows.role), 0))
    y: csr_matrix = rows.expression.astype(np.float64)
    train = rows.role == TRAIN
    if config.n_programs > min(y.shape[1], int(train.sum())):
        raise ValueError(
            f"n_programs={config.n_programs}: more than the {int(train.sum())} spots or {y.shape[1]} genes there are."
        )
    state = as_seed(numpy_stream(config.seed, "programs")) % 2**32
    factors = NMF(config.n_programs, init="nndsvda", max_iter=400, random_state=state)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        factors.fit(y[train])
    loadings = factors.components_
    loadings = loadings / np.maximum(np.linalg.norm(loadings, axis=1, keepdims=True), 1e-12)
    return loadings, scale_by_section(program_activity(y.toarray(), loadings), rows.section)
