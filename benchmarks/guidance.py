"""Does expression of other sections help to tell tissue from its image with few labels?

Every representation stands beside frozen + context features, with the probe of ``sp.tl.few_shot``. Models learn from
the training sections of a task alone; its test sections give only their images. Tasks:

- ``layers``: layers of the olfactory bulb, by experts; trained on another animal.
- ``regions``: tumour regions of breast cancer, derived labels; trained on the same or another patient.
- ``molecular``: k-means classes of the *measured* expression of the test section, told from its image.
- ``signature``: above or below the median of the HER2 amplicon.
- ``zero-shot``: layers told without a label of the animal, as that whose markers (in the training section) are
  predicted highest from the image.

The penalty of the baseline is also tuned on the test labels themselves, in its favour. Controls: clusters of the image
instead of expression; pairs shuffled within sections; and, as a ceiling, the measured expression of the test section.

``SPADE_TEST_DATA=... python benchmarks/guidance.py``
"""

from __future__ import annotations

import argparse
import logging
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from _sections import read_bulb, read_cord, read_tumour
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import balanced_accuracy_score

import spade as sp

FROZEN, CONTEXT, BOTH = "X_texture", "X_texture_context", ("X_texture", "X_texture_context")
MEASURED = ("X_gene_pcs", "X_gene_pcs_context")
BASELINE, SHOTS = "frozen + context", (1, 2, 4, 8)
AMPLICON = ("ERBB2", "GRB7", "STARD3", "MIEN1", "PGAP3")
#: Fewest spots of a class: 8 to learn from, and some to test on. Classes with fewer are left without a label.
FEWEST = 12
#: Penalties that the baseline is tuned over, beside that of the default, C = 2 for two blocks; and markers of a layer.
TUNED, N_MARKERS = (0.125, 0.5, 8.0, 32.0), 20


@dataclass(frozen=True)
class Task:
    """Sections to train on and to test on, and the classes; ``animal`` says what both share."""

    name: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    label_key: str
    animal: str
    groupby: str | None = None


BULB = ("MOB_01", "MOB_02", "MOB_03", "MOB_04")
TUMOURS, SPINAL = ("B4", "C2", "C3"), ("CN63_E2", "CN52_C2_1", "CN52_C2_2")
#: Pairs of sections with expression: trained on, tested on, and what they share.
PAIRED = [
    (("C2",), ("C3",), "same patient"),
    (("C3",), ("C2",), "same patient"),
    (("B4",), ("C2", "C3"), "another patient"),
    (("C2", "C3"), ("B4",), "another patient"),
]
CORDS = [
    (("CN63_E2",), ("CN52_C2_1", "CN52_C2_2"), "another animal"),
    (("CN52_C2_1", "CN52_C2_2"), ("CN63_E2",), "another animal"),
]
TASKS = [
    Task("layers, within sections", ("MOB_11",), BULB, "label", "another animal"),
    Task("layers, across sections", ("MOB_11",), BULB, "label", "another animal", groupby="section"),
    Task("layers, own expression", (), ("MOB_11",), "label", "the section itself"),
    *(Task("regions", *pair[:2], "tissue", pair[2]) for pair in PAIRED),
    *(Task("molecular", *pair[:2], "molecular", pair[2]) for pair in PAIRED + CORDS),
    *(Task("signature", *pair[:2], "signature", pair[2]) for pair in PAIRED),
]


def log_normalised(table):
    counts = table.X.toarray()
    return np.log1p(1e4 * counts / np.maximum(counts.sum(1, keepdims=True), 1))


def log_expression(table):
    """Log-normalised expression of the 1,000 most variable of the genes in a tenth of the spots, centred."""
    values = log_normalised(table)[:, np.asarray((table.X > 0).mean(0)).ravel() >= 0.1]
    values = values[:, np.argsort(-values.var(0))[:1000]]
    return values - values.mean(0)


def without_rare(classes):
    """Return classes of spots without those that too few spots have."""
    return classes.where(classes.map(classes.value_counts()) >= FEWEST)


