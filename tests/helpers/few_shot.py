"""Sections of three classes, and short runs on them."""

from __future__ import annotations

import numpy as np
import pandas as pd

import spade as sp
from helpers.sections import featured


def labelled(name, seed=0, n=36, patient=None, **kwargs):
    """Three classes whose features differ by a little, in ``X_f``, and noise in ``X_noise``."""
    sample = featured(n, name=name, seed=seed, **kwargs)
    rng = np.random.default_rng(seed)
    table = sample["table"]
    classes = np.array(["a", "b", "c"])[np.arange(n) % 3]
    table.obs["kind"] = pd.Categorical(classes)
    table.obs["patient"] = patient or name
    table.obsm["X_f"] = (rng.normal(size=(n, 8)) + 3.0 * np.eye(3, 8)[np.arange(n) % 3]).astype(np.float32)
    table.obsm["X_noise"] = rng.normal(size=(n, 5)).astype(np.float32)
    return sample


def run(samples, **options):
    return sp.tl.few_shot(
        samples, **{"label_key": "kind", "use_rep": "X_f", "shots": (1, 4), "n_repeats": 3, **options}
    )
