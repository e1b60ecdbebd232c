"""Expression of genes within and outside groups of spots."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from spade.core.expression.normalise import group_sums

#: What is added to both means of a fold change: a count of the 10,000 of a spot. Without it, a gene that one spot has
#: and no other would change by a factor of millions.
PSEUDOCOUNT = 1.0


def shares_above_zero(x: csr_matrix, group: NDArray[np.integer], n_groups: int) -> NDArray[np.float64]:
    """Return the share of rows with a value above 0, ``(2, n_groups, G)``: within each group, and outside it.

    NaN if there are no such rows.
    """
    above = csr_matrix(((x.data > 0).astype(np.float32), x.indices, x.indptr), shape=x.shape)
    return _means(above, group, n_groups)


def log_fold_changes(x: csr_matrix, group: NDArray[np.integer], n_groups: int) -> NDArray[np.float64]:
    """Return log2 fold changes ``(n_groups, G)`` between each group and all other rows of log1p values ``(n, G)``.

    They are of the counts that the mean log values correspond to, plus :data:`PSEUDOCOUNT`. NaN if there are no other
    rows.
    """
    own, rest = np.log2(np.expm1(_means(x, group, n_groups)) + PSEUDOCOUNT)
    return own - rest


def _means(x: csr_matrix, group: NDArray[np.integer], n_groups: int) -> NDArray[np.float64]:
    """Return means of columns, ``(2, n_groups, G)``: within each group, and outside it; NaN of no rows."""
    inside = group_sums(x, np.arange(len(group)), group, n_groups)[0]
    sizes = np.bincount(group, minlength=n_groups)[:, None]
    with np.errstate(invalid="ignore"):
        return np.stack([inside / sizes, (inside.sum(0) - inside) / (len(group) - sizes)])


def higher_in_sections(
    x: csr_matrix, group: NDArray[np.integer], section: NDArray[np.integer], n_groups: int, least: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count the sections in which the mean of a gene is higher within a group than outside it.

    Returns
    -------
    The counts ``(n_groups, G)``, and the number of sections compared ``(n_groups,)``: those with at least ``least``
    rows of the group and ``least`` other rows.
    """
    higher = np.zeros((n_groups, x.shape[1]), dtype=np.int64)
    n_compared = np.zeros(n_groups, dtype=np.int64)
    for number in np.unique(section):
        rows = np.flatnonzero(section == number)
        sums = group_sums(x, rows, group, n_groups)[0]
        sizes = np.bincount(group[rows], minlength=n_groups)
        large = np.flatnonzero((sizes >= least) & (len(rows) - sizes >= least))
        inside = sums[large] / sizes[large, None]
        outside = (sums.sum(0) - sums[large]) / (len(rows) - sizes[large, None])
        higher[large] += inside > outside
        n_compared[large] += 1
    return higher, n_compared
