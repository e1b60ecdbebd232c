"""Does fine-tuning an encoder on expression help on unseen patients? On the synthetic cohort, seed by seed.

A small vision transformer is pretrained by reconstructing patches of the training patients. Then, with the same losses,
epochs and panel: heads on its frozen features, the encoder fine-tuned, and the encoder fine-tuned on pairs that are
shuffled within sections. Measured on two unseen patients: Pearson correlation of expression predicted by the
image-to-gene head and by ridge regression from the image features, and the rank of a spot's own expression in its
section, by that regression and in the joint space.

``python benchmarks/seal_toy.py``: two to three minutes per seed on two idle cores.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from _small_vit import ARCHITECTURE, FEW, TUNE, WIDTH, by_ridge, in_joint_space, measured, pretrain

import spade as sp
from spade.core.expression.correlation import pearson_per_gene

FROZEN, TUNED, SHUFFLED = WAYS = "frozen", "tuned", "tuned, shuffled pairs"


class Cohort(NamedTuple):
    """Training and unseen patients, encoded by the pretrained network; the panel, and the weights of the network."""

    train: list
    test: list
    genes: sp.models.GenePanel
    weights: Path


class Figures(NamedTuple):
    """Pearson by the head and by ridge regression; ranks by ridge regression, in the joint space, and by chance."""

    head: float
    ridge: float
    rank: float
    joint: float
    chance: float


def make_cohort(folder, n_spots=100):
    """Six training patients and two unseen ones; the network is pretrained on patches of the six."""
    samples = sp.datasets.toy(8, n_spots, n_genes=300)
    sp.pp.patches(samples)
    train, test = samples[:6], samples[6:]
    weights = Path(folder) / "vit.pth"
    pretrain(train, weights, 2)
    sp.pp.encode_patches(samples, ARCHITECTURE, weights=weights)
    return Cohort(train, test, sp.pp.select_genes(train), weights)


def by_head(test, model, genes):
    """Mean Pearson correlation of the genes within sections, predicted by the image-to-gene head."""
    sp.tl.predict_expression(test, model, method="head", key_added="by_head")
    found = [pearson_per_gene(measured(one, genes), one["table"].obsm["X_by_head"]) for one in test]
    return float(np.mean([np.nanmean(one) for one in found]))


def figures(way, cohort, seed, n_epochs=16):
    """Train with one of ``WAYS``, and measure on the unseen patients."""
    train, test, genes, weights = cohort
    key = f"X_{ARCHITECTURE}"
    options = {"on_features": key, "dim": WIDTH, "head": "linear"}
    if way != FROZEN:
        key = "X_seal_image"
        options = {"encoder": ARCHITECTURE, "weights": weights, "cache_dir": weights.parent, **TUNE}
    shuffled = way == SHUFFLED
    model = sp.tl.train_seal(train, genes=genes, n_epochs=n_epochs, rng=seed, shuffle_pairs=shuffled, **FEW, **options)
    sp.tl.embed([*train, *test], model)
    return Figures(by_head(test, model, genes), *by_ridge(train, test, genes, key), *in_joint_space(test, model))


def main(arguments=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--spots", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        cohort = make_cohort(folder, options.spots)
        print("| seed | encoder | Pearson, head | Pearson, ridge | rank, ridge | rank, joint space (chance) |")
        print("| --- | --- | --- | --- | --- | --- |")
        for seed in range(options.seeds):
            for way in WAYS:
                f = figures(way, cohort, seed, options.epochs)
                line = f"| {f.head:.3f} | {f.ridge:.3f} | {f.rank:.1f} | {f.joint:.1f} ({f.chance:.1f}) |"
                print(f"| {seed} | {way} {line}", flush=True)
                rows.append((seed, way, f))
    return rows


if __name__ == "__main__":
    main()
