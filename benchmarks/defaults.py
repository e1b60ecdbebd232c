"""Settings by the number of spots, beside the recipe of the paper, on sections that were not trained on.

Retrieval: recall@10 as a multiple of chance, from image to expression, each routed by itself; among the spots of the
query's expert, and among those of its section. Bulb: spatial blocks of MOB_11 behind the default guard band (three
draws). Tumour: C2 → C3, and B4 + C2 → C3, the patient of C2. Few-shot: models of the whole of MOB_11; balanced accuracy
on MOB_01 to MOB_04, other animals, of ``X_spade_image`` beside the frozen features, minus that of the frozen features.

``SPADE_TEST_DATA=... python benchmarks/defaults.py``
"""

from __future__ import annotations

import argparse
import logging
import os
import warnings
from pathlib import Path

import pandas as pd
from _sections import read_bulb, read_tumour

import spade as sp

FROZEN = "X_texture"
#: All that was tried.
WAYS = {
    "paper": {"preset": "paper"},
    "default": {},
    "default, shuffled pairs": {"shuffle_pairs": True},
    "one expert, 100 epochs": {"n_epochs": 100},
    "one expert, batches of 128": {"batch_size": 128},
    "one expert, lr 3e-4": {"lr": 3e-4},
    "two experts, warm start": {"n_experts": 2},
    "two experts, no warm start": {"n_experts": 2, "warm_start": 0},
    "four experts, warm start": {"n_experts": 4},
}
SHOTS = (1, 2, 4, 8)


def cases(bulb, tumours, n_draws):
    """Yield name, training sections, genes, split column, and the section that is measured."""
    for draw in range(n_draws):
        sp.pp.split(bulb, block_um=1000, fractions=(0.7, 0, 0.3), rng=draw)
        yield "bulb", bulb, sp.pp.select_genes(bulb, n_top_genes=1_000, split_key="spade_split"), "spade_split", bulb
    measured = tumours["C3"]
    for names in (("C2",), ("B4", "C2")):
        train = [tumours[name] for name in names]
        panel = sp.pp.select_genes(train, n_top_genes=1_000)
        genes = [name for name in panel.names if name in measured["table"].var_names]
        yield f"{' + '.join(names)} → C3", train, genes, None, measured


def retrieval(bulb, tumours, options):
    """Return multiples of chance for every case, way, seed and mix."""
    lines = []
    for case, train, genes, split_key, measured in cases(bulb, tumours, options.draws):
        for way in options.ways:
            for seed in range(options.seeds):
                model = sp.tl.train_spade(
                    train, use_rep=FROZEN, genes=genes, split_key=split_key, rng=seed, **WAYS[way]
                )
                for mix in ("concat", "mean"):
                    found = sp.tl.retrieval_metrics(measured, model, split_key=split_key, mix=mix)
                    found = found[found["direction"] == "image_to_expression"].set_index("gallery")
                    times = found["recall"] / found["chance_recall"]
                    lines.append(
                        {
                            "case": case, "way": way, "mix": mix, "section": times["same_section"],
                            "expert": times.get("same_expert", times["same_section"]),
                        }
                    )  # fmt: skip
    return pd.DataFrame(lines)


def few_shot(sections, options):
    """Return differences to frozen features per section, protocol and number of labels."""
    train, query = sections[0], sections[1:]
    genes = sp.pp.select_genes(train, n_top_genes=1_000)
    ways = {"frozen": FROZEN}
    for number, way in enumerate(options.ways):
        model = sp.tl.train_spade(train, use_rep=FROZEN, genes=genes, **WAYS[way])
        sp.tl.embed(query, model, key_added=f"way{number}")
        ways[way] = (FROZEN, f"X_way{number}_image")
    tables = []
    for protocol, settings in (("within", {}), ("across", {"groupby": "section", "n_support_groups": 1})):
        common = {"label_key": "label", "use_rep": ways, "shots": SHOTS, "n_repeats": options.repeats}
        table = sp.tl.few_shot(query, **common, **settings)
        table = table[table["metric"] == "balanced_accuracy"]
        tables.append(table.assign(protocol=protocol))
    means = pd.concat(tables).pivot_table("value", ["protocol", "unit", "shots"], "representation", sort=False)
    return means.sub(means["frozen"], axis=0).drop(columns="frozen"), means["frozen"]


def main(arguments=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--parts", nargs="+", default=["few-shot", "retrieval"])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("SPADE_TEST_DATA", "../shared/data")))
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)
    bulbs = [read_bulb(options.data / "mob", name) for name in ("11", "01", "02", "03", "04")]
    tumours = {name: read_tumour(options.data / "her2st", name) for name in ("B4", "C2", "C3")}
    sections = [*bulbs, *tumours.values()]
    sp.pp.patches(sections)
    sp.pp.encode_patches(sections)
    for sample in bulbs:
        sample["table"].obs["section"] = sample.attrs["spade"]["sample"]
    if "few-shot" in options.parts:
        differences, frozen = few_shot(bulbs, options)
        print("\nbalanced accuracy of frozen features, and difference of X_spade_image beside them\n")
        print(differences.assign(frozen=frozen).round(3).reset_index().to_string(index=False), flush=True)
    if "retrieval" in options.parts:
        show(retrieval(bulbs[0], tumours, options), options.ways)


def show(found, ways):
    """Print a line per way: means over draws and seeds."""
    names = list(dict.fromkeys(found["case"]))
    print("\nrecall@10 over chance, within the expert / within the section (mix concat; mean)\n")
    print("| settings | " + " | ".join(names) + " |\n| --- " + "| --- " * len(names) + "|")
    for way in ways:
        cells = []
        for case in names:
            parts = found[(found["way"] == way) & (found["case"] == case)].groupby("mix")[["expert", "section"]].mean()
            cells.append("; ".join(f"{row['expert']:.2f} / {row['section']:.2f}" for _, row in parts.iterrows()))
        print(f"| {way} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
