"""An expert per thread: the numbers of one after another, and a clean end."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.experts import Stop, arguments, rows_of, stop_after, wait_for

from spade.core.errors import NonFiniteLossError
from spade.core.experts import checkpoints as checkpoints_module
from spade.core.experts import one_process
from spade.core.experts.checkpoints import Checkpoints
from spade.core.experts.config import TrainingConfig
from spade.core.experts.train import train_experts


@pytest.fixture
def threads(monkeypatch):
    """Three threads, though the steps are small."""
    monkeypatch.setattr(one_process, "THREADS_FROM", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    assert torch.get_num_threads() == 3
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_an_expert_per_thread_gives_the_numbers_of_one_after_another():
    seen = []
    _, many = train_experts(*arguments(), progress=lambda *facts: seen.append((*facts[:2], threading.get_ident())))
    torch.set_num_threads(1)
    _, one = train_experts(*arguments())
    torch.set_num_threads(3)
    np.testing.assert_array_equal(rows_of(many), rows_of(one))
    assert sorted(facts[:2] for facts in seen) == [(e, epoch) for e in range(4) for epoch in range(4)]
    assert threading.get_ident() not in {thread for *_, thread in seen}


@pytest.mark.usefixtures("threads")
def test_one_thread_that_fails_ends_all(monkeypatch):
    features, *rest = arguments(TrainingConfig(n_epochs=100_000, batch_size=16))
    features = features.copy()
    features[np.flatnonzero(rest[1] == 2)] = np.inf
    before = set(threading.enumerate())
    with pytest.raises(NonFiniteLossError, match="expert 2"):
        train_experts(features, *rest)
    assert set(threading.enumerate()) <= before


@pytest.mark.usefixtures("threads")
def test_ctrl_c_leaves_states_to_go_on_from(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints_module, "SECONDS", 0.0)
    _, whole = train_experts(*arguments())
    for n in (2, 5):
        with pytest.raises(Stop):
            train_experts(*arguments(), checkpoints=Checkpoints(tmp_path, {}), progress=stop_after(n))
    _, ended = train_experts(*arguments(), checkpoints=Checkpoints(tmp_path, {}))
    np.testing.assert_array_equal(rows_of(ended), rows_of(whole))


TESTS = str(Path(__file__).parents[2])
INTERRUPTED = """
import pathlib, signal, sys
import numpy as np
sys.path.insert(0, sys.argv[2])
import torch
from helpers.experts import paired
from spade.core.experts import checkpoints, one_process
from spade.core.experts.checkpoints import Checkpoints
from spade.core.experts.config import TrainingConfig
from spade.core.experts.job import TRAIN
from spade.core.experts.train import train_experts
checkpoints.SECONDS, one_process.THREADS_FROM = 0.05, 1
signal.signal(signal.SIGINT, signal.default_int_handler)  # which shells take from what they run in the background
torch.set_num_threads(2)
features, expression = paired(np.random.default_rng(0), n=600, d=64, g=200)
try:
    train_experts(features, expression, np.arange(600) % 3, np.full(600, TRAIN), 3,
                  TrainingConfig(n_epochs=100_000, batch_size=32),
                  checkpoints=Checkpoints(pathlib.Path(sys.argv[1]), {}))
except KeyboardInterrupt:
    raise SystemExit(42)
"""


@pytest.mark.slow
def test_a_real_ctrl_c_ends_all_threads_at_once(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", INTERRUPTED, str(tmp_path), TESTS])
    try:
        wait_for(tmp_path / "expert_0000.npz", process)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 42
    finally:
        process.kill()
    facts, _ = Checkpoints(tmp_path, {})._read(tmp_path / "expert_0000.npz")
    assert facts["step"] > 0
