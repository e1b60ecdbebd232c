"""A tuned encoder in use: embeddings, search, predictions."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.seal import PX, UM, cohort, pictured, pictures, seal
from helpers.sections import circles, empty_rows, featured, said_of, spoil, square_lattice, tiny, train, warns_here
from spatialdata import read_zarr

import spade as sp

# --- embeddings


def test_a_tuned_encoder_is_an_encoder(tuned):
    samples = pictures()
    sp.pp.encode_patches(samples, encoder=tuned)
    sp.tl.embed(samples, tuned)
    for sample in samples:
        obsm, uns = sample["table"].obsm, sample["table"].uns["spade"]
        assert sorted(obsm) == ["X_seal", "X_seal_expression", "X_seal_image", "X_test_vit_seal"]
        assert {values.dtype for values in obsm.values()} == {np.dtype(np.float32)}
        np.testing.assert_array_equal(obsm["X_seal_image"], obsm["X_test_vit_seal"])
        assert uns["X_seal_image"]["encoder_id"] == uns["X_test_vit_seal"]["encoder_id"] == tuned.id
        assert uns["X_seal"]["model_id"] == tuned.id
        unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (obsm["X_seal_image"], obsm["X_seal_expression"])]
        np.testing.assert_allclose(obsm["X_seal"], (unit[0] + unit[1]) / 2, atol=1e-6)
    before = samples[0]["table"].obsm["X_seal"].copy()
    sp.tl.embed(samples, tuned, batch_size=5)
    np.testing.assert_allclose(samples[0]["table"].obsm["X_seal"], before, atol=1e-5)
    sp.tl.embed(samples, tuned)
    np.testing.assert_array_equal(samples[0]["table"].obsm["X_seal"], before)
    sp.tl.embed(samples, tuned, use_rep="X_test_vit_seal", key_added="again")
    np.testing.assert_array_equal(samples[0]["table"].obsm["X_again"], before)


@pytest.mark.parametrize(("name", "value"), [("patches_key", "squares"), ("batch_size", 5)])
def test_settings_of_patches_where_none_are_read(name, value, tuned, headed):
    said = rf"{name}={value!r}: the image side comes from obsm\['X_\w+'\], so no patches are read; leave {name}= out"
    with pytest.raises(ValueError, match=said):
        sp.tl.embed(cohort(), headed, **{name: value})
    with pytest.raises(ValueError, match=said):
        sp.tl.embed(pictures(), tuned, use_rep="X_test_vit_seal", **{name: value})


def test_embeddings_survive_the_store(tuned, tmp_path):
    sample = pictured()
    sp.tl.embed(sample, tuned)
    sp.io.write(sample, tmp_path / "a.zarr")
    again = read_zarr(tmp_path / "a.zarr")
    for key in ("X_seal", "X_seal_image", "X_seal_expression"):
        np.testing.assert_array_equal(again["table"].obsm[key], sample["table"].obsm[key])
    assert again["table"].uns["spade"]["X_seal_image"]["encoder_id"] == tuned.id
    table = sp.tl.retrieve(again, again, tuned, k=1)
    assert len(table) == 12


def test_what_embed_writes_from_features_given_by_key_can_be_searched(tuned):
    """The image side holds the features of the model, whichever way they came."""
    samples = pictures()
    sp.pp.encode_patches(samples, encoder=tuned)
    sp.tl.embed(samples, tuned, use_rep="X_test_vit_seal")
    assert len(sp.tl.retrieve(samples, samples, tuned, k=1)) == 24


def test_the_origin_of_an_image_side_goes_with_it(tuned):
    samples = pictures()
    sp.tl.embed(samples, tuned)
    for sample in samples:
        sample["table"].obsm["X_f"] = np.random.default_rng(0).normal(size=(12, 64)).astype(np.float32)
    other = seal(samples, dim=64)
    sp.tl.embed(samples, other)  # replaces what the tuned encoder wrote
    assert "encoder_id" not in samples[0]["table"].uns["spade"].get("X_seal_image", {})
    with pytest.raises(ValueError, match=r"obsm\['X_seal_image'\] is missing, or another encoder wrote it"):
        sp.tl.retrieve(samples, samples, tuned, k=1)


@pytest.mark.parametrize("kind", ["headed", "tuned"])
def test_samples_without_expression(kind, request):
    model = request.getfixturevalue(kind)
    sample = (cohort() if kind == "headed" else pictures())[0]
    full = sample["table"]
    bare = full[:, :0].copy()
    sample.tables["table"] = bare
    sp.tl.embed(sample, model)
    obsm = sample["table"].obsm
    assert "X_seal_expression" not in obsm
    image = obsm["X_seal_image"]
    np.testing.assert_allclose(obsm["X_seal"], image / np.linalg.norm(image, axis=1, keepdims=True), rtol=1e-6)
    with pytest.raises(ValueError, match=r"has no expression .*cannot be trained on"):
        seal([sample]) if kind == "headed" else request.getfixturevalue("tune")([sample])


def test_genes_that_a_sample_lacks_are_reported(headed):
    sample = cohort()[0]
    table = sample["table"]
    sample.tables["table"] = table[:, ~table.var_names.isin(["G03", "G07"])].copy()
    with warns_here(r"a: 2 of the model's 20 genes are missing and set to their mean in training: 'G03', 'G07'"):
        sp.tl.embed(sample, headed)
    assert np.isfinite(sample["table"].obsm["X_seal_expression"]).all()
    with pytest.raises(ValueError, match=r"genes: training needs every gene .* a lacks 2 of 20"):
        seal([sample, cohort()[1]])
    with pytest.raises(ValueError, match=r"only 18 of the model's 20 genes are there \(90%"):
        sp.tl.embed(sample, headed, min_overlap=0.95)


def test_spots_without_counts_or_patches(tmp_path, tune):
    samples = cohort()
    empty_rows(samples[0], [3, 5])
    spoil(samples[1], "X_f", [7])
    with warns_here("1 spot without a valid patch"), warns_here("2 spots without counts"):
        model = seal(samples)
    assert model.facts["training_spots"] == 69
    with warns_here("a: 2 of 36 spots have no counts"):
        sp.tl.embed(samples, model)
    assert np.isnan(samples[0]["table"].obsm["X_seal_expression"]).any(1).nonzero()[0].tolist() == [3, 5]
    assert not np.isnan(samples[0]["table"].obsm["X_seal"]).any()
    assert np.isnan(samples[1]["table"].obsm["X_seal"]).all(1).nonzero()[0].tolist() == [7]
    far = square_lattice(12)
    far[4] = 5_000
    sample = tiny(12, name="a", spots=circles(far))
    with pytest.warns(UserWarning):
        sp.pp.patches(sample, size_um=UM, size_px=64)
    with warns_here("1 spot without a valid patch is left out"):
        model = tune([sample, pictured("b", 1)])
    assert model.facts["training_spots"] == 23
    sp.tl.embed(sample, model)
    assert np.isnan(sample["table"].obsm["X_seal"]).all(1).nonzero()[0].tolist() == [4]


def test_a_sample_of_which_no_spot_can_be_used(tune):
    samples = cohort()
    empty_rows(samples[0], range(36))
    with warns_here("36 spots without counts"):
        assert seal(samples).facts["training_spots"] == 36
    for sample in samples:
        empty_rows(sample, range(36))
    with warns_here("72 spots without counts"), pytest.raises(ValueError, match="no spot is left to train on among 0"):
        seal(samples)
    images = pictures()
    empty_rows(images[0], range(12))
    with warns_here("12 spots without counts"):
        assert tune(images).facts["training_spots"] == 12
    empty_rows(images[1], range(12))
    with warns_here("24 spots without counts"), pytest.raises(ValueError, match="no spot is left to train on among 0"):
        tune(images)


def test_patches_of_another_size_are_refused(tuned):
    sample = pictured(size_um=80.0)
    with pytest.raises(
        ValueError, match=r"a: its patches have 80 µm, but the model was tuned on patches of 60 µm\. Make .*size_um=60"
    ):
        sp.tl.embed(sample, tuned)
    sp.pp.encode_patches(sample, encoder=tuned)
    with pytest.raises(ValueError, match=r"80 µm.*60 µm"):
        sp.tl.embed(sample, tuned, use_rep="X_test_vit_seal")


def test_features_of_another_model_are_refused(tuned, tune):
    samples = pictures()
    other = tune(pictures(), rng=9)
    sp.tl.embed(samples, other)
    for call in (
        lambda: sp.tl.retrieve(samples, samples, tuned),
        lambda: sp.tl.retrieval_metrics(samples, tuned),
        lambda: sp.tl.embed(samples, tuned, use_rep="X_seal_image", key_added="mine"),
    ):
        with pytest.raises(
            ValueError, match=r"a: obsm\['X_seal_image'\] is missing, or another encoder wrote it.*sp\.tl\.embed"
        ):
            call()


def test_features_of_another_encoder_are_refused():
    samples = cohort()
    for sample in samples:
        said_of(sample, encoder="uni", encoder_id="1", size_um=100.0, input_px=224)
    model = seal(samples)
    assert (model.config.encoder, model.config.encoder_id, model.config.patch_um) == ("uni", "1", 100.0)
    assert model.name == "uni_seal"
    assert model.facts["licence_of_the_encoder"] == "CC BY-NC-ND 4.0"
    said_of(samples[0], encoder="uni", encoder_id="2")
    with pytest.raises(ValueError, match=r"a: obsm\['X_f'\] comes from encoder 'uni' \(id 2\), but the model's"):
        sp.tl.embed(samples, model)
    with pytest.raises(
        ValueError, match=r"b: obsm\['X_f'\] comes from .* but those of the routing or samples before it"
    ):
        seal(samples)
    with pytest.raises(ValueError, match=r"c: obsm\['X_f'\] has 5 features, but the model reads 8 of encoder 'uni'"):
        sp.tl.embed(featured(name="c", width=5), model)
    with pytest.raises(ValueError, match=r"differs in width between samples \(a: 8, c: 5\)"):
        seal([featured(name="a"), featured(name="c", width=5)])


def test_a_model_on_features_is_no_encoder_of_patches(headed):
    with pytest.raises(ValueError, match=r"encoder=.*reads features.*sp\.tl\.embed"):
        sp.pp.encode_patches(pictured(), encoder=headed)


def test_arrays_of_the_wrong_kind_are_refused(headed, tuned):
    for model, x, said in (
        (headed, np.zeros((2, 5)), r"x has shape \(2, 5\); this model was trained on width 8"),
        (tuned, np.zeros((2, 5)), r"x has shape \(2, 5\); this model was trained on width 64"),
        (tuned, np.zeros((2, PX, PX, 3)), r"x is float64 of shape .*reads uint8 RGB"),
        (tuned, np.zeros((2, 32, 32, 3), np.uint8), r"x is uint8 of shape \(2, 32, 32, 3\)"),
    ):
        with pytest.raises(ValueError, match=said):
            model.encode_image(x)
    with pytest.raises(ValueError, match=r"x has shape \(2, 5\); this model was trained on width 20"):
        headed.encode_expression(np.zeros((2, 5)))
    given = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
    given[1] = np.nan
    np.testing.assert_array_equal(tuned.encode_image(given), given)
    assert tuned.encode_image(np.zeros((0, PX, PX, 3), np.uint8)).shape == (0, 64)
    assert np.isnan(headed.encode_image(np.full((2, 8), np.nan))).all()


# --- what is done with embeddings


@pytest.mark.parametrize("kind", ["headed", "tuned"])
def test_search_scores_and_predictions(kind, request):
    model = request.getfixturevalue(kind)
    samples = cohort() if kind == "headed" else pictures()
    control = seal(cohort(), shuffle_pairs=True) if kind == "headed" else None
    sp.tl.embed(samples, model)
    n = len(samples[0]["table"])
    for by, options in (("image", {}), ("expression", {}), ("image", {"gallery_by": "image"})):
        found = sp.tl.retrieve(samples[0], samples, model, query_by=by, k=3, **options)
        assert len(found) == 3 * n
        assert found["score"].between(-1 - 1e-6, 1 + 1e-6).all()
    image, expression = (samples[0]["table"].obsm[f"X_seal_{side}"] for side in ("image", "expression"))
    cosines = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (image, expression)]
    best = sp.tl.retrieve(samples[0], samples[0], model, k=1)
    expected = (cosines[0] @ cosines[1].T).max(1)
    np.testing.assert_allclose(best["score"], expected, atol=1e-5)
    signature = sp.tl.retrieve({"G01": 2.0, "G05": -1.0}, samples, model, k=None)
    assert len(signature) == 2 * n
    assert signature["score"].nunique() > n
    metrics = sp.tl.retrieval_metrics(samples, model, control=control)
    assert set(metrics["gallery"]) == {"all_spots", "same_section", "other_sections"}
    with pytest.raises(ValueError, match=r"mix='logits': a SealModel has no experts to mix"):
        sp.tl.retrieve(samples, samples, model, mix="logits")
    sp.tl.predict_expression(samples[0], model, reference=samples[1:], k=3, method="neighbours")
    assert np.isfinite(samples[0]["table"].obsm["X_predicted"]).all()
    scores = sp.tl.few_shot(samples, label_key="organ", use_rep="X_seal_image", shots=(1, 2), n_repeats=2)
    assert len(scores)
    assert sp.pl.training(model).get_xlabel() == "epoch"
    for call in (lambda: sp.tl.routing_scores(samples, model), lambda: train(samples, init=model)):
        with pytest.raises(TypeError, match="expected a SpadeModel"):
            call()
    with pytest.raises(ValueError, match=r"mix='concat': a SealModel has no experts to mix"):
        sp.tl.embed(samples, model, mix="concat")


def test_a_mixture_on_features_of_a_tuned_encoder(tuned):
    samples = pictures()
    sp.pp.encode_patches(samples, encoder=tuned)
    model = train(samples, use_rep="X_test_vit_seal", n_prototypes=2, n_experts=1)
    assert (model.config.encoder, model.config.encoder_id) == ("test_vit_seal", tuned.id)
    sp.tl.embed(samples, model)
    sp.tl.embed(samples, tuned)
    again = train(samples, use_rep="X_seal_image", n_prototypes=2, n_experts=1)
    assert (again.config.encoder, again.config.encoder_id) == ("test_vit_seal", tuned.id)
