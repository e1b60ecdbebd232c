"""Models on disk: what comes back is what was saved, in a new process too, and nothing else is accepted."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from helpers.sections import GENES, edit, featured, train
from safetensors.numpy import load_file, save_file
from scipy.sparse import csr_matrix

import spade as sp
from spade.models import GenePanel, SpadeConfig, SpadeModel

FILES = ["README.md", "checksums.json", "config.json", "genes.json", "model.safetensors"]


@pytest.fixture(scope="module")
def trained():
    samples = [featured(name="a"), featured(name="b", seed=1)]
    for sample in samples:
        sample["table"].obs["fold"] = ["train", "train", "val"] * 12
    return train(samples, split_key="fold", groupby="patient", n_epochs=3)


@pytest.fixture
def saved(trained, tmp_path):
    trained.save(tmp_path / "model")
    return tmp_path / "model"


def expression(n: int = 5, width: int = 20) -> np.ndarray:
    return np.random.default_rng(0).gamma(1, size=(n, width)).astype(np.float32)


def image_features(n: int = 5, width: int = 8) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(n, width)).astype(np.float32)


# --- saving and loading


def test_a_loaded_model_is_the_saved_one_to_the_bit(trained, saved):
    again = SpadeModel.load(saved)
    assert sorted(path.name for path in saved.iterdir()) == FILES
    assert again.id == trained.id
    assert repr(again) == repr(trained)
    assert (again.config, again.genes, again.facts) == (trained.config, trained.genes, trained.facts)
    assert again.routing.groups == trained.routing.groups == ("p_a",) * 4 + ("p_b",) * 4
    pd.testing.assert_frame_equal(again.history, trained.history)
    for name, array in trained._arrays().items():
        assert again._arrays()[name].dtype == array.dtype
        assert again._arrays()[name].tobytes() == array.tobytes(), name
    x, g = image_features(), expression()
    for mix in ("mean", "concat"):
        assert again.encode_image(x, mix=mix).tobytes() == trained.encode_image(x, mix=mix).tobytes()
        assert again.encode_expression(g, mix=mix).tobytes() == trained.encode_expression(g, mix=mix).tobytes()


def test_saving_again_gives_the_same_bytes(trained, saved, tmp_path):
    SpadeModel.load(saved).save(tmp_path / "again")
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (saved / name).read_bytes(), name


EMBED_ELSEWHERE = """
import sys
import spade as sp

