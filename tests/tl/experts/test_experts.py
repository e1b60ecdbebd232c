"""What experts are about: markers, composition, agreement, routing scores and mixing, against answers known by other means."""

from __future__ import annotations

import logging
from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from helpers.sections import (
    GENES,
    assert_same,
    circles,
    empty_rows,
    featured,
    no_warning,
    picture,
    pixels,
    spoil,
    square_lattice,
    table,
    tiny,
    train,
    warns_here,
)
from scipy.sparse import csr_matrix
from scipy.stats import entropy
from sklearn import metrics
from spatialdata import SpatialData, read_zarr

import spade as sp
from spade.core.evaluation.composition import composition
from spade.core.evaluation.intervals import bootstrap_weights, interval
from spade.core.evaluation.mixing import expected_shares, neighbour_shares
from spade.core.expression.normalise import log_normalise

THREE = tuple("012" * 20)


def with_experts(sdata, names, key="spade_expert"):
    """Write experts by hand, ``""`` for none."""
    values = np.array(names, dtype=object)
    values[values == ""] = None
    sdata["table"].obs[key] = pd.Categorical(values, categories=sorted(set(names) - {""}))
    return sdata


def planted(name="a", seed=0, experts=THREE, strong=4.0, genes=GENES):
    """Sixty spots; genes 0–4, 5–9 and 10–14 are high in experts 0, 1 and 2."""
    sdata = with_experts(tiny(len(experts), name=name, seed=seed, genes=genes), experts)
    rate = np.ones((len(experts), len(genes)))
    for row, expert in enumerate(experts):
        if expert:
            rate[row, 5 * int(expert) : 5 * int(expert) + 5] *= strong
    sdata["table"].X = csr_matrix(np.random.default_rng(seed).poisson(2 * rate).astype(np.float32))
    return sdata


def logs(*samples):
    return np.vstack([log_normalise(s["table"].X.tocsr()).toarray() for s in samples])


# --- markers


def test_markers_are_those_that_were_planted_and_those_of_scanpy():
    samples = [planted("a"), planted("b", 1)]
    found = sp.tl.rank_expert_genes(samples, n_genes=5)
    assert [str(e) for e in found["expert"].unique()] == ["0", "1", "2"]
    for expert, own in found[found["rank"] <= 5].groupby("expert"):
        assert sorted(own["gene"]) == list(GENES[5 * int(expert) : 5 * int(expert) + 5])
    joined = ad.concat([s["table"] for s in samples], index_unique="-")
    sc.pp.normalize_total(joined, target_sum=1e4)
    sc.pp.log1p(joined)
    for method in ("wilcoxon", "t-test"):
        ours = sp.tl.rank_expert_genes(samples, n_genes=None, method=method)
        assert len(ours) == 3 * len(GENES)
        sc.tl.rank_genes_groups(joined, "spade_expert", method=method)
        for expert, own in ours.groupby("expert"):
            theirs = sc.get.rank_genes_groups_df(joined, expert).set_index("names").loc[own["gene"]]
            assert own["rank"].tolist() == list(range(1, 61))
            assert (np.diff(own["score"]) <= 0).all()
            for column, name in {
                "score": "scores", "log_fold_change": "logfoldchanges", "p": "pvals", "p_adjusted": "pvals_adj"
            }.items():  # fmt: skip
                np.testing.assert_allclose(own[column], theirs[name], rtol=1e-3, atol=1e-6)


def test_shares_and_sections_are_counted_by_hand():
    samples = [planted("a"), planted("b", 1), planted("c", 2, experts=tuple("01" * 29 + "22"))]
    found = sp.tl.rank_expert_genes(samples, n_genes=3)
    x = logs(*samples)
    experts = np.concatenate([s["table"].obs["spade_expert"].astype(str) for s in samples])
    section = np.repeat([0, 1, 2], 60)
    for row in found.itertuples():
        gene, own = x[:, GENES.index(row.gene)], experts == row.expert
        assert row.share_in == pytest.approx((gene[own] > 0).mean())
        assert row.share_out == pytest.approx((gene[~own] > 0).mean())
        higher = [gene[own & (section == s)].mean() > gene[~own & (section == s)].mean() for s in range(3)]
        compared = 3 if row.expert != "2" else 2  # two spots in section c are too few
        assert (row.sections, row.n_sections) == (sum(higher[:compared]), compared)
    assert (found.groupby("expert").size() == found["gene"].nunique()).all()


