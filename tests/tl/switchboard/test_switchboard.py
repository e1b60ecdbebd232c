"""Variants on the same splits: figures against a way of their own, what is read and what is not, the summary by hand, the plot."""

from __future__ import annotations

import functools

import numpy as np
import pandas as pd
import pytest
from conftest import fresh
from helpers.sections import GENES, assert_same, empty_rows, featured, spoil, warns_here
from helpers.sections import table as spots_table
from safetensors.torch import save_file
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

import spade as sp
from spade.core.evaluation.retrieval import pair_ranks
from spade.tl._switchboard import switchboard as shell

PANEL = GENES[:20]
FAST = {"n_epochs": 2, "dim": 8, "hidden": 16, "batch_size": 32, "lr": 1e-2}
EXPERTS = {"n_prototypes": 2, "n_experts": 2, "n_epochs": 2, "dim": 8, "batch_size": 32}
NAMES = ["projection", "spade", "seal", "seal without contrastive"]
KEYS = ["unit", "task", "metric", "by", "direction", "shots"]


def cohort():
    """Four sections of three patients, a and b of the first; features tell both organs and half of the genes."""
    samples = [featured(name="abcd"[i], seed=i) for i in range(4)]
    for i, sample in enumerate(samples):
        table = sample["table"]
        table.obs["patient"] = f"patient_{max(i - 1, 0)}"
        rates = np.abs(table.obsm["X_f"][:, :1]) * np.linspace(0, 2, len(GENES))
        table.X = csr_matrix(np.random.default_rng(i).poisson(rates + 0.5), dtype=np.float32)
    return samples


def run(samples, variants=("seal",), **options):
    defaults = {
        "use_rep": "X_f",
        "genes": PANEL,
        "control": False,
        "seal_settings": FAST,
        "spade_settings": EXPERTS,
        "k": 5,
    }
    return sp.tl.switchboard(samples, variants=variants, **(defaults | options))


@pytest.fixture(scope="module")
def table():
    """All tasks, four variants and the shuffled pairs, two seeds."""
    return run(cohort(), NAMES, control=True, label_key="organ", shots=(4, 1), n_repeats=3, n_seeds=2)


def values(table, variant, **wanted):
    own = table[table["variant"] == variant]
    for name, value in wanted.items():
        own = own[own[name] == value]
    return own.set_index("unit")["value"]


# --- the table


def test_every_variant_has_every_figure_of_every_section(table):
    assert list(table) == [
        "variant", "fold", "seed", "unit", "group", "task", "metric", "by", "direction", "shots", "value", "chance",
    ]  # fmt: skip
    assert list(dict.fromkeys(table["variant"])) == ["frozen", *NAMES, "seal, shuffled pairs"]
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
        "seal without contrastive": {"pearson"},
        "seal, shuffled pairs": space | {"pearson"},
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
    real, shuffled = (values(table, name, metric="pearson", by="model") for name in ("seal", "seal, shuffled pairs"))
    assert not np.array_equal(real, shuffled)
    assert (values(table, "frozen", metric="balanced_accuracy", shots=4) > 0.9).all()  # features tell organs apart


# --- against another way to the same figures


def test_expression_by_the_probe_is_that_of_the_sound_protocol(table):
    other = sp.tl.expression_benchmark(cohort(), use_rep="X_f", protocol="sound", genes=PANEL)
    expected = other.groupby("section")["pearson"].mean()
    found = values(table, "frozen", metric="pearson")
    pd.testing.assert_series_equal(found, expected.loc[found.index], check_names=False)


@pytest.mark.parametrize("name", ["seal", "spade"])
def test_figures_of_a_model_are_those_of_one_trained_by_hand(table, name):
    samples = cohort()
    held_out, others = samples[3], samples[:3]
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
    measured = sp.tl.retrieval_metrics(held_out, model, k=5).query("gallery == 'same section'").set_index("direction")
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
    for direction, s in (("image → expression", similarity), ("expression → image", similarity.T)):
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
    model = LogisticRegression(C=8 * 2 / 100, max_iter=10_000).fit(np.concatenate(scaled[:3]), np.concatenate(y[:3]))
    expected = np.mean([(model.predict(scaled[3]) == y[3])[y[3] == kind].mean() for kind in ("low", "high")])
    auroc = roc_auc_score(y[3] == "low", model.predict_proba(scaled[3])[:, 1])
    assert 0.5 < expected < 1
    assert values(found, "frozen", metric="balanced_accuracy")["d"] == pytest.approx(expected)
    assert values(found, "frozen", metric="macro_auroc")["d"] == pytest.approx(auroc)


