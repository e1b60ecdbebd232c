"""Does tuning an encoder against expression help on patients that nothing was learned from? On the synthetic cohort, seed by seed.

A small vision transformer is first taught to draw patches of the training patients. Then, with the same losses, epochs and panel: heads on its
frozen features, the encoder tuned, and the encoder tuned on pairs that were shuffled within sections. Measured on two unseen patients:
Pearson correlation of expression predicted by the image-to-gene head and by ridge regression from the image features, and the rank of the
true partner in the joint space, among the spots of its section.

``python benchmarks/seal_toy.py``: about five minutes per seed on two cores.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from pathlib import Path

import numpy as np
from _small_vit import ARCHITECTURE, FEW, TUNE, WIDTH, by_ridge, in_joint_space, measured, pretrain

import spade as sp
from spade.core.prediction import pearson_per_gene


def by_head(test, model, genes):
    """Mean Pearson of the genes within sections, by the image-to-gene head."""
    sp.tl.predict_expression(test, model, method="head", key_added="by_head")
    found = [pearson_per_gene(measured(one, genes), one["table"].obsm["X_by_head"]) for one in test]
    return float(np.mean([np.nanmean(one) for one in found]))


def main(arguments=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--spots", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    samples = sp.datasets.toy(8, options.spots, n_genes=300)
    sp.pp.patches(samples)
    train, test = samples[:6], samples[6:]
    genes = sp.pp.select_genes(train)
    frozen = f"X_{ARCHITECTURE}"
    rows = []
    with tempfile.TemporaryDirectory() as name:
        weights = Path(name) / "vit.pth"
        pretrain(train, weights, 2)
        sp.pp.encode_patches(samples, ARCHITECTURE, weights=weights)
        pixels = {"encoder": ARCHITECTURE, "weights": weights, "cache_dir": name, **TUNE}
        ways = {
            "frozen": {"on_features": frozen, "dim": WIDTH, "head": "linear"},
            "tuned": pixels,
            "tuned, shuffled pairs": {**pixels, "shuffle_pairs": True},
        }
        print("| seed | encoder | Pearson, head | Pearson, ridge | rank, ridge | rank, joint space (chance) |")
        print("| --- | --- | --- | --- | --- | --- |")
        for seed in range(options.seeds):
            for way, own in ways.items():
                model = sp.tl.train_seal(train, genes=genes, n_epochs=options.epochs, rng=seed, **FEW, **own)
                sp.tl.embed(samples, model)
                head = by_head(test, model, genes)
                ridge, rank = by_ridge(train, test, genes, frozen if way == "frozen" else "X_seal_image")
                joint, chance = in_joint_space(test, model)
                print(
                    f"| {seed} | {way} | {head:.3f} | {ridge:.3f} | {rank:.1f} | {joint:.1f} ({chance:.1f}) |",
                    flush=True,
                )
                rows.append((seed, way, head, ridge, rank, joint))
    return rows


if __name__ == "__main__":
    main()
