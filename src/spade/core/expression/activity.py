"""Activity of expression programs, given their loadings, and the genes that go with a score."""

from __future__ import annotations

import numpy as np
from scipy.optimize import nnls

from spade.core.arrays import Floats

#: Rows at a time.
CHUNK = 4_096


def program_activity(x: Floats, loadings: Floats) -> Floats:
    """Return the activities w ≥ 0 ``(n, P)`` that minimise ‖x − w H‖² for expression ``(n, G)`` and H ``(P, G)``."""
    # with H Hᵀ = L Lᵀ, the same w minimise ‖L⁻¹ H x − Lᵀ w‖², which has P equations instead of G
    lower = np.linalg.cholesky(loadings @ loadings.T + 1e-9 * np.eye(len(loadings)))
    values = np.linalg.solve(lower, loadings @ np.asarray(x, dtype=np.float64).T).T
    return np.array([nnls(lower.T, row)[0] for row in values]).reshape(len(x), len(loadings))


def gene_correlations(scores: Floats, x: Floats) -> Floats:
    """Return the correlation of every score ``(n, K)`` with every gene ``(n, G)``, ``(K, G)``; 0 if one is constant."""

    def unit(values: Floats) -> Floats:
        centred = values - values.mean(0)
        length = np.linalg.norm(centred, axis=0)
        return centred / np.where(length > 1e-9, length, np.inf)

    return unit(scores).T @ unit(x)
