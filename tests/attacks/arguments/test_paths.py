"""Addresses are refused before anything is made, and ``~`` is the home folder, wherever a path is taken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.sections import featured, train
from spatialdata import read_zarr

import spade as sp

ADDRESSES = ["s3://bucket/a.zarr", "https://host/a.zarr", Path("gs://bucket/a.zarr"), "file:///tmp/a.zarr"]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home folder, from which no relative path leads anywhere."""
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


@pytest.fixture(scope="module")
def model():
    return train([featured()])


def takers(address, model, sdata):
    """Every way in which a path is given."""
    features = {"use_rep": "X_f", "label_key": "organ"}
    return {
        "samples": lambda: sp.pp.select_genes(address),
        "item": lambda: sp.pp.select_genes([address]),
        "named": lambda: sp.pp.select_genes({"a": address}),
        "query": lambda: sp.tl.retrieve([address], sdata, model),
        "bags": lambda: sp.tl.slide_task(address, label_key="organ"),
        "files": lambda: sp.tl.slide_task([f"{address}/a.h5"], label_key="organ"),
        "benchmark": lambda: sp.tl.expression_benchmark(address, use_rep="X_f"),
        "few_shot": lambda: sp.tl.few_shot(address, **features),
        "write": lambda: sp.io.write(sdata, address),
        "read_st": lambda: sp.io.read_st(None, address),
        "counts": lambda: sp.io.read_st(address, "he.png"),
        "read_hest": lambda: sp.io.read_hest(address, "A"),
        "annotations": lambda: sp.io.read_annotations(address),
        "results": lambda: sp.io.write_annotations(sdata, f"{address}/a.geojson"),
        "lazyslide": lambda: sp.io.from_lazyslide(address),
        "sopa": lambda: sp.io.from_sopa(address),
        "trident": lambda: sp.io.from_trident(address, "a.h5"),
        "features": lambda: sp.io.from_trident("a.svs", f"{address}/a.h5"),
        "save": lambda: model.save(address),
        "load": lambda: sp.models.SpadeModel.load(address),
        "load_seal": lambda: sp.models.SealModel.load(address),
        "published": lambda: sp.models.read_published_spade(address, np.zeros((1, 2)), [0]),
        "centroids": lambda: sp.models.read_published_spade(".", address, [0]),
        "vision": lambda: sp.models.read_published_seal(address, "b.pth", genes=None),
        "checkpoint_dir": lambda: train([sdata], checkpoint_dir=address),
        "weights": lambda: sp.encoders.get("resnet10t", weights=address),
        "labels": lambda: sp.pp.label_patches(sdata, f"{address}.csv"),
        "polygons": lambda: sp.pp.label_patches(sdata, f"{address}.geojson"),
    }


@pytest.mark.parametrize("address", ADDRESSES, ids=str)
def test_addresses_are_refused(home, model, address):
    sdata = featured()
    for name, call in takers(address, model, sdata).items():
        with pytest.raises(ValueError, match="is an address, but only files on this machine"):
            call()
        assert not list(Path.cwd().iterdir()), name


def test_home_is_expanded_in_samples_and_writes(home):
    sp.io.write(featured(), "~/one.zarr")
    assert (home / "one.zarr").is_dir()
    assert not list(Path.cwd().iterdir())
    sp.pp.select_genes("~/one.zarr", min_genes=5, n_top_genes=5)
    assert read_zarr(home / "one.zarr")["table"].var["spade_gene"].sum() == 5


def test_home_is_expanded_in_models(home, model):
    model.save("~/model")
    assert (home / "model").is_dir()
    assert sp.models.SpadeModel.load("~/model").id == model.id


def test_home_is_expanded_in_checkpoints_and_tables(home):
    sdata = featured()
    train([sdata], checkpoint_dir="~/runs")
    assert (home / "runs").is_dir()
    (home / "labels.csv").write_text("sample,stage\ntiny,II\n")
    sp.pp.label_patches(sdata, "~/labels.csv")
    assert set(sdata["table"].obs["stage"]) == {"II"}


def test_the_same_store_twice_is_seen_through_the_home(home):
    sp.io.write(featured(), "~/one.zarr")
    with pytest.raises(ValueError, match="more than once"):
        sp.pp.select_genes(["~/one.zarr", home / "one.zarr"])


def test_a_drive_is_no_address():
    from spade.core.checks import check_path

    assert str(check_path("path", "C:/data/one.zarr")).startswith("C:")


@pytest.mark.parametrize("value", [3, None, b"bytes"])
def test_other_things_are_no_paths(value):
    with pytest.raises(TypeError, match=r"path: got .*; expected a path"):
        sp.io.write(featured(), value)


def test_an_unknown_home_is_a_missing_file(home):
    with pytest.raises(FileNotFoundError, match="no_such_user"):
        sp.pp.select_genes("~no_such_user/one.zarr")


def test_settings_of_numpy_are_not_idle_ones_changed():
    from spade._checks import check_idle

    check_idle([("k", np.int64(3), 3), ("x", np.float32(0.5), 0.5), ("y", None, None), ("z", ("a",), ("a",))], "unused")
    with pytest.raises(ValueError, match=r"k=array\(\[3, 4\]\): unused"):
        check_idle([("k", np.array([3, 4]), 3)], "unused")
