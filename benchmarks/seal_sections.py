"""Fine-tuning on expression of real sections: breast cancer across sections, olfactory bulb across spatial blocks.

Trained on B4 and C2 and measured on C3, another section of patient C; and trained on 70 % of the blocks of MOB_11 and
measured on the others. No weights of a pathology model are available here, so there are three substitutes: heads on the
built-in texture features, and two networks, frozen and fine-tuned: a small vision transformer, pretrained by
reconstructing patches of the training sections, and EfficientNet-Lite0 as it was trained on ImageNet. Ridge regression
from every image representation predicts the panel. The rank of a spot's own expression is measured with that
prediction, and in the joint space of the models that have one. Figures are printed without further processing.

``SPADE_TEST_DATA=... python benchmarks/seal_sections.py``
"""

from __future__ import annotations

import argparse
import os
import tempfile
import warnings
from pathlib import Path

import _lite0
from _sections import read_bulb, read_tumour
from _small_vit import ARCHITECTURE, FEW, TUNE, by_ridge, in_joint_space, pretrain
from expression import rows_of

import spade as sp

SPADE = {"lr": 1e-3, "batch_size": 64, "n_prototypes": 8, "n_experts": 2}
#: Stem of the keys that embeddings are written under.
TUNED = "tuned"
HEAD = {"lr": 1e-3, "batch_size": 64, "dim": 64}
#: Networks that are tuned, their settings, and how they get weights from training sections, a path and epochs.
NETWORKS = {
    "small ViT": (ARCHITECTURE, {**FEW, **TUNE}, pretrain),
    "Lite0": (
        _lite0.ARCHITECTURE,
        {**FEW, "lr": 1e-3, "stain_jitter": 0.0},
        lambda _, path, __: _lite0.write_weights(path),
    ),
}


def ways(train, genes, networks, n_epochs):
    """Yield names of models and functions that train them."""
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
    for name, weights in networks.items():
        encoder, settings, _ = NETWORKS[name]
        pixels = {"encoder": encoder, "weights": weights, "genes": genes, "n_epochs": n_epochs, **settings}
        yield f"{name}, seal", lambda pixels=pixels: sp.tl.train_seal(train, **pixels)
        yield (
            f"{name}, seal, shuffled pairs",
            lambda pixels=pixels: sp.tl.train_seal(train, **pixels, shuffle_pairs=True),
        )


def compare(name, train, test, networks, n_epochs):
    shared = set.intersection(*(set(sample["table"].var_names) for sample in test))
    chosen = sp.pp.select_genes(train, method="seal", n_top_genes=300, fold_case=False)
    genes = sp.models.GenePanel(tuple(name for name in chosen.names if name in shared))
    frozen = {"texture": "X_texture"}
    for sample in (train, test):
        sp.pp.encode_patches(sample, "texture")
    for network, weights in networks.items():
        encoder, _, prepare = NETWORKS[network]
        prepare(train, weights, 2 * n_epochs)
        frozen[network] = f"X_{encoder}"
        for sample in (train, test):
            sp.pp.encode_patches(sample, encoder, weights=weights)
    print(
        f"\n{name}, {len(genes)} genes\n| way | Pearson by ridge | rank by ridge | rank in the joint space (chance) |\n"
        "| --- | --- | --- | --- |"
    )
    for label, key in frozen.items():
        print("| {}, frozen | {:.3f} | {:.1f} | – |".format(label, *by_ridge(train, test, genes, key)), flush=True)
    for label, make in ways(train, genes, networks, n_epochs):
        model = make()
        for sample in (train, test):
            sp.tl.embed(sample, model, key_added=TUNED)
        pearson, rank = by_ridge(train, test, genes, f"X_{TUNED}_image")
        options = {"use_rep": f"X_{TUNED}_image"} if getattr(model, "reads_pixels", False) else {}
        own, chance = in_joint_space(test, model, **options)
        print(f"| {label} | {pearson:.3f} | {rank:.1f} | {own:.1f} ({chance:.1f}) |", flush=True)


def main(arguments=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    folder = Path(os.environ["SPADE_TEST_DATA"])
    with tempfile.TemporaryDirectory() as name:
        networks = {network: Path(name) / f"{network}.pth" for network in options.networks.split(",")}
        tumours = [read_tumour(folder / "her2st", section) for section in ("B4", "C2", "C3")]
        sp.pp.patches(tumours)
        compare("B4 + C2 -> C3", tumours[:2], tumours[2:], networks, options.epochs)
        bulb = read_bulb(folder / "mob", "11")
        sp.pp.patches(bulb)
        sp.pp.split(bulb, block_um=1000, fractions=(0.7, 0, 0.3))
        parts = [rows_of(bulb, part, f"MOB_11 {part}") for part in ("train", "test")]
        compare("MOB_11, blocks", parts[:1], parts[1:], networks, options.epochs)


if __name__ == "__main__":
    main()
