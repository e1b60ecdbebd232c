"""Synthetic features and expression of any size, generated from one hidden state per spot."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix


def make(n, d, g, *, density=0.15, seed=0):
    """Return features ``(n, d)`` float32 and log-normalised expression ``(n, g)`` CSR float32, generated in pieces."""
    rng = np.random.default_rng(seed)
    per_spot, n_states = round(density * g), 64
    to_feature = rng.standard_normal((16, d), dtype=np.float32)
    # one pattern of genes per state: random columns for every spot would be too slow
    patterns = np.sort([rng.choice(g, per_spot, replace=False) for _ in range(n_states)], axis=1).astype(np.int32)
    centres = rng.standard_normal((n_states, 16), dtype=np.float32) * 2
    level = np.abs(rng.standard_normal((n_states, per_spot), dtype=np.float32)) + 0.5
    features, data = np.empty((n, d), np.float32), np.empty((n, per_spot), np.float32)
    indices = np.empty((n, per_spot), np.int32)
    for start in range(0, n, 10_000):
        rows = slice(start, min(start + 10_000, n))
        k = rows.stop - rows.start
        state = rng.integers(n_states, size=k)
        hidden = centres[state] + rng.standard_normal((k, 16), dtype=np.float32)
        features[rows] = hidden @ to_feature + rng.standard_normal((k, d), dtype=np.float32)
        depth = np.exp(hidden[:, :1] / 4)
        np.log1p(level[state] * depth * rng.random((k, per_spot), dtype=np.float32) * 4, out=data[rows])
        indices[rows] = patterns[state]
    indptr = np.arange(0, n * per_spot + 1, per_spot, dtype=np.int64)
    return features, csr_matrix((data.ravel(), indices.ravel(), indptr), shape=(n, g))
