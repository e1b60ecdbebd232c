"""Cohorts to tune encoders on, and short trainings of them."""

from __future__ import annotations

import numpy as np

import spade as sp
from helpers.sections import GENES, featured, tiny

PANEL = GENES[:20]
FAST = {"genes": PANEL, "n_epochs": 2, "batch_size": 16, "lr": 1e-3}
PX, UM = 160, 60.0


def cohort():
    return [featured(name="a"), featured(name="b", seed=1)]


def seal(samples, **options):
    return sp.tl.train_seal(samples, **{"on_features": "X_f", "dim": 8, "hidden": 16, **FAST, **options})


def pictured(name="a", seed=0, n=12, size_um=UM):
    sdata = tiny(n, name=name, seed=seed)
    sp.pp.patches(sdata, size_um=size_um, size_px=64)
    return sdata


def pictures():
    return [pictured(), pictured("b", 1)]


def tuned_by(weights):
    """Short trainings of a small transformer with these weights."""

    def tune(samples, **options):
        return sp.tl.train_seal(
            samples, **{"encoder": "test_vit", "weights": weights, **FAST, "batch_size": 8, **options}
        )

    return tune


def outputs(model, samples):
    table = samples[0]["table"]
    images = (
        table.obsm["X_f"]
        if not model.reads_pixels
        else np.random.default_rng(0).integers(0, 256, (3, PX, PX, 3), np.uint8)
    )
    g = np.log1p(table.X.toarray()[:, :20])
    return [model.encode_image(images), model.predict_expression(images), model.encode_expression(g)]
