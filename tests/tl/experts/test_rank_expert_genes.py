"""Genes of experts are those that were planted and those of scanpy."""

from __future__ import annotations

import logging

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from helpers.sections import GENES, assert_same, empty_rows, featured, no_warning, tiny, warns_here, with_experts
from scipy.sparse import csr_matrix
from spatialdata import read_zarr

import spade as sp
from spade.core.expression.normalise import log_normalise

THREE = tuple("012" * 20)


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


def test_markers_are_those_that_were_planted_and_those_of_scanpy():
    samples = [planted("a"), planted("b", 1)]
    found = sp.tl.rank_expert_genes(samples, n_genes=5)
    assert [str(e) for e in found["expert"].unique()] == ["0", "1", "2"]
    for expert, own in found[found["rank"] <= 5].groupby("expert"):
        assert sorted(own["gene"]) == list(GENES[5 * int(expert) : 5 * int(expert) + 5])
    joined = ad.concat([s["table"] for s in samples], index_unique="-")
    counts = joined.X.copy()
    sc.pp.normalize_total(joined, target_sum=1e4)
    sc.pp.log1p(joined)
    values = log_normalise(csr_matrix(counts))
    np.testing.assert_allclose(joined.X.toarray(), values.toarray(), rtol=1e-5)
    joined.X = values  # values that are equal but for rounding would have other ranks
    for method in ("wilcoxon", "t-test"):
        ours = sp.tl.rank_expert_genes(samples, n_genes=None, method=method)
        assert len(ours) == 3 * len(GENES)
        sc.tl.rank_genes_groups(joined, "spade_expert", method=method)
        for expert, own in ours.groupby("expert"):
            theirs = sc.get.rank_genes_groups_df(joined, expert).set_index("names").loc[own["gene"]]
            assert own["rank"].tolist() == list(range(1, 61))
            assert (np.diff(own["score"]) <= 0).all()
            for column, name in {
                "score": "scores", "p": "pvals", "p_adjusted": "pvals_adj"
            }.items():  # fmt: skip
                np.testing.assert_allclose(own[column], theirs[name], rtol=1e-3, atol=1e-6)


def test_a_gene_of_a_single_spot_has_no_huge_fold_change():
    sample = planted(experts=tuple("01" * 30))
    counts = np.full((60, len(GENES)), 10, np.float32)
    counts[:, :2] = 0
    counts[0, 0] = counts[1, 1] = 1  # a gene of one spot of expert 0, and one of expert 1
    counts[::2, 2] = 30
    sample["table"].X = csr_matrix(counts)
    found = sp.tl.rank_expert_genes(sample, n_genes=None).query("expert == '0'").set_index("gene")["log_fold_change"]
    scaled = 1e4 / counts.sum(1)
    lone, other = (np.expm1(np.log1p(scaled[i]) / 30) for i in (0, 1))
    assert found["G00"] == pytest.approx(np.log2(1 + lone), rel=1e-5)  # and not log2(lone / 1e-9), which is 27
    assert found["G01"] == pytest.approx(-np.log2(1 + other), rel=1e-5)
    own, rest = (np.expm1(np.log1p(counts[i::2, 2] * scaled[i::2]).mean()) for i in (0, 1))
    assert found["G02"] == pytest.approx(np.log2((own + 1) / (rest + 1)), rel=1e-5)
    assert found["G02"] == pytest.approx(np.log2(own / rest), abs=0.01)  # a gene with counts changes as in scanpy


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
    assert "bare: no expression, skipped" in caplog.text
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
        (lambda: planted(experts=["1"] * 60), {}, ValueError, r"all 60 spots with counts belong to "
         r"expert '1'; genes are"),
        (lambda: planted(experts=[""] * 60), {}, ValueError, r"key='spade': none of 60 spots has an expert"),
        (tiny, {}, KeyError, r"obs has neither 'spade_expert' nor 'spade_cluster'; experts there: none\. Run sp\.tl"),
        (lambda: with_experts(tiny(genes=()), ["0", "1"] * 18), {}, ValueError, r"no sample has expression .*: tiny"),
        (planted, {"method": "logreg"}, ValueError, r"method='logreg': expected one of 'wilcoxon', 't-test'"),
        (planted, {"min_spots": 21}, ValueError, r"min_spots=21: no expert has as many .*\(0: "
         r"20, 1: 20, 2: 20, of 60\)"),
        (planted, {"min_spots": 1}, ValueError, r"min_spots=1: expected a whole number of at least 2"),
        (planted, {"n_genes": 0}, ValueError, r"n_genes=0: expected a whole number of at least 1"),
        (planted, {"layer": "raw"}, KeyError, r"a: layer='raw' is not there; layers: none"),
        (planted, {"key_added": "spade"}, ValueError, r"key_added='spade' is the key of records about the object"),
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
