"""What every plot says of arguments that make no sense: an error of ours that names the argument."""

from __future__ import annotations

import math
import re
from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from helpers.plots import section
from helpers.whole_slides import MPP, pieces, slide_of
from matplotlib.figure import Figure

import spade as sp
from spade._keys import write_provenance
from spade.core.experts.routing import Routing

ERRORS = (ValueError, TypeError, KeyError)
COUNTS = (None, ["a"], "3", 2.5, math.nan, math.inf, True, 0, np.array([1.0, 2.0]), {})
KEYS = (None, ["a", "b"], 3, math.nan, True, "", "no such", np.array([1.0, 2.0]), object())
FLAGS = (None, ["a"], "yes", 3, math.nan)
SEEDS = (None, ["a"], "3", math.nan, True, -1)
NAMES = (["no such"], "no such", 3, math.nan, [])
TABLES = (None, 3, "table", [1], {}, pd.DataFrame(), pd.DataFrame({"a": [1]}))
AXES = (3, "axes", [1])
SAMPLES = (None, 3, [3], [])
COLUMNS = (["a", "b"], 3, math.nan, True, "", "no such")  # None: there is none
ON_TISSUE = {"samples": SAMPLES, "patches_key": KEYS, "table_key": KEYS[1:], "ax": AXES, "show": FLAGS}
SIZES = (["a"], "3", math.nan, True, 0, -1)
SHARES = (["a"], "3", math.nan, True, -1, 2)
ENDS = (["a"], "3", "p101", "p", math.nan, True)
FIGURE = {"figsize": (3, "ab", [1], [0, 1], [1, math.nan]), "return_fig": FLAGS}
NUMBERS = {"cmap": COLUMNS, "vmin": ENDS, "vmax": ENDS}
COLOURS = {"palette": (3, True, "no such", [], ["no such"], {"a": 3}), "groups": NAMES, **NUMBERS}
SPOTS = {"size": (None, *SIZES), "alpha_img": (None, *SHARES)}
EXPRESSION = {"layer": COLUMNS, "normalized": FLAGS}
SHOTS = (["a"], "3", 2.5, math.nan, True, 99)
ODD = {
    "attention": {"key": KEYS, "scale": KEYS, **ON_TISSUE, **NUMBERS, **SPOTS, **FIGURE},
    "choose_n_experts": {
        "samples": SAMPLES, "use_rep": KEYS, "groupby": COLUMNS, "counts": (None, 3, "12", ["a"], [0], [math.nan],
        [True]),
        "n_prototypes": COUNTS, "feature_scaling": KEYS, "max_spots": COUNTS, "table_key": KEYS[1:], "rng": SEEDS,
        "ax": AXES,
        "show": FLAGS, **FIGURE,
    },
    "confusion": {
        "table": TABLES, "shots": SHOTS, "normalize": FLAGS, "ncols": COUNTS[1:], "ax": AXES, "show": FLAGS, **FIGURE,
    },
    "embedding": {
        "samples": SAMPLES, "basis": KEYS, "color": (["no such"], "no such", 3, math.nan, [], [3]),
        "n_neighbors": COUNTS, "n_links": SIZES,
        "min_dist": (None, ["a"], "3", math.nan, True, -1), "metric": KEYS, "rng": SEEDS, "table_key": KEYS[1:],
        "ax": AXES,
        "show": FLAGS, "size": SIZES, "ncols": COUNTS[1:], **EXPRESSION, **COLOURS, **FIGURE,
    },
    "expert_clusters": {
        "key": KEYS, "color": COLUMNS, "entropy": FLAGS[1:], **ON_TISSUE, **SPOTS, **EXPRESSION, **COLOURS, **FIGURE,
    },
    "expert_composition": {
        "table": TABLES, "colors": (3, "red", ["red"], {}, {"0": "no such", "1": "red"}), "ax": AXES, "show": FLAGS,
        **FIGURE,
    },
    "expert_gallery": {
        "key": KEYS, "n_patches": COUNTS, "n_genes": COUNTS, "experts": NAMES, "layer": COLUMNS, "normalized": FLAGS,
        **ON_TISSUE, **FIGURE,
    },
    "expert_genes": {"table": TABLES, "n_genes": COUNTS, "scale": FLAGS, "ax": AXES, "show": FLAGS, **FIGURE},
    "expression": {
        "genes": (None, *NAMES), "key": KEYS, "deviation": FLAGS, **EXPRESSION, **ON_TISSUE, **SPOTS, **NUMBERS,
        **FIGURE,
    },
    "expression_ranking": {
        "table": TABLES, "n_genes": COUNTS, "n_boot": COUNTS, "rng": SEEDS, "ax": AXES, "show": FLAGS,
        **FIGURE,
    },
    "few_shot": {
        "table": TABLES, "metric": KEYS, "baseline": COLUMNS, "shots": SHOTS,
        "n_boot": COUNTS,
        "rng": SEEDS, "ax": AXES, "show": FLAGS, **FIGURE,
    },
    "patches": {"spots": NAMES, "n": COUNTS, "rng": SEEDS, **ON_TISSUE, **FIGURE},
    "programs": {
        "model": (None, 3, "model", sp.models.ProgramModel), "n_programs": COUNTS, "layer": COLUMNS, **ON_TISSUE,
        **NUMBERS, **SPOTS, **FIGURE,
    },
    "retrieval": {
        "table": TABLES, "n_queries": COUNTS, "n_patches": COUNTS, "query_samples": (3, []), **ON_TISSUE, **NUMBERS,
        **SPOTS, **FIGURE,
    },
    "retrieval_curve": {"table": TABLES, "galleries": NAMES, "ax": AXES, "show": FLAGS, **FIGURE},
    "roc": {"table": TABLES, "shots": SHOTS, "ncols": COUNTS[1:], "ax": AXES, "show": FLAGS, **FIGURE},
    "routing": {
        "model": (None, 3, "model", sp.models.SpadeModel), "method": KEYS, "cmap": COLUMNS, "ax": AXES, "show": FLAGS,
        **FIGURE,
    },
    "slide": {
        "color": COLUMNS, "region": (3, "abcd", [0, 0, 1], [0, 0, 1, math.nan], [5, 0, 1, 9], [9e6, 0, 9e7, 1]),
        "um_per_px": (["a"], "3", math.nan, True, 0, -1, 1e-6), "alpha": (None, ["a"], "3", math.nan, True, 0, 2),
        **COLOURS, "vmin": (*ENDS, 1e9), "vmax": (*ENDS, -1e9), "alpha_img": SHARES, "ncols": COUNTS[1:],
        **EXPRESSION, "image_key": COLUMNS, **ON_TISSUE, **FIGURE,
    },
    "spatial": {
        "color": (["no such"], "no such", 3, math.nan, [], [3]), **ON_TISSUE, "size": (None, *SIZES),
        "alpha": (None, 0, *SHARES), "alpha_img": SHARES, **EXPRESSION, **COLOURS, **FIGURE, "ncols": COUNTS[1:],
        "image_key": COLUMNS,
        "mpp": (["a"], "3", math.nan, True, 0, 2.0),
    },
    "split": {
        "key": KEYS, **ON_TISSUE, **SPOTS, "palette": COLOURS["palette"], "ncols": COUNTS[1:], **FIGURE,
    },
    "survival": {
        "table": TABLES, "groups": (3, math.nan, "no such", ["a"], []), "n_groups": COUNTS, "time_label": (None, 3,
        ["a"], ""),
        "level": (None, ["a"], "3", math.nan, True, 0, 1), "ax": AXES, "show": FLAGS, **FIGURE,
    },
    "switchboard": {
        "table": TABLES, "metrics": NAMES, "baseline": KEYS, "over": KEYS, "n_boot": COUNTS, "rng": SEEDS, "ax": AXES,
        "show": FLAGS, **FIGURE,
    },
    "tiles": {
        "samples": SAMPLES, "tiles_key": KEYS, "tissue_key": KEYS, "image_key": KEYS[1:], "ax": AXES, "show": FLAGS,
        "alpha_img": SHARES, "ncols": COUNTS[1:], **FIGURE,
    },
    "training": {"model_or_history": TABLES, "ax": AXES, "show": FLAGS, **FIGURE},
}  # fmt: skip


