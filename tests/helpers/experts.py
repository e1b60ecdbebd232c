"""Pairs of features and expression, trainings of experts that are stopped, and programs that are waited for."""

from __future__ import annotations

import time

import numpy as np
from scipy.sparse import csr_matrix

from spade.core.experts.config import TrainingConfig
from spade.core.roles import TRAIN, VAL


def paired(rng, n=120, d=10, g=15, latent=4):
    z = rng.normal(size=(n, latent))
    features = z @ rng.normal(size=(latent, d)) + 0.1 * rng.normal(size=(n, d))
    expression = np.maximum(0, z @ rng.normal(size=(latent, g)))
    return features.astype(np.float32), csr_matrix(expression.astype(np.float32))


#: Spots per expert: a last short batch, fewer than a batch, a single one, none.
SIZES = (50, 16, 7, 1, 0)


def ragged(rng=0, sizes=SIZES):
    features, expression = paired(np.random.default_rng(rng), n=sum(sizes))
    order = np.random.default_rng(1).permutation(sum(sizes))
    return features, expression, np.repeat(np.arange(len(sizes)), sizes)[order]


def rows_of(trained):
    return np.stack([one.row.numpy() for one in trained])


class Stop(Exception):
    pass


def stop_after(n):
    """Raise at the n-th epoch that ends."""
    seen = []

    def progress(*facts):
        seen.append(facts)
        if len(seen) == n:
            raise Stop

    return progress


def role_with_validation(expert_of):
    role = np.full(len(expert_of), TRAIN)
    role[np.flatnonzero(expert_of == 0)[::5]] = VAL
    return role


CONFIG = TrainingConfig(n_epochs=4, batch_size=16, lr=1e-3, out_of_cluster=0.2)


def arguments(config=CONFIG):
    features, expression, expert_of = ragged()
    return features, expression, expert_of, role_with_validation(expert_of), 5, config


def wait_for(path, process, seconds=120):
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, f"ended with {process.returncode}"
        assert time.monotonic() < end
        time.sleep(0.02)
