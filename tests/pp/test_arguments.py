"""What every function of pp says of arguments that make no sense: an error of ours that names the argument."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from helpers.sections import featured

import spade as sp

ERRORS = (ValueError, TypeError, KeyError)
NUMBERS = (["a"], "3", math.nan, math.inf, True, np.array([1.0, 2.0]), -1.5, {})
KEYS = (["a", "b"], 3, math.nan, True, "", np.array([1.0, 2.0]), object())
CHOICES = (*KEYS, "no_such")
FLAGS = (["a"], "yes", 3, math.nan, {})
SEEDS = (["a"], "3", math.nan, True, -1)
ODD = {
    "patches": {
        "image_key": CHOICES, "shapes_key": CHOICES, "table_key": CHOICES, "size_um": (None, *NUMBERS),
        "size_px": (None, 22.5, *NUMBERS), "mpp": NUMBERS[:-1], "key_added": (None, "my key", *KEYS),
    },
    "encode_patches": {
        "encoder": (None, *KEYS), "patches_key": (None, *CHOICES), "table_key": CHOICES, "weights": (["a"], 3, "",
        True),
        "colour": CHOICES, "colour_reference": (3, math.nan, "no such", []),
        "batch_size": (None, 2.5, *NUMBERS), "device": (None, *KEYS), "devices": (None, 2.5, *NUMBERS),
        "client": ("dask", *KEYS), "precision": (None, *CHOICES), "overwrite": (None, *FLAGS), "rng": (None,
        *SEEDS),
        "key_added": ("my key", *KEYS),
    },
    "select_genes": {
        "method": (None, *CHOICES), "n_top_genes": (2.5, *NUMBERS), "min_genes": (None, 2.5, *NUMBERS),
        "include": (3, [], {}, {"a"}),
        "on_few_common": (None, *CHOICES), "fold_case": FLAGS, "by_section": (None, True, *FLAGS), "split_key": CHOICES,
        "layer": CHOICES, "table_key": CHOICES, "key_added": (None, "my key", *KEYS),
    },
    "smooth_expression": {
        "method": (None, *CHOICES), "radius_um": NUMBERS, "layer": CHOICES, "share": (None, 0, 1.5, *NUMBERS),
        "patches_key": (None, *CHOICES), "table_key": CHOICES, "key_added": (None, "my key", *KEYS),
    },
    "spatial_context": {
        "use_rep": (None, *CHOICES), "radius_um": (0, *NUMBERS), "patches_key": (None, *CHOICES), "table_key": CHOICES,
        "key_added": ("my key", *KEYS),
    },
    "split": {
        "groupby": CHOICES, "fractions": (None, 3, "abc", (0.5, 0.5), (math.nan, 0.5, 0.5), ("a", "b", "c"), {}),
        "block_um": (0, *NUMBERS), "guard_um": (10, *NUMBERS), "table_key": CHOICES, "rng": (None, *SEEDS),
        "key_added": (None, "my key", *KEYS),
    },
    "label_patches": {
        "annotations": (None, 3, math.nan, True, ["a"], {}, "no such"), "columns": (3, math.nan, ["a", "b"], [3],
        "no such"),
        "by": (None, *CHOICES), "min_share": (None, 0, 1.5, *NUMBERS), "mpp": (0, *NUMBERS), "table_key": CHOICES,
        "key_added": ("my key", *KEYS), "in_bounds": (0, 1, "yes", math.nan),
    },
    "bin_expression": {
        "size_um": (None, 0, *NUMBERS), "from_": (None, "spots", *CHOICES), "points_key": CHOICES,
        "feature_key": CHOICES, "count_key": CHOICES, "min_qv": (3, *NUMBERS), "layer": CHOICES, "image_key": CHOICES,
        "mpp": (0, *NUMBERS), "min_counts": (None, 0, 2.5, *NUMBERS), "table_key": CHOICES,
        "key_added": (None, "my key", *KEYS),
    },
    "harmonize_genes": {
        "to": (None, "name", *CHOICES), "species": CHOICES, "own_species": (*CHOICES[:-1], "no_such"),
        "tables": (3, math.nan, True, "", [3], {"a": 1}, np.array([1.0])), "table_key": CHOICES,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def sdata():
    found = featured()
    sp.pp.patches(found, size_um=40)
    return found


def settings(function, sdata):
    """Arguments with which a function works."""
    import geopandas
    import shapely

    drawn = geopandas.GeoDataFrame({"label": ["tissue"]}, geometry=[shapely.box(0, 0, 400, 400)])
    return {
        "select_genes": {"min_genes": 5, "n_top_genes": 5},
        "spatial_context": {"use_rep": "X_f"},
        "split": {"groupby": "organ", "fractions": (0.5, 0.5, 0)},
        "label_patches": {"annotations": drawn},
        "bin_expression": {"size_um": 100, "from_": "cells"},
        "harmonize_genes": {"own_species": "human"},
    }.get(function, {})


CASES = [
    (function, argument, value) for function, arguments in ODD.items() for argument in arguments
    for value in arguments[argument]
]  # fmt: skip


@pytest.mark.parametrize(("function", "argument", "value"), CASES)
def test_odd_arguments_are_named(sdata, function, argument, value):
    options = settings(function, sdata) | {argument: value}
    if function == "smooth_expression" and argument == "radius_um":
        options["method"] = "radius"
    with pytest.raises(ERRORS, match=rf"\b{re.escape(argument)}\b") as error:
        getattr(sp.pp, function)(sdata, **options)
    assert "spade" in str(error.traceback[-1].path)


@pytest.mark.parametrize("function", ODD)
@pytest.mark.parametrize("samples", [3, None, [3], "no/such.zarr", []])
def test_samples_are_named(sdata, function, samples):
    with pytest.raises((*ERRORS, FileNotFoundError), match="samples"):
        getattr(sp.pp, function)(samples, **settings(function, sdata))
