"""Search of images by gene signatures: completed by what goes along with their genes, alone, and beside a regression.

``SPADE_TEST_DATA=... python benchmarks/signatures.py`` trains on the two sections of patient C of the HER2+ cohort and
ranks the spots of all three sections. AUROC of cancer above connective tissue; a signature of stroma is turned round.
"""

from __future__ import annotations

import argparse
import os
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from _sections import read_tumour
from sklearn.metrics import roc_auc_score

import spade as sp

SIGNATURES = {
    "ERBB2, GRB7, KRT8": ["ERBB2", "GRB7", "KRT8"],
    "ERBB2": ["ERBB2"],
    "EPCAM": ["EPCAM"],
    "keratins": ["KRT8", "KRT18", "KRT19"],
    "collagens, turned": ["COL1A1", "COL3A1"],
    "stroma, turned": ["DCN", "LUM", "VIM"],
}
CONTEXT = ("X_texture", "X_texture_context")


def logged(sample):
    counts = sample["table"].to_df()
    return np.log1p(counts.div(counts.sum(axis=1), axis=0) * 1e4)


def auroc(score, sample):
    """How often a spot of cancer ranks above one of connective tissue."""
    label = sample["table"].obs["label"].astype(str)
    told = label.isin(["invasive cancer", "connective tissue"])
    return roc_auc_score(label[told] == "invasive cancer", score[told])


def scores(signature, sample, samples, models):
    """Score every spot of a section in each way."""
    spots = sample["table"].obs_names
    others = [other for other in samples[:2] if other is not sample]
    sp.tl.predict_expression(
        sample, method="ridge", use_rep=CONTEXT, reference=others, genes=signature, key_added="ridge"
    )
    yield "measured", logged(sample)[signature].mean(axis=1)
    yield "ridge", pd.Series(sample["table"].obsm["X_ridge"].mean(axis=1), spots)
    for name, model in models.items():
        for complete in (True, False):
            found = sp.tl.retrieve(signature, sample, model, k=None, complete=complete)
            way = f"{name}, {'completed' if complete else 'alone'}"
            yield way, found.set_index("spot")["score"].reindex(spots)


def main(arguments=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default=os.environ.get("SPADE_TEST_DATA", "../shared/data"))
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args(arguments)
    sp.settings.verbosity = "warning"
    samples = [read_tumour(Path(options.data) / "her2st", name, labels=True) for name in ("C2", "C3", "B4")]
    sp.pp.patches(samples)
    sp.pp.encode_patches(samples, "texture")
    sp.pp.spatial_context(samples, use_rep="X_texture")
    named = sorted({gene for genes in SIGNATURES.values() for gene in genes})
    panel = sp.pp.select_genes(samples[:2], n_top_genes=500, include=named)
    rows = []
    for seed in range(options.seeds):
        models = {
            f"{n} experts" if n > 1 else "one expert": sp.tl.train_spade(
                samples[:2], use_rep=CONTEXT[1], genes=panel, n_experts=n, n_epochs=options.epochs, rng=seed
            )
            for n in (1, 2)
        }
        for name, signature in SIGNATURES.items():
            for section, sample in zip(("C2", "C3", "B4"), samples, strict=True):
                for way, score in scores(signature, sample, samples, models):
                    value = auroc(-score if "turned" in name else score, sample)
                    rows.append({"section": section, "signature": name, "way": way, "auroc": value})
    table = pd.DataFrame(rows).groupby(["section", "signature", "way"], sort=False)["auroc"].mean().unstack()
    print(table.round(2).to_string())
    print(table.groupby("section", sort=False).mean().round(2).to_string())
    return table


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        main()
