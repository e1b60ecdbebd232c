"""Pretraining of the paper's size on synthetic data: clustering, training, and one expert at a time for comparison.

On a GPU (needs numpy, scipy, torch and numba): ``PYTHONPATH=src python benchmarks/full_size.py --compare``. On a CPU
pass fewer epochs: ``--epochs 1``.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from _cohort import make
from _memory import peak_mib

from spade.core.experts.clustering import two_stage
from spade.core.experts.config import TrainingConfig
from spade.core.experts.routing import feature_scale
from spade.core.experts.train import train_experts
from spade.core.roles import TRAIN


def main(arguments=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--spots", type=int, default=534_087)
    parser.add_argument("--features", type=int, default=1_024)
    parser.add_argument("--genes", type=int, default=7_986)
    parser.add_argument("--organs", type=int, default=15)
    parser.add_argument("--experts", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--precision", default="bf16" if torch.cuda.is_available() else "fp32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--compare", action="store_true", help="also train one expert at a time, for a hundredth of the epochs"
    )
    options = parser.parse_args(arguments)
    on_gpu = options.device.startswith("cuda")

    def timed(work):
        if on_gpu:
            torch.cuda.synchronize()
        start = time.perf_counter()
        result = work()
        if on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter() - start, result

    features, expression = make(options.spots, options.features, options.genes)
    organs = np.char.add("organ ", (np.arange(options.spots) % options.organs).astype(str))
    data = features.nbytes + expression.data.nbytes + expression.indices.nbytes + expression.indptr.nbytes
    print(f"{options.spots:,} spots x {options.features:,} features x {options.genes:,} genes: {data / 2**30:.1f} GiB")

    def cluster():
        routing = two_stage(features, organs, n_prototypes=16, n_experts=options.experts, device=options.device)
        return routing, routing.assignment[routing.assign(features)]

    clustering, (routing, expert_of) = timed(cluster)
    sizes = np.bincount(expert_of, minlength=options.experts)
    print(
        f"clustering: {clustering:.1f} s; {routing.n_prototypes} prototypes, experts of {sizes.min():,} to "
        f"{sizes.max():,} spots"
    )
    mean, deviation = feature_scale(features, "standard")

    def train(epochs, together=None):
        config = TrainingConfig(n_epochs=epochs, precision=options.precision)
        return train_experts(
            features,
            expression,
            expert_of,
            np.full(options.spots, TRAIN),
            options.experts,
            config,
            mean=mean,
            deviation=deviation / np.sqrt(options.features),
            device=options.device,
            n_side_by_side=together,
        )

    timed(lambda: train(1) if options.spots < 50_000 else None)  # compiles the kernels
    training, (_, trained) = timed(lambda: train(options.epochs))
    losses = [one.train_loss for one in trained if one.train_loss]
    print(f"training, {options.precision}, {options.epochs} epochs on {options.device}: {training:.1f} s, ", end="")
    print(
        f"{options.spots * options.epochs / training:,.0f} spots/s; loss {np.mean([x[0] for x in losses]):.4f} -> ",
        end="",
    )
    print(f"{np.mean([x[-1] for x in losses]):.4f}")
    found = {"clustering": clustering, "training": training}
    if on_gpu:
        print(f"GPU memory: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
    print(f"peak memory of the process: {peak_mib() / 2**10:.1f} GiB")
    if options.compare:
        few = max(1, options.epochs // 100)
        together, apart = timed(lambda: train(few))[0], timed(lambda: train(few, together=1))[0]
        found["ratio"] = apart / together
        print(f"one expert at a time takes {found['ratio']:.2f} times as long ({few} epochs, set-up included)")
    return found


if __name__ == "__main__":
    main()
