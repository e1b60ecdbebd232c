"""What a small file claims is checked before anything is allocated, and everything lies in the file itself."""

from __future__ import annotations

import gzip
import json
import resource
import struct
import zipfile

import h5py
import numpy as np
import pytest
import torch
from anndata import AnnData
from helpers.sections import tiny
from safetensors.torch import save_file

import spade as sp
from spade._samples.images import image_levels
from spade._samples.open import iter_samples
from spade.io import _bytes
from spade.io._feature_files import feature_shape, read_feature_file
from spade.io._files.arrays import read_npy
from spade.io._files.hdf5 import read_h5ad
from spade.io._state_dict import read_state


@pytest.fixture(autouse=True)
def little_memory():
    """Nothing here may take 3 GiB more than the process holds."""
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 3 * 2**30, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def header(shape, descr="<f4") -> bytes:
    text = repr({"descr": descr, "fortran_order": False, "shape": shape}).ljust(118 - 1) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


@pytest.mark.parametrize(
    "raw",
    [
        header((10**9, 1024)),
        header((10**9,), "<i8") + bytes(80),
        header((-1, 5)),
        header((2, 2), "|O") + bytes(32),
        header((2,), "<U4") + bytes(32),
        b"\x93NUMPY\x01\x00\xff\xff{" + b"(" * 65534,
        b"",
        b"PK\x03\x04",
    ],
    ids=["huge", "rows", "negative", "objects", "text", "nested", "empty", "npz"],
)
def test_npy(tmp_path, raw):
    (tmp_path / "assignment.npy").write_bytes(raw)
    with pytest.raises(ValueError, match=r"^assignment: '.*assignment\.npy' cannot be read as a \.npy file of numbers"):
        read_npy(tmp_path / "assignment.npy", "assignment")


def test_assignment_of_a_published_model(tmp_path):
    np.save(tmp_path / "c.npy", np.zeros((3, 2)))
    (tmp_path / "a.npy").write_bytes(header((10**9,), "<i8"))
    with pytest.raises(ValueError, match=r"^assignment: '.*a\.npy' cannot be read"):
        sp.models.read_published_spade(tmp_path, tmp_path / "c.npy", tmp_path / "a.npy")
    for wrong in ([0, 1, 10**9], [0, 1, np.nan], [0.5, 1, 2], [0, 1, -1]):
        np.save(tmp_path / "a.npy", np.array(wrong))
        with pytest.raises(ValueError, match="assignment: expected whole numbers from 0"):
            sp.models.read_published_spade(tmp_path, tmp_path / "c.npy", tmp_path / "a.npy")


@pytest.mark.parametrize("suffix", ["tsv.gz", "csv.gz", "geojson.gz"])
def test_gzip_that_expands(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(_bytes.read_bytes, "__defaults__", (2**20,))
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(gzip.compress(bytes(2**22)))
    assert path.stat().st_size < 10_000
    with pytest.raises(ValueError, match=r"holds more than 1,048,576 bytes"):
        _bytes.read_bytes(path, "counts")


def test_every_text_reader_has_a_limit(tmp_path):
    assert _bytes.read_bytes.__defaults__ == (2**30,)
    with pytest.raises(ValueError, match=r"counts='.*a\.tsv' holds more than 10 bytes"):
        (tmp_path / "a.tsv").write_text("x" * 11)
        _bytes.read_text(tmp_path / "a.tsv", "counts", 10)


def features(path, write) -> None:
    with h5py.File(path, "w") as file:
        write(file)


def external(file):
    place = file.filename + ".raw"
    np.arange(40, dtype=np.float32).tofile(place)
    file.create_dataset("features", (8, 5), "f4", external=[(place, 0, h5py.h5f.UNLIMITED)])


def linked(file):
    with h5py.File(file.filename + ".other", "w") as other:
        other["secret"] = np.ones((8, 5), np.float32)
    file["features"] = h5py.ExternalLink(file.filename + ".other", "/secret")


def linked_twice(file):
    linked(file)
    file.move("features", "hidden")
    file["features"] = h5py.SoftLink("/hidden")


def virtual(file):
    with h5py.File(file.filename + ".other", "w") as other:
        other["secret"] = np.ones((8, 5), np.float32)
    layout = h5py.VirtualLayout((8, 5), "f4")
    layout[:] = h5py.VirtualSource(file.filename + ".other", "secret", (8, 5))
    file.create_virtual_dataset("features", layout)


def claimed(file):
    file.create_dataset("features", (10**7, 1024), "f4", chunks=(10**5, 1024), compression="gzip")


@pytest.mark.parametrize("write", [external, linked, linked_twice, virtual, claimed])
def test_hdf5(tmp_path, write):
    path = tmp_path / "slide.h5"
    features(path, write)
    for read in (feature_shape, read_feature_file):
        with pytest.raises(ValueError, match=r"^slide 'slide': '.*slide\.h5' cannot be read as HDF5 \("):
            read(path)


@pytest.mark.parametrize("write", [external, linked, virtual, claimed])
def test_h5ad(tmp_path, write):
    AnnData(np.ones((3, 2), np.float32)).write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        write(file)
    with pytest.raises(ValueError, match=r"^S: '.*a\.h5ad' cannot be read as HDF5 \("):
        read_h5ad(tmp_path / "a.h5ad", "S")


def test_a_heap_that_hdf5_would_read_forever(tmp_path):
    path = tmp_path / "a.h5ad"
    AnnData(np.ones((3, 2), np.float32)).write_h5ad(path)
    content = path.read_bytes()
    heap = content.index(b"GCOL")
    path.write_bytes(content[: heap + 16] + bytes(500) + content[heap + 516 :])
    with pytest.raises(ValueError, match=r"a\.h5ad' cannot be read as HDF5 \(a heap of texts does not add up\)"):
        read_h5ad(path, "S")


def test_links_in_circles(tmp_path):
    with h5py.File(tmp_path / "slide.h5", "w") as file:
        file["features"] = np.ones((3, 2), np.float32)
        file["group/up"] = file["/"]
        file["soft"] = h5py.SoftLink("/soft")
    assert read_feature_file(tmp_path / "slide.h5").shape == (3, 2)


def test_features_with_gradients_are_read(tmp_path):
    values = torch.ones(3, 2, requires_grad=True)
    for content in (values, {"features": values * 2}, torch.nn.Parameter(values)):
        torch.save(content, tmp_path / "s.pt")
        assert read_feature_file(tmp_path / "s.pt").shape == (3, 2)


def widened(path):
    torch.save(torch.ones(1, 1).expand(10**8, 1024), path)


def compressed(path):
    torch.save(torch.zeros(2**22, 4), path)
    with zipfile.ZipFile(path) as archive:
        parts = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, part in parts.items():
            archive.writestr(name, part)


@pytest.mark.parametrize(
    "write",
    [
        widened,
        compressed,
        lambda path: torch.save(torch.ones(3, 2).to_sparse(), path),
        lambda path: torch.save(torch.ones(3, 2, device="meta"), path),
    ],
    ids=["widened", "compressed", "sparse", "meta"],
)
def test_tensors_that_the_file_does_not_hold(tmp_path, write):
    write(tmp_path / "s.pt")
    with pytest.raises(ValueError, match=r"s\.pt' (cannot be read as a torch file|holds more than tensors)"):
        read_feature_file(tmp_path / "s.pt")
    with pytest.raises(ValueError, match=r"s\.pt' "):
        read_state(tmp_path / "s.pt")


@pytest.mark.parametrize("damage", [lambda raw: raw[:-3], lambda raw: b"\xff" * 8 + raw[8:], lambda _: b""])
def test_safetensors(tmp_path, damage):
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.ones(3, 2)}, path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"^weights: '.*w\.safetensors' cannot be read as safetensors"):
        read_state(path)