def test_the_table_of_one_object_is_kept_and_survives_its_store(tmp_path):
    sample = planted()
    found = sp.tl.rank_expert_genes(sample, n_genes=4)
    pd.testing.assert_frame_equal(sample["table"].uns["rank_expert_genes"], found)
    facts = sample["table"].uns["spade"]["rank_expert_genes"]
    assert (facts["function"], facts["method"], facts["n_genes"]) == ("tl.rank_expert_genes", "wilcoxon", 4)
    sp.io.write(sample, tmp_path / "a.zarr")
    back = read_zarr(tmp_path / "a.zarr")["table"].uns
    pd.testing.assert_frame_equal(back["rank_expert_genes"], found, check_index_type=False, check_names=False)
    assert dict(back["spade"]["rank_expert_genes"]) == facts

    sp.io.write(planted(), tmp_path / "b.zarr")
    of_path = sp.tl.rank_expert_genes(str(tmp_path / "b.zarr"), n_genes=4, key_added="markers")
    pd.testing.assert_frame_equal(of_path, found)
    stored = read_zarr(tmp_path / "b.zarr")["table"].uns["markers"]
    pd.testing.assert_frame_equal(stored, found, check_index_type=False, check_names=False)


def test_tables_of_several_objects_are_only_returned():
    samples = [planted("a"), planted("b", 1)]
    before = [planted("a"), planted("b", 1)]
    sp.tl.rank_expert_genes(iter(samples))
    for sample, other in zip(samples, before, strict=True):
        assert_same(sample, other)


def test_experts_of_few_spots_are_named_and_still_are_among_the_rest():
    sample = planted(experts=tuple("01" * 28 + "2222"))
    with warns_here(r"experts with fewer than min_spots=10 spots .* are not ranked \(2: 4, of 60\)"):
        found = sp.tl.rank_expert_genes(sample, min_spots=10, n_genes=None)
    assert set(found["expert"]) == {"0", "1"}
    row = found[(found["expert"] == "0") & (found["gene"] == "G10")].iloc[0]
    rest = logs(sample)[np.array(sample["table"].obs["spade_expert"]) != "0", 10]
    assert row["share_out"] == pytest.approx((rest > 0).mean())
    with no_warning():
        assert set(sp.tl.rank_expert_genes(sample, min_spots=4)["expert"]) == {"0", "1", "2"}


def test_spots_without_expert_or_counts_are_left_out_and_counted(caplog):
    experts = ["", *THREE[1:]]
    sample = planted(experts=experts)
    empty_rows(sample, [4, 5])
    bare = with_experts(featured(genes=(), name="bare"), ["0", "1"] * 18)
    with caplog.at_level(logging.INFO, logger="spade"):
        found = sp.tl.rank_expert_genes([sample, bare], min_spots=5)
    assert "rank_expert_genes: of 60 spots are left out: 1 without expert, 2 without counts" in caplog.text
    assert "bare: no expression, passed over" in caplog.text
    kept = np.setdiff1d(np.arange(60), [0, 4, 5])
    other = planted(experts=experts)
    other.tables["table"] = other["table"][kept].copy()
    pd.testing.assert_frame_equal(found, sp.tl.rank_expert_genes(other, min_spots=5))


def test_normalised_layers_give_the_same():
    sample, plain = planted(), planted()
    sample["table"].layers["log"] = log_normalise(sample["table"].X.tocsr())
    del sample["table"].X
    found = sp.tl.rank_expert_genes(sample, layer="log", normalized=True)
    pd.testing.assert_frame_equal(found, sp.tl.rank_expert_genes(plain))


