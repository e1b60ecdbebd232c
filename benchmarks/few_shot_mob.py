"""Few-shot classification of olfactory bulb layers: do models trained on expression help on images of another animal?

All models that use expression are trained on MOB_11, the only section with counts. Classification is on MOB_01 to
MOB_04, with two protocols. A: within each section, C = 1. B: support from one section, query from the other three, C by
the paper's rule.

``SPADE_TEST_DATA=... python benchmarks/few_shot_mob.py``
"""

from __future__ import annotations

import argparse
import logging
import os
import warnings
from pathlib import Path

import numpy as np
from _sections import read_bulb
from scipy.sparse import csr_matrix
from sklearn.cross_decomposition import PLSRegression
from sklearn.decomposition import PCA
from sklearn.linear_model import RidgeCV
from sklearn.preprocessing import StandardScaler

import spade as sp

FROZEN, CONTEXT = "X_texture", "X_texture_context"
#: Settings of the paper, except the number of experts (there are 262 spots) and the learning rate.
COMMON = {"lr": 1e-3, "batch_size": 64, "n_prototypes": 8, "n_experts": 2}
ONE = {"n_prototypes": 1, "n_experts": 1}
WAYS = {
    "spade": {},
    "spade, warm start": {"warm_start": 50},
    "one expert": ONE,
    "one expert, smoothed expression": ONE | {"layer": "smooth", "normalized": True},
    "one expert, InfoNCE": ONE | {"loss": "clip", "temperature": 0.1},
    "shuffled pairs": ONE | {"shuffle_pairs": True},
}
SHOTS = (1, 2, 4, 8)


def side_by_side(samples, keys, key_added):
    """Standardise each block of features over its section, as a probe does, and concatenate them."""
    for sample in samples:
        blocks = [StandardScaler().fit_transform(sample["table"].obsm[key]) for key in keys]
        sample["table"].obsm[key_added] = np.concatenate(blocks, 1).astype(np.float32)


def apply(samples, use_rep, key, function):
    for sample in samples:
        sample["table"].obsm[key] = np.asarray(function(sample["table"].obsm[use_rep]), dtype=np.float32)


def log_expression(table, *, smooth=False):
    """Log-normalised expression; with ``smooth``, of counts summed over a spot and its neighbours on the lattice."""
    counts = table.X.toarray()
    if smooth:
        places = table.obs[["array_col", "array_row"]].to_numpy(dtype=float)
        near = np.abs(places[:, None] - places[None]).max(2) <= 1
        counts = near.astype(np.float32) @ counts
    return np.log1p(1e4 * counts / counts.sum(1, keepdims=True))


def learn(samples, use_rep, genes, epochs, stem):
    """Write one representation per model; return their keys by the name of the model."""
    train, keys = samples[0], {}
    table = train["table"]
    table.layers["smooth"] = csr_matrix(log_expression(table, smooth=True), dtype=np.float32)

    def fit(**options):
        return sp.tl.train_spade(train, use_rep=use_rep, genes=genes, **COMMON | {"n_epochs": epochs} | options)

    for way, options in WAYS.items():
        keys[way] = f"{stem}_{len(keys)}"
        apply(samples, use_rep, keys[way], fit(**options).encode_image)
    models = [fit(**ONE, rng=seed) for seed in range(5)]
    keys["five seeds of one expert"] = f"{stem}_{len(keys)}"
    apply(
        samples, use_rep, keys["five seeds of one expert"],
        lambda values: np.concatenate([model.encode_image(values) for model in models], 1),
    )  # fmt: skip
    expression = log_expression(table)[:, table.var_names.get_indexer(genes.names)]
    scale = StandardScaler().fit(table.obsm[use_rep])
    x, y = scale.transform(table.obsm[use_rep]), StandardScaler().fit_transform(expression)
    pls = PLSRegression(8).fit(x, y)
    ridge = RidgeCV(np.logspace(0, 5, 11)).fit(x, PCA(20, random_state=0).fit_transform(y))
    for way, function in (("PLS", pls.transform), ("ridge to gene PCs", ridge.predict)):
        keys[way] = f"{stem}_{len(keys)}"
        apply(samples, use_rep, keys[way], lambda values, function=function: function(scale.transform(values)))
    return keys


def show(table, baseline):
    """Print a row per representation: mean and difference to the baseline with its interval, per number of shots."""
    found = sp.tl.few_shot_summary(table, baseline=baseline).set_index(["representation", "shots"])
    print("| representation | " + " | ".join(f"{k} shots | Δ" for k in SHOTS) + " |\n| --- " + "| --- " * 8 + "|")
    for name in dict.fromkeys(table["representation"]):
        cells = []
        for k in SHOTS:
            row = found.loc[name, k]
            cells += [f"{row['mean']:.3f}"]
            difference = f"{row['difference']:+.3f} [{row['difference_low']:+.3f}, {row['difference_high']:+.3f}]"
            cells += ["" if name == baseline else difference]
        print(f"| {name} | " + " | ".join(cells) + " |")


def main(arguments=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--draws", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--genes", type=int, default=1_000)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("SPADE_TEST_DATA", "../shared/data")) / "mob")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)
    samples = [read_bulb(options.data, name) for name in ("11", "01", "02", "03", "04")]
    sp.pp.patches(samples)
    sp.pp.encode_patches(samples)
    sp.pp.spatial_context(samples, use_rep=FROZEN)
    side_by_side(samples, [FROZEN, CONTEXT], "X_both")
    genes = sp.pp.select_genes(samples[0], n_top_genes=options.genes)
    frozen = {"frozen": FROZEN, "frozen + context": (FROZEN, CONTEXT)}
    on_frozen = learn(samples, FROZEN, genes, options.epochs, "A")
    on_both = learn(samples, "X_both", genes, options.epochs, "B")
    ways = frozen | on_frozen | {f"frozen + {way}": (FROZEN, key) for way, key in on_frozen.items()}
    ways |= {f"frozen + context + {way} on both": (FROZEN, CONTEXT, key) for way, key in on_both.items()}
    common = {"label_key": "label", "use_rep": ways, "shots": SHOTS, "n_repeats": options.draws}
    for sample in samples:
        sample["table"].obs["section"] = sample.attrs["spade"]["sample"]
    within = sp.tl.few_shot(samples[1:], C=1.0, **common)
    across = sp.tl.few_shot(samples[1:], groupby="section", n_support_groups=1, **common)
    for name, table in (("A, within each section", within), ("B, from one section to the others", across)):
        with_context = table[table["representation"].str.contains("context")]
        for baseline, rows in (("frozen", table), ("frozen + context", with_context)):
            print(f"\n{name}: balanced accuracy, {options.draws} draws, 4 sections; difference to {baseline}\n")
            show(rows, baseline)
    return within, across


if __name__ == "__main__":
    main()
