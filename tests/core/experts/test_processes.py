"""Experts in several processes: the same numbers, clear errors, nothing lost."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.experts import arguments, rows_of, wait_for

from spade.core.distributed.dealing import deal
from spade.core.errors import NonFiniteLossError
from spade.core.experts.checkpoints import Checkpoints
from spade.core.experts.config import TrainingConfig
from spade.core.experts.job import TrainingJob
from spade.core.experts.train import train_experts
from spade.core.roles import TRAIN, VAL

TESTS = str(Path(__file__).parents[2])


def test_a_validation_loss_that_is_not_finite_is_an_error():
    features, *rest = arguments()
    features = features.copy()
    features[rest[2] == VAL] = 1e30
    with pytest.raises(NonFiniteLossError, match=r"expert 0: the loss of its validation spots is nan in epoch 0"):
        train_experts(features, *rest)


# --- spots of other clusters


def test_spots_of_other_clusters_are_drawn_anew_in_every_epoch():
    task = TrainingJob(*arguments(TrainingConfig(batch_size=1_000, out_of_cluster=0.25)))
    run = task.run(0, "cpu")
    train = set(run.train.tolist())
    assert run.n_others == round(len(train) / 3)
    assert run.size == len(train) + run.n_others
    drawn = []
    for _ in range(2):
        rows = run.rows(1_000)
        run.order = None
        assert len(set(rows.tolist())) == len(rows) == run.size
        assert train < set(rows.tolist())
        drawn.append(set(rows.tolist()) - train)
        assert (task.expert_of[list(drawn[-1])] != 0).all()
        assert (task.role[list(drawn[-1])] == TRAIN).all()
    assert drawn[0] != drawn[1]
    assert not task.run(4, "cpu").size  # an empty expert does not train on others alone
    with pytest.raises(ValueError, match="out_of_cluster=1"):
        TrainingConfig(out_of_cluster=1)


# --- processes of one machine


@pytest.mark.parametrize(
    ("loads", "n", "hands"),
    [
        ([5, 0, 9, 4, 1], 2, [[2, 4], [0, 3, 1]]),
        ([3, 3, 3], 3, [[0], [1], [2]]),
        ([7], 3, [[0], [], []]),
        ([], 2, [[], []]),
    ],
)
def test_the_largest_are_dealt_first(loads, n, hands):
    assert deal(np.array(loads, dtype=int), n) == hands


def test_a_task_is_the_same_after_a_way_through_files(tmp_path):
    features, expression, *rest = arguments()
    task = TrainingJob(features, expression, *rest, mean=np.ones(features.shape[1]), deviation=None, seed=7)
    task.save(tmp_path)
    again = TrainingJob.load(tmp_path)
    assert (again.config, again.n_experts, again.seed, again.deviation) == (task.config, 5, 7, None)
    np.testing.assert_array_equal(again.features, features)
    np.testing.assert_array_equal(again.expression.toarray(), expression.toarray())
    np.testing.assert_array_equal(again.mean, task.mean)
    with pytest.raises(ValueError, match="read-only"):
        again.expression.data[0] = 1


@pytest.mark.slow
def test_processes_give_the_numbers_of_one(tmp_path, monkeypatch):
    """What else the processes print does no harm."""
    _, one = train_experts(*arguments())
    (tmp_path / "sitecustomize.py").write_text("print('welcome to this cluster')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    seen = []
    _, many = train_experts(*arguments(), devices=3, progress=lambda *facts: seen.append(facts[:2]))
    np.testing.assert_array_equal(rows_of(many), rows_of(one))
    assert [x.train_loss for x in many] == [x.train_loss for x in one]
    assert [x.best_epoch for x in many] == [x.best_epoch for x in one]
    assert [len(x.train_loss) for x in many] == [4, 4, 4, 4, 0]
    assert sorted(seen) == [(e, epoch) for e in range(4) for epoch in range(4)]


@pytest.mark.slow
def test_a_process_that_is_killed_is_an_error_and_a_restart_finishes(tmp_path, monkeypatch):
    """The first worker that has finished an expert is killed from outside."""
    from spade.core.distributed import workers

    long = TrainingConfig(n_epochs=300, batch_size=16, lr=1e-3)  # so that it is killed long before it ends
    _, one = train_experts(*arguments(long))
    started = []
    popen = subprocess.Popen

    def noting(*args, **options):
        started.append(popen(*args, **options))
        return started[-1]

    monkeypatch.setattr(workers.subprocess, "Popen", noting)

    def kill(expert, epoch, *_):
        if (expert, epoch) == (0, 1):
            started[0].kill()

    with pytest.raises(RuntimeError, match=r"process on cpu ended with code -9.*checkpoint_dir"):
        train_experts(*arguments(long), devices=2, checkpoints=Checkpoints(tmp_path, {}), progress=kill)
    assert all(process.poll() is not None for process in started)
    _, many = train_experts(*arguments(long), devices=2, checkpoints=Checkpoints(tmp_path, {}))
    np.testing.assert_array_equal(rows_of(many), rows_of(one))


@pytest.mark.slow
def test_errors_of_a_process_are_those_of_the_caller():
    features, *rest = arguments(TrainingConfig(batch_size=16))
    features = features.copy()
    features[rest[1] == 2] = np.inf
    with pytest.raises(NonFiniteLossError, match="expert 2: the loss is"):
        train_experts(features, *rest, devices=2)


PARENT = """
import sys, pathlib
import numpy as np
sys.path.insert(0, sys.argv[2])
from helpers.experts import paired
from spade.core.experts.checkpoints import Checkpoints
from spade.core.experts.config import TrainingConfig
from spade.core.experts.job import TRAIN
from spade.core.experts.train import train_experts
features, expression = paired(np.random.default_rng(0), n=600, d=64, g=200)
train_experts(features, expression, np.arange(600) % 3, np.full(600, TRAIN), 3,
              TrainingConfig(n_epochs=100_000, batch_size=32), devices=2,
              progress=lambda *facts: pathlib.Path(sys.argv[1]).touch())
