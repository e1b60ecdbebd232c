"""Routing and embedding of many patches on a CPU, against only the matrix products of the same shapes.

``PYTHONPATH=src python benchmarks/embedding.py``; the full size is ``--spots 1000000``.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from _memory import peak_mib
from _timing import timed

from spade.core.experts.heads import Experts
from spade.core.experts.routing import Routing
from spade.models import SpadeConfig, SpadeModel
from spade.models._spade import BATCH


def main(arguments=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--spots", type=int, default=50_000)
    parser.add_argument("--features", type=int, default=1_024)
    parser.add_argument("--experts", type=int, default=16)
    parser.add_argument("--prototypes", type=int, default=240)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    n, d, k, width = options.spots, options.features, options.prototypes, 256
    rng = np.random.default_rng(0)
    features = rng.standard_normal((n, d), dtype=np.float32)
    experts = Experts(options.experts, d, 8, width)
    experts.initialise([torch.Generator().manual_seed(e) for e in range(options.experts)])
    routing = Routing(
        rng.normal(size=(k, d)) / np.sqrt(d), np.arange(k) % options.experts, np.zeros(d), np.full(d, np.sqrt(d))
    )
    model = SpadeModel(experts, routing, config=SpadeConfig(n_experts=options.experts))

    def ours():
        model.encode_image(features)  # the result is dropped, as memory is measured

    @torch.no_grad()
    def bare():
        prototypes, first = torch.randn(d, k), torch.randn(options.experts, d, width)
        second = torch.randn(options.experts, width, width)
        for start in range(0, n, BATCH):
            x = torch.from_numpy(features[start : start + BATCH])
            x @ prototypes
            for one, two in zip(first, second, strict=True):
                x @ one @ two

    model.encode_image(features[:BATCH])
    before = peak_mib()
    median, _ = timed({"spade": ours, "bare products": bare}, options.repeats)
    more = (peak_mib() - before) * 2**20 - n * (width * 4 + options.experts * 8)
    share = median["bare products"] / median["spade"]
    print(
        f"{n:,} x {d:,} through {options.experts} experts, {torch.get_num_threads()} threads, "
        f"median of {options.repeats}"
    )
    for name, value in median.items():
        print(f"{name:>14}: {value:.2f} s, {n / value:,.0f} patches/s")
    print(f"share of the speed of bare products: {share:.2f}")
    print(f"memory beyond features, weights, result and one batch: {more / 2**20:.0f} MiB")
    return share


if __name__ == "__main__":
    main()