def test_clusters_stand_in_for_experts_but_not_side_by_side():
    sample = with_experts(planted(), THREE, "mine_cluster")
    pd.testing.assert_frame_equal(
        sp.tl.rank_expert_genes(sample, key="mine"), sp.tl.rank_expert_genes(planted(), key="spade")
    )
    other = with_experts(tiny(60, name="b"), THREE, "spade_cluster")
    for call in (
        sp.tl.rank_expert_genes,
        lambda s: sp.tl.expert_composition(s, by="organ"),
        lambda s: sp.tl.expert_agreement(s, label_key="organ"),
    ):
        with pytest.raises(
            ValueError, match=r"a has obs\['spade_expert'\], but b has obs\['spade_cluster'\]\. Run sp\.tl"
        ):
            call([planted(), other])


@pytest.mark.parametrize(
    ("samples", "options", "error", "said"),
    [
        (lambda: planted(experts=["1"] * 60), {}, ValueError, r"all 60 spots with counts belong to expert '1'; genes are"),
        (lambda: planted(experts=[""] * 60), {}, ValueError, r"key='spade': none of 60 spots has an expert"),
        (tiny, {}, KeyError, r"obs has neither 'spade_expert' nor 'spade_cluster'; experts there: none\. Run sp\.tl"),
        (lambda: with_experts(tiny(genes=()), ["0", "1"] * 18), {}, ValueError, r"no sample has expression .*: tiny"),
        (planted, {"method": "logreg"}, ValueError, r"method='logreg': expected one of 'wilcoxon', 't-test'"),
        (planted, {"min_spots": 21}, ValueError, r"min_spots=21: no expert has as many .*\(0: 20, 1: 20, 2: 20, of 60\)"),
        (planted, {"min_spots": 1}, ValueError, r"min_spots=1: expected a whole number of at least 2"),
        (planted, {"n_genes": 0}, ValueError, r"n_genes=0: expected a whole number of at least 1"),
        (planted, {"layer": "raw"}, KeyError, r"a: layer='raw' is not there; layers: none"),
        (planted, {"key_added": "spade"}, ValueError, r"key_added='spade' is where records of the object are kept"),
        (planted, {"key_added": "a/b"}, ValueError, r"key_added='a/b' cannot be stored"),
        (
            lambda: [planted("a"), planted("b", genes=[g.lower() for g in GENES])],
            {},
            ValueError,
            r"only 0 gene names in common.*Rank them apart",
        ),
        (lambda: [planted("a"), planted("a", 1)], {}, ValueError, r"two samples are named 'a'"),
    ],
)  # fmt: skip
def test_ranking_says_what_it_needs(samples, options, error, said):
    with pytest.raises(error, match=said):
        sp.tl.rank_expert_genes(samples(), **options)


def test_markers_of_a_trained_model(cohort, model):
    sp.tl.embed(cohort, model)
    found = sp.tl.rank_expert_genes(cohort, n_genes=10, min_spots=5)
    sizes = pd.concat([s["table"].obs["spade_expert"].astype(str) for s in cohort]).value_counts()
    assert set(found["expert"]) == {e for e, n in sizes.items() if n >= 5}
    assert found["share_in"].between(0, 1).all()
    assert (found["sections"] <= found["n_sections"]).all()


# --- intervals


def test_draws_are_of_whole_units_and_seeded():
    drawn = bootstrap_weights(7, 500, 3)
    assert drawn.shape == (500, 7)
    assert np.issubdtype(drawn.dtype, np.integer)
    assert (drawn.sum(1) == 7).all()
    np.testing.assert_array_equal(drawn, bootstrap_weights(7, 500, np.random.default_rng(3)))
    assert drawn.mean(0) == pytest.approx(1, abs=0.15)


def test_intervals_are_percentiles_and_pass_over_nan():
    values = np.array([[1.0, np.nan, 5.0], [2.0, np.nan, np.nan], [3.0, np.nan, 7.0]])
    with no_warning():
        low, high = interval(values, 0.5)
    np.testing.assert_allclose(low, [1.5, np.nan, 5.5])
    np.testing.assert_allclose(high, [2.5, np.nan, 6.5])
    low, high = interval(np.arange(101.0))
    assert (float(low), float(high)) == pytest.approx((2.5, 97.5))


def test_intervals_cover_as_often_as_they_say():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(300):
        values = rng.normal(size=40)
        low, high = interval(bootstrap_weights(40, 400, rng) @ values / 40)
        inside += low <= 0 <= high
    assert 0.89 < inside / 300 < 0.98


