"""What is held out is not learned from, and the same settings give the same figures."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import fresh
from helpers.sections import GENES, assert_same, empty_rows, spoil, square_lattice, warns_here
from helpers.sections import table as spots_table
from helpers.switchboard import cohort, run
from scipy.sparse import csr_matrix

import spade as sp
from spade.tl._switchboard import switchboard as shell
from spade.tl._switchboard.folds import _penalty_rows

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


# --- what chooses the penalty


def shared(sections, points=None, patch=10.0):
    """Spots of some sections, of which only names and places matter."""
    names = np.repeat([name for name, _ in sections], [n for _, n in sections])
    points = np.full((len(names), 2), np.nan) if points is None else points
    return SimpleNamespace(section=names, points=points, patch=patch)


def test_a_section_of_median_size_chooses_the_penalty():
    spots = shared([("large", 9), ("small", 2), ("middle", 5), ("held out", 7)])
    learned, choosing = _penalty_rows(spots, np.arange(16))
    assert set(spots.section[choosing]) == {"middle"}
    assert set(spots.section[learned]) == {"large", "small"}


def test_the_end_of_a_single_section_chooses_the_penalty_behind_a_guard_band():
    points = square_lattice(90, 100.0)  # 6 × 15 spots
    learned, choosing = _penalty_rows(shared([("one", 90)], points), np.arange(90))
    assert sorted(choosing) == list(range(60, 90))
    assert sorted(learned) == list(range(54))  # a row of six, next to the end, is in the band
    with pytest.raises(ValueError, match=r"one is the only training section of a fold, and its 4 spots are too few"):
        _penalty_rows(shared([("one", 4)], points[:4]), np.arange(4))


def test_no_variant_is_trained_on_what_chooses_the_penalty(models):
    """With d held out, b chooses: other expression there changes the probe, and no model."""
    samples = cohort()
    before = run(samples, ["seal", "spade"])
    known = list(models["patient_2"])
    models.clear()
    samples[1]["table"].X = csr_matrix(np.random.default_rng(9).poisson(3, (36, len(GENES))), dtype=np.float32)
    after = run(samples, ["seal", "spade"])
    assert models["patient_2"] == known
    own = [
        (one["fold"] == "patient_2") & (one["metric"] == "pearson") & (one["by"] == "probe") for one in (before, after)
    ]
    assert (before[own[0]]["value"].to_numpy() != after[own[1]]["value"].to_numpy()).all()