def test_a_prediction_alike_everywhere_finds_no_better_than_chance():
    np.testing.assert_array_equal(pair_ranks(np.zeros((5, 3)), np.eye(5, 3) + 1), np.full(5, 3.0))


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


@pytest.fixture
def models(monkeypatch):
    """Identities of all models, by fold and number; filled as they are used."""
    found = {}
    see = shell.see

    def noted(model, cohort, fold, patches_key):
        found.setdefault(fold.name, []).append(model.id)
        return see(model, cohort, fold, patches_key)

    monkeypatch.setattr(shell, "see", noted)
    return found


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
    with warns_here("2 spots without features are not used"), warns_here("1 spots without counts of the panel's genes"):
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


# --- what users get wrong


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"use_rep": "X_g"}, KeyError, r"use_rep='X_g' is not in obsm; there is 'X_f'"),
        ({"use_rep": None}, ValueError, r"use_rep=None, encoder=None: give one of them"),
        ({"encoder": "test_vit"}, ValueError, r"use_rep='X_f', encoder='test_vit': give one of them"),
        ({"weights": "random"}, ValueError, r"weights='random': use_rep= reads features"),
        ({"use_rep": None, "encoder": "texture"}, ValueError, r'"texture" is no network'),
        ({"use_rep": None, "encoder": "test_vit", "weights": "random", "n_seeds": 2}, ValueError, r"another encoder for every seed"),
        ({"groupby": "organs"}, KeyError, r"groupby='organs' is not in obs; columns: 'region', 'spot_id', 'patient', 'organ'"),
        ({"groupby": "organ"}, ValueError, r"obs\['organ'\] has several values \('a', 'b'\), but whole sections"),
        ({"label_key": "domain"}, KeyError, r"label_key='domain' is not in obs"),
        ({"label_key": "patient", "shots": 1}, ValueError, r"with patient_0 held out, 'patient_0' has 0 labelled spots"),
        ({"label_key": "organ", "shots": (1, 400)}, ValueError, r"400 shots take as many of every class"),
        ({"label_key": "region"}, ValueError, r"it takes two classes to tell apart, and there is \['spots'\]"),
        ({"shots": ()}, ValueError, r"shots=\(\): expected whole numbers"),
        ({"n_folds": 4}, ValueError, r"n_folds=4: there are 3 groups"),
        ({"n_folds": 1}, ValueError, r"n_folds=1: expected a whole number of at least 2"),
        ({"k": 0}, ValueError, r"k=0: expected"),
        ({"variants": ["seal", "sael"]}, ValueError, r"'sael' are not known. There are 'frozen', 'projection', 'spade', 'seal',"),
        ({"variants": []}, ValueError, r"nothing to compare the frozen control with"),
        ({"variants": {"frozen": {"dim": 2}}}, ValueError, r"the frozen control has no settings"),
        ({"variants": {"mine": 3}}, TypeError, r"variants\['mine'\]=3: expected a dict"),
        ({"variants": {"mine": {"n_epoch": 3}}}, ValueError, r"variants\['mine'\]: 'n_epoch' is no setting of sp.tl.train_seal"),
        ({"variants": {"spade": {"head": "mlp"}}}, ValueError, r"variants\['spade'\]: 'head' is no setting of sp.tl.train_spade"),
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


def test_models_train_on_one_layer_and_all_are_measured_on_another(models):
    samples = cohort()
    for i, sample in enumerate(samples):
        other = np.random.default_rng(9 + i).poisson(2, sample["table"].shape)
        sample["table"].layers["other"] = csr_matrix(other, dtype=np.float32)
    plain = run(samples)
    ids = {fold: list(own) for fold, own in models.items()}
    models.clear()
    found = run(samples, measured_layer="other")
    assert models == ids  # trained on X
    both = run(samples, layer="other")
    keys = {"variant": "frozen", "by": "probe"}
    for metric in ("pearson", "median_rank"):  # the probe learns what is measured
        pd.testing.assert_series_equal(values(found, metric=metric, **keys), values(both, metric=metric, **keys))
        assert (values(found, metric=metric, **keys) != values(plain, metric=metric, **keys)).any()
    pd.testing.assert_frame_equal(run(samples, measured_layer="X"), plain)
    with pytest.raises(KeyError, match=r"layer='none' is not there"):
        run(samples, measured_layer="none")


