"""Representations of several samples that are put together must be of one encoder, patch size, context or model."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.sections import GENES, featured, no_warning, said_of, tiny, train
from helpers.slides import write_trident

import spade as sp

UNI = {"encoder": "uni", "encoder_id": "1", "size_um": 112.0, "input_px": 224}
FEW = [*GENES[:5]]


def samples_of(*records, key="X_f"):
    """Sections with labels, whose features have these records."""
    samples = [featured(name=f"s{i}", seed=i) for i in range(len(records))]
    for sample, record in zip(samples, records, strict=True):
        said_of(sample, key, **record)
        sample["table"].obs["label"] = ["a", "b"] * 18
    return samples


USES = {
    "annotate": lambda samples: sp.tl.annotate(samples, label_key="label", use_rep="X_f"),
    "few_shot": lambda samples: sp.tl.few_shot(samples, label_key="label", use_rep="X_f"),
    "umap": lambda samples: sp.tl.umap(samples, use_rep="X_f"),
    "slide_embedding": lambda samples: sp.tl.slide_embedding(samples, use_rep="X_f"),
    "expression_benchmark": lambda samples: sp.tl.expression_benchmark(samples, use_rep={"mine": "X_f"}),
    "predict_expression": lambda samples: sp.tl.predict_expression(
        samples[-1], reference=samples[:-1], method="ridge", use_rep="X_f", genes=FEW
    ),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"size_um": 300.0}, "300 µm"),
        ({"encoder": "phikon", "encoder_id": "2"}, "phikon"),
        ({"context": "500 µm"}, "means over 500 µm"),
        ({"function": "tl.embed", "model_id": "abc"}, "model abc"),
    ],
)
def test_what_is_of_several_origins_is_not_put_together(use, other, said):
    samples = samples_of(UNI, UNI, UNI | other)
    with pytest.raises(ValueError, match=rf"s2: 'X_f' is of .*{said}.*, but in s[01] of .*cannot be put together"):
        USES[use](samples)


@pytest.mark.parametrize("use", ["annotate", "predict_expression"])
def test_what_is_not_known_is_not_compared(use):
    named_alike = {"function": "io.from_lazyslide", "encoder": "uni_v1"}
    USES[use](samples_of(UNI, {}, named_alike))


def test_experts_of_two_models_or_clusterings_are_not_compared():
    samples = samples_of(UNI, UNI)
    for sample, seed in zip(samples, (0, 1), strict=True):
        sp.tl.embed(sample, train(samples, rng=seed))
    with pytest.raises(ValueError, match=r"s1: 'X_spade' is of model \w+, but in s0 of model \w+"):
        sp.tl.expert_composition(samples, by="label")
    for sample, seed in zip(samples, (0, 1), strict=True):
        sp.tl.cluster_experts(sample, use_rep="X_f", n_prototypes=4, n_experts=2, rng=seed, key_added="apart")
    with pytest.raises(ValueError, match=r"s1: 'apart_cluster' is of clustering \w+, but in s0"):
        sp.tl.expert_agreement(samples, label_key="label", key="apart")
    sp.tl.embed(samples, train(samples))
    sp.tl.expert_composition(samples, by="label")


def in_context(name, *, radius_um=None, seed=0, **record):
    sample = tiny(name=name, seed=seed)
    sp.pp.patches(sample, size_um=40, size_px=40)
    sample["table"].obsm["X_f"] = np.random.default_rng(seed).normal(size=(36, 8)).astype(np.float32)
    said_of(sample, **UNI | record)
    sp.pp.spatial_context(sample, use_rep="X_f", radius_um=radius_um)
    return sample


def test_context_is_of_the_encoder_patches_and_radius_of_its_features(tmp_path):
    samples = [in_context("s0"), in_context("s1", seed=1)]
    model = train(samples, use_rep="X_f_context")
    assert (model.config.encoder, model.config.patch_um, model.config.context) == ("uni", 112, "1.5 pitches")
    model.save(tmp_path / "m")
    loaded = sp.models.SpadeModel.load(tmp_path / "m")
    assert loaded.config == model.config
    with no_warning():
        sp.tl.embed(in_context("s2", seed=2), loaded)
    for other, said in (({"size_um": 300.0}, "300 µm"), ({"radius_um": 200.0}, "means over 200 µm")):
        with pytest.raises(ValueError, match=rf"obsm\['X_f_context'\] comes from .*{said}.*radius_um="):
            sp.tl.embed(in_context("s2", seed=2, **other), model)
        with pytest.raises(ValueError, match=rf"{said}.*but those of the routing or samples before it are"):
            train([samples[0], in_context("s2", seed=2, **other)], use_rep="X_f_context")
    with pytest.raises(ValueError, match=r"obsm\['X_f'\] comes from encoder .*, but .* means over 1\.5 pitches"):
        sp.tl.embed(samples[0], model, use_rep="X_f")
    write_trident(tmp_path / "a.h5", samples[0]["table"].obsm["X_f"], np.zeros((36, 2), int), encoder="uni_v1")
    with pytest.raises(ValueError, match=r"a: .* holds features of single patches, but .* means over 1\.5 pitches"):
        sp.tl.embed(tmp_path / "a.h5", model, out=tmp_path / "out")


def test_every_key_of_a_model_of_programs_is_compared():
    samples = [in_context("s0"), in_context("s1", seed=1)]
    options = {"use_rep": ("X_f", "X_f_context"), "genes": [*GENES[:10]], "n_programs": 2}
    model = sp.tl.train_programs(samples, **options)
    sp.tl.embed(in_context("s2", seed=2), model)
    wide = in_context("s2", seed=2, radius_um=200.0)
    with pytest.raises(ValueError, match=r"obsm\['X_f_context'\] is of .*means over 200 µm, but the model's features"):
        sp.tl.embed(wide, model)
    with pytest.raises(ValueError, match=r"obsm\['X_f_context'\] is of .*means over 200 µm, but those of the routing"):
        sp.tl.train_programs([samples[0], wide], **options)
