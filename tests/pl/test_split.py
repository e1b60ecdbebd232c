"""Splits on the tissue, with their blocks."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
from helpers.plots import MPP, labels_of, section, spots_of
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex

import spade as sp
from spade.pl._split import COLOURS

PITCH, SIDE = 14, 140.0


def blocks(**options):
    """Spots 28 µm apart in blocks of 140 µm."""
    x, y = np.meshgrid(20 + PITCH * np.arange(19), 20 + PITCH * np.arange(14))
    sdata = section(np.column_stack([x.ravel(), y.ravel()]).astype(float))
    sp.pp.split(sdata, block_um=SIDE, fractions=(0.5, 0.25, 0.25), **options)
    return sdata


def lines_of(ax):
    return [one for one in ax.collections if isinstance(one, LineCollection)]


def test_parts_have_their_colours_and_blocks_their_lines():
    sdata = blocks()
    (ax,) = sp.pl.split(sdata)
    obs, name = sdata["table"].obs["spade_split"], sdata.attrs["spade"]["sample"]
    assert [to_hex(face) for face in spots_of(ax).get_facecolors()] == [COLOURS[part] for part in obs]
    counts = obs.value_counts()
    assert labels_of(ax) == [f"{part} ({counts[part]})" for part in COLOURS]
    assert ax.get_title(loc="left") == f"{name}\nblocks of 140 µm, guard band of 56 µm"  # twice the pitch
    (lines,) = lines_of(ax)
    x, y = (np.unique(np.concatenate(lines.get_segments())[:, i]) for i in (0, 1))
    np.testing.assert_allclose(x, MPP * 20 + SIDE * np.arange(5))  # from the first spot to beyond the last
    np.testing.assert_allclose(y, MPP * 20 + SIDE * np.arange(4))
    part = obs.to_numpy().astype(object)
    cells = pd.DataFrame(np.floor((spots_of(ax).get_offsets() - [x[0], y[0]]) / SIDE), columns=["x", "y"])
    assert (cells.assign(part=part)[part != "guard"].groupby(["x", "y"])["part"].nunique() == 1).all()


def test_the_width_that_was_asked_for_is_said_and_moved_blocks_are_not_drawn(caplog):
    sdata = blocks(guard_um=30)
    assert sp.pl.split(sdata)[0].get_title(loc="left").endswith("guard band of 30 µm")
    table = sdata["table"]
    sdata.tables["table"] = table[(sdata["patches"].centroid.x > 50).to_numpy()].copy()
    with caplog.at_level(logging.INFO, logger="spade"):
        (ax,) = sp.pl.split(sdata)
    assert not lines_of(ax)
    assert "the blocks are not drawn" in caplog.text


def test_the_width_is_that_of_the_patches_of_the_split():
    sdata = blocks()
    sp.pp.patches(sdata, size_um=72, size_px=36, key_added="wide", mpp=MPP)
    sp.pp.split(sdata, block_um=SIDE, fractions=(0.5, 0, 0.5), patches_key="wide")
    for options in ({}, {"patches_key": "wide"}):
        assert sp.pl.split(sdata, **options)[0].get_title(loc="left").endswith("guard band of 72 µm")
    del sdata["table"].uns["spade"]["wide"]  # nobody knows how wide they were
    assert sp.pl.split(sdata)[0].get_title(loc="left").endswith("blocks of 140 µm")


def test_groups_have_no_blocks_and_other_splits_their_key(cohort):
    sp.pp.split(cohort, groupby="patient", fractions=(0.5, 0, 0.5), key_added="mine")
    axes = sp.pl.split(cohort, key="mine", palette={"train": "k", "val": "g", "test": "r", "guard": "w"}, size=2)
    assert [ax.get_title(loc="left") for ax in axes] == ["toy_0\nby patient", "toy_1\nby patient"]
    assert not any(map(lines_of, axes))
    assert {len(set(map(to_hex, spots_of(ax).get_facecolors()))) for ax in axes} == {1}
    assert {to_hex(spots_of(ax).get_facecolors()[0]) for ax in axes} == {"#000000", "#ff0000"}
    with pytest.raises(
        KeyError, match=r"obs\['spade_split'\] is not there; splits there: 'mine_split'. Run sp\.pp\.split"
    ):
        sp.pl.split(cohort)
    cohort[0]["table"].obs["odd_split"] = "left"
    with pytest.raises(ValueError, match=r"has the values 'left'; a split has 'train', 'val', 'test', 'guard'"):
        sp.pl.split(cohort[0], key="odd")
