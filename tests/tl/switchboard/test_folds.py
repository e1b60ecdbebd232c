"""What is held out is not learned from, and the same settings give the same figures."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from conftest import fresh
from helpers.sections import assert_same, empty_rows, spoil, warns_here
from helpers.sections import table as spots_table
from helpers.switchboard import cohort, run
from scipy.sparse import csr_matrix

import spade as sp
from spade.tl._switchboard import switchboard as shell

# --- splits and seeds


def test_the_same_settings_give_the_same_figures_in_every_variant_and_run():
    options = {"label_key": "organ", "shots": 2, "n_repeats": 2}
    again = run(cohort(), {"seal": {}, "once more": {}, "other": {"temperature": 0.5}}, **options)
    seal, more, other = (
        again[again["variant"] == name].drop(columns="variant") for name in ("seal", "once more", "other")
    )
    assert seal.to_numpy().tolist() == more.to_numpy().tolist()
    assert seal["value"].tolist() != other["value"].tolist()
    pd.testing.assert_frame_equal(
        again, run(cohort(), {"seal": {}, "once more": {}, "other": {"temperature": 0.5}}, **options)
    )


def test_seeds_count_on_from_the_first(table):
    alone = run(cohort(), label_key="organ", shots=(1, 4), n_repeats=3, rng=1)
    own = alone[(alone["variant"] == "seal") & (alone["task"] != "few_shot")]
    both = table[(table["variant"] == "seal") & (table["seed"] == 1) & (table["task"] != "few_shot")]
    assert own["value"].tolist() == both["value"].tolist()


def test_groups_are_dealt_whole_into_folds():
    found = run(cohort(), n_folds=2)[["fold", "group", "unit"]].drop_duplicates()
    assert sorted(found["unit"]) == ["a", "b", "c", "d"]
    assert set(found["fold"]) == {"fold 0", "fold 1"}
    assert (found.groupby("group")["fold"].nunique() == 1).all()


def test_sections_are_held_out_without_groups():
    found = run(cohort(), groupby=None)
    assert found[["fold", "unit", "group"]].drop_duplicates().to_numpy().tolist() == [[n, n, n] for n in "abcd"]


# --- what is read, and what is not


def test_what_is_held_out_is_not_learned_from(models):
    options = {"label_key": "organ", "shots": 2, "n_repeats": 2}
    before = run(cohort(), ["seal", "spade"], **options)
    known = {fold: list(ids) for fold, ids in models.items()}
    models.clear()
    samples = cohort()
    rng = np.random.default_rng(9)
    samples[3]["table"].X = csr_matrix(rng.poisson(3, samples[3]["table"].shape), dtype=np.float32)
    after = run(samples, ["seal", "spade"], **options)
    assert models["patient_2"] == known["patient_2"]
    assert all(a != b for fold in ("patient_0", "patient_1") for a, b in zip(models[fold], known[fold], strict=True))
    own = (before["fold"] == "patient_2") & (before["task"] == "few_shot")
    pd.testing.assert_frame_equal(before[own], after[own])  # images and labels of d are as they were
    pearson = (before["fold"] == "patient_2") & (before["metric"] == "pearson")
    assert (before[pearson]["value"] != after[pearson]["value"]).all()


def test_features_that_are_held_out_are_not_learned_from(models):
    run(cohort(), ["seal", "spade"])
    known = list(models["patient_2"])
    models.clear()
    samples = cohort()
    samples[3]["table"].obsm["X_f"] = samples[3]["table"].obsm["X_f"] * 7 + 1
    run(samples, ["seal", "spade"])
    assert models["patient_2"] == known


def test_sections_of_one_object_are_parted_as_those_of_several():
    samples = cohort()
    one, other = samples[2], samples[3]
    both = fresh(one)
    both.shapes["more"] = other["spots"]
    tables = [one["table"], other["table"]]
    obs = {name: [value for part in tables for value in part.obs[name]] for name in ("patient", "organ")}
    ids = list(one["spots"].index)
    both.tables["table"] = spots_table(
        ids * 2,
        region=["spots"] * 36 + ["more"] * 36,
        counts=np.concatenate([part.X.toarray() for part in tables]),
        **obs,
    )
    both["table"].obsm["X_f"] = np.concatenate([part.obsm["X_f"] for part in tables])
    options = {"label_key": "organ", "shots": 2, "n_repeats": 2}
    apart = run(samples, ["seal", "spade"], **options)
    found = run([*samples[:2], both], ["seal", "spade"], **options)
    found["unit"] = found["unit"].replace({"c/spots": "c", "c/more": "d"})
    pd.testing.assert_frame_equal(found, apart)


def test_samples_are_left_as_they_were(tmp_path):
    samples = cohort()
    before = [fresh(one) for one in samples]
    run(samples, ["seal", "spade"], label_key="organ", shots=1, n_repeats=1)
    for one, other in zip(samples, before, strict=True):
        assert_same(one, other)
    paths = [tmp_path / f"{name}.zarr" for name in "abcd"]
    for one, path in zip(samples, paths, strict=True):
        sp.io.write(one, path)
    files = {file: file.read_bytes() for path in paths for file in path.rglob("*") if file.is_file()}
    pd.testing.assert_frame_equal(run(paths), run(samples))
    assert {file: file.read_bytes() for path in paths for file in path.rglob("*") if file.is_file()} == files


def test_spots_without_features_or_counts_are_counted_and_left_out():
    samples = cohort()
    spoil(samples[0], "X_f", [0, 1])
    empty_rows(samples[1], [3])
    with warns_here("2 spots without features are left out of all"), warns_here("1 spot without counts of the panel's"):
        found = run(samples)
    recall = found[found["metric"] == "recall@5"].groupby("unit")["chance"].first().to_dict()
    assert recall == pytest.approx({"a": 5 / 34, "b": 5 / 35, "c": 5 / 36, "d": 5 / 36})


def test_warnings_of_a_training_say_which():
    with warns_here(r"seal, patient_\d held out: of one kind"):
        original = shell.train_variant
        try:
            shell.train_variant = lambda *args, **kwargs: (
                shell.warnings.warn("of one kind"),
                original(*args, **kwargs),
            )[1]
            run(cohort())
        finally:
            shell.train_variant = original


def test_one_group_cannot_be_held_out():
    with pytest.raises(ValueError, match=r"all sections belong to 'patient_0', so no group can be held out"):
        run(cohort()[:2])
    with pytest.raises(ValueError, match=r"d is the only training section of a fold and has no patches"):
        run(cohort()[2:])
