"""What every function of tl says of arguments that make no sense: an error of ours that names the argument."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.sections import GENES, featured, train

import spade as sp

ERRORS = (ValueError, TypeError, KeyError, FileNotFoundError)
HUGE = pd.DataFrame(np.zeros((50, 50)))
NUMBERS = (["a"], "3", math.nan, math.inf, True, np.array([1.0, 2.0]), -1.5, {}, HUGE)
COUNTS = (2.5, *NUMBERS)
KEYS = (["a", "b"], 3, math.nan, True, "", np.array([1.0, 2.0]), HUGE)
CHOICES = (*KEYS, "no_such")
FLAGS = (["a"], "yes", 3, math.nan, {}, HUGE)
SEEDS = (None, ["a"], "3", math.nan, True, -1, HUGE)
GENE_LISTS = ("G00", {"G00", "G01"}, 3, [3], [None], {"G00": 1}, [], ["no such"], HUGE)
MODELS = (3, "model", sp.models.SpadeModel, HUGE, [3])
LISTS = (3, math.nan, {"a"}, {}, [], HUGE, [3])
TABLES = (None, 3, "table", [1], {}, pd.DataFrame(), HUGE)
STEMS = (None, "my key", *KEYS)
SPREAD = {"n_boot": (None, *COUNTS), "level": (None, 0, 1, *NUMBERS), "rng": SEEDS}
FITTING = {
    "preset": CHOICES, "class_weights": FLAGS, "hidden": ((8,), [8, 0], *COUNTS), "dropout": (None, 1, *NUMBERS),
    "n_epochs": (None, *COUNTS), "lr": NUMBERS, "schedule": CHOICES, "weight_decay": (None, *NUMBERS),
    "patience": (None, *COUNTS), "inner_val": (None, 0.7, *NUMBERS), "device": (None, *KEYS),
    "table_key": CHOICES, "rng": SEEDS,
}  # fmt: skip
PREDICTING = {
    "model": MODELS, "genes": GENE_LISTS, "method": (None, *CHOICES), "use_rep": (["X_f"], *KEYS[1:], {"X_f"}),
    "k": (None, *COUNTS), "temperature": (None, *NUMBERS), "mix": (None, *CHOICES), "layer": CHOICES,
    "normalized": FLAGS, "patches_key": (None, *KEYS), "table_key": CHOICES,
}  # fmt: skip
CLUSTERING = {
    "groupby": CHOICES, "n_prototypes": COUNTS, "n_experts": COUNTS,
    "feature_scaling": (None, *CHOICES), "routing_temperature": (None, *NUMBERS), "split_key": CHOICES,
    "table_key": CHOICES, "rng": SEEDS,
}  # fmt: skip
ODD = {
    "annotate": {
        "label_key": (None, *CHOICES), "use_rep": (None, {"X_f"}, *CHOICES), "classifier": (None, *CHOICES),
        "C": (None, *NUMBERS), "scaling": (None, *CHOICES), "table_key": CHOICES, "rng": SEEDS,
        "key_added": ("my key", *KEYS),
    },
    "attention": {
        "label_key": (None, *CHOICES), "use_rep": (None, {"X_f"}, *CHOICES), "head": (None, "mean", *CHOICES),
        "labels": TABLES[1:], "slide_key": CHOICES, "groupby": CHOICES, "scaling": CHOICES, **FITTING,
        "target": (None, *CHOICES), "loss": CHOICES, "key_added": ("my key", *KEYS), "out": ("a", "", 3, ["a"]),
    },
    "cluster_experts": {"use_rep": (None, *CHOICES), **CLUSTERING, "key_added": STEMS},
    "embed": {
        "model": (None, *MODELS), "key_added": ("my key", *KEYS), "mix": (None, *CHOICES), "use_rep": CHOICES,
        "layer": CHOICES, "normalized": FLAGS, "genes": GENE_LISTS, "min_overlap": (None, 0, *NUMBERS),
        "patches_key": (None, *KEYS), "batch_size": (None, *COUNTS), "table_key": CHOICES, "out": ("a", "", 3, ["a"]),
    },
    "expert_agreement": {"label_key": (None, *CHOICES), "key": (None, *CHOICES), "table_key": CHOICES},
    "expert_composition": {
        "by": (None, *CHOICES), "key": (None, *CHOICES), "unit": CHOICES, "n_boot": (None, *COUNTS), "rng": SEEDS,
        "table_key": CHOICES,
    },
    "expression_benchmark": {
        "use_rep": (None, {"X_f"}, [], {}, *CHOICES), "protocol": (None, *LISTS, *CHOICES), "groupby": CHOICES,
        "n_genes": (None, *COUNTS), "genes": GENE_LISTS, "target_sum": NUMBERS, "layer": CHOICES,
        "patches_key": (None, *CHOICES), "table_key": CHOICES, "batch_size": (None, *COUNTS),
    },
    "expression_summary": {"table": TABLES, "by": CHOICES, **SPREAD},
    "expression_trust": {**PREDICTING, "model": (None, *MODELS), **SPREAD},
    "few_shot": {
        "label_key": (None, *CHOICES), "use_rep": (None, {"X_f"}, [], {}, *CHOICES),
        "shots": (None, "3", [], {}, ["a"], [0], math.nan, True, HUGE), "n_repeats": (None, *COUNTS),
        "classifier": (None, *CHOICES), "C": (None, *NUMBERS), "groupby": CHOICES, "n_support_groups": COUNTS,
        "block_um": (0, *NUMBERS), "guard_um": (10, *NUMBERS), "scaling": (None, *CHOICES),
        "weights": ("no_such", 3, {"X_f": -1}, {"no_such": 1}, [1], HUGE), "return_predictions": (None, *FLAGS),
        "table_key": CHOICES, "rng": SEEDS, "key_added": STEMS,
    },
    "few_shot_summary": {"table": TABLES, "baseline": CHOICES, "metric": (None, *CHOICES), **SPREAD},
    "mixing": {
        "use_rep": (None, *CHOICES), "groupby": CHOICES, "n_neighbors": (None, *COUNTS), "table_key": CHOICES,
    },
    "pathway_scores": {
        "net": (None, 3, [], {}, "no/such.gmt", "hallmark", {"a": "G00"}, {"G00": 1.0}, {"a": [3]}, {"a": ["no such"]},
                {"a": {"G00": math.nan}}, HUGE),
        "predicted": CHOICES, "layer": CHOICES, "normalized": (None, *FLAGS), "method": (None, *CHOICES),
        "min_genes": (None, *COUNTS), "table_key": CHOICES, "key_added": STEMS,
    },
    "predict_expression": {**PREDICTING, "model": (None, *MODELS), "reference": (None, 3, [3], [], "no/such.zarr"),
                           "key_added": STEMS, "out": ("a", "", 3, ["a"])},
    "rank_expert_genes": {
        "key": (None, *CHOICES), "n_genes": COUNTS, "method": (None, *CHOICES), "layer": CHOICES,
        "normalized": (None, *FLAGS), "min_spots": (None, *COUNTS), "table_key": CHOICES, "key_added": STEMS,
    },
    "retrieval_metrics": {
        "model": (None, *MODELS), "k": (None, *COUNTS), "mix": (None, *CHOICES), "split_key": CHOICES,
        "control": MODELS, "use_rep": CHOICES, "layer": CHOICES, "normalized": FLAGS, "table_key": CHOICES,
    },
    "retrieve": {
        "query": (None, 3, [], {}, "G00", {"G00"}, {"G00": "up"}, ["no such"], HUGE),
        "gallery": (None, 3, [], "no/such.zarr"), "model": (None, *MODELS), "query_by": (None, *CHOICES),
        "gallery_by": CHOICES, "k": COUNTS, "spots": (3, [], {}, {"s00"}, "no such", HUGE),
        "same_section": (None, *FLAGS), "mix": (None, *CHOICES), "use_rep": CHOICES, "layer": CHOICES,
        "normalized": FLAGS, "table_key": CHOICES,
    },
    "routing_scores": {"model": (None, *MODELS), "key_added": STEMS, "use_rep": CHOICES, "table_key": CHOICES},
    "slide_embedding": {
        "use_rep": (None, {"X_f"}, [], {}, (), *CHOICES), "pool": (None, *CHOICES), "weights_key": CHOICES,
        "slide_key": CHOICES, "return_counts": (None, *FLAGS), "table_key": CHOICES,
    },
    "slide_task": {
        "label_key": (None, *CHOICES), "use_rep": (None, {"X_f"}, [], {}, *CHOICES), "head": (None, *LISTS, *CHOICES),
        "labels": TABLES[1:], "slide_key": CHOICES, "groupby": CHOICES, "fold_key": CHOICES,
        "unit": (None, "patient", *CHOICES), "n_folds": (None, *COUNTS),
        "shots": ("3", [], {}, ["a"], [0], math.nan, True, HUGE),
        "n_repeats": (None, *COUNTS), "C": NUMBERS, "scaling": CHOICES, **FITTING, "return_predictions": (None, *FLAGS),
        "target": (None, *CHOICES), "loss": CHOICES, "cohort_key": CHOICES, "train_on": (3, [], {"a"}, "no_such", HUGE),
        "test_on": (3, [], {"a"}, "no_such", HUGE), "key_added": STEMS,
    },
    "survival": {
        "time_key": (None, *CHOICES), "event_key": (None, *CHOICES), "use_rep": (None, {"X_f"}, [], {}, *CHOICES),
        "labels": TABLES[1:], "slide_key": CHOICES, "groupby": CHOICES, "head": (None, *CHOICES),
        "unit": (None, "patient", *CHOICES),
        "loss": (None, *CHOICES), "n_bins": (None, *COUNTS), "strength": (None, *NUMBERS), "n_folds": (None, *COUNTS),
        "n_repeats": (None, *COUNTS), "fold_key": CHOICES, "batch_size": (None, *COUNTS),
        **{name: values for name, values in FITTING.items() if name != "class_weights"},
    },
    "survival_summary": {
        "table": TABLES, "baseline": CHOICES, "by_repeat": (None, *FLAGS), "compare": (None, *CHOICES), **SPREAD,
    },
    "switchboard": {
        "use_rep": (None, *CHOICES), "encoder": (["a"], 3, "", HUGE), "weights": (3, ["a"], HUGE), "genes": GENE_LISTS,
        "layer": CHOICES, "measured_layer": CHOICES, "normalized": (None, *FLAGS), "groupby": CHOICES,
        "n_folds": COUNTS, "variants": (*LISTS, "no_such", {"a": 3}), "control": (None, *FLAGS),
        "spade_settings": (3, [3], {"no_such": 3}, HUGE), "seal_settings": (3, [3], {"no_such": 3}, HUGE),
        "n_seeds": (None, *COUNTS), "k": (None, *COUNTS), "label_key": CHOICES,
        "n_repeats": (None, *COUNTS), "device": (None, *KEYS), "table_key": CHOICES, "rng": SEEDS,
    },
    "switchboard_summary": {"table": TABLES, "baseline": (None, *CHOICES), "over": (None, *CHOICES), **SPREAD},
    "train_programs": {
        "use_rep": (None, *CHOICES), "genes": GENE_LISTS, "layer": CHOICES, "targets": (None, *CHOICES),
        "n_programs": COUNTS, "n_clusters": (*COUNTS, [1], ["a"], ()), "split_key": CHOICES,
        "shuffle_pairs": (None, *FLAGS), "table_key": CHOICES, "rng": SEEDS,
    },
    "train_seal": {
        "encoder": (["a"], 3, "", HUGE), "on_features": (None, *CHOICES), "genes": GENE_LISTS, "layer": CHOICES,
        "normalized": (None, *FLAGS), "dim": COUNTS, "hidden": (None, *COUNTS), "head": (None, *CHOICES),
        "contrastive": (None, *NUMBERS), "gene_reconstruction": (None, *NUMBERS), "image_to_gene": (None, *NUMBERS),
        "kl": (None, *NUMBERS), "temperature": (None, *NUMBERS), "negatives": (None, *CHOICES),
        "balance_sections": (None, *FLAGS), "adversary": (None, *NUMBERS), "gene_warmup": (None, *COUNTS),
        "gene_lr": NUMBERS, "preset": CHOICES,
        "n_epochs": COUNTS, "batch_size": COUNTS, "micro_batch_size": COUNTS,
        "lr": NUMBERS, "weight_decay": (None, *NUMBERS), "shuffle_pairs": (None, *FLAGS),
        "split_key": CHOICES, "device": (None, *KEYS), "devices": (None, *COUNTS), "precision": CHOICES,
        "checkpoint_dir": (3, ["a"], "", HUGE), "table_key": CHOICES, "rng": SEEDS,
    },
    "train_spade": {
        "use_rep": (None, *CHOICES), "encoder": CHOICES, "layer": CHOICES, "normalized": (None, *FLAGS),
        "genes": GENE_LISTS, "routing": MODELS, "init": MODELS, "cluster_space": (None, *CHOICES),
        "loss": (None, *CHOICES), "temperature": (None, *NUMBERS), "learn_temperature": (None, *FLAGS),
        "n_epochs": COUNTS, "batch_size": COUNTS, "lr": NUMBERS, "weight_decay": (None, *NUMBERS),
        "dim": (None, *COUNTS), "dropout": (None, 1, *NUMBERS), "warm_start": COUNTS,
        "out_of_cluster": (None, *NUMBERS), "shuffle_pairs": (None, *FLAGS), **CLUSTERING, "preset": CHOICES,
        "device": (None, *KEYS), "devices": (None, *COUNTS), "precision": CHOICES,
        "checkpoint_dir": (3, ["a"], "", HUGE),
    },
    "umap": {
        "use_rep": (None, {"X_f"}, *CHOICES), "n_neighbors": (None, *COUNTS), "min_dist": (None, *NUMBERS),
        "metric": (None, *CHOICES), "table_key": CHOICES, "rng": SEEDS,
    },
}  # fmt: skip
ODD["score_image"] = {
    "color": (None, *CHOICES), "um_per_px": NUMBERS, "layer": CHOICES, "normalized": (None, *FLAGS),
    "patches_key": (None, *KEYS), "table_key": CHOICES, "key_added": ("my key", "mpp", *KEYS),
}  # fmt: skip
CASES = [(function, argument) for function, arguments in ODD.items() for argument in arguments]
#: Arguments of which a name that is not there is reported by the argument of the data it names.
ALSO = {"on_features": "on_features|use_rep", "measured_layer": "measured_layer|layer"}
#: Functions whose samples have another name.
FIRST = {"expression_trust": "reference", "retrieve": "gallery", "slide_task": "bags", "survival": "bags"}


def test_every_function_is_tried():
    assert set(ODD) == set(sp.tl.__all__)


@pytest.fixture(scope="module")
def works(tmp_path_factory):
    """Arguments with which every function works."""
    pair = [featured(name=name, seed=seed) for seed, name in enumerate("uv")]
    model = train(pair)
    sp.pp.patches(pair, size_um=40, size_px=40)
    sp.tl.cluster_experts(pair, use_rep="X_f", n_prototypes=4, n_experts=2)
    for sdata, site in zip(pair, "ab", strict=True):
        sdata["table"].obs["site"] = pd.Categorical([site] * 36)
    reads = {"label_key": "organ", "use_rep": "X_f"}
    few = sp.tl.few_shot(pair, **reads, shots=(1,), n_repeats=2)
    bench = pd.DataFrame({"gene": ["G0", "G1"], "pearson": [0.1, 0.2], "protocol": "sound", "representation": "a",
                          "fold": "s", "section": "s"})  # fmt: skip
    folds = pd.DataFrame({"variant": ["frozen", "seal"] * 2, "unit": ["u", "u", "v", "v"]})
    folds = folds.assign(fold="u", seed=0, task="expression", metric="pearson", by="probe", direction="", shots=0,
                         value=0.3, chance=0.0, group=folds["unit"])  # fmt: skip
    risks = pd.DataFrame(
        {
            "representation": ["a"] * 4,
            "repeat": 0,
            "fold": [0, 0, 1, 1],
            "patient": list("abcd"),
            "time": [1.0, 2, 3, 4],
            "event": [True, True, False, True],
            "risk": [4.0, 3, 2, 1],
        }
    )
    patients = [featured(name=f"p{i}", seed=i) for i in range(8)]
    known = pd.DataFrame({"sample": [f"p{i}" for i in range(8)], "kind": list("ab") * 4, "time": range(1, 9),
                          "event": [1, 1, 0, 1, 1, 0, 1, 1]})  # fmt: skip
    slides = {"use_rep": "X_f", "labels": known, "groupby": None, "n_folds": 2}
    small = {"n_epochs": 1, "batch_size": 16}
    return {
        "annotate": {"samples": pair, **reads},
        "attention": {"samples": patients, "label_key": "kind", "use_rep": "X_f", "labels": known, "groupby": None,
                      "n_epochs": 1, "hidden": 8},
        "cluster_experts": {"samples": pair, "use_rep": "X_f", "n_prototypes": 4, "n_experts": 2},
        "embed": {"samples": pair, "model": model},
        "expert_agreement": {"samples": pair, "label_key": "organ"},
        "expert_composition": {"samples": pair, "by": "organ", "n_boot": 10},
        "expression_benchmark": {"samples": pair, "use_rep": "X_f", "n_genes": 5, "groupby": None},
        "expression_summary": {"table": bench, "n_boot": 10},
        "expression_trust": {"reference": pair, "model": model, "k": 3, "n_boot": 10},
        "few_shot": {"samples": pair, **reads, "shots": (1,), "n_repeats": 1},
        "few_shot_summary": {"table": few, "n_boot": 10},
        "mixing": {"samples": pair, "use_rep": "X_f", "n_neighbors": 5},
        "pathway_scores": {"samples": pair, "net": {"a": list(GENES[:9]), "b": list(GENES[9:20])}},
        "predict_expression": {"samples": pair, "model": model, "reference": pair, "k": 3},
        "rank_expert_genes": {"samples": pair, "min_spots": 5},
        "retrieval_metrics": {"samples": pair, "model": model, "k": 3},
        "retrieve": {"query": pair, "gallery": pair, "model": model, "k": 3},
        "routing_scores": {"samples": pair, "model": model},
        "slide_embedding": {"samples": patients, "use_rep": "X_f"},
        "score_image": {"samples": pair, "color": "G00"},
        "slide_task": {"bags": patients, "label_key": "kind", **slides, "head": "mean"},
        "survival": {"bags": patients, "time_key": "time", "event_key": "event", **slides, "n_bins": 2},
        "survival_summary": {"table": risks, "n_boot": 10},
        "switchboard": {"samples": pair, "use_rep": "X_f", "genes": list(GENES[:10]), "groupby": None, "k": 3,
                        "spade_settings": {"n_prototypes": 4, "n_experts": 2, "dim": 8, **small},
                        "variants": ["frozen", "spade"], "control": False},
        "switchboard_summary": {"table": folds, "n_boot": 10},
        "train_programs": {"samples": pair, "use_rep": "X_f", "n_clusters": (3,), "n_programs": 2},
        "train_seal": {"samples": pair, "on_features": "X_f", "genes": list(GENES[:10]), "dim": 8, "hidden": 8,
                       "n_epochs": 1, "batch_size": 16},
        "train_spade": {"samples": pair, "use_rep": "X_f", "genes": list(GENES[:10]), "n_prototypes": 4,
                        "n_experts": 2, "dim": 8, **small},
        "umap": {"samples": pair, "use_rep": "X_f"},
    }  # fmt: skip


def test_functions_work_with_the_others(works):
    for function, options in works.items():
        getattr(sp.tl, function)(**options)


@pytest.mark.parametrize(("function", "argument"), CASES)
def test_odd_arguments_are_named(works, function, argument, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = dict(works[function])
    if argument == "control" and function == "retrieval_metrics":
        options["control"] = options["model"]
    if argument == "C" and function != "slide_task":
        options["classifier"] = "linear"
    for value in ODD[function][argument]:
        with pytest.raises(ERRORS) as error:
            getattr(sp.tl, function)(**options | {argument: value})
            pytest.fail(f"{argument}={value!r} is accepted")
        text = str(error.value)
        assert re.search(rf"\b({ALSO.get(argument, argument)})\b", text), (
            f"{type(value).__name__} {value!r:.50}: {text[:300]}"
        )
        assert len(text) < 500, text[:500]
        assert "spade" in str(error.traceback[-1].path), f"{value!r:.50}: {text}"
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize("function", [name for name, options in ODD.items() if "table" not in options])
@pytest.mark.parametrize("samples", [3, None, [3], "no/such.zarr", [], HUGE, {"a": 3}])
def test_samples_are_named(works, function, samples):
    name = FIRST.get(function, "samples")
    with pytest.raises(ERRORS, match=name):
        getattr(sp.tl, function)(**works[function] | {name: samples})
