"""Palettes, groups and ends of colours, as users give them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib import colormaps
from matplotlib.colors import to_hex

from spade._samples.shown.colours import SAFE, Column, join_color, join_columns
from spade.pl._draw.colouring import Colouring

KINDS = Column("kind", np.array(["a", "b", "c", ""], dtype=object), {"a": "#111111", "b": "#222222", "c": "#333333"})
NUMBERS = Column("score", np.array([0.0, 1.0, 10.0, np.nan]), None)


def colours(**options):
    (shown,) = Colouring(**options).of([KINDS])
    return shown.column.colours


def test_palettes_are_dicts_lists_or_names():
    assert colours() == KINDS.colours
    assert colours(palette=["r", "g", "b", "k"]) == {"a": "#ff0000", "b": "#008000", "c": "#0000ff"}
    assert colours(palette={"c": "r", "a": "b", "b": "g", "other": "k"})["c"] == "#ff0000"
    assert list(colours(palette="Set2").values()) == [to_hex(colormaps["Set2"](i)) for i in range(3)]
    assert list(colours(palette="viridis").values()) == [to_hex(colormaps["viridis"](x)) for x in (0.0, 0.5, 1.0)]


def test_groups_leave_the_others_without_a_value():
    (shown,) = Colouring(groups=["c", "a"]).of([KINDS])
    assert shown.column.values.tolist() == ["a", "", "c", ""]
    assert shown.column.legend(missing=shown.missing) == [
        ("a (1)", "#111111"), ("c (1)", "#333333"), ("not in groups (2)", "none"),
    ]  # fmt: skip
    assert KINDS.values.tolist() == ["a", "b", "c", ""]


@pytest.mark.parametrize(
    ("options", "ends", "extend"),
    [
        ({}, (0, 10), "neither"),
        ({"vmin": 0.5}, (0.5, 10), "min"),
        ({"vmin": -1, "vmax": "p50"}, (-1, 1), "max"),
        ({"vmin": "p50", "vmax": 2}, (1, 2), "both"),
    ],
)
def test_ends_are_numbers_or_percentiles(options, ends, extend):
    (shown,) = Colouring(**options).of([NUMBERS])
    cmap, norm = shown.scale
    assert (norm.vmin, norm.vmax, cmap.colorbar_extend) == (*ends, extend)


@pytest.mark.parametrize(
    ("options", "columns", "error", "said"),
    [
        ({"palette": {"a": "r"}}, [KINDS], KeyError, r"palette: it has no colour for 'b', 'c' of 'kind'"),
        ({"palette": {"x": "r"}}, [KINDS], KeyError, r"palette: it has none of the categories 'a', 'b', 'c'"),
        ({"palette": ["r"]}, [KINDS], ValueError, r"palette: it has 1 colours, but 'kind' has 3 categories"),
        ({"palette": ["r", "g", "no"]}, [KINDS], ValueError, r"palette: 'no' is no colour"),
        ({"groups": ["a", "x"]}, [KINDS, NUMBERS], KeyError, r"groups: 'x' is not among the categories: 'a', 'b'"),
        ({"groups": "a"}, [NUMBERS], ValueError, r"groups=\['a'\]: numbers are coloured by cmap="),
        ({"vmax": 3, "cmap": "magma"}, [KINDS], ValueError, r"cmap='magma', vmax=3: categories have colours already"),
        ({"vmin": 20}, [NUMBERS], ValueError, r"vmin=20, vmax=10 for 'score': expected vmin below vmax"),
        ({"vmin": "p101"}, [NUMBERS], ValueError, r"vmin='p101': expected a number, or a percentile"),
    ],
)
def test_what_makes_no_sense_is_named(options, columns, error, said):
    with pytest.raises(error, match=said):
        Colouring(**options).of(columns)


def test_numbers_of_one_value_and_of_none_have_a_scale():
    for values in ([2.0, 2.0], [np.nan, np.nan]):
        (shown,) = Colouring().of([Column("score", np.array(values), None)])
        assert shown.scale[1].vmin < shown.scale[1].vmax


def of(names, *stored):
    """Return a categorical column, and the colours of its categories."""
    return pd.Series(pd.Categorical(list(names))), dict(zip(sorted(set(names)), stored, strict=False))


def test_two_categories_of_two_samples_get_two_colours():
    blue, orange = "#1f77b4", "#ff7f0e"
    both = join_columns("kind", [of("st", blue, orange), of("ft", orange, "#1F77B4")]).colours
    assert (both["s"], both["t"]) == (blue, orange), "the first sample decides"
    assert both["f"] not in (blue, orange) and len({*both.values()}) == 3
    assert both == join_columns("kind", [of("st", blue, orange), of("ft", orange, "#1F77B4")]).colours
    one = join_columns("kind", [of("st", SAFE[2], SAFE[3]), of("fit")]).colours
    assert (one["s"], one["t"]) == (SAFE[2], SAFE[3]) and len({*one.values()}) == 4
    numbered = join_columns("e", [of("01", "#111111", "#222222"), of("23", "#111111", "#222222")], experts=True).colours
    assert list(numbered) == list("0123") and len({*numbered.values()}) == 4


def test_one_colour_for_two_categories_of_a_sample_is_kept():
    kept = join_columns("kind", [of("ab", "#111111", "#111111"), of("bc")]).colours
    assert kept["a"] == kept["b"] == "#111111" != kept["c"]
    moved = join_columns("kind", [of("a", "#111111"), of("bc", "#111111", "#111111")]).colours
    assert len({*moved.values()}) == 3


def test_numbers_beside_categories_are_the_same_categories():
    numbers = pd.Series([1.0, 2.0, np.nan], name="layer")
    for columns in ([of("12"), (numbers, {})], [(numbers, {}), of("12")]):
        column = join_color("layer", columns)
        assert list(column.colours) == ["1", "2"]
        assert sorted(column.values) == ["", "1", "1", "2", "2"]
    with pytest.raises(
        TypeError, match=r"color='layer', which has categories in other samples, is a column of numbers"
    ):
        join_color("layer", [of("12"), (numbers / 4, {})])
