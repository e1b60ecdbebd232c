"""Prototypes and experts: what is found, what is written, and features that cannot be clustered together."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from helpers.sections import assert_same, featured, no_warning, said_of, spoil, tiny, warns_here
from spatialdata import read_zarr

import spade as sp

SMALL = {"use_rep": "X_f", "n_prototypes": 4, "n_experts": 2}


def cohort():
    return [featured(name="a"), featured(name="b", seed=1)]


def test_two_kinds_of_spots_become_two_experts_and_every_spot_joins_its_nearest_prototype():
    samples = cohort()
    routing = sp.tl.cluster_experts(samples, **SMALL)
    assert (routing.n_prototypes, routing.n_experts, routing.n_features) == (4, 2, 8)
    for sample in samples:
        obs, features = sample["table"].obs, sample["table"].obsm["X_f"]
        assert list(obs["spade_prototype"].cat.categories) == ["0", "1", "2", "3"]
        assert list(obs["spade_cluster"].cat.categories) == ["0", "1"]
        scaled = (features - routing.mean) / routing.scale
        nearest = np.linalg.norm(scaled[:, None] - routing.centroids, axis=2).argmin(1)
        np.testing.assert_array_equal(obs["spade_prototype"].astype(int), nearest)
        np.testing.assert_array_equal(obs["spade_cluster"].astype(int), routing.assignment[nearest])
        assert pd.crosstab(obs["spade_cluster"], np.arange(36) % 2).to_numpy().max(1).tolist() == [18, 18]
        facts = sample["table"].uns["spade"]["spade_cluster"]
        assert (facts["use_rep"], facts["n_prototypes"], facts["n_experts"], facts["seed"]) == ("X_f", 4, 2, 0)


def test_each_group_has_prototypes_of_its_own():
    samples = cohort()
    routing = sp.tl.cluster_experts(samples, groupby="patient", **SMALL)
    assert routing.groups == ("p_a",) * 4 + ("p_b",) * 4
    assert samples[0]["table"].uns["spade"]["spade_cluster"]["groupby"] == "patient"


def test_a_small_group_gets_fewer_prototypes_and_says_so():
    samples = [featured(name="a"), featured(3, name="b")]
    with warns_here(r"group 'p_b' has fewer spots than n_prototypes=4: it gets one prototype per spot, 3"):
        routing = sp.tl.cluster_experts(samples, groupby="patient", **SMALL)
    assert routing.n_prototypes == 7


def test_standard_scaling_does_not_care_for_units_and_none_does():
    plain, rescaled = cohort(), cohort()
    for sample in rescaled:
        sample["table"].obsm["X_f"] = sample["table"].obsm["X_f"] * np.array([1000, *[1] * 7], np.float32) + 5
    with no_warning():
        labels = {}
        for scaling in ("standard", "none"):
            for name, samples in (("plain", plain), ("rescaled", rescaled)):
                sp.tl.cluster_experts(samples, feature_scaling=scaling, **SMALL)
                labels[scaling, name] = [list(s["table"].obs["spade_prototype"]) for s in samples]
    assert labels["standard", "plain"] == labels["standard", "rescaled"]
    assert labels["none", "plain"] != labels["none", "rescaled"]


def test_rows_without_a_patch_take_no_part_and_have_no_label():
    samples, clean = cohort(), cohort()
    spoil(samples[0], "X_f", [2, 7])
    clean[0].tables["table"] = clean[0]["table"][[i for i in range(36) if i not in (2, 7)]].copy()
    routing, expected = (sp.tl.cluster_experts(each, **SMALL) for each in (samples, clean))
    np.testing.assert_array_equal(routing.centroids, expected.centroids)
    obs = samples[0]["table"].obs
    for key in ("spade_prototype", "spade_cluster"):
        assert list(np.flatnonzero(obs[key].isna())) == [2, 7]


def test_the_same_seed_gives_the_same_bytes_and_another_does_not():
    def run(rng):
        return sp.tl.cluster_experts(cohort(), rng=rng, **SMALL).centroids.tobytes()

    assert run(1) == run(1)
    assert run(np.random.default_rng(1)) == run(np.random.default_rng(1))
    assert len({run(1), run(2), run(np.random.default_rng(1))}) == 3


def test_expression_is_not_needed_and_stems_stand_side_by_side():
    sample = featured(genes=())
    sp.tl.cluster_experts(sample, **SMALL)
    sp.tl.cluster_experts(sample, use_rep="X_f", n_prototypes=6, n_experts=3, key_added="fine")
    obs = sample["table"].obs
    assert [obs[key].nunique() for key in ("spade_cluster", "fine_cluster", "spade_prototype", "fine_prototype")] == [
        2,
        3,
        4,
        6,
    ]


def test_stores_get_the_same_and_nothing_else_changes(tmp_path):
    samples = cohort()
    paths = [tmp_path / f"{name}.zarr" for name in "ab"]
    for sample, path in zip(samples, paths, strict=True):
        sp.io.write(sample, path)
    one, other = (sp.tl.cluster_experts(each, **SMALL) for each in (samples, iter(paths)))
    np.testing.assert_array_equal(one.centroids, other.centroids)
    for sample, path in zip(samples, paths, strict=True):
        assert_same(sample, read_zarr(path))


# --- wrong input


def alike(**facts):
    return {"encoder": "uni", "encoder_id": "abc", "size_um": 112.0, "input_px": 224, **facts}


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (
            alike(encoder_id="def"),
            r"b: obsm\['X_f'\] comes from encoder 'uni' \(id def\).*samples before it are from .*\(id abc\)",
        ),
        (
            alike(size_um=56.0),
            r"patches of 56 µm at 224 px, but .*patches of 112 µm at 224 px. Encode patches of the same size",
        ),
        (alike(input_px=448), r"patches of 112 µm at 448 px, but .*at 224 px"),
    ],
)
def test_features_of_different_origin_are_not_mixed(other, said):
    samples = cohort()
    said_of(samples[0], **alike())
    said_of(samples[1], **other)
    with pytest.raises(ValueError, match=said):
        sp.tl.cluster_experts(samples, **SMALL)


def test_unknown_origin_and_another_name_of_the_same_weights_are_fine():
    samples = [*cohort(), featured(name="c", seed=2)]
    said_of(samples[1], **alike())
    said_of(samples[2], **alike(encoder="hf-hub:MahmoodLab/UNI"))
    sp.tl.cluster_experts(samples, **SMALL)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"use_rep": "X_uni"}, KeyError, r"a: use_rep='X_uni' is not in obsm; there is 'X_f'"),
        ({"groupby": "donor"}, KeyError, r"a: groupby='donor' is not in obs; columns: "),
        ({"n_prototypes": 0}, ValueError, r"n_prototypes=0: expected a whole number of at least 1"),
        ({"n_experts": -1}, ValueError, r"n_experts=-1: expected a whole number"),
        (
            {"n_experts": 5},
            ValueError,
            r"n_experts=5 is more than the number of prototypes, 4: lower n_experts or raise n_prot",
        ),
        ({"feature_scaling": "minmax"}, ValueError, r"feature_scaling='minmax': expected one of 'standard', 'none'"),
        ({"routing_temperature": 0}, ValueError, r"routing_temperature=0: expected a positive number"),
        ({"rng": "0"}, TypeError, r"rng='0': expected a non-negative int below 2\*\*63 or a numpy"),
        ({"key_added": "my spade"}, ValueError, r"key_added='my spade' cannot be stored"),
        ({"groupby": "spade_cluster"}, ValueError, r"key_added='spade' would replace obs\['spade_cluster'\], which is"),
        (
            {"split_key": "a_prototype", "key_added": "a"},
            ValueError,
            r"key_added='a' would replace obs\['a_prototype'\]",
        ),
        ({"table_key": "counts"}, KeyError, r"table_key='counts' is not there; tables: 'table'"),
    ],
)
def test_settings_are_checked(options, error, said):
    samples = cohort()
    with pytest.raises(error, match=said):
        sp.tl.cluster_experts(samples, **SMALL | options)
    assert "spade_cluster" not in samples[0]["table"].obs


def test_widths_must_agree():
    samples = [featured(name="a"), featured(name="b", width=5)]
    with pytest.raises(
        ValueError, match=r"obsm\['X_f'\] differs in width between samples \(a: 8, b: 5\). Encode all of them alike"
    ):
        sp.tl.cluster_experts(samples, **SMALL)


def test_some_row_must_be_valid():
    sample = featured()
    spoil(sample, "X_f", slice(None))
    with pytest.raises(
        ValueError, match=r"obsm\['X_f'\] has no valid row in any sample: all patches are off their images"
    ):
        sp.tl.cluster_experts(sample, **SMALL)


def test_features_must_be_made_first():
    with pytest.raises(
        KeyError, match=r"use_rep='X_f' is not in obsm; there is nothing. Image features are made by sp\.pp\.enc"
    ):
        sp.tl.cluster_experts(tiny(), **SMALL)


def test_held_out_rows_do_not_shape_the_clusters_and_are_assigned():
    samples, other = cohort(), cohort()
    for sample in (*samples, *other):
        sample["table"].obs["fold"] = ["train", "train", "val", "test"] * 9
    held_out = [i for i in range(36) if i % 4 > 1]
    for sample in other:
        spoil(sample, "X_f", held_out, sample["table"].obsm["X_f"][held_out] * 1.5 + 1)
    one, two = (sp.tl.cluster_experts(each, split_key="fold", **SMALL) for each in (samples, other))
    np.testing.assert_array_equal(one.centroids, two.centroids)
    np.testing.assert_array_equal(one.mean, two.mean)
    assert not np.array_equal(one.centroids, sp.tl.cluster_experts(samples, **SMALL).centroids)
    assert samples[0]["table"].obs["spade_cluster"].notna().all()
    for sample in samples:
        sample["table"].obs["fold"] = "test"
    with pytest.raises(
        ValueError, match=r"no spot is left to cluster among 72 spots with features \(split_key='fold'\)"
    ):
        sp.tl.cluster_experts(samples, split_key="fold", **SMALL)
