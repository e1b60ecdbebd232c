"""Smoothing of counts over neighbouring spots, without a dense matrix."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, diags_array
from scipy.spatial import KDTree

from spade.core.arrays import Floats


def pairs_within(points: Floats, distance: float) -> NDArray[np.int64]:
    """Return the pairs ``(m, 2)`` of points up to ``distance`` apart, each pair once."""
    return KDTree(points).query_pairs(distance, output_type="ndarray")


def smoothing_matrix(pairs: NDArray[np.integer], filled: NDArray[np.bool_], share: float) -> csr_matrix:
    """Return a matrix ``(n, n)`` whose product with counts ``(n, G)`` smooths them.

    A row becomes ``1 − share`` times itself plus ``share`` times the mean of itself and its neighbours.

    Parameters
    ----------
    pairs
        Neighbours ``(m, 2)``, each pair once.
    filled
        Mask ``(n,)`` of the rows that take part. All other rows become 0, and do not count as neighbours.
    share
        Share of the mean in the result.
    """
    n = len(filled)
    a, b = pairs[filled[pairs].all(1)].T
    neighbours = csr_matrix((np.ones(2 * len(a)), (np.r_[a, b], np.r_[b, a])), shape=(n, n))
    itself = diags_array(filled.astype(float))
    mean = diags_array(1 / (1 + np.asarray(neighbours.sum(1)).ravel())) @ (neighbours + itself)
    return csr_matrix((1 - share) * itself + share * mean, dtype=np.float32)
