"""Search by a few marker genes in images of a patient whose expression the model never saw."""

from __future__ import annotations

import numpy as np
import pytest
from _sections import read_tumour
from sklearn.metrics import roc_auc_score

import spade as sp

pytestmark = [pytest.mark.realdata, pytest.mark.slow]


def test_three_markers_find_cancer_in_another_patient(data_dir):
    samples = [read_tumour(data_dir / "her2st", name, labels=True) for name in ("C2", "C3", "B4")]
    sp.pp.patches(samples)
    sp.pp.encode_patches(samples, "texture")
    sp.pp.spatial_context(samples, use_rep="X_texture")
    markers = ["ERBB2", "GRB7", "KRT8"]
    genes = sp.pp.select_genes(samples[:2], n_top_genes=500, include=markers)
    model = sp.tl.train_spade(samples[:2], use_rep="X_texture_context", genes=genes, n_experts=1, n_epochs=50)
    truth = samples[2]["table"].obs["label"].astype(str)
    told = truth.isin(["invasive cancer", "connective tissue"]).to_numpy()
    scores = {}
    for complete in (True, False):
        for signature in (markers, markers[:1]):
            found = sp.tl.retrieve(signature, samples[2], model, k=None, complete=complete).set_index("spot")["score"]
            of_spots = found.reindex(samples[2]["table"].obs_names)[told]
            scores[complete, len(signature)] = roc_auc_score(truth[told] == "invasive cancer", of_spots)
    print(scores)
    assert min(scores[True, 3], scores[True, 1]) > 0.85
    assert np.mean([scores[False, 3], scores[False, 1]]) < 0.5  # why this is not the default
