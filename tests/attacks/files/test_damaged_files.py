"""A short form of ``benchmarks/attack.py``: damaged files of every format give one clear error, or are read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ATTACK = Path(__file__).parents[3] / "benchmarks" / "attack.py"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs fork and limits on memory")
def test_damaged_files_end_in_no_foreign_error():
    # in a process of its own: one that has computed has threads, and must not fork
    command = [sys.executable, str(ATTACK), "--readers", "400", "--seed", "11"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    *_, total = (line for line in done.stdout.splitlines() if line.startswith("all"))
    ok, ours, *faults = map(int, total.split()[1:])
    assert (ok + ours, faults) == (400, [0, 0, 0])
    assert min(ok, ours) > 20
