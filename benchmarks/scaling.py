"""Time and peak memory of clustering and of one epoch for several numbers of spots, each in a separate process.

``PYTHONPATH=src python benchmarks/scaling.py``
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

import numpy as np
from _cohort import make
from _memory import peak_mib

from spade.core.experts.clustering import two_stage
from spade.core.experts.config import TrainingConfig
from spade.core.experts.train import train_experts
from spade.core.roles import TRAIN


def measure(n, d, g):
    """Return seconds and bytes of one size."""
    features, expression = make(n, d, g)
    small = 2_048  # a first run compiles the kernels
    role = np.full(n, TRAIN)
    train_experts(
        features[:small], expression[:small], np.arange(small) % 16, role[:small], 16, TrainingConfig(n_epochs=1)
    )
    start = time.perf_counter()
    routing = two_stage(features, n_prototypes=16, n_experts=16)
    clustering = time.perf_counter() - start
    expert_of = routing.assignment[routing.assign(features)]
    start = time.perf_counter()
    train_experts(features, expression, expert_of, role, 16, TrainingConfig(n_epochs=1))
    epoch = time.perf_counter() - start
    data = features.nbytes + expression.data.nbytes + expression.indices.nbytes + expression.indptr.nbytes
    peak = peak_mib() * 2**20
    return {"spots": n, "clustering": clustering, "epoch": epoch, "data": data, "peak": peak}


def main(arguments=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--spots", type=int, nargs="+", default=[10_000, 50_000, 200_000])
    parser.add_argument("--features", type=int, default=1_024)
    parser.add_argument("--genes", type=int, default=7_986)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        print(json.dumps(measure(options.one, options.features, options.genes)))
        return None
    rows = []
    for n in options.spots:
        command = [sys.executable, __file__, "--one", n, "--features", options.features, "--genes", options.genes]
        done = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True)
        rows.append(json.loads(done.stdout))
    print("| spots | clustering, s | per 1,000 | one epoch, s | per 1,000 | data, MiB | peak, MiB |\n|" + " --- |" * 7)
    for row in rows:
        per = {name: row[name] / row["spots"] * 1e3 for name in ("clustering", "epoch")}
        print(
            f"| {row['spots']:,} | {row['clustering']:.1f} | {per['clustering']:.3f} | {row['epoch']:.1f} "
            f"| {per['epoch']:.3f} | ",
            end="",
        )
        print(f"{row['data'] / 2**20:,.0f} | {row['peak'] / 2**20:,.0f} |")
    if len(rows) > 1:
        slopes = [np.polyfit([r["spots"] for r in rows], [r[name] for r in rows], 1)[0] for name in ("data", "peak")]
        print(f"bytes per spot: {slopes[0]:,.0f} of data, {slopes[1]:,.0f} at the peak")
    return rows


if __name__ == "__main__":
    main()
