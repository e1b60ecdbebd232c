"""What a saved state belongs to: checkpoints, caches of patches, model folders and the demo's stores."""

from __future__ import annotations

import json
import os
import shutil
import stat
import threading

import numpy as np
import pytest
from helpers.seal import pictures
from helpers.sections import cohort as expert_cohort
from helpers.sections import train

import spade as sp
from spade._demo import _file_names
from spade.core.training_state import StateFolder
from spade.tl._training.checkpoints import LOCK


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    """A folder of a training of two experts that has ended, and the id of its model."""
    folder = tmp_path_factory.mktemp("experts") / "state"
    return folder, train(expert_cohort(), checkpoint_dir=folder).id


@pytest.fixture
def folder(state, tmp_path):
    shutil.copytree(state[0], tmp_path / "state")
    return tmp_path / "state"


def test_an_untouched_folder_gives_its_model(folder, state):
    assert train(expert_cohort(), checkpoint_dir=folder).id == state[1]


def rewrite(path, change):
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    change(arrays)
    np.savez(path, **arrays)


def without_marks(arrays):
    facts = json.loads(str(arrays["facts"]))
    arrays["facts"] = np.array(json.dumps({key: facts[key] for key in facts if key not in ("digest", "training")}))


def one_nan(arrays):
    arrays["best"] = arrays["best"].copy()
    arrays["best"][0] = np.nan


def more_steps(arrays):
    facts = json.loads(str(arrays["facts"]))
    arrays["facts"] = np.array(json.dumps(facts | {"best_epoch": 0, "train_loss": [0.0] * len(facts["train_loss"])}))


