"""Few-shot tasks, search and experts explained, on the olfactory bulb: expression of one animal, images of another."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from _sections import read_bulb

import spade as sp

pytestmark = [pytest.mark.realdata, pytest.mark.slow]


@pytest.fixture(scope="module")
def bulb(data_dir):
    samples = [read_bulb(data_dir / "mob", name) for name in ("11", "01", "02")]
    for sample in samples:
        sample["table"].obs["section"] = sample.attrs["spade"]["sample"]
    sp.pp.patches(samples)
    sp.pp.encode_patches(samples)
    sp.pp.spatial_context(samples, use_rep="X_texture")
    genes = sp.pp.select_genes(samples[0], n_top_genes=500)
    settings = {"use_rep": "X_texture", "genes": genes, "n_prototypes": 8, "n_experts": 2, "lr": 1e-3, "n_epochs": 40}
    model = sp.tl.train_spade(samples[0], **settings)
    control = sp.tl.train_spade(samples[0], shuffle_pairs=True, **settings)
    sp.tl.embed(samples, model)
    return samples, model, control


@pytest.mark.parametrize("way", [{}, {"groupby": "section"}, {"block_um": 1500, "guard_um": 150}])
def test_layers_are_told_from_a_few_labels(bulb, way):
    samples, _, _ = bulb
    reps = {
        "frozen": "X_texture",
        "context": ("X_texture", "X_texture_context"),
        "both": ("X_texture", "X_spade_image"),
    }
    table = sp.tl.few_shot(samples[1:], label_key="label", use_rep=reps, shots=(1, 4), n_repeats=8, C=1.0, **way)
    found = sp.tl.few_shot_summary(table, baseline="frozen").set_index(["representation", "shots"])
    assert found.loc[("frozen", 1), "mean"] > 0.3  # chance is 0.2
    assert found.loc[("frozen", 4), "mean"] > found.loc[("frozen", 1), "mean"]
    assert found.loc[("context", 4), "difference"] > 0
    assert (found["n_units"] == 2).all()
    axes = sp.pl.few_shot(table, baseline="frozen")
    assert len(axes) == 3
    plt.close("all")


def test_ten_labels_per_layer_annotate_another_section(bulb):
    samples, _, _ = bulb
    obs = samples[1]["table"].obs
    obs["mine"] = obs["label"].where(obs.groupby("label", observed=True).cumcount() < 10)
    sp.tl.annotate(samples, label_key="mine", use_rep=("X_texture", "X_texture_context"), C=1.0)
    other = samples[2]["table"].obs
    known = other["label"].notna()
    assert np.mean(other["mine_predicted"].astype(str)[known] == other["label"].astype(str)[known]) > 0.5
    for color in ("mine_predicted", "mine_predicted_uncertainty"):
        assert sp.pl.expert_clusters(samples[1:], color=color, entropy=False).shape == (2, 1)
    plt.close("all")


def test_a_marker_of_a_layer_maps_onto_sections_without_expression(bulb):
    """Granule cells are the core of the bulb; their markers are known."""
    samples, model, _ = bulb
    table = sp.tl.retrieve({"Penk": 2.0, "Pcp4": 2.0, "Camk2n1": 2.0, "Meis2": 2.0}, samples[1:], model, k=None)
    label = np.concatenate([sample["table"].obs["label"].astype(str) for sample in samples[1:]])
    order = {name: i for i, name in enumerate(zip(table["sample"], table["spot"], strict=True))}
    names = [(s.attrs["spade"]["sample"], spot) for s in samples[1:] for spot in s["table"].obs_names]
    rank = np.array([order[name] for name in names])
    assert np.median(rank[label == "Granular Cell Layer"]) < np.median(rank[label == "Olfactory nerve layer"])
    assert len(sp.pl.retrieval(table, samples[1:])) == 2
    plt.close("all")


def test_images_find_expression_and_the_control_does_not(bulb):
    samples, model, control = bulb
    metrics = sp.tl.retrieval_metrics(samples[0], model, control=control)
    whole = metrics[metrics["gallery"] == "all_spots"].mean(numeric_only=True)
    assert whole["recall"] > 2 * whole["control_recall"]
    found = sp.tl.retrieve(samples[1], samples[0], model, spots=list(samples[1]["table"].obs_names[:3]), k=4)
    assert sp.pl.retrieval(found, samples[0], query_samples=samples[1], n_patches=4).shape == (3, 5)
    plt.close("all")


def test_experts_are_explained(bulb):
    samples, model, _ = bulb
    markers = sp.tl.rank_expert_genes(samples[0], n_genes=20)
    assert set(markers["expert"]) == {"0", "1"}
    composition = sp.tl.expert_composition(samples, by="label")
    assert set(composition["value"]) == set(samples[0]["table"].obs["label"].cat.categories)
    agreement = sp.tl.expert_agreement(samples, label_key="label")
    assert len(agreement) == 4  # three sections and all of them
    sp.tl.routing_scores(samples, model)
    distance = [sample["table"].obs["spade_distance"].median() for sample in samples]
    assert distance[0] < min(distance[1:])  # what the model was trained on is nearest
    mixing = sp.tl.mixing(samples, use_rep="X_spade_image")
    assert len(mixing) == 3
    sp.pl.expert_genes(markers)
    sp.pl.expert_composition(composition)
    plt.close("all")