def test_the_composition_of_clustered_spots_is_covered_though_spots_are_not_independent():
    """Sections differ in their share of an expert; an interval over spots would be far too narrow."""
    rng = np.random.default_rng(1)
    inside, widths = 0, []
    for _ in range(200):
        share = rng.beta(4, 4, size=30)
        ones = rng.binomial(200, share)
        counts = np.stack([ones, 200 - ones], axis=1)[:, None]
        found = composition(np.concatenate([counts, counts[::-1]], axis=1), 300, rng)
        low, high = (float(bound[0, 0]) for bound in found.share_bounds)
        inside += low <= 0.5 <= high
        widths.append(high - low)
    assert inside / 200 > 0.87
    assert np.mean(widths) > 3 * 3.92 * np.sqrt(0.25 / 6000)


# --- composition


def made_of(name, region, experts, **obs):
    sdata = with_experts(tiny(len(experts), name=name), experts)
    sdata["table"].obs["area"] = region
    for column, values in obs.items():
        sdata["table"].obs[column] = values
    return sdata


def test_shares_and_enrichment_are_those_by_hand():
    samples = [
        made_of("a", ["core"] * 6 + ["rim"] * 4, list("0000111111")),
        made_of("b", ["core"] * 2 + ["rim"] * 8, list("0000000001")),
    ]
    found = sp.tl.expert_composition(samples, by="area", n_boot=50).set_index(["value", "expert"])
    assert found["by"].unique().tolist() == ["area"]
    assert found["n"].to_dict() == {("core", "0"): 6, ("core", "1"): 2, ("rim", "0"): 7, ("rim", "1"): 5}
    assert found["n_value"].tolist() == [8, 8, 12, 12]
    assert found["n_units"].tolist() == [2] * 4
    np.testing.assert_allclose(found["share"], [6 / 8, 2 / 8, 7 / 12, 5 / 12])
    np.testing.assert_allclose(found["expected"], [13 / 20, 7 / 20] * 2)
    by_hand = [np.log2((n + 0.5) / (m * e + 0.5)) for n, m, e in ((6, 8, 0.65), (2, 8, 0.35), (7, 12, 0.65), (5, 12, 0.35))]  # fmt: skip
    np.testing.assert_allclose(found["log2_enrichment"], by_hand)


def test_bounds_are_those_of_drawn_sections_and_patients():
    rng = np.random.default_rng(0)
    samples = []
    for i in range(6):
        experts = list("01")[: i % 2 + 1] + list(rng.choice(["0", "1"], 28, p=[0.2 + 0.1 * i, 0.8 - 0.1 * i]))
        samples.append(made_of(f"s{i}", "all", experts, patient=f"p{i // 2}"))
    counts = np.array([s["table"].obs["spade_expert"].value_counts().reindex(["0", "1"]).to_list() for s in samples])
    for unit, units in ((None, counts), ("patient", counts.reshape(3, 2, 2).sum(1))):
        found = sp.tl.expert_composition(samples, by="area", unit=unit, n_boot=4000, rng=5)
        drawn = bootstrap_weights(len(units), 4000, 99) @ units
        low, high = np.quantile(drawn[:, 0] / drawn.sum(1), [0.025, 0.975])
        assert found["n_units"].tolist() == [len(units)] * 2
        assert (found["share_low"][0], found["share_high"][0]) == pytest.approx((low, high), abs=0.01)
        assert (found["log2_low"] <= found["log2_enrichment"]).all()
    again = [sp.tl.expert_composition(samples, by="area", n_boot=30, rng=rng) for rng in (1, 1, 2)]
    pd.testing.assert_frame_equal(again[0], again[1])
    assert not again[0].equals(again[2])


