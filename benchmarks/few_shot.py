"""Few-shot evaluation and exact search, each against a plain loop that computes the same.

``python benchmarks/few_shot.py``
"""

from __future__ import annotations

import argparse
import logging
import warnings

import numpy as np
import pandas as pd
import torch
from _timing import timed
from anndata import AnnData
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, f1_score, recall_score, roc_auc_score
from sklearn.preprocessing import StandardScaler
from spatialdata import SpatialData
from spatialdata.models import TableModel

import spade as sp
from spade.core.evaluation.retrieval import Nearest

SHOTS = (1, 2, 4, 8, 16)


def cohort(n, d, rng):
    """A table with three representations of five classes, in ten patients."""
    y, patient = rng.integers(0, 5, n), np.arange(n) % 10
    obs = pd.DataFrame({"region": pd.Categorical(["spots"] * n), "spot_id": np.arange(n), "kind": y.astype(str)})
    obs["patient"] = patient.astype(str)
    obs.index = obs.index.astype(str)
    table = AnnData(np.zeros((n, 0), np.float32), obs=obs)
    for i in range(3):
        centres = rng.standard_normal((5, d), dtype=np.float32) * 0.3
        table.obsm[f"X_{i}"] = centres[y] + rng.standard_normal((n, d), dtype=np.float32)
    return SpatialData(
        tables={"table": TableModel.parse(table, region="spots", region_key="region", instance_key="spot_id")},
        attrs={"spade": {"sample": "one"}},
    )


def plain(sample, n_repeats, rng):
    """A plain scikit-learn loop: support from half of the patients, query from the others."""
    table = sample["table"]
    y, patient = table.obs["kind"].to_numpy(), table.obs["patient"].to_numpy()
    classes, found = np.unique(y), []
    scaled = [StandardScaler().fit_transform(table.obsm[f"X_{i}"]) for i in range(3)]
    for _ in range(n_repeats):
        chosen = np.isin(patient, rng.permutation(np.unique(patient))[:5])
        rows = [rng.permutation(np.flatnonzero(chosen & (y == name))) for name in classes]
        query = np.flatnonzero(~chosen)
        for k in SHOTS:
            support = np.concatenate([own[:k] for own in rows])
            for x in scaled:
                model = LogisticRegression(C=x.shape[1] * len(classes) / 100, max_iter=10_000).fit(
                    x[support], y[support]
                )
                probability = model.predict_proba(x[query])
                predicted = classes[probability.argmax(1)]
                for name in np.unique(patient[query]):
                    own = patient[query] == name
                    truth = y[query][own]
                    found.append(
                        (
                            balanced_accuracy_score(truth, predicted[own]),
                            roc_auc_score(truth, probability[own], multi_class="ovr"),
                            f1_score(truth, predicted[own], average="macro"),
                            recall_score(truth, predicted[own], average=None),
                        )
                    )
    return np.mean([one[0] for one in found])


def few_shot(options, rng):
    sample = cohort(options.spots, options.features, rng)
    settings = {"label_key": "kind", "use_rep": ["X_0", "X_1", "X_2"], "shots": SHOTS, "groupby": "patient"}

    def ours():
        table = sp.tl.few_shot(sample, n_repeats=options.draws, **settings)
        return table.loc[table["metric"] == "balanced_accuracy", "value"].mean()

    ways = {"spade": ours, "scikit-learn": lambda: plain(sample, options.draws, np.random.default_rng(0))}
    seconds, result = timed(ways, options.repeats)
    print(
        f"few-shot: 3 representations x {len(SHOTS)} shots x {options.draws} draws on {options.spots} x "
        f"{options.features}"
    )
    for name in ways:
        print(f"{name:>14}: {seconds[name]:.2f} s, mean balanced accuracy {result[name]:.3f}")
    ratio = seconds["scikit-learn"] / seconds["spade"]
    print(f"time, scikit-learn / spade: {ratio:.2f}")
    return ratio


def search(options, rng):
    gallery = rng.standard_normal((options.gallery, 256), dtype=np.float32)
    gallery /= np.linalg.norm(gallery, axis=1, keepdims=True)
    query = gallery[: options.queries] + 0.1 * rng.standard_normal((options.queries, 256), dtype=np.float32)

    def ours():
        nearest = Nearest(query, 10)
        nearest.update(gallery)
        return nearest.rows

    def whole():
        scores = torch.from_numpy(query) @ torch.from_numpy(gallery).T
        return torch.topk(scores, 10, dim=1).indices

    seconds, result = timed({"spade": ours, "matmul + topk": whole}, options.repeats)
    same = float((result["spade"] == result["matmul + topk"]).float().mean())
    print(
        f"search: {options.queries} queries in {options.gallery} x 256, the best 10; {same:.2%} of the rows found are "
        "the same"
    )
    for name, value in seconds.items():
        print(f"{name:>14}: {value:.2f} s")
    ratio = seconds["matmul + topk"] / seconds["spade"]
    print(f"share of the speed of one matmul + topk: {ratio:.2f}")
    return ratio, same


def main(arguments=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--spots", type=int, default=5_000)
    parser.add_argument("--features", type=int, default=1_024)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--gallery", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=1_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)
    rng = np.random.default_rng(0)
    return few_shot(options, rng), *search(options, rng)


if __name__ == "__main__":
    main()
