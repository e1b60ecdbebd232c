"""What the options of training add on the synthetic cohort: means over seeds, on patients unseen in training.

``python benchmarks/options.py``
"""

from __future__ import annotations

import argparse
import logging
import warnings

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import spade as sp

#: Without a warm start, as in the paper; the default is one of 30 epochs here.
COLD = {"warm_start": 0}
WAYS = {
    "the paper": COLD,
    "one expert": {"n_experts": 1},
    "warm start of 20 epochs": {"warm_start": 20},
    "warm start of 30 epochs (default)": {},
    "a tenth out of cluster": COLD | {"out_of_cluster": 0.1},
    "a third out of cluster": COLD | {"out_of_cluster": 0.33},
    "clusters of expression": COLD | {"cluster_space": "expression"},
    "clusters of both": COLD | {"cluster_space": "joint"},
    "default warm start, a tenth out of cluster": {"out_of_cluster": 0.1},
    "default warm start, a third out of cluster": {"out_of_cluster": 0.33},
    "default warm start, clusters of expression": {"cluster_space": "expression"},
    "default warm start, clusters of both": {"cluster_space": "joint"},
}
SHOTS, DRAWS = 4, 20


def column(samples, name):
    return np.concatenate([sample["table"].obs[name].astype(str) for sample in samples])


def probe(seen, unseen, key, rng):
    """Balanced accuracy on unseen patients of a linear probe with few labels per domain."""
    x, y = np.concatenate([s["table"].obsm[key] for s in seen]), column(seen, "domain")
    query, truth, scores = np.concatenate([s["table"].obsm[key] for s in unseen]), column(unseen, "domain"), []
    for _ in range(DRAWS):
        rows = np.concatenate([rng.permutation(np.flatnonzero(y == name))[:SHOTS] for name in np.unique(y)])
        fitted = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(x[rows], y[rows])
        scores.append(balanced_accuracy_score(truth, fitted.predict(query)))
    return float(np.mean(scores))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--spots", type=int, default=250)
    parser.add_argument("--epochs", type=int, default=60)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)
    rows = []
    for seed in range(options.seeds):
        samples = sp.datasets.toy(4, options.spots, rng=seed)
        sp.pp.patches(samples)
        sp.pp.encode_patches(samples)
        seen, unseen = samples[:2], samples[2:]
        panel = sp.pp.select_genes(seen)
        common = {"use_rep": "X_texture", "genes": panel, "groupby": "organ", "n_prototypes": 8, "n_experts": 8}
        common |= {"n_epochs": options.epochs, "lr": 1e-3, "batch_size": 64, "rng": seed}
        for way, changed in WAYS.items():
            model = sp.tl.train_spade(seen, **common | changed)
            sp.tl.embed(samples, model)
            scores = {"probe": probe(seen, unseen, "X_spade_image", np.random.default_rng(seed))}
            for mix in ("concat", "logits", "mean"):
                table = sp.tl.retrieval_metrics(unseen, model, mix=mix)
                near = table[table["gallery"] == "same_section"].mean(numeric_only=True)
                scores |= {f"recall@10, {mix}": near["recall"], "chance": near["chance_recall"]}
            rows.append({"way": way, "seed": seed, **scores})
        frozen = probe(seen, unseen, "X_texture", np.random.default_rng(seed))
        rows.append({"way": "frozen features", "seed": seed, "probe": frozen})
        print(f"seed {seed} done", flush=True)
    found = pd.DataFrame(rows).drop(columns="seed").groupby("way", sort=False)
    mean, error = found.mean(), found.sem()
    print(f"means of {options.seeds} cohorts ± standard error")
    print("| " + " | ".join(["way", *mean.columns]) + " |\n|" + " --- |" * (1 + len(mean.columns)))
    for way in mean.index:
        cells = (
            "" if np.isnan(m) else f"{m:.3f} ± {e:.3f}" for m, e in zip(mean.loc[way], error.loc[way], strict=True)
        )
        print(f"| {way} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
