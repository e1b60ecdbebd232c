"""Experts side by side, batches from arrays of any kind, and trainings that are interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from scipy.sparse import random as random_sparse
from test_core_training import paired

from spade.core.experts import checkpoints as checkpoints_module
from spade.core.experts.batches import DeviceFeed, HostFeed
from spade.core.experts.checkpoints import Checkpoints
from spade.core.experts.config import TrainingConfig
from spade.core.experts.parameters import FlatExperts
from spade.core.experts.train import train_experts
from spade.core.files import digest
from spade.core.roles import TRAIN, VAL

#: Spots per expert: a last short batch, fewer than a batch, a single one, none.
SIZES = (50, 16, 7, 1, 0)


def ragged(rng=0, sizes=SIZES):
    features, expression = paired(np.random.default_rng(rng), n=sum(sizes))
    order = np.random.default_rng(1).permutation(sum(sizes))
    return features, expression, np.repeat(np.arange(len(sizes)), sizes)[order]


def rows_of(trained):
    return np.stack([one.row.numpy() for one in trained])


# --- side by side


@pytest.mark.parametrize(
    "settings",
    [
        {"loss": "soft_clip"},
        {"loss": "clip", "temperature": 0.1},
        {"loss": "clip", "temperature": 0.5, "learn_temperature": True, "dropout": 0.0},
    ],
    ids=["soft_clip", "clip", "clip with its own temperature"],
)
@pytest.mark.parametrize("validation", [False, True])
def test_experts_side_by_side_are_those_trained_one_by_one(settings, validation):
    features, expression, expert_of = ragged()
    role = np.full(len(expert_of), TRAIN)
    if validation:
        role[np.flatnonzero(expert_of == 0)[::5]] = VAL
        role[np.flatnonzero(expert_of == 2)[:2]] = VAL
    config = TrainingConfig(n_epochs=4, batch_size=16, lr=1e-3, **settings)
    alone, side = (
        train_experts(features, expression, expert_of, role, 5, config, seed=3, together=together)
        for together in (1, 5)
    )
    np.testing.assert_allclose(rows_of(side[1]), rows_of(alone[1]), atol=2e-5)
    for one, other in zip(alone[1], side[1], strict=True):
        np.testing.assert_allclose(other.train_loss, one.train_loss, rtol=1e-4)
        np.testing.assert_allclose(other.val_loss, one.val_loss, rtol=1e-4)
        assert one.best_epoch == other.best_epoch
    moved = np.abs(
        rows_of(alone[1])[:3] - rows_of(train_experts(features, expression, expert_of, role - 1, 5, config)[1])[:3]
    )
    assert (moved.max(1) > 1e-3).all()


@pytest.mark.parametrize("path", ["_update_fused", "_update_rows"])
def test_steps_are_those_of_adamw(path):
    """Against torch's own optimiser, with a step count and a learning rate of its own for each expert."""
    torch.manual_seed(0)
    flat = FlatExperts(2, 5, 7, 4, training=True)
    flat.values.normal_()
    shapes = [(*shape,) for shape in flat.shapes.values()]
    experts = [[view[e].clone().requires_grad_() for view in flat.views(flat.values).values()] for e in range(2)]
    temperatures = [flat.values[e, -1].clone().requires_grad_() for e in range(2)]
    rates = [0.1, 0.02]
    optimisers = [
        torch.optim.AdamW(
            [{"params": experts[e], "weight_decay": 0.3}, {"params": [temperatures[e]], "weight_decay": 0.0}],
            lr=rates[e],
        )
        for e in range(2)
    ]
    for step in range(4):
        k = 2 if step < 2 else 1  # the second expert has finished
        gradients = [torch.randn(k, *shape) for shape in shapes] + [torch.randn(k)]
        flat.take(gradients)
        with torch.no_grad():
            getattr(flat, path)([step] * k, rates[:k], 0.3)
        for e in range(k):
            for parameter, gradient in zip([*experts[e], temperatures[e]], gradients, strict=True):
                parameter.grad = gradient[e].clone()
            optimisers[e].step()
    for e in range(2):
        wanted = [*(value.detach() for value in experts[e]), temperatures[e].detach()]
        found = [*(view[e] for view in flat.views(flat.values).values()), flat.values[e, -1]]
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(one.numpy(), other.numpy(), atol=1e-6)


# --- batches


