"""Four sections of three patients, and short runs of the switchboard on them."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

import spade as sp
from helpers.sections import GENES, featured

PANEL = GENES[:20]
FAST = {"n_epochs": 2, "dim": 8, "hidden": 16, "batch_size": 32, "lr": 1e-2}
EXPERTS = {"n_prototypes": 2, "n_experts": 2, "n_epochs": 2, "dim": 8, "batch_size": 32}
NAMES = ["projection", "spade", "seal", "seal_no_contrastive"]
KEYS = ["unit", "task", "metric", "by", "direction", "shots"]


def cohort():
    """Four sections of three patients, a and b of the first; features tell both organs and half of the genes."""
    samples = [featured(name="abcd"[i], seed=i) for i in range(4)]
    for i, sample in enumerate(samples):
        table = sample["table"]
        table.obs["patient"] = f"patient_{max(i - 1, 0)}"
        rates = np.abs(table.obsm["X_f"][:, :1]) * np.linspace(0, 2, len(GENES))
        table.X = csr_matrix(np.random.default_rng(i).poisson(rates + 0.5), dtype=np.float32)
    return samples


def run(samples, variants=("seal",), **options):
    defaults = {
        "use_rep": "X_f",
        "genes": PANEL,
        "control": False,
        "seal_settings": FAST,
        "spade_settings": EXPERTS,
        "k": 5,
    }
    return sp.tl.switchboard(samples, variants=variants, **(defaults | options))


def values(table, variant, **wanted):
    own = table[table["variant"] == variant]
    for name, value in wanted.items():
        own = own[own[name] == value]
    return own.set_index("unit")["value"]
