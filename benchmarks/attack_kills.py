"""Kill every function that writes at random moments, and see that what is left is whole and that it can go on.

Each function is run to its end once. Then it is started again and again on a copy of the same folder, killed with
SIGKILL at a random moment, and looked at: what is there must be readable, and either the old state or the new one. Run
again to its end, it must give what the run gave that was not killed, and nothing may lie beside it. The same with a
disk that is full, a folder that is read-only and a folder that goes away: one error that says so, and the old state.

    python benchmarks/attack_kills.py --kills 40
    python benchmarks/attack_kills.py --kills 4 --only write save_spade

Children are forked from this process, which imports everything and computes nothing, so that a run costs no imports.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _kill_cases import CASES, Case, State

#: Packages that are imported before a fork, because their first use is slow or needs a home folder.
WARM = (
    "scanpy",
    "squidpy",
    "matplotlib.pyplot",
    "numba",
    "spade.pp",
    "spade.tl",
    "sklearn.metrics",
    "geopandas",
    "zarr",
    "dask.array",
    "timm",
    "spade.encoders._texture",
)
#: Sizes of the largest file that a full disk has room for.
ROOMS = (64, 2_000, 20_000)
#: Errors that a full, read-only or missing folder may end in.
EXPECTED = (OSError, ValueError)
NOBODY = 65_534

# --- children


@dataclass
class Child:
    """A forked process; ``answers`` is a pipe with one line when the function begins and one with its result."""

    pid: int
    answers: Any

    def wait_for_start(self) -> bool:
        return self.answers.readline() == "started\n"

    def result(self) -> Any:
        text = self.answers.read()
        os.waitpid(self.pid, 0)
        self.answers.close()
        if not text:
            raise RuntimeError("a child ended without an answer")
        return json.loads(text)

    def kill(self) -> bool:
        """Kill it; return whether it was still at work."""
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        _, status = os.waitpid(self.pid, 0)
        self.answers.close()
        return os.WIFSIGNALED(status)


def fork(setup: Callable[[], Callable[[], Any]], then: Callable[[], None] = lambda: None) -> Child:
    """Run ``setup()`` and then what it returns in a child; ``then`` is called in between."""
    read, write = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        os.close(write)
        return Child(pid, os.fdopen(read))
    os.close(read)
    answer: Any = None
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(null, stream)
        warnings.simplefilter("ignore")
        torch.set_num_threads(1)
        run = setup()
        os.write(write, b"started\n")
        then()
        answer = {"made": run()}
    except EXPECTED as error:
        answer = {"error": f"{type(error).__name__}: {error}", "kind": "expected", "trace": traceback.format_exc()}
    finally:  # the child ends here, and tells the parent of any other error as well
        error = sys.exception()
        if answer is None:
            answer = {"error": "".join(traceback.format_exception(error)), "kind": "foreign"}
        os.write(write, json.dumps(answer, default=str).encode())
        os._exit(0)


def run_to_end(case: Case, folder: Path) -> float:
    """Run a function to its end; return its seconds."""
    child = fork(lambda: case.start(folder))
    child.wait_for_start()
    start = time.monotonic()
    answer = child.result()
    if "error" in answer:
        raise RuntimeError(f"{case.name} ended in {answer['error']}")
    return time.monotonic() - start


def look(case: Case, folder: Path) -> State | str:
    """Return the state of a folder; text if it cannot be read."""
    child = fork(lambda: lambda: case.state(folder))
    child.wait_for_start()
    answer = child.result()
    return answer["made"] if "made" in answer else answer["error"]


def leftovers(folder: Path) -> list[str]:
    return [str(entry.relative_to(folder)) for entry in folder.rglob(".*")]


# --- attacks


class Attack:
    """One function and the folders that it is attacked in."""

    def __init__(self, case: Case, place: Path, rng: np.random.Generator) -> None:
        self.case, self.place, self.rng = case, place, rng
        self.base, self.number = place / "base", 0
        self.base.mkdir(parents=True)
        prepared = fork(lambda: lambda: case.prepare(self.base))
        prepared.wait_for_start()
        if "error" in (answer := prepared.result()):
            raise RuntimeError(f"{case.name}: {answer['error']}")
        self.old = look(case, self.base)
        whole = self.copy()
        self.seconds = run_to_end(case, whole)
        self.new = look(case, whole)
        self.notes: list[str] = []
        if not isinstance(self.new, dict) or self.old == self.new:
            raise RuntimeError(f"{case.name}: the run that was not killed left {self.new}")

    def copy(self) -> Path:
        self.number += 1
        return Path(shutil.copytree(self.base, self.place / str(self.number)))

    def is_whole(self, folder: Path, what: str) -> bool:
        state = look(self.case, folder)
        whole = isinstance(state, dict) and (self.case.between or state in (self.old, self.new))
        if not whole:
            self.notes.append(f"{what}: {state if isinstance(state, str) else 'neither old nor new'}")
        return whole

    def ends_the_same(self, folder: Path, what: str) -> bool:
        try:
            run_to_end(self.case, folder)
        except RuntimeError as error:
            self.notes.append(f"{what}, run again: {error}")
            return False
        state, left = look(self.case, folder), leftovers(folder / "work")
        same = state == self.new and not left
        if not same:
            differing = [key for key in self.new if not isinstance(state, dict) or state.get(key) != self.new[key]]
            self.notes.append(f"{what}, run again: differs in {differing[:3]}, left {left[:3]}")
        shutil.rmtree(folder)
        return same

    def kill(self) -> tuple[bool, bool, bool]:
        """Return whether it was killed at work, and what is left is broken or ends in something else."""
        folder = self.copy()
        child = fork(lambda: self.case.start(folder))
        child.wait_for_start()
        moment = float(self.rng.uniform(0, 1.05 * self.seconds))
        time.sleep(moment)
        at_work = child.kill()
        broken = not self.is_whole(folder, f"killed after {moment:.3f} s")
        return at_work, broken, not self.ends_the_same(folder, f"killed after {moment:.3f} s")

    def spoilt(self, how: str) -> bool:
        """Whether a full, read-only or missing folder gives one error and the old state."""
        folder = self.copy()
        then: dict[str, Callable[[], None]] = {
            "full": lambda: resource.setrlimit(
                resource.RLIMIT_FSIZE, (int(self.rng.choice(ROOMS)), resource.RLIM_INFINITY)
            ),
            "read-only": lambda: os.setuid(NOBODY) if os.getuid() == 0 else None,
            "gone": lambda: None,
        }
        if how == "read-only":
            for entry in [folder / "work", *(entry for entry in (folder / "work").rglob("*") if entry.is_dir())]:
                entry.chmod(0o555)
        child = fork(lambda: self.case.start(folder), then[how])
        child.wait_for_start()
        if how == "gone":
            time.sleep(float(self.rng.uniform(0, 0.9 * self.seconds)))
            shutil.rmtree(folder / "work", ignore_errors=True)
        answer = child.result()
        if how == "read-only":
            for entry in [folder / "work", *(entry for entry in (folder / "work").rglob("*") if entry.is_dir())]:
                entry.chmod(0o755)
        fine = answer.get("kind") == "expected" or (how != "read-only" and "made" in answer)
        if not fine:
            self.notes.append(f"{how}: {answer.get('error', 'no error')}")
        if how == "gone":
            shutil.rmtree(folder, ignore_errors=True)
            return fine
        return fine and self.is_whole(folder, how) and self.ends_the_same(folder, how)


def attack(case: Case, place: Path, n_kills: int, seed: int) -> dict[str, Any]:
    """Attack one function and print its line."""
    start = time.monotonic()
    attacked = Attack(case, place, np.random.default_rng([seed, CASES.index(case)]))
    kills = [attacked.kill() for _ in range(max(1, round(n_kills * case.share)))]
    at_work, broken, differing = (sum(counts) for counts in zip(*kills, strict=True))
    spoilt = {how: attacked.spoilt(how) for how in ("full", "read-only", "gone")}
    said = ", ".join(f"{how} {'as it should be' if fine else 'WRONG'}" for how, fine in spoilt.items())
    print(
        f"{case.name:<15} kills {len(kills):>3} ({at_work} at work), broken {broken}, differing {differing}; {said} "
        f"({attacked.seconds:.1f} s a run, {time.monotonic() - start:.0f} s)",
        flush=True,
    )
    for note in attacked.notes:
        print(f"    {note}", flush=True)
    return {"kills": len(kills), "broken": broken, "differing": differing, **spoilt}


def main(arguments: list[str] | None = None) -> dict[str, dict[str, Any]]:
    """Attack the functions; return the counts of each."""
    names = [case.name for case in CASES]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=40, help="per function; slow ones get a share of it")
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="functions")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args(arguments)
    os.environ.setdefault("MPLBACKEND", "Agg")
    for name in WARM:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory(prefix="spade-kills-") as folder:
        Path(folder).chmod(0o755)  # for a child without privileges
        chosen = [case for case in CASES if case.name in options.only]
        return {case.name: attack(case, Path(folder) / case.name, options.kills, options.seed) for case in chosen}


if __name__ == "__main__":
    results = main()
    failed = [
        name
        for name, row in results.items()
        if row["broken"] or row["differing"] or not all(row[how] for how in ("full", "read-only", "gone"))
    ]
    raise SystemExit(f"failed: {', '.join(failed)}" if failed else 0)
