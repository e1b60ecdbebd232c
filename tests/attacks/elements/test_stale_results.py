"""Results whose source was written anew: they are refused, with the call that renews them."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import spatialdata as sd

import spade as sp

SMALL = {"n_prototypes": 4, "n_experts": 2}


@pytest.fixture(scope="module")
def made():
    """A section with features, context, labels and a trained model's embedding."""
    (sdata,) = sp.datasets.toy(1, 80)
    sp.pp.patches(sdata)
    sp.pp.encode_patches(sdata)
    sp.pp.spatial_context(sdata, use_rep="X_texture")
    sp.pp.split(sdata, block_um=300)
    sp.tl.cluster_experts(sdata, use_rep="X_texture", **SMALL)
    genes = sp.pp.select_genes(sdata)
    model = sp.tl.train_spade(sdata, use_rep="X_texture", genes=genes, n_epochs=1, **SMALL)
    sp.tl.embed(sdata, model)
    sdata["table"].obs["half"] = np.where(np.arange(80) % 2, "a", "b")
    sdata.attrs["model"] = model
    return sdata


def copied(made):
    sdata = sd.SpatialData(
        images=dict(made.images), shapes=dict(made.shapes), tables={"table": made["table"].copy()},
        attrs={"spade": copy.deepcopy(made.attrs["spade"])},
    )  # fmt: skip
    sdata["table"].uns["spade"] = copy.deepcopy(made["table"].uns["spade"])
    return sdata


READERS = {
    "cluster": lambda s, m: sp.tl.cluster_experts(s, use_rep="X_texture", **SMALL),
    "train": lambda s, m: sp.tl.train_spade(s, use_rep="X_texture", genes=m.genes, n_epochs=1, **SMALL),
    "embed": lambda s, m: sp.tl.embed(s, m),
    "few shot": lambda s, m: sp.tl.few_shot(s, label_key="half", use_rep="X_texture", shots=1, n_repeats=1),
    "annotate": lambda s, m: sp.tl.annotate(s, label_key="half", use_rep="X_texture"),
    "context": lambda s, m: sp.pp.spatial_context(s, use_rep="X_texture"),
    "scores": lambda s, m: sp.tl.routing_scores(s, m),
    "read context": lambda s, m: sp.tl.few_shot(s, label_key="half", use_rep="X_texture_context", shots=1),
    "read embedding": lambda s, m: sp.tl.few_shot(s, label_key="half", use_rep="X_spade", shots=1),
    "read image side": lambda s, m: sp.tl.few_shot(s, label_key="half", use_rep="X_spade_image", shots=1),
    "gallery": lambda s, m: sp.pl.expert_gallery(s),
    "experts": lambda s, m: sp.pl.expert_clusters(s),
    "genes of experts": lambda s, m: sp.tl.rank_expert_genes(s),
    "embedding plot": lambda s, m: sp.pl.embedding(s),
    "split": lambda s, m: sp.tl.cluster_experts(s, use_rep="mine", split_key="spade_split", **SMALL),
}


@pytest.mark.parametrize("reader", READERS)
def test_patches_of_another_size_outdate_what_was_made_from_them(made, reader):
    sdata = copied(made)
    sdata["table"].obsm["mine"] = sdata["table"].obsm["X_texture"]
    sp.pp.patches(sdata, size_um=224)
    with pytest.raises(ValueError, match=r"'patches', which sp\.pp\.patches has written anew .*Run sp\.pp\.\w+ again"):
        READERS[reader](sdata, made.attrs["model"])


def test_the_same_patches_again_outdate_nothing_and_new_features_renew(made):
    sdata, model = copied(made), made.attrs["model"]
    sp.pp.patches(sdata)
    sp.tl.routing_scores(sdata, model)
    sp.pp.patches(sdata, size_um=224, key_added="wide")
    sp.tl.routing_scores(sdata, model)
    sp.pp.patches(sdata, size_um=100)
    sp.pp.encode_patches(sdata)
    sp.tl.few_shot(sdata, label_key="half", use_rep="X_texture", shots=1, n_repeats=1)
    with pytest.raises(
        ValueError, match=r"'X_texture_context' was made from 'X_texture', which sp\.pp\.encode_patches"
    ):
        sp.tl.few_shot(sdata, label_key="half", use_rep="X_texture_context", shots=1)


@pytest.mark.parametrize("draw", [sp.pl.expert_clusters, sp.pl.expert_gallery, sp.tl.rank_expert_genes])
def test_other_clusters_are_not_taken_for_the_experts_of_an_embedding(made, draw):
    sdata = copied(made)
    sp.tl.cluster_experts(sdata, use_rep="X_texture", **SMALL)
    draw(sdata)  # the same clusters
    sp.tl.cluster_experts(sdata, use_rep="X_texture", n_prototypes=6, n_experts=3)
    with pytest.raises(ValueError, match=r"'spade_cluster', which sp\.tl\.cluster_experts .* Run sp\.tl\.embed again"):
        draw(sdata)
    assert sdata["table"].obs["spade_cluster"].nunique() == 3


def test_clusters_made_after_an_embedding_without_any(made):
    sdata, model = copied(made), made.attrs["model"]
    del sdata["table"].uns["spade"]["spade_cluster"], sdata["table"].obs["spade_cluster"]
    sp.tl.embed(sdata, model)
    sp.pl.expert_clusters(sdata)
    sp.tl.cluster_experts(sdata, use_rep="X_texture", n_prototypes=6, n_experts=3)
    with pytest.raises(ValueError, match=r"Run sp\.tl\.embed again"):
        sp.pl.expert_clusters(sdata)


def test_staleness_survives_a_store_and_a_subset(made, tmp_path):
    sdata = copied(made)
    sp.io.write(sdata, tmp_path / "a.zarr")
    sp.pp.patches(tmp_path / "a.zarr", size_um=224)
    with pytest.raises(ValueError, match=r"'X_texture' was made from 'patches'"):
        sp.tl.embed(tmp_path / "a.zarr", made.attrs["model"])
    fresh = copied(made)
    fresh.tables["table"] = fresh["table"][:40].copy()
    sp.tl.embed(fresh, made.attrs["model"])  # fewer rows are not stale


def test_predictions_are_outdated_by_new_features(made):
    sdata, reference = copied(made), sp.datasets.toy(2, 60, rng=3)
    for one in reference:
        sp.pp.patches(one)
        sp.pp.encode_patches(one)
    genes = list(sdata["table"].var_names[:2])
    sp.tl.predict_expression(sdata, reference=reference, method="ridge", use_rep="X_texture", genes=genes)
    sp.pl.expression(sdata, genes=genes)
    sp.pp.patches(sdata, size_um=100)
    sp.pp.encode_patches(sdata)
    with pytest.raises(ValueError, match=r"'X_predicted' was made from 'X_texture'"):
        sp.pl.expression(sdata, genes=genes)
