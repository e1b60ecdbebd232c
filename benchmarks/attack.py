"""Attack the readers with damaged files: ``python benchmarks/attack.py --readers 10000 --seed 0``.

Small valid files of every format that the package reads are written, damaged at random and read. A reader may accept
a damaged file or raise a ``ValueError`` (or ``KeyError``, ``FileNotFoundError``, ``TypeError``) that names it. Anything
else is a fault: another error, a crash, more than ``SECONDS`` or more than ``MEMORY``. Each batch runs in a process of
its own. The same seed gives the same files.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import tempfile
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from _valid_files import Target, write_targets

SECONDS, MEMORY, BATCH = 20, 2**31, 50
#: How a read may end.
OK, OURS, FOREIGN, CRASH, HANG = "ok", "our error", "foreign error", "crash", "hang"
ENDS = (OK, OURS, FOREIGN, CRASH, HANG)


@dataclass
class Report:
    """How often reads ended in which way, and the faults."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    #: Number of the attack, target and last line of the traceback.
    faults: list[tuple[int, str, str]] = field(default_factory=list)

    def add(self, number: int, name: str, end: str, line: str) -> None:
        """Count one read."""
        self.counts.setdefault(name, Counter())[end] += 1
        if end not in (OK, OURS):
            self.faults.append((number, name, line or end))

    def table(self) -> str:
        """Return the counts as text."""
        rows = [f"{'':24}" + "".join(f"{end:>15}" for end in ENDS)]
        total: Counter[str] = Counter()
        for name, counts in sorted(self.counts.items()):
            rows.append(f"{name:24}" + "".join(f"{counts[end]:>15,}" for end in ENDS))
            total += counts
        return "\n".join([*rows, f"{'all':24}" + "".join(f"{total[end]:>15,}" for end in ENDS)])


# --- damage


def damage(raw: bytes, rng: np.random.Generator) -> bytes:
    """Return bytes with one kind of damage: some replaced, a part cut off, left out, repeated, swapped or zeroed."""
    if not raw:
        return b"\0"
    values = bytearray(raw)
    a, b, c = sorted(int(i) for i in rng.integers(0, len(values) + 1, 3))
    kind = int(rng.integers(8))
    if kind <= 2:
        head = len(values) if kind else min(len(values), 200)  # headers decide most
        for place in rng.integers(head, size=int(rng.choice([1, 1, 2, 8]))):
            values[place] = int(rng.choice([0, 1, 0x2D, 0x39, 0x7F, 0x80, 0xFF, int(rng.integers(256))]))
    elif kind == 3:
        del values[a:]
    elif kind == 4:
        del values[a:b]
    elif kind == 5:
        values[b:b] = values[a:b]
    elif kind == 6:
        values[a:c] = values[b:c] + values[a:b]
    else:
        values[a:b] = bytes(b - a)
    return bytes(values)


def attacked(target: Target, place: Path, rng: np.random.Generator) -> Path:
    """Copy a target to ``place``, damage one file of it, and return the path to read."""
    copy = place / target.place.name
    if target.place.is_file():
        shutil.copy(target.place, copy)
        file = copy
    else:
        shutil.copytree(target.place, copy)
        files = sorted(path for path in copy.rglob("*") if path.is_file())
        file = copy / target.file if target.file is not None else files[int(rng.integers(len(files)))]
    file.write_bytes(damage(file.read_bytes(), rng))
    return copy


# --- reading


def read_one(target: Target, path: Path) -> tuple[str, str]:
    """Read a damaged target; return how it ended, and the last line of the traceback of a foreign error."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            target.read(path)
    except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
        if is_ours(error, path):
            return OURS, ""
        return FOREIGN, last_line(error)
    except Exception as error:  # noqa: BLE001 - this is what the attack looks for
        return FOREIGN, last_line(error)
    return OK, ""


def is_ours(error: BaseException, path: Path) -> bool:
    """Return whether an error was raised by the package, in words that name the file or its sample."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    text = str(error)
    named = any(name in text for name in (str(path), path.name)) or text.startswith(("S:", "A:", "samples", "counts"))
    return named and "spade" in Path(frame.filename).parts