def add_measured(sample, rng):
    """Write gene PCs, molecular classes and the signature of a section with expression."""
    table = sample["table"]
    pcs = PCA(10, random_state=rng).fit_transform(log_expression(table))
    table.obsm["X_gene_pcs"] = pcs.astype(np.float32)
    number = KMeans(4, n_init=10, random_state=rng).fit_predict(pcs)
    table.obs["molecular"] = without_rare(pd.Series(number, table.obs_names).astype(str))
    if "label" in table.obs:
        tissue = table.obs["label"].astype(object)
        table.obs["tissue"] = without_rare(tissue.where(~tissue.isin(["none", "undetermined"])))
    if known := [gene for gene in AMPLICON if gene in table.var_names]:
        counts = np.asarray(table[:, known].X.sum(1)).ravel() / np.asarray(table.X.sum(1)).ravel()
        table.obs["signature"] = np.where(counts > np.median(counts), "high", "low")


def read_cohort(folder, rng):
    """Return every section by its name, with features, context and what was measured."""
    bulb = [read_bulb(folder / "mob", name) for name in ("11", "01", "02", "03", "04")]
    tumours = [read_tumour(folder / "her2st", name, labels=True) for name in TUMOURS]
    cords = [read_cord(folder / "als", name) for name in SPINAL]
    samples = [*bulb, *tumours, *cords]
    sp.pp.patches(samples)
    sp.pp.encode_patches(samples)
    sp.pp.spatial_context(samples, use_rep=FROZEN)
    for sample in samples:
        sample["table"].obs["section"] = sample.attrs["spade"]["sample"]
        if sample["table"].n_vars:
            add_measured(sample, rng)
            sp.pp.spatial_context(sample, use_rep=MEASURED[0])
    return {sample.attrs["spade"]["sample"]: sample for sample in samples}


def trainings(train, rng):
    """Return functions that train the models, by the names of their representations."""
    programs = {"use_rep": BOTH, "rng": rng}
    genes = sp.pp.select_genes(train, method="seal", n_top_genes=1000, fold_case=False)
    spade = {"use_rep": FROZEN, "genes": genes, "rng": rng}
    return {
        "programs": lambda: sp.tl.train_programs(train, **programs),
        "image clusters (control)": lambda: sp.tl.train_programs(train, targets="image", **programs),
        "shuffled pairs (control)": lambda: sp.tl.train_programs(train, shuffle_pairs=True, **programs),
        "spade": lambda: sp.tl.train_spade(train, **spade),
        "spade, shuffled pairs": lambda: sp.tl.train_spade(train, shuffle_pairs=True, **spade),
        "spade, paper": lambda: sp.tl.train_spade(train, preset="paper", **spade),
        "seal": lambda: sp.tl.train_seal(train, on_features=FROZEN, genes=genes, rng=rng),
    }


def embed(cohort, train, rng, wanted=None):
    """Apply all models of some training sections to the sections of their tissue; return representations by name."""
    ways = {"frozen": FROZEN, BASELINE: BOTH}
    if not train:
        return ways
    (tissue,) = (names for names in (("MOB_11", *BULB), TUMOURS, SPINAL) if train[0] in names)
    sections = [cohort[name] for name in tissue]
    for i, (name, fit) in enumerate(trainings([cohort[one] for one in train], rng).items()):
        if wanted is not None and name not in wanted:
            continue
        stem = f"m{i}_{'_'.join(train)}"
        sp.tl.embed(sections, fit(), key_added=stem)
        key = f"X_{stem}_image" if name.startswith(("spade", "seal")) else f"X_{stem}"
        ways[f"{BASELINE} + {name}"] = (*BOTH, key)
        if name == "spade":
            ways |= {"spade alone": key, "frozen + spade": (FROZEN, key)}
    return ways


def run_task(task, cohort, ways, n_draws, rng):
    """Return the table of a task; the unit is the pair of sections."""
    test = [cohort[name] for name in task.test]
    measured = all(sample["table"].n_vars for sample in test)
    if measured and task.name != "molecular":
        ways = ways | {f"{BASELINE} + measured expression (ceiling)": (*BOTH, *MEASURED)}
    common = {"label_key": task.label_key, "shots": SHOTS, "n_repeats": n_draws, "rng": rng}
    if task.groupby:
        common |= {"groupby": task.groupby, "n_support_groups": 1}
    chosen = {f"{name}, weights chosen": keys for name, keys in ways.items() if name.endswith("programs")}
    doubled = {f"{name}, weight 2": keys for name, keys in ways.items() if name.endswith(("programs", "(control)"))}
    weights = {keys[-1]: 2.0 for keys in doubled.values()}
    tuned = {c: {f"{BASELINE}, C = {c:g}": BOTH} for c in TUNED}
    parts = []
    for samples in [test] if task.groupby else test:  # sections may have different classes
        parts.append(sp.tl.few_shot(samples, use_rep=ways, **common))
        for some, weight in ((chosen, "auto"), (doubled, weights)):
            if some:
                parts.append(sp.tl.few_shot(samples, use_rep=some, weights=weight, **common))
        parts += [sp.tl.few_shot(samples, use_rep=way, C=c, **common) for c, way in tuned.items()]
    table, origin = pd.concat(parts), f"{'+'.join(task.train)} → " if task.train else ""
    return table.assign(task=task.name, animal=task.animal, unit=origin + table["unit"])


