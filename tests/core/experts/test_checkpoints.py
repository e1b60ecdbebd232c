"""Trainings that are interrupted, go on and end in the same model."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.experts import Stop, ragged, role_with_validation, rows_of, stop_after
from scipy.sparse import csr_matrix

from spade.core.experts import checkpoints as checkpoints_module
from spade.core.experts.checkpoints import Checkpoints
from spade.core.experts.config import TrainingConfig
from spade.core.experts.train import train_experts
from spade.core.files import digest
from spade.core.roles import TRAIN

CONFIG = TrainingConfig(n_epochs=6, batch_size=16, lr=1e-3)


@pytest.fixture
def at_every_step(monkeypatch):
    monkeypatch.setattr(checkpoints_module, "SECONDS", 0.0)


@pytest.mark.usefixtures("at_every_step")
@pytest.mark.parametrize("together", [1, 5])
@pytest.mark.parametrize("stops", [(1, 3, 2), (9, 2)])
def test_an_interrupted_training_ends_in_the_same_model(tmp_path, together, stops):
    features, expression, expert_of = ragged()
    arguments = (features, expression, expert_of, role_with_validation(expert_of), 5, CONFIG)
    whole = train_experts(*arguments, n_side_by_side=together)[1]

    def go_on(**options):
        return train_experts(
            *arguments, n_side_by_side=together, checkpoints=Checkpoints(tmp_path / "state", {"a": 1}), **options
        )

    for n in stops:
        with pytest.raises(Stop):
            go_on(progress=stop_after(n))
    _, ended = go_on()
    np.testing.assert_allclose(rows_of(ended), rows_of(whole), atol=0 if together == 1 else 2e-5)
    for one, other in zip(ended, whole, strict=True):
        assert one.train_loss == pytest.approx(other.train_loss, rel=1e-4)
    calls = []
    _, again = go_on(progress=lambda *facts: calls.append(facts))
    assert not calls  # a finished training is read, not repeated
    np.testing.assert_array_equal(rows_of(again), rows_of(ended))
    assert [one.best_epoch for one in again] == [one.best_epoch for one in ended]


def test_states_are_kept_in_the_middle_of_an_epoch(tmp_path, monkeypatch):
    """Stopped between two steps of an epoch, the order of its spots and the dropout go on where they were."""
    monkeypatch.setattr(checkpoints_module, "SECONDS", 0.0)
    features, expression, expert_of = ragged(sizes=(50,))
    arguments = (features, expression, expert_of, np.full(50, TRAIN), 1, CONFIG)
    whole = train_experts(*arguments)[1]
    for stop_at in (2, 5, 6, 11):
        state = Checkpoints(tmp_path / str(stop_at), {})
        save, saved = state.save, []

        def counting(run, flat, row, save=save, saved=saved, stop_at=stop_at):
            save(run, flat, row)
            saved.append(run.step)
            if run.step == stop_at:
                raise Stop

        monkeypatch.setattr(state, "save", counting)
        with pytest.raises(Stop):
            train_experts(*arguments, checkpoints=state)
        assert saved == list(range(1, stop_at + 1))
        _, ended = train_experts(*arguments, checkpoints=Checkpoints(tmp_path / str(stop_at), {}))
        np.testing.assert_array_equal(rows_of(ended), rows_of(whole))
        assert ended[0].train_loss == whole[0].train_loss


KILLED = """
import sys
import numpy as np
from spade.core.experts import checkpoints
from spade.core.experts.checkpoints import Checkpoints
from spade.core.experts.config import TrainingConfig
from spade.core.experts.job import TRAIN
from spade.core.experts.train import train_experts
sys.path.insert(0, sys.argv[2])
from helpers.experts import paired

checkpoints.SECONDS = 0.05
features, expression = paired(np.random.default_rng(0), n=600, d=64, g=200)
expert_of = np.arange(600) % 3
_, trained = train_experts(
    features, expression, expert_of, np.full(600, TRAIN), 3, TrainingConfig(n_epochs=60, batch_size=32),
    checkpoints=None if sys.argv[1] == "-" else Checkpoints(__import__("pathlib").Path(sys.argv[1]), {}),
)
np.save(sys.argv[3], np.stack([one.row.numpy() for one in trained]))
"""


@pytest.mark.slow
def test_kill_9_at_any_moment_changes_nothing(tmp_path):
    """A real process, killed several times, each time after a newer state has appeared."""
    tests = str(Path(__file__).parents[2])

    def start(state, result):
        return subprocess.Popen([sys.executable, "-c", KILLED, state, tests, result])

    assert start("-", str(tmp_path / "whole.npy")).wait(timeout=300) == 0
    state, killed, newest = tmp_path / "state", 0, 0.0
    for _ in range(3):
        process = start(str(state), str(tmp_path / "ended.npy"))
        while process.poll() is None:
            times = [path.stat().st_mtime for path in state.glob("expert_*.npz")] if state.is_dir() else []
            if times and max(times) > newest:
                newest = max(times)
                time.sleep(0.02 * killed)
                process.send_signal(signal.SIGKILL)
                process.wait()
                killed += 1
                break
            time.sleep(0.005)
    assert killed >= 2
    (state / ".expert_0001.npz.1.part").write_bytes(b"half")
    assert start(str(state), str(tmp_path / "ended.npy")).wait(timeout=300) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "ended.npy"), np.load(tmp_path / "whole.npy"))
    assert not list(state.glob(".*"))  # what killed processes left is gone


def test_a_folder_of_another_training_is_refused(tmp_path):
    Checkpoints(tmp_path / "state", {"lr": 0.1, "samples": ["a"]})
    Checkpoints(tmp_path / "state", {"lr": 0.1, "samples": ["a"]})
    with pytest.raises(
        ValueError, match=r"belongs to another training \(lr: 0\.1 there, 0\.2 now\)\. Choose another folder"
    ):
        Checkpoints(tmp_path / "state", {"lr": 0.2, "samples": ["a"]})
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("keep")
    with pytest.raises(ValueError, match=r"holds mine\.txt but no training\.json, so it does not belong to a training"):
        Checkpoints(tmp_path / "notes", {})
    (tmp_path / "state" / "training.json").write_text('{"lr"')
    with pytest.raises(ValueError, match=r"training\.json cannot be read"):
        Checkpoints(tmp_path / "state", {})


@pytest.mark.usefixtures("at_every_step")
@pytest.mark.parametrize("damage", ["cut", "edited"])
def test_a_damaged_state_is_named(tmp_path, damage):
    features, expression, expert_of = ragged()
    arguments = (features, expression, expert_of, np.full(len(expert_of), TRAIN), 5, CONFIG)
    with pytest.raises(Stop):
        train_experts(*arguments, checkpoints=Checkpoints(tmp_path, {}), progress=stop_after(2))
    (path,) = tmp_path.glob("expert_*.npz")
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        np.savez(path, facts=np.array(json.dumps({"step": 1})))
    with pytest.raises(ValueError, match=r"expert_0000\.npz cannot be read .*Delete it to train from the start"):
        train_experts(*arguments, checkpoints=Checkpoints(tmp_path, {}))
    path.unlink()
    train_experts(*arguments, checkpoints=Checkpoints(tmp_path, {}))


def test_digests_tell_arrays_apart():
    x = np.arange(12.0)
    sparse = csr_matrix(np.eye(3))
    found = {
        digest(x),
        digest(x + 1),
        digest(x.astype(np.float32)),
        digest(x.reshape(3, 4)),
        digest(x, x),
        digest(sparse.data),
    }
    assert len(found) == 6
    assert digest(x) == digest(x.copy())
