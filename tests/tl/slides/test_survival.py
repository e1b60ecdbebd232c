"""Survival across folds: no patient on both sides, risks that order unseen patients, and what is refused."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.sections import circles, no_warning, table, warns_here
from helpers.survival import slow_cox
from scipy.optimize import minimize
from spatialdata import SpatialData

import spade as sp
from spade.core.errors import NonFiniteLossError
from spade.core.evaluation.folds import stratified_folds
from spade.core.rng import numpy_stream

N_PATCHES = 30


def cohort(n_patients=90, n_slides=1, seed=0, width=6):
    """One object with many slides; risk grows with the share of patches of a second kind, censoring knows nothing."""
    rng = np.random.default_rng(seed)
    share = rng.random(n_patients)
    died = rng.exponential(np.exp(-7 * share))
    left = rng.exponential(0.3, n_patients)
    n = n_patients * n_slides * N_PATCHES
    patient = np.repeat(np.arange(n_patients), n_slides * N_PATCHES)
    kind = rng.random(n) < share[patient]
    ids = [f"s{i}" for i in range(n)]
    names = np.array([f"p{i:02d}" for i in range(n_patients)])
    adata = table(
        ids,
        genes=("G",),
        counts=np.ones((n, 1)),
        patient=names[patient],
        slide=[f"{names[p]}-{i // N_PATCHES % n_slides}" for i, p in enumerate(patient)],
        months=np.round(100 * np.minimum(died, left), 3)[patient] + 0.001,
        dead=(died <= left)[patient],
    )
    adata.obsm["X_f"] = (rng.normal(size=(n, width)) + 2 * kind[:, None] * np.eye(1, width)).astype(np.float32)
    adata.obsm["X_noise"] = rng.normal(size=(n, width)).astype(np.float32)
    centres = rng.random((n, 2)) * 1000
    return SpatialData(shapes={"spots": circles(centres, ids=ids)}, tables={"table": adata})


@pytest.fixture(scope="module")
def planted():
    return cohort()


@pytest.fixture
def small():
    return cohort(16, 2)


def run(samples, **options):
    usual = {"time_key": "months", "event_key": "dead", "use_rep": "X_f", "slide_key": "slide"}
    usual |= {"strength": 1.0} if options.get("head", "mean") == "mean" else {}
    return sp.tl.survival(samples, **{**usual, **options})


def c_index(found):
    return sp.tl.survival_summary(found, n_boot=1).set_index("representation")["c_index"]


def change(sdata, column, values, slide):
    """Set an ``obs`` column of one slide."""
    obs = sdata["table"].obs
    series = obs[column].astype(object)
    series[obs["slide"] == slide] = values
    obs[column] = series


# --- what is learnt


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["nll", "cox"])
def test_the_share_of_a_kind_of_patch_tells_the_risk_of_unseen_patients(planted, loss):
    found = c_index(run(planted, loss=loss, use_rep=["X_f", "X_noise"], strength="cv"))
    assert found["X_f"] > 0.7
    assert abs(found["X_noise"] - 0.5) < 0.12


@pytest.mark.slow
@pytest.mark.parametrize(("head", "options"), [("abmil", {}), ("transmil", {"hidden": 32, "n_epochs": 12})])
def test_heads_over_patches_tell_it_as_well(planted, head, options):
    usual = {"hidden": 16, "n_epochs": 25, "lr": 1e-3, "n_folds": 3, "n_bins": 3}
    assert c_index(run(planted, head=head, **{**usual, **options}))["X_f"] > 0.7


@pytest.mark.parametrize("loss", ["nll", "cox"])
def test_shuffled_times_are_not_told(loss):
    values = []
    for seed in range(4):
        sdata = cohort(60)
        obs = sdata["table"].obs
        order = np.random.default_rng(seed).permutation(60)
        for column in ("months", "dead"):
            obs[column] = np.repeat(obs[column].to_numpy()[::N_PATCHES][order], N_PATCHES)
        values.append(c_index(run(sdata, loss=loss))["X_f"])
    assert abs(np.mean(values) - 0.5) < 0.08


def test_out_of_fold_risks_are_those_of_the_penalised_partial_likelihood(small):
    found = run(small, loss="cox", n_folds=2)
    obs, x = small["table"].obs, small["table"].obsm["X_f"].astype(np.float64)
    names = found["patient"].to_numpy()
    means = np.stack([x[(obs["patient"] == name).to_numpy()].mean(0) for name in names])
    time, event, fold = (found[column].to_numpy() for column in ("time", "event", "fold"))
    for f in (0, 1):
        train, test = fold != f, fold == f
        scale = means[train].std(0) * np.sqrt(6)
        z = (means - means[train].mean(0)) / scale

        def slow(w, z=z, train=train):
            return event[train].sum() * slow_cox(z[train] @ w, time[train], event[train], "efron") + (w**2).sum() / 2

        w = minimize(slow, np.zeros(6), options={"gtol": 1e-7}).x
        np.testing.assert_allclose(found["risk"][test], z[test] @ w, atol=1e-4)


# --- folds and patients


def test_a_patient_is_in_one_fold_and_representations_share_folds(small):
    found = run(small, use_rep=["X_f", "X_noise"], n_folds=3, n_repeats=2)
    assert len(found) == 2 * 2 * 16
    assert not found.duplicated(["representation", "repeat", "patient"]).any()
    assert (found["n_slides"] == 2).all()
    one, other = (found[found["representation"] == name].reset_index(drop=True) for name in ("X_f", "X_noise"))
    pd.testing.assert_series_equal(one["fold"], other["fold"])
    assert (one["fold"][:16].to_numpy() != one["fold"][16:].to_numpy()).any()
    events = one[one["repeat"] == 0].groupby("fold")["event"].sum()
    assert events.max() - events.min() <= 1


def test_results_are_reproducible(small):
    options = {"head": "abmil", "hidden": 8, "n_epochs": 2, "n_folds": 2, "n_bins": 2, "device": "cpu"}
    found = run(small, **options)
    pd.testing.assert_frame_equal(found, run(small, **options))
    assert not found["risk"].equals(run(small, **options, rng=1)["risk"])


@pytest.mark.parametrize("head", ["mean", "abmil"])
def test_a_patients_risk_knows_nothing_of_its_own_time(small, head):
    options = {"head": head, "n_bins": 2, "device": "cpu", "fold_key": "part"}
    options |= {"hidden": 8, "n_epochs": 2} if head == "abmil" else {}
    obs = small["table"].obs
    obs["part"] = [f"part {name[-1] in '02468'}" for name in obs["patient"]]
    before = run(small, **options).set_index("patient")
    assert sorted(set(before["fold"])) == [0, 1]
    late = before["time"].idxmax()
    obs.loc[obs["patient"] == late, ["months", "dead"]] = 0.0, True
    after = run(small, **options).set_index("patient")
    own = before["fold"] == before.loc[late, "fold"]
    pd.testing.assert_series_equal(before["risk"][own], after["risk"][own])
    assert (before["risk"][~own] != after["risk"][~own]).any()


def test_a_patient_has_the_mean_risk_of_its_slides(small):
    options = {"loss": "cox", "fold_key": "part"}
    obs = small["table"].obs
    obs["part"] = [int(name[1:]) % 2 for name in obs["patient"]]
    whole = run(small, **options).set_index("patient")["risk"]
    apart = obs["patient"] == "p03"
    obs["patient"] = np.where(apart & obs["slide"].str.endswith("-1"), "p05b", obs["patient"])
    train = run(small, **options).set_index("patient")[
        "risk"
    ]  # p03 is trained on in part 0: compare only where it is tested
    assert np.isfinite(train).all()
    assert len(train) == len(whole) + 1
    np.testing.assert_allclose((train["p03"] + train["p05b"]) / 2, whole["p03"], atol=1e-8)


def test_feature_files_and_a_table_of_labels(small, tmp_path):
    obs, x = small["table"].obs, small["table"].obsm["X_f"]
    for slide in obs["slide"].unique():
        torch.save(torch.from_numpy(x[(obs["slide"] == slide).to_numpy()]), tmp_path / f"{slide}.pt")
    labels = obs.drop_duplicates("slide")[["slide", "patient", "months", "dead"]].rename(columns={"slide": "sample"})
    from_files = sp.tl.survival(tmp_path, labels=labels, time_key="months", event_key="dead", strength=1.0, n_folds=2)
    wanted = run(small, n_folds=2)
    np.testing.assert_allclose(from_files["risk"], wanted["risk"], atol=1e-6)
    assert set(from_files["representation"]) == {"features"}
    one_each = sp.tl.survival(
        iter([tmp_path / f"{name}.pt" for name in labels["sample"]]), labels=labels, groupby=None, time_key="months",
        event_key="dead", strength=1.0, n_folds=2,
    )  # fmt: skip
    assert sorted(one_each["patient"]) == sorted(labels["sample"])


def test_the_strength_is_chosen_by_what_patients_held_out_say(planted, monkeypatch):
    chosen = []
    from spade.tl._slides.risks import fit as module

    original = module.ridge_path
    monkeypatch.setattr(module, "ridge_path", lambda *a, **k: chosen.append(a[4]) or original(*a, **k))
    run(planted, use_rep=["X_f", "X_noise"], loss="cox", strength="cv", n_folds=2)
    signal, noise = ([own[0] for own in part if len(own) == 1] for part in (chosen[:12], chosen[12:]))
    assert max(signal) < min(noise)


def test_folds_deal_patients_and_events_evenly():
    event = np.arange(53) % 4 == 0
    fold = stratified_folds(np.arange(53), event.astype(int), 2, 5, numpy_stream(0, "t"))
    assert np.ptp(np.bincount(fold)) <= 1
    assert np.ptp(np.bincount(fold[event])) <= 1


# --- what is refused


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("months", -3.0, r"time_key='months': negative or infinite for 1 of 32 slides, such as -3 for 'p00-0'"),
        ("months", None, r"time_key='months': no time, but an event entry, for 1 of 32 slides, such as 'p00-0'"),
        ("months", "soon", r"slide 'p00-0': time_key='months' is 'soon'; expected a number"),
        ("months", 5000.5, r"patient 'p00': time_key='months' is .* for slide 'p00-0' and .* for slide 'p00-1'"),
        ("dead", None, r"event_key='dead': no event entry, but a time, for 1 of 32 slides"),
        ("dead", "yes", r"event_key='dead': 'yes' for 1 of 32 slides; expected 1 or True"),
        ("patient", None, r"groupby='patient': no patient for 1 of 32 slides, such as 'p00-0'"),
        ("part", 1, r"patient 'p00': fold_key='part' is 1 for slide 'p00-0' and 0 for slide 'p00-1'"),
        ("part", None, r"fold_key='part': no fold for 1 of 32 slides"),
    ],
)
def test_slides_that_say_something_strange_are_refused(small, column, value, said):
    obs = small["table"].obs
    obs["part"] = [int(name[1:]) % 2 for name in obs["patient"]]
    change(small, column, value, "p00-0")
    with pytest.raises(ValueError, match=said):
        run(small, **({"fold_key": "part"} if column == "part" else {}))


def test_events_that_disagree_within_a_patient(small):
    was = bool(small["table"].obs["dead"].iloc[0])
    change(small, "dead", not was, "p00-0")
    with pytest.raises(ValueError, match=r"patient 'p00': event_key='dead' is .* for slide 'p00-0'"):
        run(small)


def test_slides_without_time_and_event_are_left_out_and_said(small):
    for slide in ("p00-0", "p01-0", "p01-1"):
        change(small, "months", None, slide)
        change(small, "dead", None, slide)
    with warns_here("3 of 32 slides have neither time nor event and are left out: 'p00-0', 'p01-0', 'p01-1'"):
        found = run(small, n_folds=2).set_index("patient")
    assert "p01" not in found.index
    assert found.loc["p00", "n_slides"] == 1
    with no_warning():
        run(cohort(12), n_folds=2, n_bins=2)


def test_cohorts_that_cannot_be_learnt(small):
    obs = small["table"].obs
    obs["dead"] = False
    with pytest.raises(ValueError, match="event_key='dead': no patient of 16 has the event"):
        run(small)
    obs["dead"] = (obs["patient"].isin(["p00", "p01"])).astype(int)
    with pytest.raises(ValueError, match="n_folds=5: 2 of 16 patients have the event, fewer than folds"):
        run(small)
    with pytest.raises(ValueError, match="n_bins=4 is more than the number of distinct times of events, 1"):
        run(small, n_folds=2)
    with pytest.raises(ValueError, match='strength="cv" needs at least two training patients with events'):
        run(small, n_folds=2, loss="cox", strength="cv")
    assert len(run(small, n_folds=2, loss="cox")) == 16
    obs["part"] = np.where(obs["dead"] == 1, "a", "b")
    with pytest.raises(ValueError, match=r"fold_key='part': 2 folds, with \[2, 0\] patients with events"):
        run(small, fold_key="part")
    obs["months"], obs["dead"] = None, None
    with pytest.raises(ValueError, match="time_key='months' and event_key='dead': no slide has either"):
        run(small)


def test_ties_are_fine(small):
    obs = small["table"].obs
    obs["months"] = np.ceil(obs["months"] / 3)
    for options in ({"n_bins": 2}, {"loss": "cox"}):
        assert np.isfinite(run(small, n_folds=2, **options)["risk"]).all()
    obs["months"] = 7
    with pytest.raises(ValueError, match="n_bins=2 is more than the number of distinct times of events, 1"):
        run(small, n_folds=2, n_bins=2)
    assert np.isfinite(run(small, n_folds=2, loss="cox")["risk"]).all()


def test_a_training_that_diverges_says_where(small):
    with pytest.raises(NonFiniteLossError, match=r"X_f, abmil, fold 0: bag \d+: the loss is (nan|inf)"):
        run(small, head="abmil", hidden=8, lr=1e30, n_bins=2, n_folds=2)


def test_time_in_bins_beyond_those_of_training(small):
    change(small, "months", 1e6, "p00-0")
    change(small, "months", 1e6, "p00-1")
    assert np.isfinite(run(small, n_folds=2)["risk"]).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"head": "max"}, "head='max': expected one of 'mean', 'abmil', 'transmil'"),
        ({"loss": "mse"}, "loss='mse': expected"),
        ({"head": "abmil", "loss": "cox", "batch_size": 1}, "batch_size=1: expected a whole number of at least 2"),
        ({"loss": "cox", "n_bins": 2}, "n_bins=2: loss='cox' compares times as they are; leave n_bins= out"),
        ({"head": "abmil", "batch_size": 8}, "batch_size=8: loss='nll' takes one slide per step; leave batch_size="),
        ({"head": "abmil", "preset": "best"}, "preset='best': expected one of 'paper'"),
        ({"hidden": 8, "preset": "paper"}, "hidden=8: head='mean' has no such setting"),
        ({"head": "abmil", "strength": 2.0}, "strength=2[.]0: head='abmil' has no such setting"),
        ({"fold_key": "part", "n_folds": 3}, "n_folds=3: fold_key='part' says which fold a slide is in"),
        ({"head": "abmil", "hidden": (8,)}, r"hidden=\(8,\): expected one width, or those of the layers and, last,"),
        ({"head": "abmil", "schedule": "step"}, "schedule='step': expected one of 'constant', 'cosine'"),
        ({"strength": 0}, "strength=0: expected a positive number"),
        ({"strength": "best"}, "strength='best': expected a positive number"),
        ({"n_bins": 1}, "n_bins=1: expected a whole number of at least 2"),
        ({"n_folds": 1}, "n_folds=1: expected a whole number of at least 2"),
        ({"n_repeats": 0}, "n_repeats=0: expected a whole number of at least 1"),
        ({"n_repeats": 2, "fold_key": "part"}, "n_repeats=2 with fold_key='part'"),
        ({"inner_val": 1}, "inner_val=1: expected a number from 0 to 0.5"),
        ({"lr": 0}, "lr=0: expected a positive number"),
        ({"strength": True}, "strength=True: expected a positive number"),
        ({"strength": float("inf")}, "strength=inf: expected a positive number"),
        ({"head": ["mean"]}, r"head=\['mean'\]: expected one of"),
        ({"time_key": 3}, "time_key=3: expected a name"),
        ({"n_folds": 20_000}, "n_folds=20000: expected at most 10000"),
        ({"weight_decay": -1}, "weight_decay=-1: expected a number of at least 0"),
        ({"use_rep": None}, "use_rep=None: samples need the obsm key"),
    ],
)
def test_settings_that_make_no_sense_are_refused(small, options, said):
    with pytest.raises(ValueError, match=said):
        run(small, **options)


def test_columns_that_are_not_there(small):
    with pytest.raises(KeyError, match="time_key='years' is not in obs"):
        run(small, time_key="years")
    with pytest.raises(KeyError, match="groupby='donor' is not in obs"):
        run(small, groupby="donor")


def test_what_is_used_is_logged(small, caplog):
    with caplog.at_level(logging.INFO, logger="spade"):
        found = run(small, n_folds=2)
    assert f"16 patients, {int(found['event'].sum())} with the event, 32 slides" in caplog.text
