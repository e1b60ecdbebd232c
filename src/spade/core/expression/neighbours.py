"""Prediction of expression from the most similar reference spots."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.special import softmax

from spade.core.arrays import Floats
from spade.core.evaluation.retrieval import Nearest
from spade.core.expression.ridge import gene_blocks


def neighbour_expression(
    query: Floats, gallery: Floats, y: csr_matrix, k: int, temperature: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return mean and deviation of expression over the ``k`` nearest rows of every query.

    The weights of the rows are softmax(similarity / τ).

    Parameters
    ----------
    query, gallery
        ``(n, d)`` and ``(m, d)``, whose products are similarities.
    y
        Expression of the gallery ``(m, G)``.
    k
        Number of neighbours; all rows of a gallery that has fewer.
    temperature
        τ: the lower, the more the nearest row counts.

    Returns
    -------
    Two arrays ``(n, G)``.
    """
    nearest = Nearest(query, k)
    nearest.update(gallery)
    rows = nearest.rows.numpy()
    weights = softmax(nearest.scores.numpy().astype(np.float64) / temperature, axis=1)
    start = np.arange(len(rows) + 1) * rows.shape[1]
    mixing = csr_matrix((weights.ravel(), rows.ravel(), start), shape=(len(rows), len(gallery)))
    mean = np.empty((len(rows), y.shape[1]), dtype=np.float32)
    deviation = np.empty_like(mean)
    for columns, block in gene_blocks(y):
        first = mixing @ block
        mean[:, columns] = first
        deviation[:, columns] = np.sqrt(np.maximum(mixing @ block**2 - first**2, 0))
    return mean, deviation
