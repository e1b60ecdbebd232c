"""The workers of dask encode a store each, and the bytes are those of one process."""

from __future__ import annotations

import builtins
from functools import partial

import pytest
from helpers.large.encoding import Colours, files, hidden, placed, stored
from helpers.large.stains import PALE, THEIRS, stained
from helpers.networks import random
from spatialdata import read_zarr

import spade as sp


@pytest.fixture(scope="module")
def client():
    distributed = pytest.importorskip("distributed")
    cluster = distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None, silence_logs=50
    )
    with cluster, distributed.Client(cluster) as client:
        yield client


@pytest.mark.slow
def test_every_store_is_encoded_by_a_task(client, tmp_path):
    paths = [stored(tmp_path / f"{name}.zarr", seed=ord(name)) for name in "abc"]
    sp.pp.encode_patches(paths, client=client, batch_size=8)
    alone = stored(tmp_path / "alone.zarr", seed=ord("b"))
    sp.pp.encode_patches(alone, batch_size=8)
    assert files(paths[1], "X_texture") == files(alone, "X_texture")
    assert all("X_texture" in read_zarr(path)["table"].obsm for path in paths)
    sp.pp.encode_patches({"first": paths[0], "second": paths[1]}, random(), key_added="X_vit", client=client)
    assert all("X_vit" in read_zarr(path)["table"].obsm for path in paths[:2])
    assert hidden(tmp_path) == []


@pytest.mark.slow
def test_an_encoder_by_name_is_built_once_and_let_go(client, tmp_path, monkeypatch):
    from spade.pp import _encode_patches as module

    made = []

    def get(name, **options):
        made.append((options, Colours()))
        return made[-1][1]

    monkeypatch.setattr(module.encoders, "get", get)
    paths = [stained(tmp_path / "ours.zarr"), stained(tmp_path / "theirs.zarr", THEIRS, PALE)]
    encode = partial(sp.pp.encode_patches, colour="reinhard", colour_reference=paths[0], batch_size=1)
    encode(paths, "colours", weights="w.pth", precision="bf16", client=client)
    assert len(made) == 1
    assert made[0][0] == {"weights": "w.pth", "device": "auto", "precision": "bf16", "rng": 0}
    assert module._ready_once.cache_info().currsize == 0
    alone = stained(tmp_path / "alone" / "theirs.zarr", THEIRS, PALE)
    encode(alone, Colours())
    assert files(paths[1]) == files(alone)
    for overwrite in (False, True):
        encode(paths, "colours", client=client, overwrite=overwrite)
    n = 2 * read_zarr(alone)["table"].n_obs
    assert [encoder.patches for _, encoder in made] == [n, 0, n]


@pytest.mark.slow
def test_other_stores_are_encoded_if_one_fails(client, tmp_path):
    paths = [stored(tmp_path / f"{name}.zarr") for name in "ab"]
    from spatialdata import SpatialData

    sp.io.write(SpatialData(), tmp_path / "empty.zarr")
    with pytest.raises(ValueError, match="there is no table") as caught:
        sp.pp.encode_patches([paths[0], tmp_path / "empty.zarr", paths[1]], client=client)
    assert f"1 of 3 stores were not encoded ({tmp_path / 'empty.zarr'})" in caught.value.__notes__[-1]
    assert all("X_texture" in read_zarr(path)["table"].obsm for path in paths)


def test_a_store_that_cannot_be_read_is_left_out(client, tmp_path):
    """A sheet without names; its columns are saved by the tasks."""
    paths = [stored(tmp_path / f"{name}.zarr") for name in "ab"]
    (tmp_path / "a.zarr" / "tables" / "table" / "zarr.json").write_text("{")
    (tmp_path / "samples.csv").write_text("path,batch\na.zarr,1\nb.zarr,2\n")
    samples = sp.io.cohort(tmp_path / "samples.csv", on_damaged="skip")
    with pytest.warns(UserWarning, match=r"a: left out, as it cannot be read\. .*a\.zarr"):
        sp.pp.encode_patches(samples, client=client)
    table = read_zarr(paths[1])["table"]
    assert "X_texture" in table.obsm
    assert table.obs["batch"].unique().tolist() == [2]
    with pytest.raises(ValueError, match=r"a\.zarr"):
        sp.pp.encode_patches(tmp_path / "samples.csv", client=client)


def test_what_a_client_cannot_do_is_said_before_anything_is_read(client, tmp_path, monkeypatch):
    path = stored(tmp_path / "sample.zarr")
    with pytest.raises(TypeError, match=r"got SpatialData with client=, which takes paths alone: .*sp\.io\.write"):
        sp.pp.encode_patches([path, placed()], client=client)
    with pytest.raises(TypeError, match=r"client=3: expected a dask\.distributed\.Client"):
        sp.pp.encode_patches(path, client=3)
    with pytest.raises(TypeError, match="lacks id"):
        sp.pp.encode_patches(path, type("Own", (), {"name": "own", "encode": print})(), client=client)
    with pytest.raises(FileNotFoundError, match="there is no store"):
        sp.pp.encode_patches(tmp_path / "none.zarr", client=client)
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "distributed":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match="pip install distributed"):
        sp.pp.encode_patches(path, client=client)
