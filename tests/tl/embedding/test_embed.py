"""Embeddings: what is written for which rows, samples that know less than the model, and samples of something else."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.sections import (
    GENES,
    assert_same,
    circles,
    cohort,
    empty_rows,
    featured,
    no_warning,
    said_of,
    spoil,
    square_lattice,
    table,
    tiny,
    train,
    warns_here,
)
from scipy.sparse import csr_matrix
from spatialdata import SpatialData, read_zarr

import spade as sp
from spade._samples.experts import palette
from spade.core.expression.normalise import log_normalise
from spade.models import GenePanel, SpadeModel

ROWS = ("X_spade", "X_spade_image", "X_spade_expression", "spade_expert_weights")


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def panel_values(sample, genes=GENES[:20]):
    adata = sample["table"]
    return log_normalise(adata.X)[:, [list(adata.var_names).index(name) for name in genes]]


# --- what is written


def test_embeddings_are_those_of_the_models_arrays(model):
    sample = featured(name="new", seed=7)
    with no_warning():
        assert sp.tl.embed(sample, model) is None
    adata = sample["table"]
    x, g = adata.obsm["X_f"], panel_values(sample)
    weights = model.route(x)
    image, expression = model.encode_image(x), model.encode_expression(g, weights)
    assert {adata.obsm[key].dtype for key in ROWS} == {np.dtype(np.float32)}
    assert [adata.obsm[key].shape for key in ROWS] == [(36, 8), (36, 8), (36, 8), (36, 2)]
    np.testing.assert_array_equal(adata.obsm["X_spade_image"], image)
    np.testing.assert_array_equal(adata.obsm["X_spade_expression"], expression)
    np.testing.assert_array_equal(adata.obsm["spade_expert_weights"], weights.astype(np.float32))
    np.testing.assert_allclose(adata.obsm["X_spade"], (unit(image) + unit(expression)) / 2, atol=1e-6)
    assert list(adata.obs["spade_expert"]) == [str(e) for e in weights.argmax(1)]
    assert list(adata.obs["spade_expert"].cat.categories) == ["0", "1"]
    assert list(adata.uns["spade_expert_colors"]) == list(palette(2))
    facts = adata.uns["spade"]["X_spade"]
    assert (facts["function"], facts["model_id"], facts["use_rep"], facts["mix"]) == (
        "tl.embed",
        model.id,
        "X_f",
        "mean",
    )


def test_concat_keeps_the_experts_side_by_side(model):
    sample = featured()
    sp.tl.embed(sample, model, mix="concat")
    adata = sample["table"]
    assert [adata.obsm[key].shape for key in ROWS] == [(36, 16), (36, 16), (36, 16), (36, 2)]
    parts = adata.obsm["X_spade_image"].reshape(36, 2, 8)
    np.testing.assert_allclose(parts.sum(1), model.encode_image(adata.obsm["X_f"]), atol=1e-6)


def test_two_models_stand_side_by_side(model):
    sample = featured()
    other = train(cohort(), n_experts=1, n_prototypes=1, dim=4)
    sp.tl.embed(sample, model)
    sp.tl.embed(sample, other, key_added="one")
    adata = sample["table"]
    assert adata.obsm["X_spade"].shape == (36, 8)
    assert adata.obsm["X_one"].shape == (36, 4)
    assert set(adata.obs["one_expert"]) == {"0"}
    assert adata.uns["spade"]["X_one"]["model_id"] == other.id != adata.uns["spade"]["X_spade"]["model_id"]


def test_embedding_again_replaces_all_of_it(model):
    sample = featured()
    sp.tl.embed(sample, model, mix="concat")
    sp.tl.embed(sample, model)
    fresh = featured()
    sp.tl.embed(fresh, model)
    assert_same(sample, fresh)


def test_lists_generators_and_stores_get_the_same(model, tmp_path):
    samples = cohort()
    paths = [tmp_path / "a.zarr", tmp_path / "b.zarr"]
    for sample, path in zip(samples, paths, strict=True):
        sp.io.write(sample, path)
    sp.tl.embed(samples, model)
    sp.tl.embed((path for path in map(str, paths)), model)
    for sample, path in zip(samples, paths, strict=True):
        assert_same(sample, read_zarr(path))


def test_several_regions_of_one_table_are_embedded_row_by_row(model):
    one, two = featured(18, name="a"), featured(18, name="b", seed=1)
    ids = [f"s{i:02d}" for i in range(18)]
    both = SpatialData(
        shapes={"left": circles(square_lattice(18)), "right": circles(square_lattice(18))},
        tables={"table": table(ids * 2, region=["left"] * 18 + ["right"] * 18)},
    )
    both["table"].X = csr_matrix(np.vstack([s["table"].X.toarray() for s in (one, two)]))
    both["table"].obsm["X_f"] = np.vstack([s["table"].obsm["X_f"] for s in (one, two)])
    sp.tl.embed([one, two, both], model)
    for key in ROWS:
        together = np.vstack([s["table"].obsm[key] for s in (one, two)])
        np.testing.assert_allclose(both["table"].obsm[key], together, atol=1e-6)


# --- samples that know less than the model


def test_a_sample_without_expression_gets_its_image_side(model):
    sample = featured(genes=())
    sample["table"].obsm["X_spade_expression"] = np.ones((36, 8), np.float32)  # of an earlier time
    with no_warning():
        sp.tl.embed(sample, model)
    obsm = sample["table"].obsm
    assert "X_spade_expression" not in obsm
    np.testing.assert_allclose(obsm["X_spade"], unit(obsm["X_spade_image"]), atol=1e-6)


def test_rows_without_a_patch_are_nan_everywhere_and_others_do_not_notice(model):
    sample, whole = featured(), featured()
    spoil(sample, "X_f", [3, 30])
    sp.tl.embed([whole], model)
    with no_warning():
        sp.tl.embed(sample, model)
    there = np.setdiff1d(np.arange(36), [3, 30])
    for key in ROWS:
        values = sample["table"].obsm[key]
        assert np.isnan(values[[3, 30]]).all()
        np.testing.assert_allclose(values[there], whole["table"].obsm[key][there], atol=1e-6)
    assert list(np.flatnonzero(sample["table"].obs["spade_expert"].isna())) == [3, 30]


@pytest.mark.parametrize("stored", [False, True])
def test_a_spot_without_counts_has_its_image_side_alone(model, stored):
    sample = featured()
    empty_rows(sample, [3], stored)
    with warns_here(r"tiny: 1 of 36 spots have no counts: NaN on the expression side, image side alone in the joint"):
        sp.tl.embed(sample, model)
    obsm = sample["table"].obsm
    assert np.isnan(obsm["X_spade_expression"][3]).all()
    assert np.isfinite(np.delete(obsm["X_spade_expression"], 3, axis=0)).all()
    np.testing.assert_allclose(obsm["X_spade"][3], unit(obsm["X_spade_image"][3:4])[0], atol=1e-6)


def test_missing_genes_stand_at_their_training_mean(model):
    genes = GENES[5:]  # lacks 5 of the model's 20
    sample = featured(genes=genes)
    said = r"tiny: 5 of the model's 20 genes are missing and set to their mean in training: 'G00', .*'G04'"
    with warns_here(said):
        sp.tl.embed(sample, model)
    x = np.tile(model.expression_mean, (36, 1)).astype(np.float32)
    x[:, 5:] = panel_values(sample, GENES[5:20]).toarray()
    expected = model.encode_expression(x, model.route(sample["table"].obsm["X_f"]))
    np.testing.assert_allclose(sample["table"].obsm["X_spade_expression"], expected, atol=1e-6)


def test_more_genes_in_another_order_change_only_the_sum_over_all(model):
    sample, other = featured(), featured()
    order = np.random.default_rng(0).permutation(60)
    other.tables["table"] = other["table"][:, order].copy()
    sp.tl.embed([sample], model)
    sp.tl.embed([other], model)
    for key in ROWS:
        np.testing.assert_allclose(sample["table"].obsm[key], other["table"].obsm[key], atol=1e-6)


def test_too_few_of_the_genes_is_an_error_at_the_stated_share(model):
    nine, ten = featured(genes=GENES[11:]), featured(genes=GENES[10:])
    said = (
        r"only 9 of the model's 20 genes are there \(45%, fewer than min_overlap=50%\); "
        r"missing: .*other ids\? Lower min_overlap="
    )
    with pytest.raises(ValueError, match=said):
        sp.tl.embed(nine, model)
    assert "X_spade" not in nine["table"].obsm
    for sample, least in ((ten, 0.5), (nine, 0.4)):
        with warns_here("genes are missing"):
            sp.tl.embed(sample, model, min_overlap=least)
    with pytest.raises(
        ValueError, match=r"only 0 of the model's 20 genes .*missing: .* Is the sample of another species"
    ):
        sp.tl.embed(featured(genes=[name.lower() for name in GENES]), model)


def test_normalised_layers_are_taken_as_they_are(model):
    sample, plain = featured(), featured()
    sample["table"].layers["log"] = log_normalise(sample["table"].X)
    sample["table"].X = sample["table"].X * 0.5
    sp.tl.embed(sample, model, layer="log", normalized=True)
    sp.tl.embed(plain, model)
    np.testing.assert_array_equal(sample["table"].obsm["X_spade"], plain["table"].obsm["X_spade"])


def test_counts_are_no_normalised_values(model):
    samples = [featured(name="a"), featured(name="b", seed=1)]
    for sample in samples:
        counts = sample["table"].X.toarray()
        counts[0, 0] = 50
        sample["table"].X = counts
        sample["table"].layers["log"] = log_normalise(csr_matrix(counts))
    of_layer = train(samples, layer="log", normalized=True)
    said = r"X holds whole numbers up to 50, as raw counts are, but normalized=True .* layer= .* normalized=False"
    for call in (
        lambda: sp.tl.embed(samples[0], of_layer, layer="X"),
        lambda: sp.tl.retrieve(samples[0], samples[1], of_layer, layer="X"),
        lambda: train(samples, normalized=True),
        lambda: sp.tl.rank_expert_genes(samples[0], normalized=True, min_spots=2),
    ):
        sp.tl.embed(samples[0], of_layer)
        with pytest.raises(ValueError, match=said):
            call()
    sp.pp.patches(samples[0], size_um=20, mpp=1.0)
    sp.pp.smooth_expression(samples[0])
    with pytest.raises(ValueError, match=r"layers\['smoothed'\] holds averaged counts"):
        sp.tl.embed(samples[0], of_layer, layer="smoothed")
    sp.tl.embed(samples[0], of_layer, layer="X", normalized=False)
    sp.pl.spatial(samples[0], color="G00", normalized=True)
    as_they_are = GenePanel(GENES[:20], scale="counts")
    train(samples, genes=as_they_are, normalized=True)


def test_a_panel_that_is_read_otherwise_is_refused(model):
    with pytest.raises(ValueError, match=r"read with {'target_sum': 1000000.0}, but .* with the defaults; leave gen"):
        sp.tl.embed(featured(), model, genes=GenePanel(GENES[:20], target_sum=1e6))


def test_a_model_without_gene_names_takes_them(model):
    nameless = SpadeModel(
        model.experts,
        model.routing,
        config=model.config,
        expression_mean=model.expression_mean,
        expression_routing=model.expression_routing,
    )
    sample, plain = featured(), featured()
    sp.tl.embed(sample, nameless, genes=GENES[:20])
    sp.tl.embed(plain, model)
    np.testing.assert_array_equal(sample["table"].obsm["X_spade"], plain["table"].obsm["X_spade"])
    with pytest.raises(ValueError, match=r"genes=None, and the model does not know its gene panel: pass the names"):
        sp.tl.embed(featured(), nameless)
    with pytest.raises(ValueError, match=r"genes: got 19 names, but the model reads 20"):
        sp.tl.embed(featured(), nameless, genes=GENES[:19])
    sp.tl.embed(featured(genes=()), nameless)  # images need no names


# --- wrong input


def test_a_failed_sample_is_left_as_it_was(model):
    sample, before = featured(genes=GENES[11:]), featured(genes=GENES[11:])
    with pytest.raises(ValueError, match="min_overlap"):
        sp.tl.embed(sample, model)
    assert_same(sample, before)


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (
            {"encoder": "virchow2", "encoder_id": "def", "size_um": 112.0, "input_px": 224},
            r"comes from encoder 'virchow2' \(id def\).* but the model's features are from encoder 'uni' \(id abc\)",
        ),
        (
            {"encoder": "uni", "encoder_id": "abc", "size_um": 56.0, "input_px": 224},
            r"patches of 56 µm at 224 px, but .* 112 µm at 224 px\. Encode patches of the same size",
        ),
    ],
)
def test_features_of_another_encoder_or_patch_are_refused(facts, said):
    samples = cohort()
    for sample in samples:
        said_of(sample, encoder="uni", encoder_id="abc", size_um=112.0, input_px=224)
    trained = train(samples)
    assert (trained.config.encoder, trained.config.encoder_id) == ("uni", "abc")
    sample = featured()
    said_of(sample, **facts)
    for call in (sp.tl.embed, sp.tl.retrieval_metrics):
        with pytest.raises(ValueError, match=said):
            call(sample, trained)
    assert "X_spade" not in sample["table"].obsm


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"use_rep": "X_uni"}, KeyError, r"use_rep='X_uni' is not in obsm; there is 'X_f'"),
        ({"mix": "sum"}, ValueError, r"mix='sum': expected one of 'mean', 'concat'"),
        ({"min_overlap": 0}, ValueError, r"min_overlap=0: expected a number above 0 and up to 1"),
        ({"min_overlap": 50}, ValueError, r"min_overlap=50"),
        ({"key_added": "my model"}, ValueError, r"key_added='my model' cannot be stored"),
        (
            {"key_added": "f"},
            ValueError,
            r"key_added='f': the embeddings would replace the image features obsm\['X_f'\]",
        ),
        ({"layer": "raw"}, KeyError, r"layer='raw' is not there; layers: none"),
        ({"table_key": "counts"}, KeyError, r"table_key='counts' is not there; tables: 'table'"),
        ({"genes": GENES[20:40]}, ValueError, r"genes differs from the model's own panel"),
    ],
)
def test_settings_are_checked(model, options, error, said):
    sample = featured()
    with pytest.raises(error, match=said):
        sp.tl.embed(sample, model, **options)
    assert set(sample["table"].obsm) == {"X_f"}


@pytest.mark.parametrize(
    ("spoiled", "said"),
    [
        (
            lambda t: t.obsm.update(X_f=t.obsm["X_f"][:, :5]),
            r"obsm\['X_f'\] has 5 features, but the model reads 8 of encoder",
        ),
        (lambda t: t.obsm["X_f"].__setitem__((3, 2), np.nan), r"has NaN in part of 1 rows, such as 's03'"),
        (lambda t: setattr(t, "X", t.X * 0.5), r"X has values that are not whole numbers"),
        (lambda t: setattr(t, "X", -t.X), r"negative"),
    ],
)
def test_samples_that_cannot_be_embedded_are_refused(model, spoiled, said):
    sample = featured()
    spoiled(sample["table"])
    with pytest.raises(ValueError, match=rf"tiny: .*{said}"):
        sp.tl.embed(sample, model)


def test_features_must_be_made_first(model):
    with pytest.raises(KeyError, match=r"use_rep='X_f' is not in obsm; there is nothing\. Image features are made by"):
        sp.tl.embed(tiny(), model)


def test_a_panel_may_be_given_in_place_of_names(model):
    sample = featured()
    sp.tl.embed(sample, model, genes=GenePanel(GENES[:20]))
    assert "X_spade" in sample["table"].obsm


def test_a_model_of_a_layer_embeds_counts_in_x():
    samples = cohort()
    for sample in samples:
        sample["table"].layers["counts"] = sample["table"].X.copy()
    of_layer = train(samples, layer="counts")
    sample, plain = featured(), featured()
    sample["table"].layers["counts"] = sample["table"].X.copy()
    sp.tl.embed(sample, of_layer)
    sp.tl.embed(plain, of_layer, layer="X")
    np.testing.assert_array_equal(sample["table"].obsm["X_spade"], plain["table"].obsm["X_spade"])
    with pytest.raises(KeyError, match=r"layer='counts' is not there; layers: none \('X' names X itself\)"):
        sp.tl.embed(featured(), of_layer)


def test_a_path_is_no_model():
    for call in (sp.tl.embed, sp.tl.retrieval_metrics):
        with pytest.raises(
            TypeError,
            match=r"model='folder': expected a SpadeModel or a SealModel; read one with sp\.models\.SpadeModel",
        ):
            call(featured(), "folder")


def test_no_stem_replaces_keys_of_another(model):
    for one, other in (("spade", "spade_image"), ("spade_image", "spade"), ("spade", "spade_expression")):
        sample = featured()
        sp.tl.embed(sample, model, key_added=one)
        before = {key: values.copy() for key, values in sample["table"].obsm.items()}
        with pytest.raises(ValueError, match=rf"key_added='{other}' would replace 'X_.*', which sp\.tl\.embed wrote"):
            sp.tl.embed(sample, model, key_added=other)
        assert list(before) == list(sample["table"].obsm)
        sp.tl.embed(sample, model, key_added=one)
        sp.tl.embed(sample, model, use_rep="X_f", key_added=f"{one}_two")


def test_embeddings_replace_nothing_of_another_function(model):
    sample = featured()
    sample["table"].uns["spade"] = {"X_near": {"function": "pp.spatial_context"}}
    with pytest.raises(ValueError, match=r"key_added='near' would replace 'X_near', which sp\.pp\.spatial_context"):
        sp.tl.embed(sample, model, key_added="near")
