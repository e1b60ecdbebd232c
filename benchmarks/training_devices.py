"""Train the same experts on the CPU and, where there is one, on a GPU: agreement and spots per second.

Needs only numpy, scipy, torch and numba: ``PYTHONPATH=src python benchmarks/training_devices.py``.
"""

from __future__ import annotations

import argparse
import time
from functools import partial

import numpy as np
import torch
from _cohort import make
from _timing import timed

from spade.core.experts.clustering import two_stage
from spade.core.experts.config import TrainingConfig
from spade.core.experts.train import train_experts
from spade.core.roles import TRAIN


def main(arguments=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--spots", type=int, default=8_000)
    parser.add_argument("--features", type=int, default=1_024)
    parser.add_argument("--genes", type=int, default=2_000)
    parser.add_argument("--experts", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)

    features, expression = make(options.spots, options.features, options.genes)
    start = time.perf_counter()
    routing = two_stage(features, n_prototypes=16, n_experts=options.experts)
    print(f"clustering {options.spots} x {options.features}: {time.perf_counter() - start:.2f} s")
    expert_of = routing.assignment[routing.assign(features)]
    role = np.full(options.spots, TRAIN)
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    for precision in ("fp32", "bf16"):
        config = TrainingConfig(n_epochs=options.epochs, precision=precision)
        train = partial(train_experts, features, expression, expert_of, role, options.experts, config)
        for device in devices:  # warm up
            train_experts(features[:64], expression[:64], expert_of[:64], role[:64], 1, config, device=device)
        seconds, found = timed({device: partial(train, device=device) for device in devices}, options.repeats)
        for device, (_, trained) in found.items():
            speed = options.spots * options.epochs / seconds[device]
            loss = np.mean([one.train_loss[-1] for one in trained])
            print(f"{precision} {device}: {speed:,.0f} spots/s (median of {options.repeats}), last loss {loss:.4f}")
        if "cuda" in found:
            states = [experts.state_dict() for experts, _ in found.values()]
            worst = max(float((states[0][key] - states[1][key]).abs().max()) for key in states[0])
            print(
                f"{precision} cuda / cpu: {seconds['cpu'] / seconds['cuda']:.2f} times; largest weight gap {worst:.2e}"
            )


if __name__ == "__main__":
    main()