def tissue():
    """A section with everything that plots on tissue read."""
    sdata = section(genes=6)
    table = sdata["table"]
    rng = np.random.default_rng(0)
    table.obsm["X_f"] = rng.normal(size=(table.n_obs, 4)).astype(np.float32)
    table.obsm["X_predicted"] = rng.normal(size=(table.n_obs, 6)).astype(np.float32)
    table.obsm["X_predicted_deviation"] = np.ones((table.n_obs, 6), dtype=np.float32)
    table.uns["predicted_genes"] = np.array(table.var_names, dtype=object)
    table.obs["looks"] = np.full(table.n_obs, 1 / table.n_obs)
    table.obs["looks_predicted"] = pd.Categorical(["a"] * table.n_obs)
    table.obs["spade_split"] = pd.Categorical(["train", "test"] * 17 + ["guard"])
    write_provenance(table.uns, "looks", function="tl.attention", label_key="organ")
    return sdata


def tables():
    """Results of the shape that functions of tl return."""
    pairs = pd.DataFrame(product(["x", "y"], ["0", "1"]), columns=["value", "expert"])
    composition = pairs.assign(by="domain", n_value=10, share=0.5, log2_enrichment=0.1, log2_low=0.0, log2_high=0.2)
    genes = pd.DataFrame(product(["0", "1"], ["G0", "G1"]), columns=["expert", "gene"])
    genes = genes.assign(rank=[1, 2, 2, 1], log_fold_change=[1.0, -1.0, -1.0, 1.0], share_in=0.5)
    draws = pd.DataFrame(
        product(["a", "b"], [1, 4], [0], ["u", "v"]), columns=["representation", "shots", "repeat", "unit"]
    )
    few = pd.concat(
        draws.assign(metric=metric, label=label, value=0.5, n_classes=2)
        for metric, label in [("balanced_accuracy", ""), ("recall", "p"), ("recall", "q")]
    )
    trust = pd.DataFrame({"gene": ["G0", "G1"], "pearson": [0.1, 0.2], "low": [0.0, 0.1], "high": [0.2, 0.3]})
    bench = trust.assign(protocol="sound", representation="a", fold="s", section="s")
    facts = {"fold": "u", "seed": 0, "task": "expression", "metric": "pearson", "by": "probe", "direction": ""}
    variants = pd.DataFrame(product(["frozen", "seal"], ["u", "v"]), columns=["variant", "unit"])
    variants = variants.assign(**facts, shots=0, value=0.3, chance=0.0).assign(group=lambda t: t["unit"])
    hits = {
        "query_sample": "sample",
        "query_section": "sample",
        "query": "spots_s0",
        "sample": "sample",
        "section": "sample",
    }
    found = pd.DataFrame({"spot": ["spots_s1", "spots_s2"], "rank": [1, 2], "score": [0.9, 0.8]}).assign(**hits)
    predicted = draws.assign(label=["p", "q"] * 4, predicted="p", probability_p=0.6, probability_q=0.4)
    recalls = pd.DataFrame({"direction": "image_to_expression", "gallery": "all_spots", "n": 35, "k": [1, 10]})
    recalls = recalls.assign(recall=[0.1, 0.5], chance_recall=[0.03, 0.3])
    history = pd.DataFrame({"expert": "0", "epoch": [1, 2], "train_loss": [2.0, 1.0], "val_loss": [2.0, 1.5]})
    return composition, genes, few, bench, variants, found, predicted, recalls, history


