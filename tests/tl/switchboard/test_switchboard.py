"""Variants on the same splits: figures against another way to them, and what users get wrong."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.switchboard import EXPERTS, FAST, KEYS, NAMES, PANEL, cohort, run, values
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score

import spade as sp
from spade.core.evaluation.retrieval import pair_ranks
from spade.core.expression.ridge import ALPHAS
from spade.tl._switchboard import switchboard as shell

# --- the table


def test_every_variant_has_every_figure_of_every_section(table):
    assert list(table) == [
        "variant", "fold", "seed", "unit", "group", "task", "metric", "by", "direction", "shots", "value", "chance",
    ]  # fmt: skip
    assert list(dict.fromkeys(table["variant"])) == ["frozen", *NAMES, "seal_shuffled"]
    assert table[["unit", "fold", "group"]].drop_duplicates().to_numpy().tolist() == [
        ["a", "patient_0", "patient_0"],
        ["b", "patient_0", "patient_0"],
        ["c", "patient_1", "patient_1"],
        ["d", "patient_2", "patient_2"],
    ]
    assert not table["value"].isna().any()
    seeds = table.groupby("variant", sort=False)["seed"].unique().map(list).to_dict()
    assert seeds.pop("frozen") == [0]
    assert set(map(tuple, seeds.values())) == {(0, 1)}
    probe = table[table["by"] == "probe"]
    frozen = probe[probe["variant"] == "frozen"][[*KEYS, "chance"]].to_numpy().tolist()
    assert len(frozen) == 4 * (1 + 4 + 4)
    for (_, _), own in probe.groupby(["variant", "seed"]):
        assert own[[*KEYS, "chance"]].to_numpy().tolist() == frozen


def test_heads_and_spaces_of_their_own_are_measured_where_they_were_trained(table):
    own = table[table["by"] == "model"].groupby("variant")["metric"].unique().map(set).to_dict()
    space = {"recall@5", "median_rank"}
    assert own == {
        "projection": space,
        "spade": space,
        "seal": space | {"pearson"},
        "seal_no_contrastive": {"pearson"},
        "seal_shuffled": space | {"pearson"},
    }


def test_chance_is_beside_every_figure(table):
    assert (table.groupby("metric")["chance"].nunique() == 1).all()
    expected = {
        "pearson": 0.0,
        "recall@5": 5 / 36,
        "median_rank": 18.5,
        "balanced_accuracy": 0.5,
        "macro_auroc": 0.5,
    }
    assert table.groupby("metric")["chance"].first().to_dict() == pytest.approx(expected)


def test_real_pairs_are_told_from_shuffled_ones(table):
    real, shuffled = (values(table, name, metric="pearson", by="model") for name in ("seal", "seal_shuffled"))
    assert not np.array_equal(real, shuffled)
    assert (values(table, "frozen", metric="balanced_accuracy", shots=4) > 0.9).all()  # features tell organs apart


# --- against another way to the same figures


def test_the_penalty_of_the_probe_is_chosen_on_a_section_that_no_model_is_trained_on(table):
    """With d held out, b (the second of three equal sections) chooses; the fit is on all three."""
    samples = cohort()
    x, y = ([part(one) for one in samples] for part in (lambda one: one["table"].obsm["X_f"].astype(float), log_counts))
    mean, deviation = np.concatenate(x[:3]).mean(0), np.concatenate(x[:3]).std(0)
    x = [(one - mean) / deviation for one in x]

    def explained(alpha):
        fit = Ridge(alpha=alpha).fit(np.concatenate([x[0], x[2]]), np.concatenate([y[0], y[2]]))
        return np.mean(1 - (y[1] - fit.predict(x[1])).var(0) / y[1].var(0))

    alpha = max(ALPHAS, key=explained)
    predicted = Ridge(alpha=alpha).fit(np.concatenate(x[:3]), np.concatenate(y[:3])).predict(x[3])
    expected = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(y[3].T, predicted.T, strict=True)])
    assert values(table, "frozen", metric="pearson")["d"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", ["seal", "spade"])
def test_figures_of_a_model_are_those_of_one_trained_by_hand(table, name):
    samples = cohort()
    held_out, others = samples[3], [samples[0], samples[2]]  # b chooses the penalty
    if name == "spade":
        model = sp.tl.train_spade(others, use_rep="X_f", genes=PANEL, **EXPERTS, rng=1)
    else:
        model = sp.tl.train_seal(others, on_features="X_f", genes=PANEL, **FAST, rng=1)
        x = held_out["table"].obsm["X_f"]
        truth = log_counts(held_out)
        rho = [np.corrcoef(a, b)[0, 1] for a, b in zip(truth.T, model.predict_expression(x).T, strict=True) if b.std()]
        constant = len(PANEL) - len(rho)
        found = values(table, name, seed=1, metric="pearson", by="model")["d"]
        assert found == pytest.approx(sum(rho) / (len(rho) + constant), abs=1e-5)
    measured = sp.tl.retrieval_metrics(held_out, model, k=5).query("gallery == 'same_section'").set_index("direction")
    for direction in measured.index:
        facts = {"seed": 1, "by": "model", "direction": direction}
        assert values(table, name, metric="recall@5", **facts)["d"] == measured.loc[direction, "recall"]
        assert values(table, name, metric="median_rank", **facts)["d"] == measured.loc[direction, "median_rank"]


def log_counts(sample):
    counts = sample["table"].X.toarray().astype(float)
    return np.log1p(counts / counts.sum(1, keepdims=True) * 1e4)[:, : len(PANEL)]


def test_retrieval_by_the_probe_is_by_correlation_with_what_it_predicts(table):
    samples = cohort()
    sp.tl.predict_expression(samples[3], reference=samples[:3], genes=PANEL, method="ridge", use_rep="X_f")
    train = np.concatenate([log_counts(one) for one in samples[:3]])
    predicted, truth = (
        (part - train.mean(0)) / train.std(0)
        for part in (samples[3]["table"].obsm["X_predicted"].astype(float), log_counts(samples[3]))
    )
    similarity = np.array([[np.corrcoef(a, b)[0, 1] for b in truth] for a in predicted])
    for direction, s in (("image_to_expression", similarity), ("expression_to_image", similarity.T)):
        ranks = 1 + (s > np.diag(s)[:, None]).sum(1)
        facts = {"direction": direction, "by": "probe"}
        assert values(table, "frozen", metric="recall@5", **facts)["d"] == np.mean(ranks <= 5)
        assert values(table, "frozen", metric="median_rank", **facts)["d"] == np.median(ranks)


def test_classes_are_learned_from_labels_of_the_training_groups():
    samples = cohort()
    for i, sample in enumerate(samples):  # equally many of each, which features do not quite tell
        order = np.argsort(sample["table"].obsm["X_f"][:, 0] + np.random.default_rng(i).normal(0, 6, 36))
        sample["table"].obs["kind"] = np.array(["low", "high"])[(np.argsort(order) >= 18).astype(int)]
    found = run(
        samples, n_folds=None, groupby=None, label_key="kind", shots=54, n_repeats=1
    )  # all labels of three sections
    scaled = [(x - x.mean(0)) / x.std(0) for x in (one["table"].obsm["X_f"].astype(float) for one in samples)]
    y = [one["table"].obs["kind"].to_numpy() for one in samples]
    model = LogisticRegression(C=4 / 8, max_iter=10_000).fit(np.concatenate(scaled[:3]), np.concatenate(y[:3]))
    expected = np.mean([(model.predict(scaled[3]) == y[3])[y[3] == kind].mean() for kind in ("low", "high")])
    auroc = roc_auc_score(y[3] == "low", model.predict_proba(scaled[3])[:, 1])
    assert 0.5 < expected < 1
    assert values(found, "frozen", metric="balanced_accuracy")["d"] == pytest.approx(expected)
    assert values(found, "frozen", metric="macro_auroc")["d"] == pytest.approx(auroc)


def test_a_prediction_alike_everywhere_finds_no_better_than_chance():
    np.testing.assert_array_equal(pair_ranks(np.zeros((5, 3)), np.eye(5, 3) + 1), np.full(5, 3.0))


# --- what users get wrong


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"use_rep": "X_g"}, KeyError, r"use_rep='X_g' is not in obsm; there is 'X_f'"),
        ({"use_rep": None}, ValueError, r"use_rep=None, encoder=None: give one of them"),
        ({"encoder": "test_vit"}, ValueError, r"use_rep='X_f', encoder='test_vit': give one of them"),
        ({"weights": "random"}, ValueError, r"weights='random': use_rep= reads features"),
        ({"use_rep": None, "encoder": "texture"}, ValueError, r'"texture" is not a network'),
        ({"use_rep": None, "encoder": "test_vit", "weights": "random", "n_seeds": 2}, ValueError,
         r"another encoder for every seed"),
        ({"groupby": "organs"}, KeyError, r"groupby='organs' is not in obs; columns: 'region', "
         r"'spot_id', 'patient', 'organ'"),
        ({"groupby": "organ"}, ValueError, r"obs\['organ'\] has several values \('a', 'b'\), but whole sections"),
        ({"label_key": "domain"}, KeyError, r"label_key='domain' is not in obs"),
        ({"label_key": "patient", "shots": 1}, ValueError, r"with patient_0 held out, 'patient_0' "
         r"has 0 labelled spots"),
        ({"label_key": "organ", "shots": (1, 400)}, ValueError, r"fewer than shots=400"),
        ({"label_key": "region"}, ValueError, r"label_key='region': all labels are 'spots'; .* at least two"),
        ({"shots": ()}, ValueError, r"shots=\(\): expected at least one whole number"),
        ({"n_folds": 4}, ValueError, r"n_folds=4: there are 3 groups"),
        ({"n_folds": 1}, ValueError, r"n_folds=1: expected a whole number of at least 2"),
        ({"k": 0}, ValueError, r"k=0: expected"),
        ({"control": "no"}, ValueError, r"control='no': expected True or False"),
        ({"normalized": None}, ValueError, r"normalized=None: expected True or False"),
        ({"groupby": ["organ"]}, ValueError, r"groupby=\['organ'\]: expected a name"),
        ({"variants": 3}, ValueError, r"variants: 3 are not known"),
        ({"variants": ["seal", "sael"]}, ValueError, r"'sael' are not known. There are 'frozen', "
         r"'projection', 'spade', 'seal',"),
        ({"variants": []}, ValueError, r"nothing to compare the frozen control with"),
        ({"variants": {"frozen": {"dim": 2}}}, ValueError, r"the frozen control has no settings"),
        ({"variants": {"mine": 3}}, TypeError, r"variants\['mine'\]=3: expected a dict"),
        ({"variants": {"mine": {"n_epoch": 3}}}, ValueError, r"variants\['mine'\]: 'n_epoch' is not a "
         r"setting of sp.tl.train_seal"),
        ({"variants": {"spade": {"head": "mlp"}}}, ValueError, r"variants\['spade'\]: 'head' is not a "
         r"setting of sp.tl.train_spade"),
        ({"variants": {"mine": {"lr": -1.0}}}, ValueError, r"lr=-1.0: expected a positive number"),
        ({"seal_settings": {"split_key": "x"}}, ValueError, r"seal_settings: 'split_key' is the same for all variants"),
        ({"spade_settings": {"n_experts": 0}}, ValueError, r"n_experts=0"),
        ({"genes": ["G00", "Sox2"]}, KeyError, r"a: genes: 'Sox2' are not in the table"),
        ({"genes": None}, ValueError, r"genes=None, and no sample has"),
        ({"layer": "raw"}, KeyError, r"layer='raw' is not there"),
    ],
)  # fmt: skip
def test_errors(options, error, match, monkeypatch):
    monkeypatch.setattr(shell, "train_variant", lambda *args, **kwargs: pytest.fail("trained before the check"))
    with pytest.raises(error, match=match):
        run(cohort(), **({"variants": ["seal"]} | options))


def test_a_sample_without_expression_is_named():
    samples = cohort()
    samples[1].tables["table"] = samples[1]["table"][:, []].copy()
    with pytest.raises(ValueError, match="b: has no expression"):
        run(samples)


def test_features_of_different_width_or_encoder():
    samples = cohort()
    samples[2]["table"].obsm["X_f"] = samples[2]["table"].obsm["X_f"][:, :5]
    with pytest.raises(ValueError, match=r"use_rep='X_f' differs in width between samples \(a: 8, b: 8, c: 5\)"):
        run(samples)


def test_a_loss_that_is_no_number_names_variant_and_fold():
    with pytest.raises(FloatingPointError, match=r"wild, patient_0 held out: the loss became"):
        run(cohort(), {"wild": {"lr": 1e30}})


@pytest.mark.slow
def test_all_variants_on_the_toy_cohort():
    samples = sp.datasets.toy(3, 80, n_genes=200)
    sp.pp.patches(samples)
    sp.pp.encode_patches(samples)
    genes = sp.pp.select_genes(samples, n_top_genes=40)
    settings = {"seal_settings": {"n_epochs": 20, "lr": 1e-3, "batch_size": 64, "dim": 32}, "spade_settings": EXPERTS}
    found = sp.tl.switchboard(
        samples, use_rep="X_texture", genes=genes, label_key="domain", shots=4, n_repeats=3, **settings
    )
    assert found["variant"].nunique() == 9
    summary = sp.tl.switchboard_summary(found).set_index(["metric", "direction", "by", "variant"]).sort_index()
    recall = summary.loc["recall@10", "image_to_expression", "model"]
    assert recall.loc["seal", "mean"] > 1.5 * recall.loc["seal", "chance"]
    assert recall.loc["seal_shuffled", "mean"] < recall.loc["seal", "mean"]
    pearson = summary.loc["pearson", "", "model"]["mean"]
    assert pearson["seal"] > pearson["seal_shuffled"] + 0.05


def test_a_sample_that_was_dropped_when_genes_were_selected_takes_no_part():
    samples = cohort()
    with pytest.warns(UserWarning, match="a: left out of training, as when the genes were selected"):
        found = run(samples, genes=sp.models.GenePanel(PANEL, dropped=("a",)))
    assert set(found["unit"]) == {"b", "c", "d"}
    wanted = run(samples[1:])
    np.testing.assert_array_equal(found["value"], wanted["value"])
