"""k-means from equal starts with equal iterations: spade against scikit-learn's Lloyd algorithm, on the same cores.

``python benchmarks/clustering.py``
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np
import torch
from _timing import timed
from sklearn.cluster import KMeans

from spade.core.experts.clustering import kmeans


def main(arguments=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--spots", type=int, default=50_000)
    parser.add_argument("--features", type=int, default=1_024)
    parser.add_argument("--clusters", type=int, default=16)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")  # scikit-learn warns that it did not converge, as intended
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((options.spots, 32), dtype=np.float32)  # no clear clusters, so neither stops early
    x = latent @ rng.standard_normal((32, options.features), dtype=np.float32)
    x += rng.standard_normal(x.shape, dtype=np.float32)
    starts = x[rng.choice(len(x), options.clusters, replace=False)]

    def ours():
        return kmeans(x, options.clusters, max_iter=options.iterations, starts=starts, rng=rng)[2]

    def theirs():
        settings = {"n_init": 1, "max_iter": options.iterations, "tol": 0, "algorithm": "lloyd"}
        return KMeans(options.clusters, init=starts, **settings).fit(x).inertia_

    seconds, inertia = timed({"spade": ours, "scikit-learn": theirs}, options.repeats)
    print(
        f"{options.spots} x {options.features}, k={options.clusters}, {options.iterations} iterations, "
        f"{torch.get_num_threads()} threads"
    )
    for name in seconds:
        print(f"{name:>14}: {seconds[name]:.2f} s, inertia {inertia[name]:.6g}")
    print(f"time, scikit-learn / spade: {seconds['scikit-learn'] / seconds['spade']:.2f}")
    ratio = inertia["spade"] / inertia["scikit-learn"]
    print(f"inertia, spade / scikit-learn: {ratio:.6f}")
    return ratio


if __name__ == "__main__":
    main()
