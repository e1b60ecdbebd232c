"""Fine-tuning on expression of real sections: breast cancer across sections, olfactory bulb across spatial blocks.

Trained on B4 and C2 and measured on C3, another section of patient C; and trained on 70 % of the blocks of MOB_11 and
measured on the others. No weights of a pathology model are available here, so there are two substitutes: heads on the
built-in texture features, and a small vision transformer, pretrained by reconstructing patches of the training
sections, frozen and fine-tuned. Ridge regression from every image representation predicts the panel. The rank of a
spot's own expression is measured with that prediction, and in the joint space of the models that have one. Figures are
printed without further processing.

``SPADE_TEST_DATA=... python benchmarks/seal_sections.py``
"""

from __future__ import annotations

import argparse
import os
import tempfile
import warnings
from pathlib import Path

from _sections import read_bulb, read_tumour
from _small_vit import ARCHITECTURE, FEW, TUNE, by_ridge, in_joint_space, pretrain
from expression import rows_of

import spade as sp

SPADE = {"lr": 1e-3, "batch_size": 64, "n_prototypes": 8, "n_experts": 2}
#: Stem of the keys that embeddings are written under.
TUNED = "tuned"
HEAD = {"lr": 1e-3, "batch_size": 64, "dim": 64}


def ways(train, genes, weights, n_epochs):
    """Yield names of models and functions that train them."""
    pixels = {"encoder": ARCHITECTURE, "weights": weights, "genes": genes, "n_epochs": n_epochs, **FEW, **TUNE}
    head = {"on_features": "X_texture", "genes": genes, "n_epochs": 5 * n_epochs, **HEAD}
    yield (
        "texture, projection",
        lambda: sp.tl.train_seal(train, **head, head="linear", gene_reconstruction=0, image_to_gene=0),
    )
    yield (
        "texture, spade",
        lambda: sp.tl.train_spade(train, use_rep="X_texture", genes=genes, n_epochs=10 * n_epochs, **SPADE),
    )
    yield "texture, seal", lambda: sp.tl.train_seal(train, **head)
    yield "texture, seal, shuffled pairs", lambda: sp.tl.train_seal(train, **head, shuffle_pairs=True)
    yield "small ViT, seal", lambda: sp.tl.train_seal(train, **pixels)
    yield "small ViT, seal, shuffled pairs", lambda: sp.tl.train_seal(train, **pixels, shuffle_pairs=True)


def compare(name, train, test, weights, n_epochs):
    shared = set.intersection(*(set(sample["table"].var_names) for sample in test))
    chosen = sp.pp.select_genes(train, method="seal", n_top_genes=300, fold_case=False)
    genes = sp.models.GenePanel(tuple(name for name in chosen.names if name in shared))
    pretrain(train, weights, 2 * n_epochs)
    for sample in (train, test):
        sp.pp.encode_patches(sample, ARCHITECTURE, weights=weights)
        sp.pp.encode_patches(sample, "texture")
    print(
        f"\n{name}, {len(genes)} genes\n| way | Pearson by ridge | rank by ridge | rank in the joint space (chance) |\n"
        "| --- | --- | --- | --- |"
    )
    for label, key in (("texture, frozen", "X_texture"), ("small ViT, frozen", f"X_{ARCHITECTURE}")):
        print("| {} | {:.3f} | {:.1f} | – |".format(label, *by_ridge(train, test, genes, key)))
    for label, make in ways(train, genes, weights, n_epochs):
        model = make()
        for sample in (train, test):
            sp.tl.embed(sample, model, key_added=TUNED)
        pearson, rank = by_ridge(train, test, genes, f"X_{TUNED}_image")
        options = {"use_rep": f"X_{TUNED}_image"} if getattr(model, "reads_pixels", False) else {}
        own, chance = in_joint_space(test, model, **options)
        print(f"| {label} | {pearson:.3f} | {rank:.1f} | {own:.1f} ({chance:.1f}) |")


def main(arguments=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    folder = Path(os.environ["SPADE_TEST_DATA"])
    with tempfile.TemporaryDirectory() as name:
        weights = Path(name) / "vit.pth"
        tumours = [read_tumour(folder / "her2st", section) for section in ("B4", "C2", "C3")]
        sp.pp.patches(tumours)
        compare("B4 + C2 -> C3", tumours[:2], tumours[2:], weights, options.epochs)
        bulb = read_bulb(folder / "mob", "11")
        sp.pp.patches(bulb)
        sp.pp.split(bulb, block_um=1000, fractions=(0.7, 0, 0.3))
        parts = [rows_of(bulb, part, f"MOB_11 {part}") for part in ("train", "test")]
        compare("MOB_11, blocks", parts[:1], parts[1:], weights, options.epochs)


if __name__ == "__main__":
    main()