def test_one_group_cannot_be_held_out():
    with pytest.raises(ValueError, match=r"all sections are of 'patient_0', so none can be held out"):
        run(cohort()[:2])
    with pytest.raises(ValueError, match=r"d is the only training section of a fold and has no patches"):
        run(cohort()[2:])


def test_a_sample_without_expression_is_named():
    samples = cohort()
    samples[1].tables["table"] = samples[1]["table"][:, []].copy()
    with pytest.raises(ValueError, match="b: has no expression"):
        run(samples)


def test_features_of_different_width_or_encoder():
    samples = cohort()
    samples[2]["table"].obsm["X_f"] = samples[2]["table"].obsm["X_f"][:, :5]
    with pytest.raises(ValueError, match=r"use_rep='X_f' differs in width between samples: \[5, 8\]"):
        run(samples)


def test_a_loss_that_is_no_number_names_variant_and_fold():
    with pytest.raises(FloatingPointError, match=r"wild, patient_0 held out: the loss became"):
        run(cohort(), {"wild": {"lr": 1e30}})


# --- an encoder that is tuned on pixels


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    import timm
    import torch

    torch.manual_seed(5)
    path = tmp_path_factory.mktemp("weights") / "vit.safetensors"
    save_file(timm.create_model("test_vit", num_classes=0).state_dict(), path)
    return path


def patched(n=3):
    samples = cohort()[1 : n + 1]
    for sample in samples:
        del sample["table"].obsm["X_f"]
    sp.pp.patches(samples, size_um=40)
    return samples


@pytest.mark.filterwarnings("ignore:.*coarser than twice the wanted.*:UserWarning")
def test_an_encoder_is_tuned_beside_its_frozen_features(weights):
    samples = patched()
    before = [fresh(one) for one in samples]
    options = {"genes": PANEL, "control": False, "k": 5}
    pixels = {"n_epochs": 1, "batch_size": 32, "lr": 1e-2, "n_workers": 0}
    variants = {"tuned": pixels, "head": {**FAST, "on_features": True}}
    found = sp.tl.switchboard(samples, encoder="test_vit", weights=weights, variants=variants, **options)
    for one, other in zip(samples, before, strict=True):
        assert_same(one, other)
    sp.pp.encode_patches(samples, encoder="test_vit", weights=weights, key_added="X_v")
    other = sp.tl.switchboard(samples, use_rep="X_v", variants={"head": FAST}, **options)
    same = found[found["variant"] != "tuned"].reset_index(drop=True)
    pd.testing.assert_frame_equal(same, other)  # frozen features of the same patches
    model = sp.tl.train_seal(samples[:2], encoder="test_vit", weights=weights, genes=PANEL, **pixels)
    sp.pp.encode_patches(samples[2], encoder=model, key_added="X_t")
    measured = sp.tl.retrieval_metrics(samples[2], model, k=5, use_rep="X_t").query("gallery == 'same section'")
    own = values(found, "tuned", metric="median_rank", by="model")["d"]
    assert own.tolist() == measured["median_rank"].tolist()


@pytest.mark.filterwarnings("ignore:.*coarser than twice the wanted.*:UserWarning")
def test_settings_for_all_go_to_those_that_have_a_use_for_them(weights, tmp_path, monkeypatch):
    given = {}

    def noting(samples, **options):
        given["pixels" if options.get("encoder") else "head"] = options
        return train_seal(samples, **options)

    train_seal = sp.tl.train_seal
    monkeypatch.setattr("spade.tl._switchboard.variants.train_seal", functools.wraps(train_seal)(noting))
    settings = {
        "n_epochs": 1,
        "dim": 12,
        "cache_dir": tmp_path / "cache",
        "n_workers": 0,
        "stain_jitter": 0.0,
        "lr": 1e-3,
    }
    options = {"encoder": "test_vit", "weights": weights, "genes": PANEL, "control": False, "k": 5}
    sp.tl.switchboard(patched(2), variants=["projection", "seal"], seal_settings=settings, **options)
    assert {name for name in settings if name in given["head"]} == {"n_epochs", "dim", "lr"}
    assert {name for name in settings if name in given["pixels"]} == set(settings) - {"dim"}
    with pytest.raises(ValueError, match=r"variants\['wide'\]: 'dim' has no meaning for a tuned encoder"):
        sp.tl.switchboard(patched(2), variants={"wide": {"dim": 8}}, **options)
    with pytest.raises(ValueError, match=r"variants\['seal'\]: 'rank' has no meaning for a head on features"):
        run(cohort(), ["seal"], seal_settings={"rank": 4})


