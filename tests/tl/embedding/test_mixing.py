"""How groups mix among neighbours, counted by hand."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
from helpers.sections import cohort, featured, no_warning, spoil, tiny, warns_here

import spade as sp
from spade.core.evaluation.mixing import expected_shares, neighbour_shares


def at(values, name):
    sdata = tiny(len(values), name=name)
    sdata["table"].obsm["X_f"] = np.asarray(values, dtype=np.float32)
    return sdata


def test_groups_apart_are_zero_and_groups_alike_are_one():
    rng = np.random.default_rng(0)
    apart = [at(rng.normal(size=(60, 3)) + 100 * i, f"s{i}") for i in range(3)]
    found = sp.tl.mixing(apart, use_rep="X_f", n_neighbors=10)
    assert found["group"].tolist() == ["s0", "s1", "s2"]
    assert (found[["other_share", "mixing", "lisi"]] == 0).all(axis=None)
    alike = [at(rng.normal(size=(n, 3)), f"s{i}") for i, n in enumerate((600, 300, 150))]
    with no_warning():
        found = sp.tl.mixing(alike, use_rep="X_f", n_neighbors=30)
    np.testing.assert_allclose(found["expected_share"], [450 / 1049, 750 / 1049, 900 / 1049])
    np.testing.assert_allclose(found["mixing"], 1, atol=0.05)
    np.testing.assert_allclose(found["lisi"], 1, atol=0.07)


def test_mixing_is_that_of_neighbours_counted_by_hand():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(36, 2))
    sample = at(x, "a")
    group = np.array(sample["table"].obs["organ"])
    found = sp.tl.mixing(sample, use_rep="X_f", groupby="organ", n_neighbors=5).set_index("group")
    distance = np.linalg.norm(x.astype(np.float32)[:, None] - x.astype(np.float32), axis=2)
    np.fill_diagonal(distance, np.inf)
    nearest = group[np.argsort(distance, axis=1)[:, :5]]
    for name in ("a", "b"):
        theirs = nearest[group == name]
        other = (theirs != name).mean()
        assert found.loc[name, "other_share"] == pytest.approx(other)
        assert found.loc[name, "mixing"] == pytest.approx(other / (18 / 35))
        simpson = np.mean([(row == "a").mean() ** 2 + (row == "b").mean() ** 2 for row in theirs])
        expected = expected_shares(np.array([18, 18]), 5)[1][0]
        assert found.loc[name, "lisi"] == pytest.approx((1 / simpson - 1) / (1 / expected - 1))


def test_expected_shares_are_those_of_neighbours_drawn_at_random():
    rng = np.random.default_rng(0)
    group = np.repeat([0, 1, 2], [5, 8, 12])
    drawn = []
    for _ in range(800):
        others = [rng.choice(np.delete(np.arange(25), row), 6, replace=False) for row in range(25)]
        drawn.append(neighbour_shares(np.array(others), group, 3))
    np.testing.assert_allclose(np.mean(drawn, axis=0), expected_shares(np.array([5, 8, 12]), 6), atol=0.01)


def test_rows_with_nan_are_left_out_and_counted(caplog):
    rng = np.random.default_rng(0)
    samples = [at(rng.normal(size=(40, 3)), name) for name in ("a", "b")]
    whole = [at(s["table"].obsm["X_f"][4:], n) for s, n in zip(samples, ("a", "b"), strict=True)]
    for sample in samples:
        spoil(sample, "X_f", range(4))
    with caplog.at_level(logging.INFO, logger="spade"):
        found = sp.tl.mixing(samples, use_rep="X_f", n_neighbors=6)
    assert "8 spots with NaN in obsm['X_f'] are left out of mixing." in caplog.text
    pd.testing.assert_frame_equal(found, sp.tl.mixing(whole, use_rep="X_f", n_neighbors=6))


def test_small_groups_are_named():
    rng = np.random.default_rng(0)
    samples = [at(rng.normal(size=(40, 3)), "a"), at(rng.normal(size=(6, 3)) + 100, "b")]
    with warns_here(r"no more than n_neighbors=8 spots \(b: 6\) have neighbours of other groups even"):
        found = sp.tl.mixing(samples, use_rep="X_f", n_neighbors=8)
    assert found["mixing"][1] > 0


@pytest.mark.parametrize(
    ("samples", "options", "error", "said"),
    [
        (featured, {}, ValueError, r"groupby=None: all 36 spots without NaN belong to one "
         r"group \(tiny\).*several sections"),
        (featured, {"groupby": "patient"}, ValueError, r"one group \(p_tiny\); .*name another column"),
        (featured, {"groupby": "donor"}, KeyError, r"groupby='donor' is not in obs"),
        (featured, {"use_rep": "X_no"}, KeyError, r"use_rep='X_no' is not in obsm"),
        (featured, {"groupby": "organ", "n_neighbors": 36}, ValueError, r"n_neighbors=36: there are only 36 spots"),
        (featured, {"n_neighbors": 0}, ValueError, r"n_neighbors=0: expected"),
        (lambda: [featured(name="a"), featured(name="b", width=5)], {}, ValueError,
         r"differs in width .*\(a: 8, b: 5\)"),
    ],
)  # fmt: skip
def test_mixing_says_what_it_needs(samples, options, error, said):
    with pytest.raises(error, match=said):
        sp.tl.mixing(samples(), **{"use_rep": "X_f", **options})


def test_the_joint_embedding_is_the_default(model):
    samples = cohort()
    sp.tl.embed(samples, model)
    with no_warning():
        found = sp.tl.mixing(samples)
    assert found["group"].tolist() == ["a", "b"]
    assert (found["mixing"] >= 0).all()
