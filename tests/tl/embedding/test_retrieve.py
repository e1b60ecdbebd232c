"""Search across modalities: exact, without the query itself, by signatures, and its controls."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from helpers.sections import GENES, empty_rows, featured, spoil, train, warns_here
from scipy.stats import mannwhitneyu
from spatialdata import read_zarr

import spade as sp
from spade._samples.counts import read_expression
from spade._samples.open import iter_samples
from spade.core.evaluation import retrieval
from spade.core.evaluation.retrieval import Nearest, chance_rank, chance_recall
from spade.models import GenePanel, SpadeConfig
from spade.tl._training.data import FeatureReader, read_training_data


def cohort():
    return [featured(name="a"), featured(name="b", seed=1), featured(name="c", seed=2)]


@pytest.fixture(scope="module")
def model():
    return train(cohort(), n_epochs=10, routing_temperature=1.0)


# --- nearest rows


@pytest.mark.parametrize("k", [1, 7, 10_000])
def test_the_nearest_are_those_of_a_full_sort(k, monkeypatch):
    monkeypatch.setattr(retrieval, "CHUNK", 8)
    monkeypatch.setattr(retrieval, "GALLERY_CHUNK", 16)
    rng = np.random.default_rng(0)
    query, gallery = rng.normal(size=(21, 5)).astype(np.float32), rng.normal(size=(103, 5)).astype(np.float32)
    nearest = Nearest(query, k)
    for part in np.array_split(gallery, 4):
        nearest.update(part)
    scores = query @ gallery.T
    wanted = np.argsort(-scores, axis=1)[:, :k]
    np.testing.assert_array_equal(nearest.rows.numpy(), wanted)
    np.testing.assert_allclose(nearest.scores.numpy(), np.take_along_axis(scores, wanted, 1), atol=1e-5)


def test_rows_of_the_same_group_are_passed_over():
    rng = np.random.default_rng(0)
    query, gallery = rng.normal(size=(6, 4)).astype(np.float32), rng.normal(size=(30, 4)).astype(np.float32)
    own, other = np.arange(6) % 3, np.arange(30) % 3
    nearest = Nearest(query, 30)
    nearest.update(gallery, (own, other))
    found = np.isfinite(nearest.scores.numpy())
    assert found.sum(1).tolist() == [20] * 6
    for i in range(6):
        assert (other[nearest.rows.numpy()[i][found[i]]] != own[i]).all()


# --- retrieve


def test_the_best_expression_of_an_image_is_found_in_the_whole_gallery(model):
    samples = cohort()
    table = sp.tl.retrieve(samples[0], samples, model, k=5)
    assert len(table) == 36 * 5
    assert table.groupby("query")["rank"].apply(list).map(lambda ranks: ranks == [1, 2, 3, 4, 5]).all()
    features = samples[0]["table"].obsm["X_f"]
    query = model.encode_image(features, mix="concat")
    x = [read_expression(one, model.genes, None, normalized=False)[0] for one in iter_samples(samples)]
    gallery = np.concatenate([model.encode_expression(one, mix="concat") for one in x])
    cosines = (query / np.linalg.norm(query, axis=1, keepdims=True)) @ (
        gallery / np.linalg.norm(gallery, axis=1, keepdims=True)
    ).T
    best = cosines.argmax(1)
    first = table[table["rank"] == 1]
    assert first["sample"].tolist() == ["abc"[i // 36] for i in best]
    assert first["spot"].tolist() == [f"s{i % 36:02d}" for i in best]
    np.testing.assert_allclose(first["score"], cosines.max(1), atol=1e-5)


def test_ranks_agree_with_the_metrics(model):
    samples = cohort()
    for query_by in ("image", "expression"):
        table = sp.tl.retrieve(samples, samples, model, query_by=query_by, k=None)
        own = table[(table["query_sample"] == table["sample"]) & (table["query"] == table["spot"])]
        assert len(own) == 108
        metrics = sp.tl.retrieval_metrics(samples, model)
        row = metrics[(metrics["direction"].str.startswith(query_by)) & (metrics["gallery"] == "all_spots")].iloc[0]
        assert np.median(own["rank"]) == pytest.approx(row["median_rank"], abs=1)


def test_a_spot_is_never_its_own_answer_and_sections_can_be_left_out(model):
    samples = cohort()
    table = sp.tl.retrieve(samples, samples, model, query_by="image", gallery_by="image", k=None)
    assert len(table) == 108 * 107
    assert not ((table["query_sample"] == table["sample"]) & (table["query"] == table["spot"])).any()
    across = sp.tl.retrieve(samples[0], samples, model, same_section=False, k=None)
    assert set(across["sample"]) == {"b", "c"}
    assert len(across) == 36 * 72


def test_objects_are_known_whatever_they_are_called(model):
    """Names that depend on what is passed with what must not decide which spot is which."""
    nameless = [featured(name="", seed=i) for i in range(3)]
    table = sp.tl.retrieve(nameless[0], nameless, model, query_by="image", gallery_by="image", k=None)
    (name,) = set(table["query_sample"]) | set(table["query_section"])
    assert len(set(table["sample"])) == 3
    assert not ((table["query_sample"] == table["sample"]) & (table["query"] == table["spot"])).any()
    across = sp.tl.retrieve(nameless[0], nameless, model, same_section=False, k=None)
    assert set(across["sample"]) == set(table["sample"]) - {name}
    others = sp.tl.retrieve(nameless[0], nameless[1], model, query_by="image", gallery_by="image", spots="s00", k=None)
    assert len(others) == 36
    with pytest.raises(ValueError, match="no spot can be found"):
        sp.tl.retrieve(nameless[0], nameless[0], model, same_section=False)
    with pytest.raises(ValueError, match="spots= is empty"):
        sp.tl.retrieve(nameless[0], nameless[1], model, spots=[])


def test_objects_are_known_beside_their_store(model, tmp_path):
    """A store that was read and cut, and the store: rows differ, spots do not."""
    sp.io.write(featured(name="a"), tmp_path / "a.zarr")
    read = read_zarr(tmp_path / "a.zarr")
    read.tables["table"] = read["table"][6:].copy()
    for query, gallery, n in ((read, tmp_path / "a.zarr", 30 * 35), (tmp_path / "a.zarr", read, 6 * 30 + 30 * 29)):
        table = sp.tl.retrieve(query, gallery, model, query_by="image", gallery_by="image", k=None)
        assert len(table) == n
        assert not (table["query"] == table["spot"]).any()
        with pytest.raises(ValueError, match="no spot can be found"):
            sp.tl.retrieve(query, gallery, model, same_section=False)


def held_otherwise(sample, rows=slice(5), sparse=True):
    """A copy of some rows, as another object."""
    copied = deepcopy(sample)
    copied.tables["table"] = sample["table"][rows].copy()
    if not sparse:
        copied["table"].X = copied["table"].X.toarray()
    return copied


def reduced(sample):
    """A copy with fewer genes, in another order."""
    copied = deepcopy(sample)
    copied.tables["table"] = sample["table"][:5, list(GENES[30::-1])].copy()
    return copied


def logged(sample):
    """A copy whose features alone are what they were."""
    copied = held_otherwise(sample)
    copied["table"].layers["counts"] = copied["table"].X
    copied["table"].X = np.log1p(copied["table"].X) * 0.5
    return copied


@pytest.mark.parametrize(
    "copied", [held_otherwise, lambda sample: held_otherwise(sample, slice(2, 9), sparse=False), reduced, logged]
)
def test_a_copy_or_a_part_of_a_section_is_that_section(model, copied):
    samples = cohort()
    query = copied(samples[0])
    by_image = {"query_by": "image", "gallery_by": "image", "k": None}
    table = sp.tl.retrieve(query, samples, model, **by_image)
    assert len(table) == len(query["table"]) * 107
    assert not ((table["query_sample"] == table["sample"]) & (table["query"] == table["spot"])).any()
    assert set(sp.tl.retrieve(query, samples, model, same_section=False, **by_image)["sample"]) == {"b", "c"}
    with pytest.raises(ValueError, match="no spot can be found"):
        sp.tl.retrieve(samples[0], query, model, same_section=False, query_by="image", gallery_by="image")
    named = sp.tl.retrieve({"mine": query}, {"theirs": samples[0]}, model, **by_image)
    assert set(named["query_section"]) == set(named["section"]) == {"theirs"}


def test_other_sections_of_the_same_name_and_other_parts_are_found(model):
    """Names of samples, regions and spots agree: what was measured does not."""
    query, other = featured(name="a"), featured(name="a", seed=1)
    by_image = {"query_by": "image", "gallery_by": "image", "k": None}
    assert len(sp.tl.retrieve(query, other, model, same_section=False, **by_image)) == 36 * 36
    one, rest = (held_otherwise(query, rows) for rows in (slice(5), slice(5, None)))
    assert len(sp.tl.retrieve(one, rest, model, same_section=False, **by_image)) == 5 * 31
    renamed = featured(name="z")
    assert len(sp.tl.retrieve(query, renamed, model, same_section=False, **by_image)) == 36 * 36


def test_single_spots_can_be_asked_for(model):
    table = sp.tl.retrieve(cohort()[0], cohort(), model, spots=["s03", "s07"], k=2)
    assert table["query"].tolist() == ["s03", "s03", "s07", "s07"]
    with pytest.raises(KeyError, match=r"spots='s99' are not among the obs_names of query \(a\)"):
        sp.tl.retrieve(cohort()[0], cohort(), model, spots=["s03", "s99"])
    broken = cohort()[0]
    spoil(broken, "X_f", 3)
    with pytest.raises(ValueError, match="a: spots='s03' have no image"):
        sp.tl.retrieve(broken, cohort(), model, spots="s03")


def test_spots_without_a_modality_are_not_in_the_gallery(model):
    samples = cohort()
    empty_rows(samples[1], [0, 1])
    spoil(samples[2], "X_f", [4])
    assert len(sp.tl.retrieve(samples[0], samples, model, spots="s00", k=None)) == 106
    assert len(sp.tl.retrieve(samples[0], samples, model, query_by="expression", spots="s00", k=None)) == 107


@pytest.mark.slow
def test_signatures_find_what_they_describe():
    """On unseen patients: genes of a domain, by their difference in training, find the domain in images alone."""
    samples = sp.datasets.toy(4, 120)
    sp.pp.patches(samples)
    sp.pp.encode_patches(samples)
    panel = sp.pp.select_genes(samples[:2])
    model = sp.tl.train_spade(
        samples[:2], use_rep="X_texture", genes=panel, groupby="organ", n_prototypes=4, n_experts=4, n_epochs=40,
        lr=1e-3, batch_size=32,
    )  # fmt: skip
    tables = [sample["table"] for sample in samples[:2]]
    x = np.concatenate([np.log1p(1e4 * t.X.toarray() / t.X.sum(1)) for t in tables])[
        :, tables[0].var_names.get_indexer(panel.names)
    ]
    domain = np.concatenate([t.obs["domain"].astype(str) for t in tables])
    scores = {}
    for name in np.unique(domain):
        change = pd.Series(
            np.asarray(x[domain == name].mean(0) - x[domain != name].mean(0)).ravel(), panel.names
        ).nlargest(10)
        table = sp.tl.retrieve(list(change.index), samples[2:], model, k=None)
        of = {sample.name: sample.table.obs["domain"].astype(str) for sample in iter_samples(samples[2:])}
        own = np.array([of[row.sample][row.spot] == name for row in table.itertuples()])
        value = mannwhitneyu(table["score"][own], table["score"][~own]).statistic / (own.sum() * (~own).sum())
        scores[name] = value
        weighted = sp.tl.retrieve(dict.fromkeys(change.index, 1.0), samples[2:], model, k=5)
        assert weighted["query"].tolist() == ["signature"] * 5
    assert np.mean(list(scores.values())) > 0.75


def test_a_signature_stands_for_what_goes_along_with_its_genes(model, tmp_path):
    samples, two = cohort(), list(GENES[:2])
    found = sp.tl.retrieve(two, samples, model, k=None)
    alone = sp.tl.retrieve(two, samples, model, k=None, complete=False)
    assert not np.allclose(found["score"], alone["score"])
    model.save(tmp_path / "model")
    again = sp.models.SpadeModel.load(tmp_path / "model")
    pd.testing.assert_frame_equal(sp.tl.retrieve(two, samples, again, k=None), found)
    # all genes by what is expected, searched alone, are the same query
    expected = model.covariation.expected(np.array([0, 1]), np.full(2, 2 * np.log(2))) / np.log(2)
    same = sp.tl.retrieve(dict(zip(GENES[:20], expected, strict=True)), samples, model, k=None, complete=False)
    pd.testing.assert_frame_equal(same, found)
    again.covariation = None  # as of an earlier version
    with warns_here("does not know which genes change together: only the 2 genes of the signature change"):
        pd.testing.assert_frame_equal(sp.tl.retrieve(two, samples, again, k=None), alone)
    with pytest.raises(ValueError, match="complete=False applies to gene signatures"):
        sp.tl.retrieve(samples[0], samples, model, complete=False)


def test_a_signature_is_completed_for_a_tuned_encoder_too(tmp_path):
    samples, two = cohort(), list(GENES[:2])
    model = sp.tl.train_seal(samples, on_features="X_f", genes=GENES[:20], dim=8, hidden=16, n_epochs=2, batch_size=16)
    # what goes along with a change of two genes, by the covariance of the training spots: with 20 genes, the noise that
    # probabilistic PCA takes off is their smallest eigenvalue
    counts = np.concatenate([sample["table"].X.toarray() for sample in samples])
    covariance = np.cov(np.log1p(1e4 * counts / counts.sum(1, keepdims=True))[:, :20].T)
    shared = covariance - np.linalg.eigvalsh(covariance)[0] * np.eye(20)
    expected = shared[:, :2] @ np.linalg.solve(covariance[:2, :2], np.full(2, 2 * np.log(2))) / np.log(2)
    assert np.abs(expected[2:]).max() > 0.1
    changes = dict(zip(GENES[:20], expected, strict=True))
    found = sp.tl.retrieve(two, samples, model, k=None).set_index(["sample", "spot"])["score"]
    same = sp.tl.retrieve(changes, samples, model, k=None, complete=False).set_index(["sample", "spot"])["score"]
    np.testing.assert_allclose(same[found.index], found, atol=1e-4)
    model.save(tmp_path / "model")
    again = sp.models.SealModel.load(tmp_path / "model")
    assert again.id == model.id
    pd.testing.assert_series_equal(
        sp.tl.retrieve(two, samples, again, k=None).set_index(["sample", "spot"])["score"], found
    )
    again.covariation = None  # as of an earlier version
    with warns_here("does not know which genes change together: only the 2 genes of the signature change"):
        sp.tl.retrieve(two, samples, again)


def test_a_folder_called_like_a_gene_changes_no_signature(model, tmp_path, monkeypatch):
    samples = cohort()
    found = sp.tl.retrieve([GENES[0], GENES[1]], samples, model)
    (tmp_path / GENES[0]).mkdir()
    monkeypatch.chdir(tmp_path)
    pd.testing.assert_frame_equal(sp.tl.retrieve([GENES[0], GENES[1]], samples, model), found)
    with pytest.raises(FileNotFoundError, match="data/s1"):
        sp.tl.retrieve(["data/s1", "data/s2"], samples, model)


def test_signatures_change_sign_and_need_genes(model):
    samples = cohort()
    up = sp.tl.retrieve({GENES[0]: 2.0, GENES[1]: 1.0}, samples, model, gallery_by="expression", k=None)
    x = np.concatenate([np.asarray(s["table"].X.todense())[:, 0] for s in samples])
    score = up.set_index(["sample", "spot"])["score"].reindex(
        pd.MultiIndex.from_product([["a", "b", "c"], [f"s{i:02d}" for i in range(36)]])
    )
    assert np.corrcoef(score, x)[0, 1] > 0
    with warns_here("'NOPE' of the signature are not among the model's genes"):
        sp.tl.retrieve([GENES[0], "NOPE"], samples, model)
    with pytest.raises(
        ValueError, match=r"none of 'g00' is among the model's 20 genes, such as 'G00'.*another species"
    ):
        sp.tl.retrieve(["g00"], samples, model)
    outside = samples[0]["table"].var_names.difference(GENES[:20])[0]
    with pytest.raises(
        ValueError,
        match=rf"The samples measure '{outside}', but the model was trained without.*include=\['{outside}'\]",
    ):
        sp.tl.retrieve([outside, "NOPE"], samples, model)
    with pytest.raises(ValueError, match="expected genes with finite log2 fold changes"):
        sp.tl.retrieve({GENES[0]: np.nan}, samples, model)
    with pytest.raises(ValueError, match="a signature has no spot or section"):
        sp.tl.retrieve([GENES[0]], samples, model, same_section=False)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"k": 0}, "k=0: expected a whole number of at least 1"),
        ({"query_by": "text"}, "query_by='text': expected one of 'image', 'expression'"),
        ({"gallery_by": "text"}, "gallery_by='text': expected"),
        ({"mix": "sum"}, "mix='sum': expected one of 'concat', 'logits', 'mean'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(model, options, said):
    with pytest.raises(ValueError, match=said):
        sp.tl.retrieve(cohort()[0], cohort(), model, **options)


def test_galleries_with_one_name_twice(model):
    with pytest.raises(ValueError, match="two samples are named 'a'"):
        sp.tl.retrieve(cohort()[0], [featured(name="a"), featured(name="a", seed=3)], model)


# --- controls


def test_shuffled_pairs_are_no_pairs(model):
    samples = cohort()
    control = train(cohort(), n_epochs=10, routing_temperature=1.0, shuffle_pairs=True)
    assert control.config.shuffle_pairs
    assert control.id != model.id
    assert control.id == train(cohort(), n_epochs=10, routing_temperature=1.0, shuffle_pairs=True).id
    table = sp.tl.retrieval_metrics(samples, model, control=control, k=5)
    alone = sp.tl.retrieval_metrics(samples, control, k=5)
    own = table[table["gallery"] != "same_expert"]
    np.testing.assert_allclose(own["control_recall"], alone[alone["gallery"] != "same_expert"]["recall"])
    assert set(table["gallery"]) == {"all_spots", "same_section", "same_expert", "other_sections"}
    for sample in samples:
        sample["table"].obsm["X_g"] = sample["table"].obsm["X_f"].copy()
    spoil(samples[0], "X_g", [3])
    with pytest.raises(ValueError, match=r"control: reads obsm\['X_g'\], which covers other spots"):
        other = train(samples, use_rep="X_g")
        sp.tl.retrieval_metrics(samples, model, control=other)
    with pytest.raises(TypeError, match="control=3: expected a SpadeModel"):
        sp.tl.retrieval_metrics(samples, model, control=3)


def test_expression_is_shuffled_within_sections_and_parts():
    samples = cohort()
    for sample in samples:
        sample["table"].obs["part"] = ["train"] * 24 + ["val"] * 12
    config = SpadeConfig(use_rep="X_f", split_key="part", seed=3)
    panel = GenePanel.of(GENES)
    real, shuffled = (
        read_training_data(samples, one, panel, images=FeatureReader(), table_key=None)[0]
        for one in (config, replace(config, shuffle_pairs=True))
    )
    np.testing.assert_array_equal(real.images, shuffled.images)
    one, other = real.expression.toarray(), shuffled.expression.toarray()
    assert (one != other).any(1).mean() > 0.8
    for start, stop in [(36 * i + a, 36 * i + b) for i in range(3) for a, b in ((0, 24), (24, 36))]:
        np.testing.assert_array_equal(np.sort(one[start:stop], 0), np.sort(other[start:stop], 0))


def test_the_gallery_of_other_sections_is_the_partner_and_all_others(model):
    samples = cohort()
    table = sp.tl.retrieval_metrics(samples, model, k=5).set_index(["direction", "gallery"])
    for direction in ("image_to_expression", "expression_to_image"):
        row = table.loc[direction, "other_sections"]
        assert row["chance_recall"] == pytest.approx(5 / 73)
        assert row["chance_rank"] == 37
    assert chance_recall(np.array([10, 20]), 5) == pytest.approx(0.375)
    assert chance_rank(np.array([73] * 4)) == 37
    assert "other_sections" not in set(sp.tl.retrieval_metrics(samples[0], model)["gallery"])