def last_line(error: BaseException) -> str:
    """Return the error and where it was raised, in one line."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = [frame for frame in frames if "spade" in Path(frame.filename).parts and "benchmarks" not in frame.filename]
    place = f"{Path(inside[-1].filename).name}:{inside[-1].lineno}" if inside else "?"
    text = " ".join(str(error).split()).encode(errors="replace").decode()
    return f"{place}: {type(error).__name__}: {text[:160]}"


def run_batch(targets: list[Target], numbers: list[int], seed: int | None, scratch: Path, out: int) -> None:
    """Read damaged files (without a seed: the valid ones) with little memory and time; write one line for each."""
    import dask

    dask.config.set(scheduler="synchronous")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in numbers:
        rng = np.random.default_rng([seed or 0, number])
        target = targets[number if seed is None else int(rng.integers(len(targets)))]
        place = scratch / str(number)
        place.mkdir()
        os.write(out, (json.dumps([number, target.name]) + "\n").encode())
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # of computing; nothing handles it: it ends the process
        signal.alarm(6 * SECONDS)  # of waiting
        end, line = read_one(target, target.place if seed is None else attacked(target, place, rng))
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        os.write(out, (json.dumps([number, target.name, end, line]) + "\n").encode())
        shutil.rmtree(place, ignore_errors=True)


def attack_readers(n: int, seed: int, only: str = "") -> Report:
    """Read ``n`` damaged files, of targets whose names hold ``only``; return how the reads ended."""
    report, waiting = Report(), list(range(n))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        valid, scratch = folder / "valid", folder / "scratch"
        valid.mkdir(), scratch.mkdir()
        targets = [target for target in write_targets(valid) if only in target.name]
        valid_reads, last = _forked(targets, list(range(len(targets))), None, scratch)
        if wrong := [read for read in [*valid_reads, last] if read and read[2] != OK]:
            raise RuntimeError(f"valid files cannot be read: {wrong}")
        while waiting:
            batch, rest = waiting[:BATCH], waiting[BATCH:]
            done, last = _forked(targets, batch, seed, scratch)
            for number, target_name, end, line in done:
                report.add(number, target_name, end, line)
            if last is not None:  # the process ended while it read this one
                number, target_name, end = last
                report.add(number, target_name, end, f"attack {number} of seed {seed}")
            finished = {entry[0] for entry in done} | ({last[0]} if last else set())
            waiting = [number for number in batch if number not in finished] + rest
    return report


def _forked(
    targets: list[Target], numbers: list[int], seed: int | None, scratch: Path
) -> tuple[list[list[object]], tuple[int, str, str] | None]:
    """Run a batch in a child; return what it reported, and the attack that ended it, if one did."""
    read_end, write_end = os.pipe()
    if (pid := os.fork()) == 0:
        os.close(read_end)
        with open(os.devnull, "w") as silent:
            os.dup2(silent.fileno(), 1), os.dup2(silent.fileno(), 2)
        try:
            run_batch(targets, numbers, seed, scratch, write_end)
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as file:
        lines = [json.loads(line) for line in file if line.endswith("\n")]
    _, status = os.waitpid(pid, 0)
    done = [line for line in lines if len(line) == 4]
    started = [line for line in lines if len(line) == 2]
    if len(done) == len(numbers):
        return done, None
    number, name = started[-1]
    shutil.rmtree(scratch / str(number), ignore_errors=True)
    hung = os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGALRM, signal.SIGPROF)
    return done, (number, name, HANG if hung else CRASH)


def main() -> None:
    """Attack, and print the table and the faults."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--readers", type=int, default=1000, help="number of damaged files to read")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="attack only targets whose name holds this")
    options = parser.parse_args()
    report = attack_readers(options.readers, options.seed, options.only)
    print(report.table())
    kinds = Counter((name, line) for _, name, line in report.faults)
    for (name, line), count in kinds.most_common(60):
        print(f"{count:6}  {name}: {line}")
    raise SystemExit(bool(report.faults))


if __name__ == "__main__":
    main()
