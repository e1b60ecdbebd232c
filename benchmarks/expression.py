"""Prediction of expression from the image: breast cancer across sections and patients, olfactory bulb across blocks.

Genes are the 50 most variable of the training sections, among those found in a tenth of their spots. Pearson
correlation over spots, per gene, within each predicted section; its mean over genes with a 95 % interval over genes
(there are only one or two sections, so there is no interval over sections). The mean-expression control predicts the
same everywhere: its correlation is 0, its skill 0.

``SPADE_TEST_DATA=... python benchmarks/expression.py``
"""

from __future__ import annotations

import argparse
import logging
import os
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from _sections import TUMOURS, read_bulb, read_tumour
from spatialdata import SpatialData

import spade as sp
from spade._samples.open import iter_samples
from spade.core.expression.correlation import pearson_per_gene
from spade.core.expression.normalise import log_normalise
from spade.core.rng import numpy_stream
from spade.tl._expression.protocols import BenchSection, variable_genes
from spade.tl._expression.table import mean_bounds

FROZEN, CONTEXT = "X_texture", "X_texture_context"
COMMON = {"lr": 1e-3, "batch_size": 64, "n_prototypes": 8, "n_experts": 2, "temperature": 1.0, "warm_start": 0}


def read(folder):
    """Sections with image features, by name."""
    samples = {name: read_tumour(folder / "her2st", name) for name in TUMOURS}
    for name, sample in samples.items():
        sample["table"].obs["patient"] = name[0]
    samples["MOB_11"] = read_bulb(folder / "mob", "11")
    sp.pp.patches(samples.values())
    sp.pp.encode_patches(samples.values())
    sp.pp.spatial_context(samples.values(), use_rep=FROZEN)
    return samples


def rows_of(sample, part, name):
    """The spots of one part of a split, as a section of its own."""
    table = sample["table"][(sample["table"].obs["spade_split"] == part).to_numpy()].copy()
    attrs = {"spade": {**sample.attrs["spade"], "sample": name}}
    return SpatialData(images=dict(sample.images), shapes=dict(sample.shapes), tables={"table": table}, attrs=attrs)


def genes_of(train, test, n):
    """Most variable genes of the training sections, among those that all sections have."""
    shared = set.intersection(*(set(sample["table"].var_names) for sample in [*train, *test]))
    measured = [
        BenchSection(sample.name, {}, sample.table.X.tocsr(), sample.table.var_names, None, 0.0)
        for sample in iter_samples(train)
    ]
    return variable_genes(measured, n, shared)


def truth_of(sample, genes):
    table = sample["table"]
    return log_normalise(table.X.tocsr())[:, table.var_names.get_indexer(genes)].toarray()


def ways(train, options):
    """Return the settings of ``predict_expression`` by the name of the prediction."""
    panel = sp.pp.select_genes(train, n_top_genes=options.panel)

    def fit(**more):
        return sp.tl.train_spade(train, use_rep=FROZEN, genes=panel, **COMMON | {"n_epochs": options.epochs} | more)

    models = {
        "spade": fit(),
        "spade, warm start": fit(warm_start=options.epochs // 2),
        "one expert": fit(n_prototypes=1, n_experts=1),
        "shuffled pairs": fit(shuffle_pairs=True),
    }
    found = {f"{name}, neighbours": {"model": model} for name, model in models.items()}
    for name, keys in (("frozen", FROZEN), ("frozen + context", (FROZEN, CONTEXT))):
        for scaling in ("reference", "section"):
            label = f"ridge on {name}" + (", each section scaled" if scaling == "section" else "")
            found[label] = {"method": "ridge", "use_rep": keys, "scaling": scaling}
    return found


def evaluate(train, test, options, what):
    """Predict the test sections from the training sections with all settings."""
    genes = genes_of(train, test, options.genes)
    expected = np.concatenate([truth_of(one, genes) for one in train]).mean(0)
    rows = []
    for name, settings in ways(train, options).items():
        sp.tl.predict_expression(test, reference=train, genes=genes, **settings)
        for one in test:
            truth, predicted = truth_of(one, genes), one["table"].obsm["X_predicted"]
            error, control = (np.square(truth - guess).mean(0) for guess in (predicted, expected))
            rows += [
                {
                    "what": what,
                    "way": name,
                    "section": one.attrs["spade"]["sample"],
                    "gene": gene,
                    "pearson": p,
                    "skill": s,
                }
                for gene, p, s in zip(
                    genes, pearson_per_gene(truth, predicted), 1 - error / np.maximum(control, 1e-12), strict=True
                )
            ]
    return rows


def interval(values):
    (low,), (high,) = mean_bounds(values[:, None], 2_000, 0.95, numpy_stream(0, "genes"))
    return f"[{low:+.3f}, {high:+.3f}]"


def show(table, baseline="ridge on frozen"):
    print(
        f"| learned from → predicted | way | Pearson, mean of genes | Δ to {baseline} | best 10 genes "
        "| genes above 0.2 | skill |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for what, rows in table.groupby("what", sort=False):
        means = rows.pivot_table(["pearson", "skill"], "gene", "way", "mean")
        for way in dict.fromkeys(rows["way"]):
            p, difference = means["pearson", way].dropna(), means["pearson", way] - means["pearson", baseline]
            difference = difference.dropna().to_numpy()
            best = np.sort(p)[::-1][:10].mean()
            delta = "" if way == baseline else f"{difference.mean():+.3f} {interval(difference)}"
            print(
                f"| {what} | {way} | {p.mean():.3f} {interval(p.to_numpy())} | {delta} | {best:.3f} "
                f"| {int((p > 0.2).sum())} of {len(p)} | {means['skill', way].mean():+.3f} |"
            )
        print(f"| {what} | mean expression | 0 | | 0 | 0 of {len(p)} | 0 |")


def main(arguments=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--panel", type=int, default=1_000)
    parser.add_argument("--genes", type=int, default=50)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("SPADE_TEST_DATA", "../shared/data")))
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)
    samples = read(options.data)
    b4, c2, c3, bulb = samples.values()
    found = []
    for train, test, what in (
        ([b4, c2], [c3], "B4 + C2 → C3 (patient seen)"),
        ([b4], [c2, c3], "B4 → C2, C3 (patient unseen)"),
        ([c2, c3], [b4], "C2 + C3 → B4 (patient unseen)"),
    ):
        found += evaluate(train, test, options, what)
    for draw in range(options.draws):
        sp.pp.split(bulb, block_um=1000, fractions=(0.7, 0, 0.3), rng=draw)
        train, test = rows_of(bulb, "train", f"train {draw}"), rows_of(bulb, "test", f"test {draw}")
        found += evaluate([train], [test], options, f"MOB_11, blocks → blocks ({options.draws} draws)")
    table = pd.DataFrame(found)
    print("\nprediction of expression\n")
    show(table)
    reps = {"frozen": FROZEN, "frozen + context": (FROZEN, CONTEXT)}
    bench = sp.tl.expression_benchmark([b4, c2, c3], use_rep=reps, n_genes=options.genes)
    print("\nthe two protocols, patients B and C held out in turn\n")
    print("| protocol | representation | Pearson | interval | units |\n| --- | --- | --- | --- | --- |")
    for row in sp.tl.expression_summary(bench).itertuples():
        unit = "folds" if row.protocol == "hest" else "sections"
        print(
            f"| {row.protocol} | {row.representation} | {row.pearson:.3f} | [{row.low:.3f}, {row.high:.3f}] "
            f"| {row.n_units} {unit} |"
        )
    return table, bench


if __name__ == "__main__":
    main()