def test_patches_are_needed_to_tune(weights):
    samples = cohort()
    with pytest.raises(KeyError, match=r"patches_key='patches' is not there"):
        run(samples, use_rep=None, encoder="test_vit", weights=weights)


# --- the summary


def small():
    """Two patients of one section, and one of two; two seeds of the variant."""
    facts = {"task": "expression", "metric": "pearson", "direction": "", "shots": 0, "chance": 0.0, "by": "probe"}
    rows = []
    frozen = {"s": 0.1, "t": 0.2, "u": 0.3, "v": 0.5}
    gains = {"s": (0.1, 0.3), "t": (0.2, 0.2), "u": (0.0, 0.2), "v": (0.3, 0.3)}
    group = {"s": "p", "t": "q", "u": "r", "v": "r"}
    for unit, value in frozen.items():
        own = {"unit": unit, "group": group[unit], "fold": group[unit]} | facts
        rows.append(own | {"variant": "frozen", "seed": 0, "value": value})
        for seed, gain in enumerate(gains[unit]):
            rows.append(own | {"variant": "up", "seed": seed, "value": value + gain})
            rows.append(own | {"variant": "up", "seed": seed, "value": value - gain, "by": "model"})
            rows.append(own | {"variant": "flat", "seed": seed, "value": value})
    return pd.DataFrame(rows)


def test_summary_by_hand():
    found = sp.tl.switchboard_summary(small()).set_index(["variant", "by"])
    # patients: p 0.1, q 0.2, r mean of 0.3 and 0.5; gains 0.2, 0.2, mean of 0.1 and 0.3
    assert found["n_units"].tolist() == [3] * 4
    assert found.loc["frozen", "probe"]["mean"] == pytest.approx((0.1 + 0.2 + 0.4) / 3)
    assert found.loc["up", "probe"]["mean"] == pytest.approx((0.3 + 0.4 + 0.6) / 3)
    assert found["difference"].to_dict() == pytest.approx(
        {("frozen", "probe"): 0, ("up", "probe"): 0.2, ("up", "model"): -0.2, ("flat", "probe"): 0}
    )
    up = found.loc["up", "probe"]
    assert up["difference_low"] == pytest.approx(0.2)  # every patient gains as much
    assert up["difference_high"] == pytest.approx(0.2)
    assert found.loc["frozen", "probe"]["low"] == pytest.approx(0.1)
    assert found.loc["frozen", "probe"]["high"] == pytest.approx(0.4)
    assert np.isnan(found.loc["frozen", "probe"]["p"])
    assert found["p"].iloc[1:].to_dict() == {("up", "probe"): 2 / 8, ("up", "model"): 2 / 8, ("flat", "probe"): 1.0}
    # Holm over three comparisons: 3 × 1/4, 2 × 1/4 lifted to it, 1
    assert found["p_corrected"].iloc[1:].tolist() == [0.75, 0.75, 1.0]
    assert (found["chance"] == 0).all()


def test_summary_over_sections_and_another_baseline():
    table = small()
    found = sp.tl.switchboard_summary(table, over="unit", baseline="up").set_index(["variant", "by"])
    assert (found["n_units"] == 4).all()
    assert found.loc["frozen", "probe"]["mean"] == pytest.approx(0.275)
    assert found.loc["frozen", "probe"]["difference"] == pytest.approx(-0.2)
    assert found.loc["up", "model"]["difference"] == 0  # its own, not that of its probe
    assert found.loc["frozen", "probe"]["difference_low"] < -0.2 < found.loc["frozen", "probe"]["difference_high"]
    narrow = sp.tl.switchboard_summary(table, over="unit", baseline="up", level=0.5).set_index(["variant", "by"])
    assert narrow.loc["frozen", "probe"]["low"] > found.loc["frozen", "probe"]["low"]