def test_a_store_given_as_a_path(tmp_path):
    sp.io.write(tiny(6), tmp_path / "a.zarr")
    files = sorted(path for path in (tmp_path / "a.zarr").rglob("*") if path.is_file())
    rng, refused = np.random.default_rng(0), 0
    for file in (files[int(i)] for i in rng.integers(len(files), size=25)):
        raw = file.read_bytes()
        cut = bytearray(raw)
        cut[int(rng.integers(len(raw)))] ^= 0xFF
        file.write_bytes(json.dumps({"shape": [1]}).encode() if rng.integers(2) else bytes(cut[: len(cut) - 3]))
        try:
            for sample in iter_samples(tmp_path / "a.zarr"):
                level = image_levels(sample.sdata.images["image"])[0]
                level.read(0, level.shape[0], 0, level.shape[1])
        except (ValueError, KeyError) as error:
            refused += 1
            assert "a.zarr" in str(error)
        finally:
            file.write_bytes(raw)
    assert refused > 10


def test_a_store_cannot_claim_a_huge_array(tmp_path):
    sp.io.write(tiny(6), tmp_path / "a.zarr")
    arrays = [
        file
        for file in (tmp_path / "a.zarr").rglob("zarr.json")
        if "shape" in json.loads(file.read_text()) and json.loads(file.read_text())["data_type"] in ("uint8", "float32")
    ]
    assert {file.relative_to(tmp_path / "a.zarr").parts[0] for file in arrays} == {"images", "tables"}
    for file in arrays:
        raw = file.read_text()
        facts = json.loads(raw)
        facts["shape"] = [n * 10**6 for n in facts["shape"]]
        file.write_text(json.dumps(facts))
        with pytest.raises(ValueError, match=r"^samples: '.*a\.zarr' cannot be read as a zarr store .*claims"):
            list(iter_samples(tmp_path / "a.zarr"))
        file.write_text(raw)
    root = tmp_path / "a.zarr/zarr.json"  # what metadata collect counts too
    facts = json.loads(root.read_text())
    collected = facts["consolidated_metadata"]["metadata"]
    for name in [name for name, entry in collected.items() if "shape" in entry and name.startswith("images")]:
        collected[name]["shape"] = [3, 10**9, 10**9]
    (tmp_path / "zarr.json").write_text(root.read_text())
    root.write_text(json.dumps(facts))
    with pytest.raises(ValueError, match=r"a\.zarr' cannot be read .*claims"):
        list(iter_samples(tmp_path / "a.zarr"))
    (tmp_path / "zarr.json").replace(root)
    assert list(iter_samples(tmp_path / "a.zarr"))
