"""Kill every function that writes at random moments, and see that what is left is whole and that it can go on.

Each function is run to its end once. Then it is started again and again on a copy of the same folder, killed with SIGKILL
at a random moment, and looked at: what is there must be readable, and either the old state or the new one. Run again to
its end, it must give what the run gave that was not killed, and nothing may lie beside it. The same with a disk that is
full, a folder that is read-only and a folder that goes away: one error that says so, and the old state.

    python benchmarks/attack_kills.py --kills 40
    python benchmarks/attack_kills.py --kills 4 --only write save_spade

Children are forked from this process, which imports everything and computes nothing, so that a run costs no imports.
"""

from __future__ import annotations

import argparse
import hashlib
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

for variable in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"  # and no pool of threads exists before a fork
os.environ.setdefault("MPLBACKEND", "Agg")

import numpy as np
import torch
from spatialdata import read_zarr

import spade as sp
import spade.core.experts.checkpoints
import spade.core.seal.train
from spade import _demo
from spade.core.training_state import StateFolder

#: Commands that a fork must not import: the first use of these packages is slow.
WARM = ("scanpy", "squidpy", "matplotlib.pyplot", "numba", "sklearn.metrics", "geopandas", "zarr", "dask.array", "umap")
#: Sizes of the largest file that a full disk has room for.
ROOMS = (64, 2_000, 20_000)
#: Errors that a full, read-only or missing folder may end in.
EXPECTED = (OSError, ValueError)
NOBODY = 65_534

State = dict[str, str]


@dataclass(frozen=True)
class Case:
    """A function that writes: what it needs, how it is run, and what it leaves."""

    name: str
    prepare: Callable[[Path], None]
    start: Callable[[Path], Callable[[], Any]]
    state: Callable[[Path], State]
    #: Whether a killed run may leave something between the old state and the new, which is readable all the same.
    between: bool = False
    #: Of the kills asked for, the share that is done; slow functions get fewer.
    share: float = 1.0


def digest(*parts: Any) -> str:
    sha256 = hashlib.sha256()
    for part in parts:
        sha256.update(np.ascontiguousarray(part).tobytes() if isinstance(part, np.ndarray) else repr(part).encode())
    return sha256.hexdigest()[:12]


def store(path: Path) -> State:
    """Digest of every part of a store, which is read in full."""
    sdata = read_zarr(path)
    found = {"attrs": digest({key: value for key, value in sdata.attrs.items() if key != "spade_revision"})}
    for name, image in sdata.images.items():
        found[name] = digest(*(level["image"].to_numpy() for level in image.values()) if "scale0" in image else ())
    for name, shapes in sdata.shapes.items():
        found[name] = digest(list(shapes.index), shapes.geometry.to_wkb().tolist())
    for name, table in sdata.tables.items():
        x = table.X.tocsr()
        found[f"{name} X"] = digest(x.indptr, x.indices, x.data)
        found |= {f"{name} obs {key}": digest(table.obs[key].astype(str).tolist()) for key in table.obs}
        found |= {f"{name} obsm {key}": digest(np.asarray(table.obsm[key])) for key in table.obsm}
        found |= {f"{name} uns {key}": digest(table.uns[key]) for key in table.uns if key != "spade"}
        found[f"{name} records"] = digest(json.dumps(table.uns.get("spade", {}), default=str, sort_keys=True))
    return found


def model_state(path: Path) -> State:
    if not path.exists():
        return {}
    kind = sp.models.SpadeModel if "Spade" in (path / "config.json").read_text() else sp.models.SealModel
    files = {file.name: digest(file.read_bytes()) for file in sorted(path.iterdir())}
    return {"id": kind.load(path).id, **files}


def toy(rng: int = 0, *, features: bool = False):
    samples = sp.datasets.toy(1, 40, rng=rng, n_genes=60)
    if features:
        sp.pp.patches(samples)
        sp.pp.encode_patches(samples)
    return samples


def prepare_store(folder: Path, *, features: bool = False, patches: bool = False, models: bool = False) -> None:
    samples = toy(features=features)
    if patches:
        sp.pp.patches(samples)
    if models:
        panel = sp.pp.select_genes(samples, n_top_genes=20)
        spade_model(samples, panel).save(folder / "models" / "spade_1")
        spade_model(samples, panel, rng=1).save(folder / "models" / "spade_2")
        seal_model(samples, panel).save(folder / "models" / "seal_1")
        seal_model(samples, panel, rng=1).save(folder / "models" / "seal_2")
    sp.io.write(samples[0], folder / "work" / "sample.zarr")


def spade_model(samples, panel, **options):
    sizes = {"n_prototypes": 4, "n_experts": 2, "n_epochs": 4, "batch_size": 16}
    return sp.tl.train_spade(samples, use_rep="X_texture", genes=panel, **sizes | options)


def seal_model(samples, panel, **options):
    return sp.tl.train_seal(samples, on_features="X_texture", genes=panel, **{"dim": 8, "n_epochs": 4, "batch_size": 8} | options)


def start_write(folder: Path) -> Callable[[], Any]:
    (sample,) = toy(1)
    return lambda: sp.io.write(sample, folder / "work" / "sample.zarr")


