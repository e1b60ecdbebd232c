"""Halves of one section: training spots whose patches overlap a held-out patch are left out.

Patches of 112 µm at a pitch of 50 µm overlap those of the next two spots. A section of six columns is cut between the
third and the fourth; of the three columns that train, the two next to the cut are left out.
"""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from helpers.expression import RIDGE, cohort
from helpers.sections import GENES, featured, no_warning, square_lattice

import spade as sp
from spade._samples.open import iter_samples
from spade.core.evaluation.folds import section_folds
from spade.tl._expression import expression_benchmark, expression_trust, predictor, protocols
from spade.tl._expression.hest_bench import BenchTask, TaskSample
from spade.tl._expression.reference import read_reference
from spade.tl._expression.settings import PredictionSettings

PITCH, SIDE, N = 50.0, 112.0, 36
POINTS = square_lattice(N, PITCH)
#: Spots of the outermost columns, which alone can train, and of the halves that are held out.
OUTER = [np.flatnonzero(POINTS[:, 0] == edge).tolist() for edge in (50.0, 300.0)]
HALVES = [np.flatnonzero(POINTS[:, 0] > 175).tolist(), np.flatnonzero(POINTS[:, 0] < 175).tolist()]


def section(name="a", seed=0):
    sample = featured(N, name=name, seed=seed)
    sp.pp.patches(sample, size_um=SIDE)
    return sample


def check(folds, n_removed=12):
    """No training spot is closer to a held-out spot than the guard, and the band removes as many spots as it must."""
    assert len(folds) == 2
    for (train, test), outer, half in zip(folds, OUTER, HALVES, strict=True):
        gaps = np.abs(POINTS[train][:, None] - POINTS[test][None]).max(2)
        assert gaps.min() >= SIDE
        assert N - len(train) - len(test) == n_removed
        assert sorted(train) == outer
        assert sorted(test) == half


@pytest.fixture
def seen(monkeypatch):
    """The folds that every regression is given, as row numbers."""
    folds = []

    def watch(module, name, position):
        original = getattr(module, name)

        def watched(*args):
            folds.append(args[position])
            return original(*args)

        monkeypatch.setattr(module, name, watched)

    watch(predictor, "ridge_errors", 2)
    watch(protocols, "fit_probe", 2)
    watch(expression_trust, "fit_predictor", 2)
    return folds


def settings(**options):
    options = {"model": None, "k": 50, "temperature": 0.1, "mix": "concat", "alpha": "cv"} | options
    return PredictionSettings.of(
        **RIDGE, **options, scaling="reference", layer=None, normalized=None, patches_key="patches"
    )


def test_folds_of_a_reference_keep_the_side_of_a_patch_apart():
    reference = read_reference(section(), settings(), None, None)
    assert reference.patch == SIDE
    check(reference.folds(np.arange(N)))


def test_without_a_guard_the_halves_would_touch():
    folds = [(half, np.setdiff1d(np.arange(N), half)) for half in HALVES]
    assert np.abs(POINTS[folds[0][0]][:, None] - POINTS[folds[0][1]][None]).max(2).min() == PITCH


def test_without_patches_two_pitches_keep_the_halves_apart():
    """One column is left out on the training side, so that no neighbour of a held-out spot is left."""
    folds = section_folds(np.full(N, "a"), POINTS, 0.0)
    assert [len(train) for train, _ in folds] == [12, 12]
    assert np.abs(POINTS[folds[0][0]][:, None] - POINTS[folds[0][1]][None]).max(2).min() == 2 * PITCH


def test_prediction_chooses_its_penalty_behind_the_guard(seen):
    with no_warning():
        sp.tl.predict_expression(cohort()[1], reference=section(), genes=GENES[:6], **RIDGE)
    assert len(seen) == 1
    check(seen[0])


def test_trust_predicts_each_half_from_behind_the_guard(seen):
    sp.tl.expression_trust(section(), genes=GENES[:6], alpha=1.0, **RIDGE)
    trained_on = [rows.tolist() for rows in seen if isinstance(rows, np.ndarray)]
    assert trained_on == OUTER


def test_benchmark_chooses_its_penalty_behind_the_guard(seen):
    samples = [section("a"), section("b", 1)]
    sp.tl.expression_benchmark(samples, use_rep="X_f", protocol="sound", groupby=None, n_genes=5)
    assert len(seen) == 2
    for folds in seen:
        check(folds)


def test_a_folder_keeps_more_than_the_distance_between_spots_apart(seen, monkeypatch, tmp_path):
    """Patches of a task are about as wide as spots are apart, so that one column is left out, and no more."""
    tables = {name: featured(N, name=name, seed=i)["table"] for i, name in enumerate("ab")}
    task = BenchTask(tmp_path, list(GENES[:5]), dict.fromkeys(tables, (tmp_path, tmp_path)), {"0": (["a"], ["b"])})

    def read_sample(task, name, encoder, batch_size):
        return TaskSample(tables[name].obsm["X_f"], tables[name].X.tocsr(), tables[name].var_names, POINTS)

    monkeypatch.setattr(expression_benchmark, "read_task", lambda folder: task)
    monkeypatch.setattr(expression_benchmark, "read_task_sample", read_sample)
    sp.tl.expression_benchmark(tmp_path, protocol="sound", n_genes=5)
    (folds,) = seen
    for train, test in folds:
        gaps = np.abs(POINTS[train][:, None] - POINTS[test][None]).max(2)
        assert gaps.min() == 2 * PITCH
        assert N - len(train) - len(test) == 6


def test_sections_are_held_out_by_name():
    """Where objects lie in memory must not decide the order, which the bootstrap of a seed depends on."""
    for names in permutations("abc"):
        reference = read_reference([featured(N, name=name) for name in names], settings(), None, None)
        held_out = [set(reference.section[test]) for _, test in reference.folds(np.arange(3 * N))]
        assert held_out == [{"a"}, {"b"}, {"c"}]


def test_samples_are_read_in_the_order_of_the_lattice():
    """What the other tests take for granted: row i is spot i of the lattice."""
    (sample,) = iter_samples(section())
    assert sample.table.obs["spot_id"].tolist() == [f"s{i:02d}" for i in range(N)]
