"""Models and a store written by spade 0.1.0 keep their ids and give the same features and embeddings."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import spatialdata

import spade as sp

WRITTEN = Path(__file__).parents[1] / "data" / "spade_0_1_0.zip"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("spade_0_1_0")
    with zipfile.ZipFile(WRITTEN) as file:
        file.extractall(place)
    return place


@pytest.fixture(scope="module")
def ids(folder):
    return json.loads((folder / "expected.json").read_text())


@pytest.fixture(scope="module")
def table(folder):
    """Table of the store, embedded a second time under other keys."""
    sdata = spatialdata.read_zarr(folder / "sections.zarr")
    models = {
        "spade": sp.models.SpadeModel.load(folder / "spade_model"),
        "seal": sp.models.SealModel.load(folder / "seal_model"),
    }
    sp.pp.encode_patches([sdata], encoder="texture", key_added="X_texture_anew")
    for stem, model in models.items():
        sp.tl.embed([sdata], model, key_added=f"{stem}_anew")
    return sdata["table"]


@pytest.mark.parametrize(
    ("kind", "name"), [(sp.models.SpadeModel, "spade"), (sp.models.SealModel, "seal")], ids=["spade", "seal"]
)
def test_models_keep_their_ids(kind, name, folder, ids, tmp_path):
    model = kind.load(folder / f"{name}_model")
    assert model.id == ids[f"{name}_id"]
    model.save(tmp_path / "saved_again")
    assert kind.load(tmp_path / "saved_again").id == ids[f"{name}_id"]
    config = json.loads((folder / f"{name}_model" / "config.json").read_text())
    assert json.loads((tmp_path / "saved_again" / "config.json").read_text()) == config


def test_texture_features_are_the_same(table):
    anew, stored = table.obsm["X_texture_anew"], table.obsm["X_texture"]
    # resampling rounds single pixels in another way since, by one grey level; counts of patterns then change by 0.01
    np.testing.assert_allclose(anew, stored, rtol=1e-3, atol=0.011)
    assert np.isclose(anew, stored, rtol=1e-5, atol=1e-6).mean() > 0.95
    assert table.uns["spade"]["X_texture_anew"]["encoder_id"] == table.uns["spade"]["X_texture"]["encoder_id"]


def test_embeddings_are_the_same(table):
    stored = [key for key in table.obsm if key.startswith(("X_spade", "X_seal")) and "anew" not in key]
    assert {"X_spade", "X_spade_image", "X_spade_expression", "X_seal"} <= set(stored)
    for key in stored:
        stem = "spade" if key.startswith("X_spade") else "seal"
        again = table.obsm[key.replace(f"X_{stem}", f"X_{stem}_anew")]
        np.testing.assert_allclose(again, table.obsm[key], rtol=1e-4, atol=1e-5, err_msg=key)


def test_experts_are_the_same(table):
    assert table.obs["spade_anew_expert"].astype(str).equals(table.obs["spade_expert"].astype(str))
    np.testing.assert_allclose(
        table.obsm["spade_anew_expert_weights"], table.obsm["spade_expert_weights"], rtol=1e-4, atol=1e-6
    )


def test_embeddings_name_the_models(table, ids):
    for stem in ("spade", "seal"):
        for key in (f"X_{stem}", f"X_{stem}_anew"):
            assert table.uns["spade"][key]["model_id"] == ids[f"{stem}_id"]