@pytest.mark.parametrize("kind", ["float32", "float16", "memory map"])
def test_batches_are_the_rows_asked_for(kind, tmp_path):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(40, 6)).astype("float16" if kind == "float16" else "float32")
    if kind == "memory map":
        np.save(tmp_path / "x.npy", features)
        features = np.load(tmp_path / "x.npy", mmap_mode="r")
    expression = random_sparse(40, 9, 0.3, format="csr", dtype=np.float32, rng=rng)
    mean, deviation = rng.normal(size=6), rng.uniform(0.5, 2, size=6)
    wanted = (np.asarray(features, np.float64) - mean) / deviation
    for feed in (
        HostFeed(features, expression, mean, deviation),
        DeviceFeed(features, expression, mean, deviation, device="cpu"),
    ):
        for rows in ([rng.permutation(40)[:8]], [rng.permutation(40)[:n] for n in (8, 3, 1)], [np.array([39, 0])]):
            image, spot = feed.batch(rows)
            assert image.dtype == spot.dtype == torch.float32
            for i, own in enumerate(rows):
                np.testing.assert_allclose(image[i, : len(own)], wanted[own], atol=1e-5)
                np.testing.assert_array_equal(spot[i, : len(own)], expression[own].toarray())
                assert not image[i, len(own) :].any()
                assert not spot[i, len(own) :].any()


def test_half_precision_and_mapped_features_train_as_float32_does(tmp_path):
    features, expression, expert_of = ragged()
    features = features.astype(np.float16)
    np.save(tmp_path / "x.npy", features)
    config = TrainingConfig(n_epochs=2, batch_size=16)
    role = np.full(len(expert_of), TRAIN)
    found = [
        rows_of(train_experts(x, expression, expert_of, role, 5, config)[1])
        for x in (features.astype(np.float32), features, np.load(tmp_path / "x.npy", mmap_mode="r"))
    ]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


# --- interruption

CONFIG = TrainingConfig(n_epochs=6, batch_size=16, lr=1e-3)


class Stop(Exception):
    pass


def stop_after(n):
    """Raise at the n-th epoch that ends."""
    seen = []

    def progress(*facts):
        seen.append(facts)
        if len(seen) == n:
            raise Stop

    return progress


@pytest.fixture
def at_every_step(monkeypatch):
    monkeypatch.setattr(checkpoints_module, "SECONDS", 0.0)


def role_with_validation(expert_of):
    role = np.full(len(expert_of), TRAIN)
    role[np.flatnonzero(expert_of == 0)[::5]] = VAL
    return role


@pytest.mark.usefixtures("at_every_step")
@pytest.mark.parametrize("together", [1, 5])
@pytest.mark.parametrize("stops", [(1, 3, 2), (9, 2)])
def test_an_interrupted_training_ends_in_the_same_model(tmp_path, together, stops):
    features, expression, expert_of = ragged()
    arguments = (features, expression, expert_of, role_with_validation(expert_of), 5, CONFIG)
    whole = train_experts(*arguments, together=together)[1]

    def go_on(**options):
        return train_experts(
            *arguments, together=together, checkpoints=Checkpoints(tmp_path / "state", {"a": 1}), **options
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
from spade.core import checkpoints
from spade.core.experts.checkpoints import Checkpoints
from spade.core.experts.config import TrainingConfig
from spade.core.experts.job import TRAIN
from spade.core.experts.train import train_experts
sys.path.insert(0, sys.argv[2])
from test_core_training import paired

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
    here = os.path.dirname(__file__)

    def start(state, result):
        return subprocess.Popen([sys.executable, "-c", KILLED, state, here, result])

    assert start("-", str(tmp_path / "whole.npy")).wait(timeout=300) == 0
    state, killed, newest = tmp_path / "state", 0, 0.0
    for _ in range(4):
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
    assert killed >= 3
    (state / ".expert_0001.npz.1.part").write_bytes(b"half")
    assert start(str(state), str(tmp_path / "ended.npy")).wait(timeout=300) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "ended.npy"), np.load(tmp_path / "whole.npy"))
    assert not list(state.glob(".*"))  # what killed processes left is gone


def test_a_folder_of_another_training_is_refused(tmp_path):
    Checkpoints(tmp_path / "state", {"lr": 0.1, "samples": ["a"]})
    Checkpoints(tmp_path / "state", {"lr": 0.1, "samples": ["a"]})
    with pytest.raises(
        ValueError, match=r"is of another training \(lr: 0\.1 there, 0\.2 now\)\. Choose another folder"
    ):
        Checkpoints(tmp_path / "state", {"lr": 0.2, "samples": ["a"]})
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("keep")
    with pytest.raises(ValueError, match=r"holds mine\.txt but no training\.json: it is not of a training"):
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
    with pytest.raises(ValueError, match=r"expert_0000\.npz cannot be read .*Delete it to train anew"):
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
