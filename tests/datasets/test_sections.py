"""Published sections: from a filled folder, and by download from a server on this machine that misbehaves."""

from __future__ import annotations

import hashlib
import logging
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
import pandas as pd
import pooch
import pytest
from _sections import read_bulb
from PIL import Image

import spade as sp
from spade.datasets import _sections

COUNTS = "\tActb\tGapdh\n2x3\t1\t0\n3x3\t0\t4\n2x4\t5\t2\n"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The cache of the user, as a new folder; SPADE_DATA_DIR is not set."""
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache" / name)
    monkeypatch.delenv("SPADE_DATA_DIR", raising=False)
    return tmp_path / "cache" / "spade-st"


@pytest.fixture
def filled(data_dir, tmp_path, monkeypatch, cache):
    """A folder of links to the real files, and no downloads."""
    folder = tmp_path / "filled"
    folder.mkdir()
    for name in ("mob", "her2st"):
        (folder / name).symlink_to(data_dir / name)
    monkeypatch.setenv("SPADE_DATA_DIR", str(folder))
    monkeypatch.setattr(_sections, "_download", None)
    return folder


class Server(ThreadingHTTPServer):
    """Serves ``content``; each request takes the first of ``plan`` (``"whole"`` when it is empty)."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.plan, self.asked = {}, [], []
        self.address = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        way = self.server.plan.pop(0) if self.server.plan else "whole"
        content = self.server.content[self.path]
        if way == "absent":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write({"whole": content, "half": content[: len(content) // 2], "wrong": content[::-1]}[way])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch, cache):
    """A server of one small section, A1, in place of the registry of the bulb."""
    Image.new("RGB", (320, 340), "pink").save(tmp_path / "he.png")
    with Server() as server:
        files = {}
        for role, name, content in (
            ("counts", "counts.tsv", COUNTS.encode()),
            ("image", "he.png", (tmp_path / "he.png").read_bytes()),
        ):
            server.content[f"/{name}"] = content
            digest = hashlib.sha256(content).hexdigest()
            files[role] = {"name": name, "size": len(content), "sha256": digest, "url": f"{server.address}/{name}"}
        about = {"title": "small", "licence": "CC0", "citation": ["Nobody 2020"]}
        sections = {"A1": {"facts": {"animal": "Z"}, "files": files}}
        monkeypatch.setattr(_sections, "registry", lambda: {"mob": about | {"sections": sections}})
        monkeypatch.setattr(_sections, "RETRIES", 1)
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def files_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.realdata
def test_every_file_of_the_registry_is_the_published_one(data_dir):
    n = 0
    for cohort, about in _sections.registry().items():
        for name, section in about["sections"].items():
            for facts in section["files"].values():
                assert facts["url"].startswith("https://raw.githubusercontent.com/")
                assert facts["url"].endswith(facts["name"])
                _sections._checked(data_dir / cohort / name / facts["name"], facts)
                n += 1
    assert n == 20


@pytest.mark.realdata
def test_a_filled_folder_is_read_as_the_readers_do(data_dir, filled, cache):
    sections = sp.datasets.mob(["MOB_11", "MOB_02"])
    for found, number, animal in zip(sections, ("11", "02"), "EA", strict=True):
        truth = read_bulb(data_dir / "mob", number)
        assert found.attrs["spade"] == truth.attrs["spade"]
        assert set(found["table"].obs.pop("animal")) == {animal}
        pd.testing.assert_frame_equal(found["table"].obs, truth["table"].obs)
        assert (found["table"].X != truth["table"].X).nnz == 0
    assert not cache.exists()


@pytest.mark.slow
@pytest.mark.realdata
def test_labels_of_tumours_are_read_only_when_asked_for(data_dir, filled):
    (plain,) = sp.datasets.her2st("C2")
    (labelled,) = sp.datasets.her2st("C2", labels=True)
    folder = data_dir / "her2st"
    files = (folder / "C2" / name for name in ("C2.tsv.gz", "5714_HE_BT_C2.jpg", "C2_selection.tsv"))
    truth = sp.io.read_st(*files, labels=folder / "derived_labels" / "C2_transferred_labels.tsv", sample_id="C2")
    assert set(labelled["table"].obs["patient"]) == {"C"}
    assert list(labelled["table"].obs.pop("label")) == list(truth["table"].obs["label"])
    pd.testing.assert_frame_equal(plain["table"].obs, labelled["table"].obs)
    np.testing.assert_array_equal(plain["spots"].geometry.x, truth["spots"].geometry.x)


def test_labels_that_are_nowhere_are_an_error_before_any_download(cache):
    with pytest.raises(FileNotFoundError, match=r"labels=True: labels of C2 cannot be downloaded, .*C2_transferred"):
        sp.datasets.her2st("C2", labels=True)
    assert not cache.exists()


@pytest.mark.parametrize("given", [True, False])
def test_files_are_downloaded_once(server, cache, tmp_path, monkeypatch, caplog, given):
    if given:
        monkeypatch.setenv("SPADE_DATA_DIR", str(cache := tmp_path / "mine" / "data"))
    with caplog.at_level(logging.INFO, "spade"):
        (sdata,) = sp.datasets.mob("A1")
    assert "A1, small: CC0. Cite Nobody 2020." in caplog.text
    assert files_in(cache) == ["mob/A1/counts.tsv", "mob/A1/he.png"]
    assert sdata["table"].X.sum() == 12
    assert list(sdata["table"].obs["animal"]) == ["Z"] * 3
    caplog.clear()
    sp.datasets.mob("A1")
    assert server.asked == ["/counts.tsv", "/he.png"]
    assert "Cite" not in caplog.text


@pytest.mark.parametrize("way", ["half", "wrong"])
def test_a_download_that_fails_once_is_repeated(server, cache, way):
    server.plan = ["whole", way]
    (sdata,) = sp.datasets.mob("A1")
    assert server.asked == ["/counts.tsv", "/he.png", "/he.png"]
    assert files_in(cache) == ["mob/A1/counts.tsv", "mob/A1/he.png"]
    assert sdata["table"].n_obs == 3


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        ("half", r"\(ChunkedEncodingError\)"),
        ("wrong", r"\(what came is not the published file\)"),
        ("absent", r"\(status 404\)"),
    ],
)
def test_a_download_that_keeps_failing_leaves_nothing_and_can_be_repeated(server, cache, monkeypatch, way, reason):
    monkeypatch.setattr(_sections, "RETRIES", 0)
    server.plan = ["whole", way]
    with pytest.raises(
        ConnectionError, match=rf"he\.png could not be downloaded from http.*/he\.png {reason}\. With a"
    ):
        sp.datasets.mob("A1")
    assert files_in(cache) == ["mob/A1/counts.tsv"]
    sp.datasets.mob("A1")
    assert server.asked == ["/counts.tsv", "/he.png", "/he.png"]


def test_without_a_network_one_sentence_says_where_the_files_are_expected(server, cache, monkeypatch):
    monkeypatch.setattr(_sections, "RETRIES", 0)
    server.shutdown()
    server.server_close()
    message = (
        rf"counts\.tsv could not be downloaded from {server.address}/counts\.tsv \(ConnectionError\).*"
        rf"put 'mob/A1/counts\.tsv', 'mob/A1/he\.png' into {cache}, or set SPADE_DATA_DIR to a folder that has them\."
    )
    with pytest.raises(ConnectionError, match=message):
        sp.datasets.mob("A1")


def test_a_read_only_folder_is_read_and_not_written_to(server, cache, tmp_path, monkeypatch):
    folder = tmp_path / "shared"
    (folder / "mob" / "A1").mkdir(parents=True)
    (folder / "mob" / "A1" / "counts.tsv").write_text(COUNTS)
    for path in (folder / "mob" / "A1", folder / "mob", folder):
        path.chmod(0o555)
    monkeypatch.setenv("SPADE_DATA_DIR", str(folder))
    sp.datasets.mob("A1")
    sp.datasets.mob("A1")
    assert server.asked == ["/he.png"]
    assert files_in(folder) == ["mob/A1/counts.tsv"]
    assert files_in(cache) == ["mob/A1/he.png"]
    (folder / "mob" / "A1").chmod(0o755)  # so that the temporary folder can be removed


@pytest.mark.parametrize(
    ("content", "message"),
    [(COUNTS[:20], rf"it has 20 bytes, not {len(COUNTS)}"), (COUNTS[::-1], "its SHA-256 differs")],
)
def test_a_damaged_file_that_lies_there_is_refused_and_kept(server, cache, content, message):
    (path := cache / "mob" / "A1" / "counts.tsv").parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(ValueError, match=rf"counts\.tsv is not the published file: {message}.*Remove it"):
        sp.datasets.mob("A1")
    assert path.read_text() == content


@pytest.mark.parametrize("sections", ["MOB_12", [], None, {"MOB_11"}, ["MOB_11", "MOB_11"], 11])
def test_wrong_names_of_sections(sections):
    with pytest.raises((TypeError, ValueError), match="sections"):
        sp.datasets.mob(sections)


def test_an_address_is_no_folder(monkeypatch):
    monkeypatch.setenv("SPADE_DATA_DIR", "s3://bucket/data")
    with pytest.raises(ValueError, match="SPADE_DATA_DIR='s3://bucket/data' is an address"):
        sp.datasets.mob()


def test_wrong_labels():
    with pytest.raises((TypeError, ValueError), match="labels"):
        sp.datasets.her2st(labels="yes")