@pytest.fixture(scope="module")
def works():
    """Arguments with which every plot works."""
    sdata = tissue()
    sdata.attrs["spade"]["sample"] = "sample"
    composition, genes, few, bench, variants, found, predicted, recalls, history = tables()
    patients = {"time": [5, 8, 12, 3], "event": [1, 0, 1, 1]}
    slide = slide_of(pieces()[0])
    sp.pp.tissue(slide, mpp=MPP)
    programs = sp.tl.train_programs(
        sdata, use_rep="X_f", genes=list(sdata["table"].var_names), n_clusters=(3,), n_programs=2
    )
    return {
        "attention": {"samples": sdata, "key": "looks"},
        "choose_n_experts": {"samples": sdata, "use_rep": "X_f", "counts": (1, 2), "n_prototypes": 3},
        "confusion": {"table": predicted},
        "embedding": {"samples": sdata, "basis": "X_f"},
        "expert_clusters": {"samples": sdata},
        "expert_composition": {"table": composition},
        "expert_gallery": {"samples": sdata, "n_patches": 1, "n_genes": 1},
        "expert_genes": {"table": genes},
        "expression": {"samples": sdata, "genes": "G0", "deviation": True},
        "expression_ranking": {"table": bench, "n_boot": 10},
        "few_shot": {"table": few, "n_boot": 10},
        "patches": {"samples": sdata, "n": 1},
        "programs": {"samples": sdata, "model": programs, "n_programs": 1},
        "retrieval": {"table": found, "samples": sdata},
        "retrieval_curve": {"table": recalls},
        "roc": {"table": predicted},
        "routing": {"model": Routing(np.eye(4, 3), np.array([0, 1, 1, 0]), np.zeros(3), np.ones(3))},
        "slide": {"samples": sdata, "color": "G0"},
        "spatial": {"samples": sdata, "color": "G0"},
        "split": {"samples": sdata},
        "survival": {"table": patients, "groups": ["a", "a", "b", "b"]},
        "switchboard": {"table": variants, "n_boot": 10},
        "tiles": {"samples": slide},
        "training": {"model_or_history": history},
    }