DAMAGE = {
    "of another expert": (
        lambda f: shutil.copy(f / "expert_0001.npz", f / "expert_0000.npz"),
        r"expert_0000\.npz holds the state of expert 1; was it renamed or copied\?",
    ),
    "with NaN": (
        lambda f: rewrite(f / "expert_0000.npz", one_nan),
        r"do not have the digest that was written with them",
    ),
    "with other losses": (lambda f: rewrite(f / "expert_0000.npz", more_steps), r"do not have the digest"),
    "of an earlier version": (lambda f: rewrite(f / "expert_0000.npz", without_marks), r"an earlier version wrote it"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_checkpoint_that_is_not_what_was_written_is_refused(damage, folder):
    change, said = DAMAGE[damage]
    change(folder)
    with pytest.raises(ValueError, match=said):
        train(expert_cohort(), checkpoint_dir=folder)


def test_a_checkpoint_of_another_training_is_refused(folder, tmp_path):
    train(expert_cohort(), checkpoint_dir=tmp_path / "other", rng=7)
    shutil.copy(tmp_path / "other" / "expert_0000.npz", folder)
    with pytest.raises(
        ValueError, match=r"expert_0000\.npz .*belongs to another training than training\.json describes"
    ):
        train(expert_cohort(), checkpoint_dir=folder)


def test_nan_is_refused_even_with_its_digest(tmp_path):
    import torch

    folder = StateFolder(tmp_path, {"a": 1})
    folder.write(tmp_path / "x.npz", {}, {"weights": torch.tensor([1.0, torch.nan])})
    with pytest.raises(ValueError, match=r"weights holds NaN or infinite values"):
        folder.read(tmp_path / "x.npz", None, (), ())


def test_two_trainings_do_not_share_a_folder_at_a_time(folder):
    from spade.core.locks import locked

    entered, done = threading.Event(), threading.Event()

    def hold():
        with locked(folder / LOCK):
            entered.set()
            done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    entered.wait(60)
    try:
        with pytest.raises(ValueError, match=r"checkpoint_dir='.*' is in use by another training that is running"):
            train(expert_cohort(), checkpoint_dir=folder)
    finally:
        done.set()
        thread.join()
    train(expert_cohort(), checkpoint_dir=folder)
    assert not (folder / LOCK).exists()


# --- cache of patches


def test_one_changed_pixel_is_another_cache(tune, tmp_path):
    from spatialdata.models import Image2DModel

    first = pictures()
    whole = tune(first, cache_dir=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    assert tune(pictures(), cache_dir=tmp_path).id == whole.id
    assert len(list(tmp_path.iterdir())) == 1
    changed = pictures()
    image = changed[0]["image"]
    data = (image["scale0"]["image"] if hasattr(image, "children") else image).data.compute().copy()
    centre = changed[0]["patches"].geometry.iloc[5].centroid
    data[:, int(centre.y), int(centre.x)] ^= 255
    changed[0].images["image"] = Image2DModel.parse(data, dims=("c", "y", "x"))
    other = tune(changed, cache_dir=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    assert other.id != whole.id


def test_a_damaged_cache_is_found(tune, tmp_path):
    tune(pictures(), cache_dir=tmp_path)
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"does not hold the \d+ patches of \d+ pixels that its name says.*Delete it"):
        tune(pictures(), cache_dir=tmp_path)


# --- model folders


@pytest.mark.parametrize("name", ["config.json", "genes.json", "model.safetensors", "checksums.json"])
def test_one_changed_byte_of_a_model_is_found_and_its_file_is_named(name, model, tmp_path):
    model.save(tmp_path / "model")
    path = tmp_path / "model" / name
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(whole), 12).tolist():
        changed = bytearray(whole)
        changed[place] ^= int(rng.integers(1, 128))
        path.write_bytes(bytes(changed))
        with pytest.raises((ValueError, FileNotFoundError), match=name.replace(".", r"\.")):
            sp.models.SpadeModel.load(tmp_path / "model")
    path.write_bytes(whole)
    assert sp.models.SpadeModel.load(tmp_path / "model").id == model.id


def test_missing_and_foreign_files_of_a_model_are_named(model, headed, tmp_path):
    model.save(tmp_path / "model")
    (tmp_path / "model" / "genes.json").rename(tmp_path / "genes")
    with pytest.raises(FileNotFoundError, match=r"genes\.json is missing"):
        sp.models.SpadeModel.load(tmp_path / "model")
    (tmp_path / "genes").rename(tmp_path / "model" / "genes.json")
    (tmp_path / "model" / ".DS_Store").touch()  # not of the model
    sp.models.SpadeModel.load(tmp_path / "model")
    headed.save(tmp_path / "seal")
    shutil.copy(tmp_path / "seal" / "model.safetensors", tmp_path / "model")
    with pytest.raises(ValueError, match=r"model\.safetensors was changed since the model was saved"):
        sp.models.SpadeModel.load(tmp_path / "model")


def test_the_card_is_for_people_who_may_edit_or_remove_it(model, headed, tmp_path):
    for saved, load in ((model, sp.models.SpadeModel.load), (headed, sp.models.SealModel.load)):
        folder = tmp_path / type(saved).__name__
        saved.save(folder)
        (folder / "README.md").write_text("Trained for the course in Oslo.\n")
        assert load(folder).id == saved.id
        (folder / "README.md").unlink()
        assert load(folder).id == saved.id


DEEP, LARGE = b"[" * 200_000, b" " * (2**26 + 1)


@pytest.mark.parametrize("content", [DEEP, LARGE, b"[]", b"null", b"\xff"], ids=["deep", "large", "list", "null", "x"])
@pytest.mark.parametrize("name", ["config.json", "genes.json", "checksums.json"])
def test_json_of_a_model_is_bounded_in_size_and_depth(name, content, model, tmp_path):
    model.save(tmp_path / "model")
    (tmp_path / "model" / name).write_bytes(content)
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        sp.models.SpadeModel.load(tmp_path / "model")


@pytest.mark.parametrize("content", [DEEP, LARGE, b"[]", b"\xff"], ids=["deep", "large", "list", "odd"])
def test_json_of_a_training_is_bounded_in_size_and_depth(content, folder):
    whole = (folder / "training.json").read_bytes()
    (folder / "training.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"training\.json cannot be read"):
        train(expert_cohort(), checkpoint_dir=folder)
    (folder / "training.json").write_bytes(whole)
    if len(content) > 2**20 or content == b"\xff":  # the facts in an .npz are text
        return
    rewrite(folder / "expert_0000.npz", lambda arrays: arrays.update(facts=np.array(content.decode())))
    with pytest.raises(ValueError, match=r"expert_0000\.npz cannot be read"):
        train(expert_cohort(), checkpoint_dir=folder)


def test_a_folder_without_checksums_is_still_read(model, tmp_path):
    model.save(tmp_path / "model")
    (tmp_path / "model" / "checksums.json").unlink()
    assert sp.models.SpadeModel.load(tmp_path / "model").id == model.id


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o002])
def test_a_model_is_readable_by_those_whom_the_umask_lets(mask, model, tmp_path):
    before = os.umask(mask)
    try:
        model.save(tmp_path / "model")
    finally:
        os.umask(before)
    for path in (tmp_path / "model").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask, path.name
    assert stat.S_IMODE((tmp_path / "model").stat().st_mode) == 0o777 & ~mask


# --- the demo's stores


@pytest.mark.parametrize(
    "names",
    [
        ["A", "A_2", "A "],
        ["A ", "A", "A_2"],
        ["A", "A/", "A_2", "A?"],
        ["a", "A"],
        ["", "sample", "."],
        ["x" * 300, "x" * 301],
    ],
)
def test_every_sample_has_a_store_of_its_own(names):
    files = _file_names(names)
    assert len({file.casefold() for file in files}) == len(names)
    assert all(0 < len(file) < 100 and "/" not in file and not file.startswith(".") for file in files)
    assert _file_names(names) == files