def test_a_value_of_one_unit_has_no_interval(caplog):
    samples = [made_of(name, "all", list("0011") * 5, donor=name) for name in ("a", "b")]
    with caplog.at_level(logging.INFO, logger="spade"):
        of_donor = sp.tl.expert_composition(samples, by="donor", n_boot=20)
    assert "no interval for values of one section: a, b" in caplog.text
    bounds = ["share_low", "share_high", "log2_low", "log2_high"]
    assert of_donor[bounds].isna().all(axis=None)
    assert of_donor["log2_enrichment"].notna().all()
    assert sp.tl.expert_composition(samples[0], by="area", n_boot=20)[bounds].isna().all(axis=None)
    assert sp.tl.expert_composition(samples, by="area", n_boot=20)[bounds].notna().all(axis=None)


def test_regions_of_one_object_are_units():
    ids = [f"s{i:02d}" for i in range(12)]
    both = SpatialData(
        shapes={"left": circles(square_lattice(12)), "right": circles(square_lattice(12))},
        tables={"table": table(ids * 2, region=["left"] * 12 + ["right"] * 12, area="all")},
    )
    with_experts(both, list("01" * 12))
    found = sp.tl.expert_composition(both, by="area", n_boot=20)
    assert found["n_units"].tolist() == [2, 2]
    assert found["share_low"].tolist() == [0.5, 0.5]


def test_values_keep_their_order_and_missing_ones_are_counted(caplog):
    sample = made_of("a", pd.Categorical(["z", "b", None, "z"] * 5, categories=["z", "b", "none"]), ["", *("0", "10", "2") * 6, "0"])  # fmt: skip
    with caplog.at_level(logging.INFO, logger="spade"):
        found = sp.tl.expert_composition(sample, by="area", n_boot=5)
    assert found["value"].drop_duplicates().tolist() == ["z", "b"]
    assert found["expert"].drop_duplicates().tolist() == ["0", "2", "10"]
    assert found["n"].sum() == 14
    assert "expert_composition: of 20 spots are left out: 1 without expert, 5 without value" in caplog.text
    sample["table"].obs["level"] = [10.0, 9.0, np.nan, 10.0] * 5
    assert sp.tl.expert_composition(sample, by="level")["value"].drop_duplicates().tolist() == ["9", "10"]


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"by": "zone"}, KeyError, r"a: by='zone' is not in obs; columns: .*'area'"),
        ({"by": "area", "unit": "donor"}, KeyError, r"a: unit='donor' is not in obs"),
        ({"by": "area", "unit": "hole"}, ValueError, r"a: obs\['hole'\] is missing for 1 of 10 spots"),
        ({"by": "depth"}, TypeError, r"by='depth' is a column of numbers such as 0\.5, .* pandas\.cut"),
        ({"by": "nothing"}, ValueError, r"by='nothing': no spot has both a value and an expert \(10 spots\)"),
        ({"by": "area", "key": "mine"}, KeyError, r"key='mine'.*experts there: 'spade_expert'"),
        ({"by": "area", "n_boot": 0}, ValueError, r"n_boot=0: expected a whole number"),
        ({"by": "area", "rng": -1}, TypeError, r"rng=-1: expected a non-negative int"),
    ],
)
def test_composition_says_what_it_needs(options, error, said):
    sample = made_of("a", "all", list("01" * 5), hole=[None, *"x" * 9], depth=np.arange(10) + 0.5, nothing=None)
    with pytest.raises(error, match=said):
        sp.tl.expert_composition(sample, **options)


# --- agreement


def test_agreement_is_that_of_sklearn_per_section_and_overall(caplog):
    rng = np.random.default_rng(0)
    samples = []
    for name in ("a", "b"):
        labels = rng.choice(["x", "y", "z"], 40).astype(object)
        experts = np.where(rng.random(40) < 0.7, np.select([labels == "x", labels == "y"], ["0", "1"], "2"), "3")
        samples.append(made_of(name, labels, experts.tolist()))
    samples[0]["table"].obs.loc[samples[0]["table"].obs_names[:3], "area"] = None
    with_experts(samples[1], ["", *samples[1]["table"].obs["spade_expert"].astype(str)[1:]])
    with caplog.at_level(logging.INFO, logger="spade"):
        found = sp.tl.expert_agreement(samples, label_key="area").set_index("section")
    assert "of 80 spots are left out: 3 without label, 1 without expert" in caplog.text
    assert found.index.tolist() == ["a", "b", "all sections"]
    assert found["n"].tolist() == [37, 39, 76]
    assert found["n_without_label"].tolist() == [3, 0, 3]
    assert found["n_without_expert"].tolist() == [0, 1, 1]
    frames = [s["table"].obs[["area", "spade_expert"]].dropna().astype(str) for s in samples]
    for name, frame in zip(found.index, [*frames, pd.concat(frames)], strict=True):
        truth, experts = frame["area"], frame["spade_expert"]
        row = found.loc[name]
        assert row["adjusted_rand"] == pytest.approx(metrics.adjusted_rand_score(truth, experts))
        assert row["adjusted_mutual_info"] == pytest.approx(metrics.adjusted_mutual_info_score(truth, experts))
        assert row["normalized_mutual_info"] == pytest.approx(metrics.normalized_mutual_info_score(truth, experts))
        assert row["homogeneity"] == pytest.approx(metrics.homogeneity_score(truth, experts))
        assert row["completeness"] == pytest.approx(metrics.completeness_score(truth, experts))