CASES = [(plot, name, value) for plot, arguments in ODD.items() for name in arguments for value in arguments[name]]


@pytest.mark.parametrize(("plot", "argument", "value"), CASES)
def test_odd_arguments_are_named(works, plot, argument, value):
    options = works[plot] | {argument: value}
    if plot == "embedding" and argument == "show":
        works["embedding"]["samples"]["table"].obsm["X_two"] = np.zeros((35, 2), dtype=np.float32)
        options["basis"] = "X_two"
    with pytest.raises(ERRORS, match=rf"\b{re.escape(argument)}\b") as error:
        getattr(sp.pl, plot)(**options)
    assert "spade" in str(error.traceback[-1].path)


@pytest.mark.parametrize("plot", [name for name in ODD if name != "embedding"])
def test_plots_work_with_the_others(works, plot):
    assert getattr(sp.pl, plot)(**works[plot]) is not None


@pytest.mark.parametrize("plot", ODD)
def test_every_plot_takes_a_size_and_returns_its_figure(works, plot):
    options = works[plot]
    if plot == "embedding":
        options["samples"]["table"].obsm["X_two"] = np.arange(70, dtype=np.float32).reshape(35, 2)
        options = options | {"basis": "X_two"}
    figure = getattr(sp.pl, plot)(**options, figsize=(9, 4), return_fig=True)
    assert isinstance(figure, Figure) and figure.get_size_inches().tolist() == [9, 4]
    with pytest.raises(ValueError, match=r"figsize=\(9, 4\): the Axes of ax= are drawn into; leave figsize= out"):
        getattr(sp.pl, plot)(**options, figsize=(9, 4), ax=plt.figure().subplots())


def test_every_plot_is_tried():
    assert set(ODD) == set(sp.pl.__all__)
