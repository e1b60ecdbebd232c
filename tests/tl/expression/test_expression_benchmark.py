"""Both protocols of the expression benchmark, step by step."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from helpers.sections import GENES, featured, spoil, through_csv
from scipy.sparse import csr_matrix
from scipy.stats import pearsonr
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

import spade as sp
from spade.core.expression.normalise import log_normalise
from spade.core.expression.ridge import ALPHAS

N_GENES = 20


def cohort(n=4):
    """Four sections of two patients; patient_1's are a and b."""
    samples = [featured(name="abcd"[i], seed=i) for i in range(n)]
    for i, sample in enumerate(samples):
        sample["table"].obs["patient"] = f"patient_{i // 2}"
        rates = np.abs(sample["table"].obsm["X_f"][:, :1]) * np.linspace(0, 2, len(GENES))
        counts = np.random.default_rng(i).poisson(rates + 0.5)
        sample["table"].X = csr_matrix(counts, dtype=np.float32)
    return samples


def run(samples, **options):
    return sp.tl.expression_benchmark(samples, **{"use_rep": "X_f", "n_genes": N_GENES, **options})


def stacked(samples, genes):
    return np.concatenate([one["table"].X.toarray()[:, [GENES.index(g) for g in genes]] for one in samples]).astype(
        float
    )


def test_hest_is_the_published_protocol_step_by_step():
    samples = cohort()
    table = run(samples, protocol="hest")
    # genes: of all samples, found in a tenth of the spots of each, alphabetical, log1p, default flavour
    names = sorted(g for i, g in enumerate(GENES) if all((s["table"].X[:, i] > 0).sum() >= 4 for s in samples))
    pool = ad.AnnData(np.log1p(stacked(samples, names)).astype(np.float32), var=pd.DataFrame(index=names))
    sc.pp.highly_variable_genes(pool, n_top_genes=N_GENES)
    genes = pool.var_names[pool.var["highly_variable"]][:N_GENES].tolist()
    assert table[table["fold"] == "patient_0"]["gene"].tolist() == genes
    for fold, test, train in (("patient_0", samples[:2], samples[2:]), ("patient_1", samples[2:], samples[:2])):
        x, query = (np.concatenate([one["table"].obsm["X_f"] for one in part]) for part in (train, test))
        scaler = StandardScaler().fit(x)
        pca = PCA(n_components=8, random_state=1).fit(scaler.transform(x))  # all there are, of the 256 it asks for
        x, query = (pca.transform(scaler.transform(part)) for part in (x, query))
        y, truth = (np.log1p(stacked(part, genes)) for part in (train, test))
        alpha = 100 / (8 * N_GENES)
        theirs = Ridge(solver="lsqr", alpha=alpha, random_state=1, fit_intercept=False, max_iter=1000).fit(x, y)
        wanted = [pearsonr(truth[:, g], theirs.predict(query)[:, g])[0] for g in range(N_GENES)]
        own = table[table["fold"] == fold]
        np.testing.assert_allclose(own["pearson"], wanted, atol=1e-4)
        assert set(own["alpha"]) == {alpha}
        assert set(own["n_spots"]) == {72}
        assert set(own["section"]) == {""}


def test_sound_chooses_genes_and_penalty_on_training_sections_and_scores_within_sections():
    samples = cohort()
    table = run(samples, protocol="sound")
    assert set(zip(table["fold"], table["section"], strict=True)) == {
        ("patient_0", "a"), ("patient_0", "b"), ("patient_1", "c"), ("patient_1", "d"),
    }  # fmt: skip
    own = table[table["section"] == "a"]
    genes, alpha = own["gene"].tolist(), own["alpha"].iloc[0]
    assert alpha in ALPHAS
    x = np.concatenate([one["table"].obsm["X_f"] for one in samples[2:]]).astype(float)

    def expression(part):
        columns = [GENES.index(g) for g in genes]
        return np.concatenate([log_normalise(one["table"].X.tocsr()).toarray()[:, columns] for one in part])

    scaler = StandardScaler().fit(x)
    theirs = Ridge(alpha=alpha).fit(scaler.transform(x), expression(samples[2:]))
    predicted = theirs.predict(scaler.transform(samples[0]["table"].obsm["X_f"].astype(float)))
    truth = expression(samples[:1])
    wanted = [pearsonr(truth[:, g], predicted[:, g])[0] for g in range(N_GENES)]
    np.testing.assert_allclose(own["pearson"], wanted, atol=1e-4)


def test_what_is_held_out_changes_nothing_that_is_learned():
    """Other counts in the test sections: the sound protocol keeps genes and penalties, HEST-Bench changes its genes."""
    samples, changed = cohort(), cohort()
    rng = np.random.default_rng(0)
    for sample in changed[:2]:
        sample["table"].X = csr_matrix(rng.poisson(np.linspace(9, 0.6, len(GENES)), (36, len(GENES))), dtype=np.float32)
    before, after = run(samples), run(changed)
    for protocol, same in (("sound", True), ("hest", False)):
        one, other = (t[(t["protocol"] == protocol) & (t["fold"] == "patient_0")] for t in (before, after))
        assert (one["gene"].tolist() == other["gene"].tolist()) == same
        if same:
            assert one["alpha"].tolist() == other["alpha"].tolist()


