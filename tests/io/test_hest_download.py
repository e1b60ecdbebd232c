"""Download of HEST-1k, against a stand-in of the hub in a local folder."""

from __future__ import annotations

import shutil
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest

import spade as sp

huggingface_hub = pytest.importorskip("huggingface_hub")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A repository of two samples, and a ``snapshot_download`` that copies from it and keeps its calls."""
    place, calls = tmp_path / "hub", []
    for name in ("TENX1", "TENX10"):
        for file in (
            "wsis/{}.tif",
            "st/{}.h5ad",
            "metadata/{}.json",
            "patches/{}.h5",
            "tissue_seg/{}_contours.geojson",
        ):
            (path := place / file.format(name)).parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
        (place / "cellvit_seg").mkdir(exist_ok=True)
        with zipfile.ZipFile(place / "cellvit_seg" / f"{name}_cellvit_seg.zip", "w") as archive:
            archive.writestr(f"cellvit_seg/{name}_cellvit_seg.geojson", "[]")
    (place / "HEST_v1_1_0.csv").write_text("id")

    def download(repository, *, repo_type, local_dir, allow_patterns):
        calls.append((repository, repo_type))
        for file in filter(Path.is_file, place.rglob("*")):
            name = file.relative_to(place).as_posix()
            if any(fnmatch(name, pattern) for pattern in allow_patterns):
                (local_dir / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, local_dir / name)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return place, calls


@pytest.mark.parametrize("slides", [True, False])
def test_only_the_samples_asked_for(hub, tmp_path, slides):
    root = sp.datasets.hest("TENX1", tmp_path / "hest", slides=slides)
    assert hub[1] == [("MahmoodLab/hest", "dataset")]
    picture = "wsis/TENX1.tif" if slides else "patches/TENX1.h5"
    assert {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()} == {
        "HEST_v1_1_0.csv", picture, "st/TENX1.h5ad", "metadata/TENX1.json", "tissue_seg/TENX1_contours.geojson",
        "cellvit_seg/TENX1_cellvit_seg.zip", "cellvit_seg/TENX1_cellvit_seg.geojson",
    }  # fmt: skip
    assert (root / "cellvit_seg" / "TENX1_cellvit_seg.geojson").read_text() == "[]"


def test_what_the_hub_does_not_have(hub, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"the hub has no 'wsis/TENX2\.tif', .*read_hest_metadata"):
        sp.datasets.hest(["TENX1", "TENX2"], tmp_path / "hest")


@pytest.mark.parametrize("name", ["../../evil.geojson", "script.py", ".."])
def test_archives_hold_outlines_and_nothing_leads_elsewhere(hub, tmp_path, name):
    with zipfile.ZipFile(hub[0] / "cellvit_seg" / "TENX1_cellvit_seg.zip", "w") as archive:
        archive.writestr(name, "{}")
    if name.endswith("geojson"):
        root = sp.datasets.hest("TENX1", tmp_path / "a" / "b" / "hest")
        assert [path.parent for path in tmp_path.rglob("evil.geojson")] == [root / "cellvit_seg"]
    else:
        with pytest.raises(ValueError, match=r"TENX1_cellvit_seg\.zip.*no file of outlines"):
            sp.datasets.hest("TENX1", tmp_path / "hest")


def test_an_archive_that_was_cut_off(hub, tmp_path):
    archive = hub[0] / "cellvit_seg" / "TENX1_cellvit_seg.zip"
    archive.write_bytes(archive.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"TENX1_cellvit_seg\.zip' cannot be read as a zip archive"):
        sp.datasets.hest("TENX1", tmp_path / "hest")


def test_consent_is_asked_for_with_the_steps(monkeypatch, tmp_path):
    def gated(*_, **__):
        kind = huggingface_hub.errors.GatedRepoError
        raise kind.__new__(kind)  # what it is made of differs between versions

    monkeypatch.setattr(huggingface_hub, "snapshot_download", gated)
    with pytest.raises(
        PermissionError, match=r"accept the terms at .*MahmoodLab/hest.*\(2\) make a token.*hf auth login"
    ):
        sp.datasets.hest("TENX1", tmp_path)


def test_without_network(tmp_path):
    """The suite runs with HF_HUB_OFFLINE=1: this is the hub's own error."""
    with pytest.raises(ConnectionError, match=r"the hub could not be reached .*HF_HUB_OFFLINE"):
        sp.datasets.hest("TENX1", tmp_path)


@pytest.mark.parametrize("ids", [[], "", None, 3, ["TENX1", 3], ["../TENX1"], ["*"]])
def test_ids_are_names(ids, tmp_path):
    with pytest.raises(ValueError, match=r"ids=.*: expected the name of a sample"):
        sp.datasets.hest(ids, tmp_path)
