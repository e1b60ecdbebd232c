"""Train the same experts on the CPU and, where there is one, on a GPU: agreement and spots per second.

Needs only numpy, scipy, torch and numba: ``PYTHONPATH=src python benchmarks/training_devices.py``.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch
from scipy.sparse import random as random_sparse

from spade.core.clustering import two_stage
from spade.core.config import TrainingConfig
from spade.core.task import TRAIN
from spade.core.training import train_experts


def make(n, d, g, seed=0):
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(n, 16)).astype(np.float32)
    features = latent @ rng.normal(size=(16, d)).astype(np.float32) + rng.normal(size=(n, d)).astype(np.float32)
    expression = random_sparse(n, g, 0.15, format="csr", dtype=np.float32, rng=rng)
    loading = rng.uniform(size=(16, g)).astype(np.float32)
    rows = np.repeat(np.arange(n), np.diff(expression.indptr))
    expression.data = np.log1p(np.exp(np.einsum("ij,ij->i", latent[rows], loading.T[expression.indices]) * 0.5))
    return features, expression


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--spots", type=int, default=8_000)
    parser.add_argument("--features", type=int, default=1_024)
    parser.add_argument("--genes", type=int, default=2_000)
    parser.add_argument("--experts", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()

    features, expression = make(options.spots, options.features, options.genes)
    start = time.perf_counter()
    routing = two_stage(features, n_prototypes=16, n_experts=options.experts)
    print(f"clustering {options.spots} x {options.features}: {time.perf_counter() - start:.2f} s")
    expert_of = routing.assignment[routing.assign(features)]
    role = np.full(options.spots, TRAIN)
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    for precision in ("fp32", "bf16"):
        config = TrainingConfig(n_epochs=options.epochs, precision=precision)
        found = {}
        for device in devices:
            train_experts(
                features[:64], expression[:64], expert_of[:64], role[:64], 1, config, device=device
            )  # warm up
            seconds = []
            for _ in range(options.repeats):
                start = time.perf_counter()
                experts, trained = train_experts(
                    features, expression, expert_of, role, options.experts, config, device=device
                )
                seconds.append(time.perf_counter() - start)
            speed = options.spots * options.epochs / statistics.median(seconds)
            loss = np.mean([one.train_loss[-1] for one in trained])
            print(f"{precision} {device}: {speed:,.0f} spots/s (median of {options.repeats}), last loss {loss:.4f}")
            found[device] = (experts, speed)
        if "cuda" in found:
            states = [found[device][0].state_dict() for device in devices]
            worst = max(float((states[0][key] - states[1][key]).abs().max()) for key in states[0])
            print(
                f"{precision} cuda / cpu: {found['cuda'][1] / found['cpu'][1]:.2f} times; largest weight gap {worst:.2e}"
            )


if __name__ == "__main__":
    main()
