"""Models on the hub, against a stand-in on the loopback."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from helpers.hub import READER, WRITER, running, use
from helpers.sections import GENES, featured, train

import spade as sp
from spade.encoders._spec import SPECS
from spade.models import ProgramModel, SealModel, SpadeModel

NAME = "lab/bulb"


@pytest.fixture(scope="module")
def server():
    with running() as hub:
        yield hub


@pytest.fixture
def hub(server, monkeypatch, tmp_path):
    server.repositories.clear()
    server.asked.clear()
    use(server, monkeypatch, tmp_path)
    return server


@pytest.fixture(scope="module")
def spade_model():
    return train([featured(name="a")], n_epochs=1)


@pytest.fixture(scope="module")
def programs():
    return sp.tl.train_programs([featured(name="a")], use_rep="X_f", genes=GENES[:20], n_clusters=(3,), n_programs=2)


def push(model, **kwargs):
    return model.push_to_hub(NAME, **{"token": WRITER} | kwargs)


def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


# --- there and back


def test_a_model_comes_back_to_the_bit(hub, spade_model, caplog):
    commit = push(spade_model, commit_message="first")
    assert hub.repositories[NAME].private and hub.repositories[NAME].messages == ["initial commit", "first"]
    assert hub.repositories[NAME].branches == {"main": commit}
    with caplog.at_level(logging.INFO, "spade"):
        again = SpadeModel.from_pretrained(NAME, token=WRITER)
    assert f"{NAME}: 'main' is commit {commit}; revision='{commit}' reads the same files again" in caplog.text
    assert (again.id, again.genes, again.config) == (spade_model.id, spade_model.genes, spade_model.config)
    assert again.facts == {**spade_model.facts, "hub": f"{NAME}, commit {commit}"}
    x = np.random.default_rng(1).normal(size=(5, 8)).astype(np.float32)
    assert again.encode_image(x).tobytes() == spade_model.encode_image(x).tobytes()


def test_models_of_programs_and_of_encoders(hub, programs, tuned, weights):
    for model in (programs, tuned):
        model.push_to_hub(f"lab/{type(model).__name__}", token=WRITER, private=False)
    assert ProgramModel.from_pretrained("lab/ProgramModel").id == programs.id
    assert SealModel.from_pretrained("lab/SealModel", weights=weights, device="cpu").id == tuned.id
    with pytest.raises(ValueError, match=r"describes model 'SealModel' .* sp\.models\.SealModel\.load reads it"):
        SpadeModel.from_pretrained("lab/SealModel")


def test_options_go_to_save_and_load(hub, tuned, spade_model):
    push(tuned, merge=True)
    assert SealModel.from_pretrained(NAME, token=WRITER, device="cpu").id == tuned.id
    with pytest.raises(TypeError, match="merge"):
        push(spade_model, merge=True)
    hub.asked.clear()
    with pytest.raises(TypeError, match="weights"):
        SpadeModel.from_pretrained(NAME, weights="random")
    assert not hub.asked


def test_the_layout_is_that_of_the_hub(hub, spade_model, tmp_path):
    commit = push(spade_model)
    SpadeModel.from_pretrained(NAME, token=WRITER, cache_dir=tmp_path / "other")
    place = tmp_path / "other" / "models--lab--bulb"
    assert (place / "refs" / "main").read_text() == commit
    assert sorted(path.name for path in (place / "snapshots" / commit).iterdir()) == [
        "README.md", "checksums.json", "config.json", "genes.json", "model.safetensors",
    ]  # fmt: skip
    assert not (tmp_path / "cache").exists()


# --- revisions


def test_a_commit_stays_what_it_is(hub, spade_model, programs):
    first = push(spade_model)
    hub.repositories[NAME].commits[first]["notes.txt"] = b"mine"
    bare = SpadeModel(spade_model.experts, spade_model.routing, config=spade_model.config)
    second = push(bare)
    assert SpadeModel.from_pretrained(NAME, token=WRITER).id == bare.id != spade_model.id
    assert SpadeModel.from_pretrained(NAME, token=WRITER, revision=first).id == spade_model.id
    assert "genes.json" in hub.repositories[NAME].commits[first]
    assert sorted(hub.repositories[NAME].commits[second]) == [
        ".gitattributes", "README.md", "checksums.json", "config.json", "model.safetensors", "notes.txt",
    ]  # fmt: skip


def test_branches(hub, spade_model, programs):
    push(spade_model)
    commit = push(programs, revision="programs")
    push(programs, revision="programs")
    assert ProgramModel.from_pretrained(NAME, token=WRITER, revision="programs").facts["hub"] != f"{NAME}, {commit}"
    assert SpadeModel.from_pretrained(NAME, token=WRITER).id == spade_model.id
    with pytest.raises(ValueError, match=r"revision='v9': lab/bulb has no such branch, tag or commit"):
        SpadeModel.from_pretrained(NAME, token=WRITER, revision="v9")
    with pytest.raises(ValueError, match="is a commit, which cannot be changed; name a branch"):
        push(spade_model, revision=commit)


# --- the card


def test_the_card_has_what_the_hub_reads_and_what_was_measured(hub, spade_model):
    yaml = pytest.importorskip("yaml")
    push(spade_model, licence="cc-by-nc-4.0", figures={"recall@10, held|out": 0.412345, "sections": 2})
    _, header, card = hub.files(NAME)["README.md"].decode().split("---\n", 2)
    facts = yaml.safe_load(header)
    assert (facts["license"], facts["library_name"]) == ("cc-by-nc-4.0", "spade-st")
    assert {"spade", "histopathology"} <= set(facts["tags"]) and "base_model" not in facts
    rows = ("| recall@10, held\\|out | 0.412345 |", "| sections | 2 |", "| samples | a |", spade_model.id)
    for row in (*rows, "licence of the encoder", 'SpadeModel.from_pretrained("lab/bulb")'):
        assert row in card


def test_what_is_not_known_is_not_claimed(hub, tuned, monkeypatch):
    monkeypatch.setattr(tuned, "spec", SPECS["uni2_h"])
    push(tuned)
    card = hub.files(NAME)["README.md"].decode()
    assert "license: other\nlicense_name: terms-of-data-and-encoder" in card
    assert "base_model: MahmoodLab/UNI2-h" in card
    assert "No figure measured on held-out data was given" in card


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"licence": "CC BY 4.0"}, r"licence='CC BY 4.0': expected a name that the hub knows"),
        ({"licence": "mine"}, r"(?s)Invalid metadata in README.md.*license"),
        ({"figures": {"recall": [1, 2]}}, r"figures=\{'recall': \[1, 2\]\}: expected a number or text"),
        ({"figures": [0.4]}, r"figures=\[0\.4\]: expected a number or text"),
        ({"private": "yes"}, r"private='yes': expected True or False"),
        ({"revision": ""}, r"revision='': expected a name"),
        ({"token": ""}, r"token='': expected"),
        ({"commit_message": ""}, r"commit_message='': expected"),
    ],
)
def test_values_that_cannot_be_used(hub, spade_model, given, said):
    with pytest.raises(ValueError, match=said):
        push(spade_model, **given)
    assert all(len(one.commits) == 1 for one in hub.repositories.values())


# --- what is there already


def test_who_sees_a_model_is_never_changed_in_silence(hub, spade_model):
    hub.make(NAME, private=False)
    with pytest.raises(ValueError, match=r"private=True: lab/bulb exists and is public; nothing was uploaded"):
        push(spade_model, private=True)
    assert list(hub.files(NAME)) == [".gitattributes"]
    push(spade_model)
    assert not hub.repositories[NAME].private and "config.json" in hub.files(NAME)


def test_models_of_others_are_not_replaced(hub, spade_model):
    hub.make(NAME, **{"config.json": b"{}", "README.md": b"mine"})
    with pytest.raises(FileExistsError, match=r"holds files that spade did not save, .*config\.json"):
        push(spade_model)
    with pytest.raises(ValueError, match=r"describes model None in format None"):
        SpadeModel.from_pretrained(NAME)
    hub.make(NAME, **{"README.md": b"empty so far"})
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        SpadeModel.from_pretrained(NAME)


# --- files that were changed


@pytest.mark.parametrize(
    ("name", "how"),
    [("README.md", "written to"), ("model.safetensors", "written to"), ("README.md", "replaced")],
)
def test_a_file_that_was_changed_after_the_download_is_named(hub, spade_model, monkeypatch, tmp_path, name, how):
    commit = push(spade_model)
    SpadeModel.from_pretrained(NAME, token=WRITER)
    path = tmp_path / "cache" / "models--lab--bulb" / "snapshots" / commit / name
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    if how == "replaced":
        path.unlink()
    path.write_bytes(content)
    with monkeypatch.context() as patch:
        offline(patch)
        said = rf"lab/bulb at commit {commit}: {name} was changed after the download, .* Delete '.*' and call this"
        with pytest.raises(ValueError, match=said):
            SpadeModel.from_pretrained(NAME)
    path.resolve().unlink()
    assert SpadeModel.from_pretrained(NAME, token=WRITER).id == spade_model.id


def test_without_links_the_checksums_are_what_is_compared(hub, spade_model, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.file_download.are_symlinks_supported", lambda *_: False)
    commit = push(spade_model)
    SpadeModel.from_pretrained(NAME, token=WRITER)
    path = tmp_path / "cache" / "models--lab--bulb" / "snapshots" / commit / "config.json"
    assert not path.is_symlink()
    path.write_text(path.read_text().replace("history", "History"))
    with pytest.raises(ValueError, match=r"config\.json"):
        SpadeModel.from_pretrained(NAME, token=WRITER)


# --- no network, no token, no such model


def test_the_cache_serves_without_a_network(hub, spade_model, monkeypatch):
    commit = push(spade_model)
    SpadeModel.from_pretrained(NAME, token=WRITER)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.warns(
        UserWarning, match=rf"could not be asked what 'main' is now \(http\S+ cannot be reached.*commit {commit}"
    ):
        assert SpadeModel.from_pretrained(NAME).id == spade_model.id
    offline(monkeypatch)
    for revision in (None, "main", commit):
        assert SpadeModel.from_pretrained(NAME, revision=revision).facts["hub"] == f"{NAME}, commit {commit}"
    with pytest.raises(ConnectionError, match=r"could not be reached .* HF_HUB_OFFLINE unset\? .*'lab/other' is read"):
        SpadeModel.from_pretrained("lab/other")
    with pytest.raises(ConnectionError, match=r"HF_HUB_OFFLINE unset\? Nothing was committed"):
        push(spade_model)


def test_without_a_network_and_a_cache(hub, spade_model, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConnectionError, match=r"could not be reached .*:9 cannot be reached.*Is there a network"):
        SpadeModel.from_pretrained(NAME)
    with pytest.raises(ConnectionError, match=r"the hub could not be reached .*Nothing was committed; call this again"):
        push(spade_model)


def test_an_upload_that_breaks_off(hub, spade_model, monkeypatch):
    monkeypatch.setattr(hub, "upload", lambda *_: (400, {}, b""))
    with pytest.raises(ConnectionError, match=r"Error while uploading 'model\.safetensors'.*Nothing was committed"):
        push(spade_model)
    assert list(hub.files(NAME)) == [".gitattributes"]


def test_tokens(hub, spade_model):
    with pytest.raises(PermissionError, match=r"token=None: no token .* was found .*settings/tokens.*hf auth login"):
        push(spade_model, token=None)
    assert not hub.asked
    with pytest.raises(PermissionError, match=r"repo_id='lab/bulb': the token may not write there"):
        push(spade_model, token=READER)
    push(spade_model)
    for token in (None, READER):
        with pytest.raises(PermissionError, match=r"no such model, or it is private .*hf auth login"):
            SpadeModel.from_pretrained(NAME, token=token)


@pytest.mark.parametrize(
    "name", ["bulb", "a/b/c", "https://huggingface.co/lab/bulb", "../bulb", "lab/", 3, None, "a--b/c"]
)
def test_names_of_repositories(hub, spade_model, name):
    for call in (SpadeModel.from_pretrained, spade_model.push_to_hub):
        with pytest.raises(ValueError, match=r"repo_id=.*: expected the name of a model on the hub, 'owner/name'"):
            call(name)
    assert not hub.asked


def test_folders_and_names_are_told_apart(spade_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"is read by sp\.models\.SpadeModel\.from_pretrained\('lab/bulb'\)"):
        SpadeModel.load("lab/bulb")
    spade_model.save("lab/bulb")
    for path in ("lab/bulb", tmp_path / "lab"):
        with pytest.raises(ValueError, match=r"is a folder on this machine; sp\.models\.SpadeModel\.load reads it"):
            SpadeModel.from_pretrained(path)
