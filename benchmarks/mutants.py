"""Do the tests notice single wrong lines? Forty hand-made mutants of core, _samples and tl, each run against its tests.

``python benchmarks/mutants.py`` changes one line at a time in a copy of the source, in an order drawn by ``--seed``,
and runs the fast tests of the folder that mirrors it. A mutant is killed if a test fails; the survivors are listed at
the end.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).parents[1]


class Mutant(NamedTuple):
    """One line of a file below ``src/spade``, what it becomes, and the tests that should notice."""

    file: str
    line: str
    mutated: str
    tests: str


MUTANTS = [
    Mutant("core/arrays.py", "np.maximum(1, np.abs(mean))] = 1", "np.maximum(1, np.abs(mean))] = 0", "core tl/slides"),
    Mutant("core/schedule.py", "math.pi * step / n_steps", "math.pi * step / (n_steps + 1)", "core"),
    Mutant("core/distributed/dealing.py", "np.argsort(-loads", "np.argsort(loads", "core/experts"),
    Mutant("core/distributed/join.py", "else ranks.world) for", "else 1) for", "core/seal"),
    Mutant(
        "core/experts/losses.py", "spot @ spot.mT) / 2 * temperature", "spot @ spot.mT) * temperature", "core/experts"
    ),
    Mutant(
        "core/experts/losses.py",
        "+ _cross_entropy(logits.mT, target.mT)",
        "+ _cross_entropy(logits.mT, target)",
        "core/experts",
    ),
    Mutant("core/experts/heads.py", "y * keep) + h, which)", "y * keep), which)", "core/experts"),
    Mutant("core/experts/routing.py", "softmax(-distances", "softmax(distances", "core/experts tl/embedding"),
    Mutant(
        "core/experts/routing.py",
        "np.argmin(np.nan_to_num(distances, nan=np.inf), axis=1), -1)",
        "np.argmin(np.nan_to_num(distances, nan=np.inf), axis=1), 0)",
        "core/experts tl/training",
    ),
    Mutant(
        "core/experts/train.py",
        "layer.bias.double() - weight @",
        "layer.bias.double() + weight @",
        "core/experts tl/training",
    ),
    Mutant("core/experts/job.py", "share / (1 - share)", "share", "core/experts tl/training"),
    Mutant("core/spots/blocks.py", "p=np.inf)[0] < distance", "p=2)[0] < distance", "core pp tl/few_shot"),
    Mutant(
        "core/spots/lattice.py",
        "ratio / expected - 1) <= TOLERANCE",
        "ratio / expected - 1) <= 10 * TOLERANCE",
        "core/spots pp",
    ),
    Mutant("core/evaluation/folds.py", "np.flatnonzero(~test)[~near]", "np.flatnonzero(~test)", "core tl/expression"),
    Mutant(
        "core/evaluation/episodes.py",
        "self.query[~np.isin(self.query, chosen)]",
        "self.query",
        "core/evaluation tl/few_shot",
    ),
    Mutant("core/evaluation/intervals.py", "np.arange(len(order), 0, -1)", "len(order)", "core/evaluation"),
    Mutant(
        "core/evaluation/intervals.py",
        "few = known.sum(0) < 2",
        "few = known.sum(0) < 1",
        "core/evaluation tl/few_shot",
    ),
    Mutant(
        "core/evaluation/retrieval.py", "((similarity == true).sum(1) - 1) / 2", "0", "core/evaluation tl/embedding"
    ),
    Mutant("core/expression/ridge.py", "(self.values + alpha)", "(self.values + 2 * alpha)", "core/expression"),
    Mutant("core/expression/normalise.py", "where=totals > 0", "where=totals > 1", "core/expression tl/training"),
    Mutant(
        "core/expression/correlation.py",
        "np.where(x_varies, 0.0, np.nan)",
        "np.zeros(len(x_varies))",
        "core/expression",
    ),
    Mutant(
        "core/slides/survival_losses.py",
        "-before.to(risk.dtype) / n_tied[moment]",
        "-before.to(risk.dtype) / (n_tied[moment] + 1)",
        "core/slides",
    ),
    Mutant("core/seal/losses.py", "((1 - rho).square() * varies)", "(1 - rho).square()", "core/seal"),
    Mutant("core/seal/gene_vae.py", "return (gaussian - self.log_det).mean()", "return gaussian.mean()", "core/seal"),
    Mutant(
        "core/seal/state.py", "for kind in MOMENTS} for i, name", "for kind in MOMENTS[:2]} for i, name", "core/seal"
    ),
    Mutant("_samples/counts.py", "abs(counts).sum(1)", "counts.sum(1)", "samples tl/training tl/expression"),
    Mutant(
        "_samples/counts.py",
        "if raw and len(values) and values.min() < 0",
        "if raw and len(values) and values.min() < -1",
        "samples tl/training",
    ),
    Mutant(
        "_samples/obs.py",
        "whole = isinstance(value, (float, np.floating)) and value.is_integer()",
        "whole = False",
        "samples tl/slides",
    ),
    Mutant(
        "_samples/patches.py",
        "positions = pd.Index(squares.index).get_indexer(section.ids)",
        "positions = np.arange(len(section.ids))",
        "samples pp",
    ),
    Mutant(
        "_samples/placement.py",
        "longest > (1 + ISOTROPY) * shortest",
        "longest > 2 * shortest",
        "samples pp",
    ),
    Mutant(
        "_samples/model_features.py",
        'if name != "encoder")',
        'if name == "encoder")',
        "samples tl/embedding tl/training",
    ),
    Mutant(
        "_samples/collect.py", 'check_names(self.section_names, "sections")', "pass", "samples tl/few_shot tl/training"
    ),
    Mutant("_samples/sample.py", "if not ids.is_unique:", "if False:", "samples"),
    Mutant(
        "tl/_training/data.py",
        "(self.section == section) & (self.role == role)",
        "self.section == section",
        "tl/training tl/embedding",
    ),
    Mutant("tl/_training/data.py", "usable = own.valid & filled", "usable = own.valid", "tl/training"),
    Mutant("tl/_training/spade_steps.py", "deviation = deviation / np.sqrt(len(deviation))", "pass", "tl/training"),
    Mutant(
        "tl/_training/expert_of_spot.py",
        "np.concatenate([images / spread, space]",
        "np.concatenate([images, space]",
        "tl/training",
    ),
    Mutant(
        "tl/_embedding/modalities.py",
        "np.ones((x.shape[0], model.n_experts)) if gallery else None",
        "None",
        "tl/embedding",
    ),
    Mutant(
        "tl/_slides/heads.py",
        "self.variance[slides].mean(0) + self.mean[slides].var(0)",
        "self.variance[slides].mean(0)",
        "tl/slides",
    ),
    Mutant(
        "tl/_switchboard/score.py",
        "return standard - standard.mean(1, keepdims=True)",
        "return standard",
        "tl/switchboard",
    ),
]


def copy_source(folder: Path) -> None:
    """Copy what the tests need."""
    for name in ("src", "tests", "benchmarks", "tutorials", "docs"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "_build"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(REPOSITORY / name, folder / name)


def run_tests(folder: Path, tests: str) -> tuple[bool, str]:
    """Run the fast tests of some folders; return whether they pass, and their last line."""
    paths = [str(folder / "tests" / name) for name in tests.split()]
    data = os.environ.get("SPADE_TEST_DATA", REPOSITORY.parent / "shared" / "data")
    environment = os.environ | {
        "PYTHONPATH": str(folder / "src"), "SPADE_TEST_DATA": str(data), "OMP_NUM_THREADS": "1",
        "NUMBA_NUM_THREADS": "1", "NUMBA_CACHE_DIR": str(folder.parent / f"numba_{folder.name}"),
    }  # fmt: skip
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", *paths]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return done.returncode == 0, (failed or done.stdout.splitlines() or ["no output"])[-1]


def try_mutant(mutant: Mutant, folder: Path) -> bool:
    """Return whether the tests notice the mutant; the source is put back."""
    path = folder / "src" / "spade" / mutant.file
    text = path.read_text()
    if text.count(mutant.line) != 1:
        raise ValueError(f"{mutant.file} has {text.count(mutant.line)} lines with {mutant.line!r}; expected one.")
    began = time.monotonic()
    path.write_text(text.replace(mutant.line, mutant.mutated))
    try:
        passed, last = run_tests(folder, mutant.tests)
    finally:
        path.write_text(text)
    seconds = time.monotonic() - began
    print(
        f"{'SURVIVED' if passed else 'killed':8} {seconds:4.0f} s  {mutant.file}: {mutant.mutated}  ({last})",
        flush=True,
    )
    return not passed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=len(MUTANTS), help="how many mutants, drawn by the seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time")
    parser.add_argument("--only", default="", help="mutants of files with this in their path")
    options = parser.parse_args()
    drawn = random.Random(options.seed).sample(MUTANTS, options.n)  # noqa: S311
    chosen = [mutant for mutant in drawn if options.only in mutant.file]
    with tempfile.TemporaryDirectory() as place:
        folders = [Path(place) / f"copy_{i}" for i in range(options.jobs)]
        for folder in folders:
            folder.mkdir()
            copy_source(folder)

        def work(i: int) -> list[tuple[Mutant, bool]]:
            return [(one, try_mutant(one, folders[i])) for one in chosen[i :: options.jobs]]

        with ThreadPoolExecutor(options.jobs) as pool:
            results = [result for part in pool.map(work, range(options.jobs)) for result in part]
    survivors = [mutant for mutant, killed in results if not killed]
    print(f"\n{len(results) - len(survivors)} of {len(results)} mutants killed")
    for mutant in survivors:
        print(f"survived: {mutant.file}: {mutant.line}  ->  {mutant.mutated}")


if __name__ == "__main__":
    main()