def zero_shot(cohort, rng):
    """Return the balanced accuracy of layers told by predicted markers, per way and section."""
    train, test = cohort["MOB_11"], [cohort[name] for name in BULB]
    model = sp.tl.train_programs(train, use_rep=BOTH, rng=rng)
    ways = {
        "programs": model,
        "shuffled pairs (control)": sp.tl.train_programs(train, use_rep=BOTH, shuffle_pairs=True, rng=rng),
        "ridge regression": None,
    }
    measured = pd.DataFrame(log_normalised(train["table"]), columns=train["table"].var_names)[list(model.genes.names)]
    measured = (measured - measured.mean()) / measured.std()
    means = measured.groupby(train["table"].obs["label"].to_numpy()).mean()
    markers = {layer: row.nlargest(N_MARKERS).index for layer, row in (means - means.mean()).iterrows()}
    rows = []
    for way, one in ways.items():
        ridge = {"reference": train, "method": "ridge", "use_rep": BOTH, "genes": model.genes, "scaling": "section"}
        sp.tl.predict_expression(test, one, **({} if one else ridge))
        for sample in test:
            table = sample["table"]
            found = pd.DataFrame(table.obsm["X_predicted"], table.obs_names, table.uns["predicted_genes"])
            found = (found - found.mean()) / found.std()
            score = pd.DataFrame({layer: found[genes].mean(1) for layer, genes in markers.items()})
            told = ((score - score.mean()) / score.std()).idxmax(axis=1)
            known = table.obs["label"].notna()
            value = balanced_accuracy_score(table.obs["label"][known].astype(str), told[known])
            rows.append({"way": way, "section": sample.attrs["spade"]["sample"], "value": value})
    return pd.DataFrame(rows).pivot(index="way", columns="section", values="value")


def show(table):
    """Print a row per representation: mean and difference to the baseline, with its interval over sections."""
    table = table.reset_index(drop=True)
    table.index = table.index.astype(str)
    found = sp.tl.few_shot_summary(table.drop(columns=["task", "animal"]), baseline=BASELINE)
    found = found.set_index(["representation", "shots"])
    print("| representation | " + " | ".join(f"{k} | Δ" for k in SHOTS) + " |\n| --- " + "| --- " * 8 + "|")
    for name in dict.fromkeys(table["representation"]):
        cells = []
        for k in SHOTS:
            row = found.loc[name, k]
            cells.append(f"{row['mean']:.3f}")
            low, high = row["difference_low"], row["difference_high"]
            cells.append("" if name == BASELINE else f"{row['difference']:+.3f} [{low:+.3f}, {high:+.3f}]")
        print(f"| {name} | " + " | ".join(cells) + " |")


def main(arguments=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--draws", type=int, default=40)
    parser.add_argument("--only", default="", help="tasks whose name begins with this")
    parser.add_argument("--ways", nargs="+", help="models, by name; all of them if left out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("SPADE_TEST_DATA", "../shared/data")))
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)
    cohort = read_cohort(options.data, options.seed)
    ways, tables = {}, []
    for task in (task for task in TASKS if task.name.startswith(options.only)):
        if task.train not in ways:
            ways[task.train] = embed(cohort, task.train, options.seed, options.ways)
        tables.append(run_task(task, cohort, ways[task.train], options.draws, options.seed))
    table = pd.concat(tables) if tables else pd.DataFrame(columns=["task", "animal"])
    for (name, animal), rows in table.groupby(["task", "animal"], sort=False):
        units = ", ".join(rows["unit"].unique())
        print(f"\n{name}, {animal}: balanced accuracy, {options.draws} draws; {units}\n")
        show(rows)
    if "zero-shot".startswith(options.only):
        print("\nzero-shot layers, another animal: balanced accuracy (chance 0.2)\n")
        print(zero_shot(cohort, options.seed).round(3).to_string())
    return table


if __name__ == "__main__":
    main()