def test_the_same_division_is_one_and_a_finer_one_is_homogeneous():
    measures = ["adjusted_rand", "adjusted_mutual_info", "normalized_mutual_info", "homogeneity", "completeness"]
    same = sp.tl.expert_agreement(made_of("a", list("xyz" * 6), list("102" * 6)), label_key="area")
    np.testing.assert_allclose(same[measures], 1)
    finer = sp.tl.expert_agreement(made_of("a", list("xxy" * 6), list("012" * 6)), label_key="area").iloc[-1]
    assert finer["homogeneity"] == pytest.approx(1)
    assert finer["completeness"] < 1
    one = sp.tl.expert_agreement(made_of("a", list("xy" * 6), list("0" * 12)), label_key="area").iloc[-1]
    assert (one["adjusted_rand"], one["homogeneity"], one["n_experts"]) == (0, 0, 1)


def test_a_section_of_one_label_has_nothing_to_agree_with():
    samples = [made_of("a", "x", list("01" * 5)), made_of("b", list("xy" * 5), list("01" * 5))]
    found = sp.tl.expert_agreement(samples, label_key="area").set_index("section")
    assert np.isnan(found.loc["a", "adjusted_rand"])
    assert found.loc["b", "adjusted_rand"] == 1
    assert found.loc["all sections", "n"] == 20
    with pytest.raises(
        ValueError, match=r"label_key='area': the 10 spots with label and expert have 1 different labels \(x\)"
    ):
        sp.tl.expert_agreement(samples[0], label_key="area")
    with pytest.raises(KeyError, match=r"a: label_key='zone' is not in obs"):
        sp.tl.expert_agreement(samples, label_key="zone")
    samples[0]["table"].obs["area"] = pd.Categorical([None] * 10, categories=["x"])
    assert sp.tl.expert_agreement(samples, label_key="area")["n"].tolist() == [0, 10, 10]


# --- routing scores


@pytest.fixture(scope="module")
def small():
    return train([featured(name="a"), featured(name="b", seed=1)])


def test_entropy_is_that_of_scipy_and_distance_that_to_the_nearest_prototype(small):
    sample = featured(name="new", seed=7)
    assert sp.tl.routing_scores(sample, small) is None
    obs, x = sample["table"].obs, sample["table"].obsm["X_f"]
    np.testing.assert_allclose(obs["spade_entropy"], entropy(small.route(x), axis=1), atol=1e-9)
    routing = small.routing
    z = (x - routing.mean) / (routing.scale / np.sqrt(8))
    centres = routing.centroids * np.sqrt(8)
    by_hand = np.sqrt(((z[:, None] - centres) ** 2).mean(2)).min(1)  # root of the mean squared difference of z-scores
    np.testing.assert_allclose(obs["spade_distance"], by_hand, atol=1e-6)
    facts = sample["table"].uns["spade"]["spade_distance"]
    assert (facts["function"], facts["model_id"], facts["use_rep"]) == ("tl.routing_scores", small.id, "X_f")


