"""Scores are those of scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score, recall_score, roc_auc_score

from spade.core.evaluation import metrics


def test_scores_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    for n_classes in (2, 4):
        truth = np.concatenate([np.arange(n_classes), rng.integers(0, n_classes, 60)])
        scores = rng.random((len(truth), n_classes)).round(1)  # with ties
        scores /= scores.sum(1, keepdims=True)
        predicted = scores.argmax(1)
        assert metrics.balanced_accuracy(truth, predicted, n_classes) == pytest.approx(
            balanced_accuracy_score(truth, predicted)
        )
        assert metrics.macro_f1(truth, predicted, n_classes) == pytest.approx(
            f1_score(truth, predicted, average="macro")
        )
        np.testing.assert_allclose(
            metrics.recalls(truth, predicted, n_classes), recall_score(truth, predicted, average=None)
        )
        one_against_rest = [roc_auc_score(truth == k, scores[:, k]) for k in range(n_classes)]
        assert metrics.macro_auroc(truth, scores) == pytest.approx(np.mean(one_against_rest))
    assert np.isnan(metrics.macro_auroc(np.zeros(5, dtype=int), rng.random((5, 2))))
    assert np.isnan(metrics.recalls(np.array([0, 0]), np.array([0, 1]), 2)[1])  # no row of the class
    assert metrics.balanced_accuracy(np.array([0, 0]), np.array([0, 1]), 2) == 0.5