"""


@pytest.mark.slow
def test_processes_end_with_their_parent_however_it_ends(tmp_path):
    going, temporary = tmp_path / "going", tmp_path / "temporary"
    temporary.mkdir()
    command = [sys.executable, "-c", PARENT, str(going), TESTS]
    parent = subprocess.Popen(command, env=os.environ | {"TMPDIR": str(temporary)})
    wait_for(going, parent)
    assert list(temporary.glob("spade-*"))
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    assert len(children) == 2
    parent.kill()
    parent.wait()
    end = time.monotonic() + 20
    while any(os.path.exists(f"/proc/{pid}") for pid in children):
        assert time.monotonic() < end
        time.sleep(0.1)
    assert not list(temporary.glob("spade-*"))  # the copy of the data is gone as well


def test_states_from_gpus_are_gathered_without_a_gpu(tmp_path, monkeypatch):
    """The state of a GPU's generator has another form than that of a CPU's."""
    from spade.core.experts import many_processes as processes

    save = Checkpoints.save

    def save_as_a_gpu(self, run, flat, row):
        kept, run.dropout = run.dropout, SimpleNamespace(get_state=lambda: torch.zeros(16, dtype=torch.uint8))
        save(self, run, flat, row)
        run.dropout = kept

    monkeypatch.setattr(Checkpoints, "save", save_as_a_gpu)
    state = Checkpoints(tmp_path, {})
    _, one = train_experts(*arguments(), checkpoints=state)
    monkeypatch.setattr(processes, "run_workers", lambda *_: None)
    _, many = train_experts(*arguments(), devices=2, checkpoints=state)
    np.testing.assert_array_equal(rows_of(many), rows_of(one))
    assert [(x.train_loss, x.best_epoch) for x in many] == [(x.train_loss, x.best_epoch) for x in one]