def test_far_features_are_far_and_rows_without_a_patch_are_nan(small):
    sample = featured(name="new", seed=7)
    spoil(sample, "X_f", [0, 1])
    spoil(sample, "X_f", [5, 6], 40.0)
    sp.tl.routing_scores(sample, small, key_added="one")
    obs = sample["table"].obs
    assert np.flatnonzero(obs["one_distance"].isna()).tolist() == [0, 1]
    assert np.flatnonzero(obs["one_entropy"].isna()).tolist() == [0, 1]
    near = obs["one_distance"].drop(obs.index[[0, 1, 5, 6]])
    assert near.max() < 1.2
    assert (obs["one_distance"].iloc[[5, 6]] > 5 * near.max()).all()


def test_prototypes_of_experts_that_were_never_trained_do_not_count():
    routing = sp.tl.cluster_experts(featured(), use_rep="X_f", n_prototypes=2, n_experts=2)
    x = featured()["table"].obsm["X_f"]
    apart = replace(routing, active=np.array([True, False]))
    np.testing.assert_allclose(
        apart.nearest_distance(x), routing.distances(x)[:, routing.assignment == 0].min(1), atol=1e-12
    )
    assert (apart.nearest_distance(x) >= routing.nearest_distance(x)).all()


def test_patches_of_a_noise_image_are_further_than_tissue(cohort, model):
    noise = tiny(36, name="noise", mpp=0.5, images={"image": picture(pixels(3))})
    sp.pp.patches(noise)
    sp.pp.encode_patches(noise)
    sp.tl.routing_scores([*cohort, noise], model)
    tissue = np.concatenate([s["table"].obs["spade_distance"] for s in cohort])
    valid = noise["table"].obs["spade_distance"].dropna()
    assert len(valid)
    assert valid.min() > tissue.max()
    assert np.sqrt(np.mean(tissue**2)) < 1


def test_scores_survive_their_store_and_paths_are_saved(small, tmp_path):
    sample = featured(name="a")
    spoil(sample, "X_f", [3])
    sp.io.write(sample, tmp_path / "a.zarr")
    sp.tl.routing_scores(sample, small)
    sp.tl.routing_scores(tmp_path / "a.zarr", small)
    assert_same(sample, read_zarr(tmp_path / "a.zarr"))


def test_scores_say_what_they_need(small):
    with pytest.raises(TypeError, match=r"model='folder': expected a SpadeModel"):
        sp.tl.routing_scores(featured(), "folder")
    with pytest.raises(ValueError, match=r"has 5 features, but the model reads 8"):
        sp.tl.routing_scores(featured(width=5), small)
    with pytest.raises(KeyError, match=r"use_rep='X_no' is not in obsm; there is 'X_f'"):
        sp.tl.routing_scores(featured(), small, use_rep="X_no")
    with pytest.raises(ValueError, match=r"key_added='a b' cannot be stored"):
        sp.tl.routing_scores(featured(), small, key_added="a b")


# --- mixing


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
    assert "mixing: of 80 spots are left out: 8 with NaN in obsm['X_f']" in caplog.text
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
        (featured, {}, ValueError, r"groupby=None: all 36 spots without NaN are of one group \(tiny\).*several sections"),
        (featured, {"groupby": "patient"}, ValueError, r"one group \(p_tiny\); .*name another column"),
        (featured, {"groupby": "donor"}, KeyError, r"groupby='donor' is not in obs"),
        (featured, {"use_rep": "X_no"}, KeyError, r"use_rep='X_no' is not in obsm"),
        (featured, {"groupby": "organ", "n_neighbors": 36}, ValueError, r"n_neighbors=36: there are only 36 spots"),
        (featured, {"n_neighbors": 0}, ValueError, r"n_neighbors=0: expected"),
        (lambda: [featured(name="a"), featured(name="b", width=5)], {}, ValueError, r"differs in width .*\[5, 8\]"),
    ],
)  # fmt: skip
def test_mixing_says_what_it_needs(samples, options, error, said):
    with pytest.raises(error, match=said):
        sp.tl.mixing(samples(), **{"use_rep": "X_f", **options})


def test_the_joint_embedding_is_the_default(cohort, model):
    sp.tl.embed(cohort, model)
    with no_warning():
        found = sp.tl.mixing(cohort)
    assert found["group"].tolist() == ["toy_0", "toy_1"]
    assert (found["mixing"] >= 0).all()