def test_one_unit_has_no_interval():
    table = small()
    found = sp.tl.switchboard_summary(table[table["group"] == "p"])
    assert found[["low", "high", "difference_low"]].isna().all(axis=None)
    assert found["p"].dropna().tolist() == [1.0, 1.0, 1.0]


def test_a_way_through_a_file_changes_no_summary(table, tmp_path):
    table.to_csv(tmp_path / "t.csv", index=False)
    again = sp.tl.switchboard_summary(pd.read_csv(tmp_path / "t.csv"), n_boot=200)
    pd.testing.assert_frame_equal(again, sp.tl.switchboard_summary(table, n_boot=200))
    assert len(again) == len(table.drop_duplicates(["variant", *KEYS[1:]]))


@pytest.mark.parametrize(
    ("change", "options", "error", "match"),
    [
        (lambda t: t.to_dict(), {}, TypeError, "table: got dict; expected what sp.tl.switchboard returned"),
        (lambda t: t.drop(columns="by"), {}, ValueError, "table lacks 'by'"),
        (lambda t: t.iloc[:0], {}, ValueError, "table is empty"),
        (lambda t: pd.concat([t, t]), {}, ValueError, "occur more than once"),
        (lambda t: t, {"baseline": "frosen"}, KeyError, r"baseline='frosen' is not in the table; variants: 'frozen', 'up', 'flat'"),
        (lambda t: t, {"over": "patient"}, ValueError, r"over='patient': expected \"group\" or \"unit\""),
        (lambda t: t, {"level": 95}, ValueError, "level=95"),
    ],
)  # fmt: skip
def test_summary_errors(change, options, error, match):
    with pytest.raises(error, match=match):
        sp.tl.switchboard_summary(change(small()), **options)


# --- the plot


def test_plot_has_a_panel_per_figure_and_a_dot_per_variant(table):
    axes = sp.pl.switchboard(table)
    assert [ax.get_title(loc="left") for ax in axes] == [
        "expression", "image → expression", "expression → image", "one labelled spot per class", "4 labelled spots per class",
    ]  # fmt: skip
    assert [t.get_text() for t in axes[0].get_yticklabels()] == ["frozen", *NAMES, "seal, shuffled pairs"]
    summary = sp.tl.switchboard_summary(table)
    pearson = summary[summary["metric"] == "pearson"]
    for line, by in zip(axes[0].get_lines(), ("probe", "model"), strict=False):
        drawn = line.get_xdata()[~np.isnan(line.get_xdata())]
        assert drawn.tolist() == pearson[pearson["by"] == by]["mean"].tolist()
    frozen = pearson[pearson["variant"] == "frozen"]["mean"].item()
    assert axes[0].get_lines()[2].get_xdata() == [frozen, frozen]


def test_plot_of_some_metrics_in_axes_of_ones_own(table):
    import matplotlib.pyplot as plt

    _, axes = plt.subplots(1, 2)
    found = sp.pl.switchboard(table, metrics=["median_rank"], ax=axes)
    assert found.tolist() == axes.tolist()
    with pytest.raises(KeyError, match=r"metrics: 'recall@10' are not in the table; metrics: 'pearson', 'recall@5'"):
        sp.pl.switchboard(table, metrics=["recall@10"])
    with pytest.raises(ValueError, match="got 2 Axes for 5 panels"):
        sp.pl.switchboard(table, ax=axes)
    with pytest.raises(ValueError, match="table lacks"):
        sp.pl.switchboard(pd.DataFrame({"a": [1]}))
    plt.close("all")


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
    recall = summary.loc["recall@10", "image → expression", "model"]
    assert recall.loc["seal", "mean"] > 1.5 * recall.loc["seal", "chance"]
    assert recall.loc["seal, shuffled pairs", "mean"] < recall.loc["seal", "mean"]
    pearson = summary.loc["pearson", "", "model"]["mean"]
    assert pearson["seal"] > pearson["seal, shuffled pairs"] + 0.05
