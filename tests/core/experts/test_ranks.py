"""Experts on the ranks of torchrun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.experts import arguments, rows_of

from spade.core.experts.train import train_experts

TESTS = str(Path(__file__).parents[2])

RANK = """
import os, pathlib, signal, sys
import numpy as np
sys.path.insert(0, sys.argv[2])
from helpers.experts import arguments, rows_of
from spade.core.experts import checkpoints
from spade.core.experts.checkpoints import Checkpoints
from spade.core.distributed.ranks import torchrun_ranks
from spade.core.experts.train import train_experts
out = pathlib.Path(sys.argv[1])
checkpoints.SECONDS = 0.0
with torchrun_ranks() as ranks:
    ranks.alike(lambda: {"data": 1})
    assert ranks.first(lambda: os.getpid()) == ranks.gather(os.getpid())[0]
    def progress(expert, epoch, *_):
        if sys.argv[3] == "kill" and ranks.rank == 1 and epoch == 1:
            os.kill(os.getpid(), signal.SIGKILL)
    kept = Checkpoints(out / "state", {} if ranks.leads else None)
    ranks.gather(None)
    _, trained = train_experts(*arguments(), ranks=ranks, checkpoints=kept, progress=progress)
    np.save(out / f"rank{ranks.rank}.npy", rows_of(trained))
"""


def start_ranks(n, out, mode, port):
    """Processes with the environment that torchrun gives them."""
    common = {"WORLD_SIZE": str(n), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "x"}
    return [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(out), TESTS, mode],
            env=os.environ | common | {"RANK": str(i), "LOCAL_RANK": str(i)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(n)
    ]


def free_port():
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.mark.slow
def test_ranks_give_the_numbers_of_one_process_and_survive_a_kill(tmp_path):
    n = 3
    _, one = train_experts(*arguments())
    killed = start_ranks(n, tmp_path, "kill", free_port())
    said = [process.communicate(timeout=180)[1] for process in killed]
    assert killed[1].returncode == -signal.SIGKILL
    for rank, (process, text) in enumerate(zip(killed, said, strict=True)):
        if rank != 1:
            assert process.returncode == 1
            assert f"RuntimeError: rank {rank} lost another process of this training" in text
            assert "start all processes again" in text
    assert not list(tmp_path.glob("rank*.npy"))
    restarted = start_ranks(n, tmp_path, "go on", free_port())
    said = [process.communicate(timeout=180)[1] for process in restarted]
    assert [process.returncode for process in restarted] == [0] * n, said
    for rank in range(n):
        np.testing.assert_array_equal(np.load(tmp_path / f"rank{rank}.npy"), rows_of(one))


def test_one_process_has_the_methods_of_many():
    from spade.core.distributed.ranks import torchrun_ranks

    with torchrun_ranks() as ranks:
        assert ranks.alone
        assert ranks.leads
        assert ranks.local is None
        assert ranks.gather("a") == ["a"]
        assert ranks.first(lambda: "made") == "made"
        values = torch.ones(3)
        ranks.add_up(values)
        assert values.tolist() == [1, 1, 1]
        ranks.alike(lambda: pytest.fail("computed for nobody"))


def test_what_differs_between_ranks_is_named(monkeypatch):
    from spade.core.distributed.ranks import Ranks

    ranks = Ranks(0, 2, 0, None)
    monkeypatch.setattr(Ranks, "gather", lambda self, own: [own, own | {"seed": 2}])
    with pytest.raises(ValueError, match="rank 0 and rank 1 differ in seed"):
        ranks.alike(lambda: {"seed": 1, "lr": 3})
