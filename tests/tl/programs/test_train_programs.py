"""Programs of expression, distilled into image features: on a cohort whose domains are known."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
from conftest import fresh
from helpers.sections import GENES, featured, split
from scipy.sparse import csr_matrix

import spade as sp

SMALL = {"use_rep": ("X_texture", "X_texture_context"), "n_clusters": (4, 6), "n_programs": 4}


@pytest.fixture(scope="module")
def patients():
    """Three patients of one organ each; not to be changed."""
    samples = sp.datasets.toy(3, 100, n_genes=150)
    sp.pp.patches(samples)
    sp.pp.encode_patches(samples)
    sp.pp.spatial_context(samples, use_rep="X_texture")
    return samples


@pytest.fixture(scope="module")
def trained(patients):
    return sp.tl.train_programs(patients[:2], **SMALL)


@pytest.fixture(scope="module")
def shuffled(patients):
    return sp.tl.train_programs(patients[:2], shuffle_pairs=True, **SMALL)


def explained_by_domain(x, domain):
    """Share of the variance of scaled columns that lies between the domains."""
    x = x - x.mean(0)
    within = sum(np.square(x[domain == name] - x[domain == name].mean(0)).sum() for name in np.unique(domain))
    return 1 - within / np.square(x).sum()


def scaled(x):
    return (x - x.mean(0)) / np.where(x.std(0) > 1e-6, x.std(0), 1)


def test_samples_that_were_dropped_when_genes_were_selected_are_left_out(patients):
    names = tuple(patients[0]["table"].var_names[:40])
    dropped = sp.models.GenePanel(names, dropped=(patients[2].attrs["spade"]["sample"],))
    with pytest.warns(UserWarning, match="left out of training, as when the genes were selected"):
        model = sp.tl.train_programs(patients, genes=dropped, **SMALL)
    assert model.facts["samples"] == sp.tl.train_programs(patients[:2], genes=names, **SMALL).facts["samples"]
    with (
        pytest.warns(UserWarning, match="left out of training"),
        pytest.raises(ValueError, match=r"none is left to train on.*genes=panel\.names"),
    ):
        sp.tl.train_programs(patients[2], genes=dropped, **SMALL)


@pytest.mark.slow
def test_programs_tell_the_domains_of_another_patient_better_than_the_features(patients, trained, shuffled):
    sample = fresh(patients[2])
    sp.tl.embed(sample, trained)
    sp.tl.embed(sample, shuffled, key_added="shuffled")
    obsm, domain = sample["table"].obsm, sample["table"].obs["domain"].to_numpy()
    share = {key: explained_by_domain(obsm[f"X_{key}"], domain) for key in ("programs", "shuffled")}
    features = explained_by_domain(scaled(obsm["X_texture"]), domain)
    assert share["programs"] > 1.3 * features
    assert share["programs"] > share["shuffled"] + 0.05


def test_the_report_says_what_can_be_predicted(trained, shuffled):
    history = trained.history
    assert history.columns.tolist() == [
        "kind", "column", "n_clusters", "name", "measure", "held_out", "predictable", "n_spots", "genes",
    ]  # fmt: skip
    assert history["column"].tolist() == list(range(3 * (4 + 6) + 4))
    clusters = history[history["kind"] == "cluster"]
    assert clusters.groupby(clusters["column"] // 4).head(4)["n_spots"][:4].sum() == 200
    assert clusters["held_out"].mean() > 0.8 and history["predictable"].mean() > 0.6
    assert history[history["kind"] == "program"]["held_out"].max() > 0.7
    by_chance = shuffled.history
    assert abs(by_chance[by_chance["kind"] == "cluster"]["held_out"].mean() - 0.5) < 0.06
    assert by_chance[by_chance["kind"] == "program"]["held_out"].abs().max() < 0.25
    assert not by_chance["predictable"].any()


def test_programs_are_named_by_genes_that_drive_them(patients, trained):
    driver = patients[0]["table"].var["program"]
    best = trained.history.sort_values("held_out").tail(5)
    named = [driver[gene] for genes in best["genes"] for gene in genes.split(", ")]
    assert np.mean([name == "housekeeping" for name in named]) < 0.2
    assert (driver == "housekeeping").mean() > 0.3  # by chance it would be more


def test_images_as_targets_are_a_control_without_genes(patients, trained):
    images = [fresh(one) for one in patients[:2]]
    for one in images:
        one.tables["table"] = one["table"][:, :0].copy()
    control = sp.tl.train_programs(images, targets="image", **SMALL)
    assert control.genes is None and control.n_programs == 0 and control.id != trained.id
    assert control.history["held_out"].mean() > 0.9 and set(control.history["genes"]) == {""}
    with pytest.raises(ValueError, match="targets='image' and knows no genes"):
        sp.tl.predict_expression(fresh(patients[2]), control)


def test_labels_as_targets(patients):
    model = sp.tl.train_programs(patients[:2], targets="domain", **SMALL)
    domains = sorted(patients[0]["table"].obs["domain"].unique())
    assert model.sizes == [4] and model.history["name"].tolist() == domains
    table = patients[2]["table"]
    features = np.concatenate([table.obsm[key] for key in SMALL["use_rep"]], axis=1)
    guessed = np.array(domains)[model.encode_image(features).argmax(1)]
    assert (guessed == table.obs["domain"].to_numpy()).mean() > 0.7


def test_genes_are_chosen_in_training_and_expression_is_predicted(patients, trained):
    counts = np.concatenate([one["table"].X.toarray() for one in patients[:2]])
    frequent = set(patients[0]["table"].var_names[(counts > 0).mean(0) >= 0.1])
    assert set(trained.genes.names) == frequent  # fewer than 1,000
    sample = fresh(patients[2])
    sp.tl.predict_expression(sample, trained, genes=trained.genes.names[:3])
    table = sample["table"]
    features = np.concatenate([table.obsm[key] for key in SMALL["use_rep"]], axis=1)
    np.testing.assert_array_equal(table.obsm["X_predicted"], trained.predict_expression(features)[:, :3])
    assert table.uns["spade"]["X_predicted"]["method"] == "programs"
    driver = patients[0]["table"].var["program"].reindex(trained.genes.names)
    y = np.log1p(1e4 * table.X.toarray() / table.X.sum(1).reshape(-1, 1))
    y = y[:, table.var_names.get_indexer(trained.genes.names)]
    r = [np.corrcoef(a, b)[0, 1] for a, b in zip(y.T, trained.predict_expression(features).T, strict=True)]
    is_domain = driver.isin(table.obs["domain"].unique()).to_numpy()
    assert np.mean(np.array(r)[is_domain]) > 0.3 > np.mean(np.array(r)[(driver == "housekeeping").to_numpy()])


def test_embedding_needs_no_expression_and_knows_what_is_outdated(patients, trained, tmp_path):
    sample = fresh(patients[2])
    sample.tables["table"] = sample["table"][:, :0].copy()
    table = sample["table"]
    for key in SMALL["use_rep"]:
        table.obsm[key] = table.obsm[key].copy()
        table.obsm[key][5] = np.nan
    sp.tl.embed(sample, trained, key_added="other")
    assert table.obsm["X_other"].dtype == np.float32 and np.isnan(table.obsm["X_other"][5]).all()
    assert np.isfinite(np.delete(table.obsm["X_other"], 5, 0)).all()
    record = table.uns["spade"]["X_other"]
    assert (record["model"], record["model_id"]) == ("ProgramModel", trained.id)
    assert set(record["sources"]) == set(SMALL["use_rep"])
    sp.pp.spatial_context(sample, use_rep="X_texture", radius_um=400)
    with pytest.raises(ValueError, match="was made from 'X_texture_context'"):
        sp.tl.few_shot(sample, label_key="domain", use_rep="X_other", shots=(1,), n_repeats=1)


def test_two_runs_and_numbers_of_threads_give_one_model(patients, trained):
    from threadpoolctl import threadpool_limits

    with threadpool_limits(2):
        assert sp.tl.train_programs(patients[:2], **SMALL).id == trained.id
    assert sp.tl.train_programs(patients[:2], rng=1, **SMALL).id != trained.id


def test_held_out_spots_are_never_read():
    samples = split([featured(name="a"), featured(name="b", seed=1)])
    options = {"use_rep": "X_f", "split_key": "fold", "n_clusters": (3,), "n_programs": 2, "genes": GENES[:20]}
    model = sp.tl.train_programs(samples, **options)
    assert model.facts["training_spots"] == 52 and model.facts["validation_spots"] == 12
    for sdata in samples:
        counts = sdata["table"].X.toarray()
        counts[:4] = 7
        sdata["table"].X = csr_matrix(counts)
        sdata["table"].obsm["X_f"][:4] = 9.0
    assert sp.tl.train_programs(samples, **options).id == model.id


def test_one_section_without_patches_holds_random_spots_out(caplog):
    caplog.set_level(logging.INFO, "spade")
    sp.tl.train_programs(featured(), use_rep="X_f", n_clusters=(3,), n_programs=0)
    assert "one section without positions: random spots are held out" in caplog.text


@pytest.mark.parametrize(
    ("error", "message", "options"),
    [
        (KeyError, "use_rep='X_none' is not in obsm", {"use_rep": ("X_f", "X_none")}),
        (ValueError, "'X_f' occurs twice", {"use_rep": ("X_f", "X_f")}),
        (KeyError, "targets='organism' is not in obs", {"targets": "organism"}),
        (ValueError, "genes: a lacks 1 of 2, such as 'GX'", {"genes": ["G01", "GX"]}),
        (ValueError, "n_clusters=.*there are only 36 spots", {"n_clusters": (40,)}),
        (ValueError, "n_programs=30: more than", {"n_programs": 30, "genes": GENES[:20]}),
        (ValueError, "targets='image' reads no expression; leave genes= out", {"targets": "image", "genes": GENES[:9]}),
    ],
)
def test_what_does_not_fit_is_refused(error, message, options):
    sample = featured(name="a")
    with pytest.raises(error, match=message):
        sp.tl.train_programs(sample, **{"use_rep": "X_f", "n_clusters": (3,), "n_programs": 2} | options)


def test_other_settings_and_features_are_refused_by_embed(trained):
    sample = featured(name="a")
    with pytest.raises(KeyError, match="use_rep='X_texture' is not in obsm"):
        sp.tl.embed(sample, trained)
    with pytest.raises(ValueError, match="mix='concat': a ProgramModel reads"):
        sp.tl.embed(sample, trained, mix="concat")
    for key in SMALL["use_rep"]:
        sample["table"].obsm[key] = np.ones((36, 5), dtype=np.float32)
    with pytest.raises(ValueError, match="has 5 features, but the model reads 184 of encoder 'texture'"):
        sp.tl.embed(sample, trained)
    with pytest.raises(TypeError, match="expected a SpadeModel"):
        sp.tl.retrieve(sample, sample, trained)


def test_spots_in_another_order_get_the_same_programs(patients, trained):
    sample, order = fresh(patients[2]), np.random.default_rng(0).permutation(100)
    sample.tables["table"] = sample["table"][order].copy()
    other = fresh(patients[2])
    sp.tl.embed([sample], trained)
    sp.tl.embed([other], trained)
    found = pd.DataFrame(sample["table"].obsm["X_programs"], sample["table"].obs_names)
    np.testing.assert_allclose(
        found.loc[other["table"].obs_names], other["table"].obsm["X_programs"], rtol=1e-4, atol=1e-4
    )