def start_embed(folder: Path) -> Callable[[], Any]:
    model = sp.models.SpadeModel.load(folder / "models" / "spade_1")
    return lambda: sp.tl.embed(folder / "work" / "sample.zarr", model)


def start_training(folder: Path, train: Callable[..., Any]) -> Callable[[], Any]:
    spade.core.experts.checkpoints.SECONDS = spade.core.seal.train.SECONDS = 0.0  # save after every step
    samples = [read_zarr(folder / "work" / "sample.zarr")]
    panel = sp.pp.select_genes(samples, n_top_genes=20)

    def run() -> None:
        model = train(samples, panel, n_epochs=12, checkpoint_dir=folder / "work" / "state")
        model.save(folder / "work" / "model")

    return run


def training_state(folder: Path) -> State:
    """The model, if the training has ended; all files of its state are read."""
    state = folder / "work" / "state"
    if state.is_dir():
        reader = StateFolder(state, None)
        for path in state.glob("*.npz"):
            reader.read(path, None, (), ())
    return model_state(folder / "work" / "model")


def start_save(folder: Path, kind: type, stem: str) -> Callable[[], Any]:
    model = kind.load(folder / "models" / f"{stem}_2")
    return lambda: model.save(folder / "work" / "model")


def prepare_save(folder: Path, stem: str) -> None:
    prepare_store(folder, features=True, models=True)
    shutil.copytree(folder / "models" / f"{stem}_1", folder / "work" / "model")


def prepare_demo(folder: Path) -> None:
    for rng in range(2):
        (sample,) = sp.datasets.toy(1, 60, rng=rng, n_genes=60)
        sample.attrs["spade"]["sample"] = f"toy {rng}"
        sp.io.write(sample, folder / "data" / f"{rng}.zarr")
    (folder / "work").mkdir()


def demo_state(folder: Path) -> State:
    """Everything in the folder of the demo that is there, read in full; the report has times, so only its ends count."""
    out = folder / "work" / "out"
    found = {f"model {key}": value for key, value in model_state(out / "model").items()}
    for path in sorted(out.glob("*.zarr")):
        found |= {f"{path.name} {key}": value for key, value in store(path).items()}
    for path in sorted(out.glob("figures/*.png")):
        import matplotlib.pyplot as plt

        found[path.name] = digest(plt.imread(path))
    if (out / "report.html").exists():
        text = (out / "report.html").read_text(encoding="utf-8")
        found["report"] = text[:15] + text[-8:]
    return found


CASES = (
    Case("write", lambda f: prepare_store(f), start_write, lambda f: store(f / "work" / "sample.zarr")),
    Case(
        "encode_patches",
        lambda f: prepare_store(f, patches=True),
        lambda f: lambda: sp.pp.encode_patches(f / "work" / "sample.zarr"),
        lambda f: store(f / "work" / "sample.zarr"),
    ),
    Case(
        "embed",
        lambda f: prepare_store(f, features=True, models=True),
        start_embed,
        lambda f: store(f / "work" / "sample.zarr"),
    ),
    Case(
        "train_spade",
        lambda f: prepare_store(f, features=True),
        lambda f: start_training(f, spade_model),
        training_state,
        between=True,
        share=0.5,
    ),
    Case(
        "train_seal",
        lambda f: prepare_store(f, features=True),
        lambda f: start_training(f, seal_model),
        training_state,
        between=True,
        share=0.5,
    ),
    Case(
        "save_spade",
        lambda f: prepare_save(f, "spade"),
        lambda f: start_save(f, sp.models.SpadeModel, "spade"),
        lambda f: model_state(f / "work" / "model"),
    ),
    Case(
        "save_seal",
        lambda f: prepare_save(f, "seal"),
        lambda f: start_save(f, sp.models.SealModel, "seal"),
        lambda f: model_state(f / "work" / "model"),
    ),
    Case(
        "demo",
        prepare_demo,
        lambda f: lambda: _demo.run(f / "work" / "out", f / "data"),
        demo_state,
        between=True,
        share=0.1,
    ),
)


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
    code = 1
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(null, stream)
        warnings.simplefilter("ignore")
        torch.set_num_threads(1)
        answer: Any = {"error": "not begun"}
        try:
            run = setup()
            os.write(write, b"started\n")
            then()
            answer = {"made": run()}
        except EXPECTED as error:
            answer = {"error": f"{type(error).__name__}: {error}", "kind": "expected"}
        except BaseException as error:  # told to the parent, whatever it is
            answer = {"error": f"{type(error).__name__}: {error}\n{traceback.format_exc()}", "kind": "foreign"}
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2) if os.getuid() == 0 else None
        os.write(write, json.dumps(answer, default=str).encode())
        code = 0
    finally:
        os._exit(code)


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
    for name in WARM:
        __import__(name)
    with tempfile.TemporaryDirectory(prefix="spade-kills-") as folder:
        Path(folder).chmod(0o755)  # for a child without privileges
        chosen = [case for case in CASES if case.name in options.only]
        return {case.name: attack(case, Path(folder) / case.name, options.kills, options.seed) for case in chosen}


if __name__ == "__main__":
    results = main()
    failed = [name for name, row in results.items() if row["broken"] or row["differing"] or not all(
        row[how] for how in ("full", "read-only", "gone")
    )]
    raise SystemExit(f"failed: {', '.join(failed)}" if failed else 0)