def test_differences_between_sections_count_only_in_hest():
    """A feature that only tells sections apart: HEST-Bench rewards it, correlation within sections does not."""
    samples = cohort()
    rng = np.random.default_rng(0)
    for i, sample in enumerate(samples):
        level = 1.0 + 9 * (i % 2)
        sample["table"].X = csr_matrix(rng.poisson(level, (36, len(GENES))), dtype=np.float32)
        sample["table"].obsm["X_f"] = (level + 0.01 * rng.normal(size=(36, 3))).astype(np.float32)
    means = run(samples, target_sum=None).groupby("protocol")["pearson"].mean()
    assert means["hest"] > 0.7
    assert abs(means["sound"]) < 0.2


def test_several_representations_on_the_same_genes_and_given_genes():
    samples = cohort()
    for i, sample in enumerate(samples):
        sample["table"].obsm["X_noise"] = np.random.default_rng(50 + i).normal(size=(36, 4)).astype(np.float32)
    spoil(samples[0], "X_noise", [0])
    reps = {"f": "X_f", "noise": "X_noise", "both": ("X_f", "X_noise")}
    table = run(samples, use_rep=reps, genes=GENES[5:9])
    assert set(table["gene"]) == set(GENES[5:9])
    assert len(table) == 3 * 4 * (2 + 4)
    assert set(table.loc[table["section"] == "a", "n_spots"]) == {35}
    summary = sp.tl.expression_summary(table).set_index(["protocol", "representation"])
    assert summary.loc[("sound", "f"), "pearson"] > summary.loc[("sound", "noise"), "pearson"] + 0.1
    assert summary.loc[("sound", "f"), "n_units"] == 4
    assert summary.loc[("hest", "f"), "n_units"] == 2


def test_one_training_section_takes_patches():
    samples = cohort(2)
    with pytest.raises(ValueError, match=r"[ab] is the only training section of a fold and has no patches"):
        run(samples, groupby=None, protocol="sound")
    sp.pp.patches(samples, size_um=40)
    assert set(run(samples, groupby=None)["fold"]) == {"a", "b"}


def test_genes_without_variance_are_nan_and_counted():
    samples = cohort()
    for sample in samples:
        counts = sample["table"].X.tolil()
        counts[:, 3] = 0
        sample["table"].X = counts.tocsr()
    table = run(samples, genes=GENES[2:5], target_sum=None)
    assert table.loc[table["gene"] == GENES[3], "pearson"].isna().all()
    assert table.loc[table["gene"] != GENES[3], "pearson"].notna().all()
    summary = sp.tl.expression_summary(table)
    assert summary["n_missing"].tolist() == [2, 4]
    by_gene = sp.tl.expression_summary(table, by="gene")
    assert by_gene.groupby("protocol")["gene"].last().tolist() == [GENES[3]] * 2
    assert np.isnan(by_gene.loc[by_gene["gene"] == GENES[3], "pearson"]).all()


def test_summary_by_hand():
    rows = [
        {"protocol": "sound", "representation": "X", "fold": s, "section": s, "gene": g, "pearson": p}
        for s, values in {"a": (0.1, 0.3), "b": (0.5, np.nan)}.items()
        for g, p in zip("gh", values, strict=True)
    ]
    (row,) = sp.tl.expression_summary(pd.DataFrame(rows)).to_dict("records")
    assert row["pearson"] == pytest.approx((0.2 + 0.5) / 2)
    assert (row["low"], row["high"]) == (pytest.approx(0.2), pytest.approx(0.5))
    assert (row["n_units"], row["n_missing"]) == (2, 1)
    by_gene = sp.tl.expression_summary(pd.DataFrame(rows), by="gene").set_index("gene")
    assert by_gene.loc["g", "pearson"] == pytest.approx(0.3)
    assert np.isnan(by_gene.loc["h", "low"])
    for table, error in ((rows, TypeError), (pd.DataFrame(rows).drop(columns="fold"), ValueError)):
        with pytest.raises(error, match="table"):
            sp.tl.expression_summary(table)
    with pytest.raises(ValueError, match="by='fold'"):
        sp.tl.expression_summary(pd.DataFrame(rows), by="fold")


def test_results_from_a_file_have_the_same_summary():
    table = run(cohort(), protocol="hest")
    assert (table["section"] == "").all()
    summaries = [sp.tl.expression_summary(one) for one in (table, through_csv(table))]
    assert summaries[0].loc[0, "n_units"] == 2
    pd.testing.assert_frame_equal(*summaries)


def test_what_is_asked_for_is_checked():
    samples = cohort()
    for message, options in (
        ("protocol='best': expected", {"protocol": "best"}),
        ("use_rep=None: name an obsm key", {"use_rep": None}),
        ("n_genes=0", {"n_genes": 0}),
        ("n_genes=1000: only .* genes occur in a tenth of the spots of every section", {"n_genes": 1000}),
        ("expected a tuple|several values", {"groupby": "organ"}),
    ):
        with pytest.raises(ValueError, match=message):
            run(samples, **options)
    with pytest.raises(ValueError, match="all sections belong to 'patient_0', so no group can be held out"):
        run(samples[:2])
    with pytest.raises(KeyError, match=r"a: genes: 'nope' are not in the table"):
        run(samples, genes=[GENES[0], "nope"])
    with pytest.raises(KeyError, match="groupby='donor' is not in obs"):
        run(samples, groupby="donor")
    samples[0]["table"].X = samples[0]["table"].X * 0.5
    with pytest.raises(ValueError, match="not whole numbers"):
        run(samples)
