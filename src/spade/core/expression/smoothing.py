"""Averages of counts over neighbouring spots, without a dense matrix."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, diags_array
from scipy.spatial import KDTree

from spade.core.arrays import Floats


def pairs_within(points: Floats, distance: float) -> NDArray[np.int64]:
    """Pairs ``(m, 2)`` of points that lie no farther apart than ``distance``, each once."""
    return KDTree(points).query_pairs(distance, output_type="ndarray")


def smoothing_matrix(pairs: NDArray[np.integer], filled: NDArray[np.bool_], share: float) -> csr_matrix:
    """Matrix ``(n, n)`` that smooths the rows of what it is multiplied with.

    A row becomes ``1 − share`` of itself and ``share`` of the mean of itself and its neighbours.

    Parameters
    ----------
    pairs
        Neighbours ``(m, 2)``, each pair once.
    filled
        Which rows take part ``(n,)``. Others become zero, and do not count as neighbours.
    share
        How much of the result is the mean.
    """
    n = len(filled)
    one, other = pairs[filled[pairs].all(1)].T
    near = csr_matrix((np.ones(2 * len(one)), (np.r_[one, other], np.r_[other, one])), shape=(n, n))
    own = diags_array(filled.astype(float))
    mean = diags_array(1 / (1 + np.asarray(near.sum(1)).ravel())) @ (near + own)
    return csr_matrix((1 - share) * own + share * mean, dtype=np.float32)