store, model, other = sys.argv[1:]
sp.tl.embed(store, sp.models.SpadeModel.load(model))
"""


def test_embedding_in_a_new_process_equals_embedding_before(cohort, model, tmp_path):
    """On the toy cohort: embed here; save the model; load it and embed in another process; compare bits."""
    from spatialdata import read_zarr

    sample = cohort[0]
    sp.io.write(sample, tmp_path / "sample.zarr")
    model.save(tmp_path / "model")
    sp.tl.embed(sample, model)
    command = [sys.executable, "-c", EMBED_ELSEWHERE, tmp_path / "sample.zarr", tmp_path / "model", "-"]
    subprocess.run(command, check=True, cwd=tmp_path)
    here, there = sample["table"], read_zarr(tmp_path / "sample.zarr")["table"]
    for key in ("X_spade", "X_spade_image", "X_spade_expression", "spade_expert_weights"):
        assert here.obsm[key].tobytes() == there.obsm[key].tobytes(), key
    assert list(here.obs["spade_expert"]) == list(there.obs["spade_expert"])
    assert here.uns["spade"]["X_spade"] == there.uns["spade"]["X_spade"]
    assert here.uns["spade"]["X_spade"]["model_id"] == model.id


def test_a_model_is_replaced_and_anything_else_is_not(trained, saved, tmp_path):
    other = train([featured(name="a")], n_epochs=1)
    other.save(saved)
    assert SpadeModel.load(saved).id == other.id != trained.id
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("keep")
    with pytest.raises(
        FileExistsError, match=r"path='.*notes' exists and is not a model .*no config\.json.*another path"
    ):
        trained.save(tmp_path / "notes")
    (tmp_path / "file").write_text("keep")
    with pytest.raises(FileExistsError, match="exists and is not a model"):
        trained.save(tmp_path / "file")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "model", "notes"]


def test_parents_are_made_and_strings_are_paths(trained, tmp_path):
    trained.save(str(tmp_path / "new" / "folder"))
    assert SpadeModel.load(str(tmp_path / "new" / "folder")).id == trained.id


def test_the_card_tells_what_the_model_is(trained, saved):
    card = (saved / "README.md").read_text()
    for fact in (trained.id, "2 data experts", "`X_f`: 8 features", "20 genes", "| samples | a, b |", "not recorded"):
        assert fact in card
    page = trained._repr_html_()
    rows = dict(re.findall(r"<tr><th>(.*?)</th><td>(.*?)</td></tr>", page))
    assert rows["image features"].startswith("<code>X_f</code>: 8 features of encoder ")
    assert (rows["samples"], rows["gene panel"], rows["id"]) == ("a, b", "20 genes", f"<code>{trained.id}</code>")


def test_optional_parts_may_be_unknown(trained, tmp_path):
    bare = SpadeModel(trained.experts, trained.routing, config=trained.config)
    bare.save(tmp_path / "bare")
    again = SpadeModel.load(tmp_path / "bare")
    assert again.genes is None
    assert again.expression_routing is None
    assert again.history.empty
    assert again.id == bare.id != trained.id
    assert "(names not known)" in (tmp_path / "bare" / "README.md").read_text()
    with pytest.raises(ValueError, match=r"does not know the mean expression of its experts.*weights=\"uniform\""):
        again.encode_expression(expression())


# --- folders that are not what was saved


def edit_arrays(folder, change):
    arrays = load_file(folder / "model.safetensors")
    change(arrays)
    save_file(arrays, folder / "model.safetensors")


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


W1 = "experts.image_projection.projection.weight"


@pytest.mark.parametrize(
    ("damage", "error", "said"),
    [
        (lambda f: (f / "config.json").unlink(), FileNotFoundError, r"is not a model: it has no config\.json"),
        (lambda f: cut(f / "config.json"), ValueError, r"config\.json is not valid JSON .*was the file cut off\?"),
        (lambda f: (f / "config.json").write_text("[]"), ValueError, r"describes model None in format None"),
        (lambda f: edit(f, lambda d: d.update(format=9)), ValueError, r"format 9; this version reads .*format 1"),
        (
            lambda f: edit(f, lambda d: d.update(model="SealModel")),
            ValueError,
            r"describes model 'SealModel' .* here\. sp\.models\.SealModel\.load reads it\.$",
        ),
        (lambda f: edit(f, lambda d: d.update(model=["SealModel"])), ValueError, r"model \['SealModel'\] .* here\.$"),
        (lambda f: edit(f, lambda d: d.pop("history")), ValueError, r"config\.json lacks \['history'\]"),
        (
            lambda f: edit(f, lambda d: d["config"].update(lrr=1)),
            ValueError,
            r"settings \['lrr'\] in config\.json are unknown",
        ),
        (
            lambda f: edit(f, lambda d: d["config"].pop("lr")),
            ValueError,
            r"settings \['lr'\] in config\.json are unknown",
        ),
        (
            lambda f: edit(f, lambda d: d["config"].update(lr="high")),
            ValueError,
            r"cannot be read as a model \(ValueError: lr='high': expected a number",
        ),
        (
            lambda f: edit(f, lambda d: d["config"].update(lr=0.5)),
            ValueError,
            r"settings have id .* but config\.json says .*are not of one model",
        ),
        (lambda f: edit(f, lambda d: d.update(routing=None)), ValueError, r"config\.json has no routing\)\. Its files"),
        (
            lambda f: edit(f, lambda d: d["routing"].pop("temperature")),
            ValueError,
            r"model \(KeyError: 'temperature'\)\. Its files were changed",
        ),
        (
            lambda f: edit(f, lambda d: d.update(n_experts=3)),
            ValueError,
            r"size mismatch for image_projection\.projection\.weight.*Its files were",
        ),
        (lambda f: edit(f, lambda d: d.update(n_experts="two")), ValueError, r"cannot be read as a model"),
        (lambda f: edit(f, lambda d: d.update(history=[1])), ValueError, r"cannot be read as a model"),
        (
            lambda f: (f / "model.safetensors").unlink(),
            FileNotFoundError,
            r"model\.safetensors is missing; the model dir",
        ),
        (lambda f: cut(f / "model.safetensors"), ValueError, r"model\.safetensors cannot be read .*cut off"),
        (
            lambda f: edit_arrays(f, lambda a: a.pop(W1)),
            ValueError,
            r"Missing key.*image_projection\.projection\.weight",
        ),
        (lambda f: edit_arrays(f, lambda a: a.update(more=a[W1])), ValueError, r"Unexpected key.*\"more\""),
        (
            lambda f: edit_arrays(f, lambda a: a.pop("routing.scale")),
            ValueError,
            r"KeyError: 'routing\.scale'",
        ),
        (
            lambda f: edit_arrays(f, lambda a: a.update({"routing.scale": a["routing.scale"][:3].copy()})),
            ValueError,
            r"mean \(8,\) and scale \(3,\) must both be \(8,\)",
        ),
        (
            lambda f: edit_arrays(f, lambda a: a.update({W1: a[W1] * 1.01})),
            ValueError,
            r"settings have id .* but config\.json says .*are not of one model",
        ),
        (lambda f: cut(f / "genes.json"), ValueError, r"genes\.json is not a gene panel .*cut off"),
        (lambda f: GenePanel(GENES[:19]).save(f / "genes.json"), ValueError, r"lists 19 genes, but .* are for 20"),
        (
            lambda f: GenePanel(GENES[1:21]).save(f / "genes.json"),
            ValueError,
            r"arrays, genes and settings have id .* but config",
        ),
        (
            lambda f: (f / "genes.json").unlink(),
            ValueError,
            r"settings have id .* but config\.json says .*are not of one model",
        ),
    ],
)
def test_a_folder_that_is_not_as_it_was_saved_is_refused(saved, damage, error, said):
    damage(saved)
    (saved / "checksums.json").unlink()  # as an earlier version saved it: all else is looked at as well
    with pytest.raises(error, match=said):
        SpadeModel.load(saved)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere is not a model"):
        SpadeModel.load(tmp_path / "nowhere")


# --- arrays in, arrays out


def test_dense_and_sparse_expression_are_the_same(trained):
    g = expression() * (expression() > 0.7)
    np.testing.assert_array_equal(trained.encode_expression(g), trained.encode_expression(csr_matrix(g)))
    np.testing.assert_array_equal(trained.route_expression(g), trained.route_expression(csr_matrix(g)))


def test_rows_do_not_depend_on_each_other_and_nan_stays_where_it_is(trained, monkeypatch):
    x = image_features(9)
    x[4] = np.nan
    whole = trained.encode_image(x)
    assert list(np.flatnonzero(np.isnan(whole).all(1))) == list(np.flatnonzero(np.isnan(whole).any(1))) == [4]
    monkeypatch.setattr("spade.models._spade.BATCH", 2)
    np.testing.assert_allclose(trained.encode_image(x), whole, atol=1e-6)


def test_no_rows_give_no_rows(trained):
    assert trained.encode_image(image_features(0)).shape == (0, 8)
    assert trained.encode_image(image_features(0), mix="concat").shape == (0, 16)
    assert trained.encode_expression(expression(0)).shape == (0, 8)
    assert trained.route(image_features(0)).shape == trained.route_expression(expression(0)).shape == (0, 2)


def test_means_are_sums_and_concatenations_are_parts(trained):
    x = image_features()
    weights = trained.route(x)
    np.testing.assert_allclose(weights.sum(1), 1)
    parts = trained.encode_image(x, mix="concat").reshape(5, 2, 8)
    np.testing.assert_allclose(trained.encode_image(x), parts.sum(1), atol=1e-6)
    own = trained.encode_image(x, np.tile([1.0, 0.0], (5, 1)))
    np.testing.assert_allclose(parts[:, 0], weights[:, :1] * own, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m: m.encode_image(image_features(5, 7)), r"features has shape \(5, 7\); .*trained on width 8"),
        (lambda m: m.encode_image(image_features()[0]), r"features has shape \(8,\)"),
        (lambda m: m.route(image_features(5, 9)), r"features has shape \(5, 9\)"),
        (lambda m: m.encode_expression(expression(5, 21)), r"x has shape \(5, 21\); .*trained on width 20"),
        (lambda m: m.encode_image(image_features(), np.ones((5, 3))), r"weights has shape \(5, 3\); expected \(5, 2\)"),
        (
            lambda m: m.encode_expression(expression(), "equal"),
            r"weights='equal': expected None, \"uniform\" or an array",
        ),
        (lambda m: m.encode_image(image_features(), mix="sum"), r"mix='sum'"),
    ],
)
def test_wrong_arrays_are_refused(trained, call, said):
    with pytest.raises(ValueError, match=said):
        call(trained)


def test_every_setting_changes_the_id(trained):
    def with_config(**changes):
        config = dataclasses.replace(trained.config, **changes)
        return SpadeModel(trained.experts, trained.routing, config=config, genes=trained.genes).id

    ids = [with_config(), with_config(encoder="uni"), with_config(normalized=True), with_config(seed=3)]
    assert len(set(ids)) == 4


def test_models_are_made_in_eval_mode_and_know_their_widths(trained):
    assert not any(module.training for module in trained.experts.modules())
    assert isinstance(trained.config, SpadeConfig)
    assert (trained.n_experts, trained.n_features, trained.n_genes, trained.dim) == (2, 8, 20, 8)
