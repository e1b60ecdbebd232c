"""A short form of ``benchmarks/attack_kills.py``: a few kills of the quick functions that write."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ATTACK = Path(__file__).parents[3] / "benchmarks" / "attack_kills.py"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs fork, and the exchange of folders that only Linux has")
def test_what_a_killed_function_leaves_is_whole_and_goes_on():
    # in a process of its own: one that has computed has threads, and must not fork
    command = [sys.executable, str(ATTACK), "--kills", "1", "--only", "write", "encode_pieces", "save_spade"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["write", "encode_pieces", "save_spade"]
    assert all("kills   1" in line and "broken 0, differing 0" in line for line in lines)
