"""The whole way on the synthetic cohort, whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score, balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import spade as sp

pytestmark = pytest.mark.slow
SHOTS = 8


@pytest.fixture(scope="module")
def road():
    samples = sp.datasets.toy(4, 250)
    sp.pp.patches(samples)
    sp.pp.encode_patches(samples)
    # the first two patients, one of each organ, choose genes, make experts and train them; the others are unseen
    for sample, part in zip(samples, ("train", "train", "test", "test"), strict=True):
        sample["table"].obs["spade_split"] = part
    panel = sp.pp.select_genes(samples[:2])
    clusters = {"groupby": "organ", "n_prototypes": 8, "n_experts": 8, "split_key": "spade_split"}
    routing = sp.tl.cluster_experts(samples, use_rep="X_texture", **clusters)
    model = sp.tl.train_spade(
        samples[:2], use_rep="X_texture", genes=panel, routing=routing, n_epochs=60, lr=1e-3, batch_size=64
    )
    sp.tl.embed(samples, model)
    return samples, model


def column(samples, key):
    return np.concatenate([sample["table"].obs[key].astype(str) for sample in samples])


def test_experts_match_the_planted_domains_and_organs(road, record_property):
    samples, _ = road
    domain, organ = column(samples, "domain"), column(samples, "organ")
    both = np.char.add(organ.astype(str), domain.astype(str))
    expert, prototype = column(samples, "spade_cluster"), column(samples, "spade_prototype")
    scores = {
        "expert, domain": adjusted_rand_score(domain, expert),
        "expert, organ and domain": adjusted_rand_score(both, expert),
        "prototype, organ and domain": adjusted_rand_score(both, prototype),
    }
    shuffled = adjusted_rand_score(domain, np.random.default_rng(0).permutation(expert))
    print(f"\nadjusted Rand index: { ({k: round(v, 3) for k, v in scores.items()}) }, shuffled {shuffled:.3f}")
    for name, score in scores.items():
        record_property(name, float(score))
    assert scores["expert, domain"] > 0.35
    assert scores["expert, organ and domain"] > 0.2
    assert abs(shuffled) < 0.05


@pytest.mark.parametrize("representation", ["X_spade_image", "X_spade"])
def test_a_few_labels_carry_over_to_unseen_patients(road, representation, record_property):
    samples, _ = road
    support, query = samples[:2], samples[2:]
    x, y = (np.concatenate([s["table"].obsm[representation] for s in support]), column(support, "domain"))
    rng = np.random.default_rng(0)
    scores = []
    for _ in range(10):
        rows = np.concatenate([rng.permutation(np.flatnonzero(y == name))[:SHOTS] for name in np.unique(y)])
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(x[rows], y[rows])
        found = probe.predict(np.concatenate([s["table"].obsm[representation] for s in query]))
        scores.append(balanced_accuracy_score(column(query, "domain"), found))
    print(f"\n{representation}: balanced accuracy {np.mean(scores):.3f} with {SHOTS} labels per domain")
    record_property(representation, float(np.mean(scores)))
    assert np.mean(scores) > 0.6  # chance is 0.25


def test_pairs_of_unseen_patients_find_each_other(road):
    samples, model = road
    table = sp.tl.retrieval_metrics(samples[2:], model)
    for gallery, least in (("all_spots", 3), ("same_section", 3), ("same_expert", 1.2)):
        both = table[table.gallery == gallery].mean(numeric_only=True)  # directions
        assert both.recall > least * both.chance_recall
        assert both.median_rank < both.chance_rank / 1.2


def test_the_same_seed_gives_the_same_bytes(road):
    samples, model = road
    again = sp.tl.train_spade(
        samples[:2], use_rep="X_texture", genes=model.genes, routing=model.routing, n_epochs=60, lr=1e-3, batch_size=64
    )
    assert again.id == model.id
