"""Labels from tables, joined by name and never by position."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
from helpers.patches import got, two_regions
from helpers.sections import circles, no_warning, square_lattice, tiny, warns_here

import spade as sp


def test_spots_are_joined_by_id_and_never_by_position(caplog):
    sdata = tiny(12)
    frame = pd.DataFrame(
        {"spot": [f"s{i:02d}" for i in range(11, 1, -1)], "layer": [f"L{i}" for i in range(11, 1, -1)]}
    )
    with caplog.at_level(logging.INFO, logger="spade"):
        sp.pp.label_patches(sdata, frame)
    assert got(sdata, "layer") == [None, None, *(f"L{i}" for i in range(2, 12))]
    assert "10 of 12 spots labelled" in caplog.text
    sp.pp.label_patches(sdata, frame, key_added="truth")
    assert got(sdata, "truth") == got(sdata, "layer")


def test_obs_names_serve_where_they_find_more():
    sdata = two_regions()
    names = list(sdata["table"].obs_names)
    frame = pd.DataFrame({"spot": names[::-1], "i": range(len(names))})
    sp.pp.label_patches(sdata, frame)
    assert sdata["table"].obs["i"].tolist() == list(range(len(names)))[::-1]
    ids = pd.DataFrame({"spot": ["s00", "s01"], "layer": ["a", "b"]})
    with pytest.raises(ValueError, match=r"occur in several of its sections\. Name the section .* \('tiny/.*obs names"):
        sp.pp.label_patches(sdata, ids)
    with warns_here(r"does not mention 'tiny/more'"):
        sp.pp.label_patches(sdata, ids.assign(sample="tiny/spots"))
    first = sdata["table"].obs["region"] == "spots"
    assert sdata["table"].obs["layer"][first].tolist()[:2] == ["a", "b"]
    assert sdata["table"].obs["layer"][~first].isna().all()
    both = pd.DataFrame({"sample": ["tiny", "tiny/more"], "stage": ["I", "II"]})
    with pytest.raises(
        ValueError, match=r"labels spots of 'tiny/more' twice: by the name of the sample and of a section"
    ):
        sp.pp.label_patches(sdata, both)


def test_whole_numbers_as_instance_ids():
    sdata = tiny(12, spots=circles(square_lattice(12), ids=range(12)))
    sp.pp.label_patches(sdata, pd.DataFrame({"spot": [3, 1], "layer": ["c", "a"]}))
    assert got(sdata, "layer")[:4] == [None, "a", None, "c"]


def test_several_samples_need_their_names(tmp_path):
    samples = [tiny(12, name="a"), tiny(12, name="b")]
    text = "slide_id,barcode,layer\na,s00,x\nb,s00,y\nb,s99,z\n"
    (tmp_path / "l.csv").write_text(text)
    with warns_here(r"1 of 3 spots in annotations=.*l\.csv' are not in the samples; their labels are not used"):
        sp.pp.label_patches(samples, tmp_path / "l.csv")
    assert [got(s, "layer")[0] for s in samples] == ["x", "y"]
    frame = sp.io.read_annotations(tmp_path / "l.csv")
    with pytest.raises(ValueError, match=r"no column 'sample', and there are several samples, such as 'a'\. Add the"):
        sp.pp.label_patches(samples, frame.drop(columns="sample").iloc[1:])
    with warns_here(r"annotations= also names 'c', but no sample has this name; these rows are not used"):
        sp.pp.label_patches(samples, frame.replace({"sample": {"a": "c"}}).iloc[:2])  # of a larger cohort
    assert [got(s, "layer")[0] for s in samples] == [None, "y"]
    with pytest.raises(
        KeyError,
        match=r"names 'c', but no sample or section has this name; names: 'a', 'b'\. Leave labels of other samples out",
    ):
        sp.pp.label_patches(samples, frame.replace({"sample": {"a": "c"}}).iloc[:1])
    other = pd.DataFrame({"sample": ["a"] * 2, "spot": ["AAAC-1", "AAAG-1"], "layer": ["x", "y"]})
    said = (
        r"a: none of the 2 spots in annotations= \('AAAC-1', 'AAAG-1'\) is among its 12 "
        r"spots \(instance ids 's00'.*another sample"
    )
    with pytest.raises(ValueError, match=said):
        sp.pp.label_patches(samples, other)


def test_sample_sheet_goes_to_all_spots():
    samples = [tiny(12, name="a"), tiny(12, name="b"), tiny(12, name="c")]
    sheet = pd.DataFrame(
        {"sample": ["c", "a", "b"], "donor": ["P3", "P1", None], "age": [3, 1, 2], "stage": ["II", "I", "I"]}
    )
    with no_warning():
        sp.pp.label_patches(samples, sheet)
    assert [set(got(s, "donor")) for s in samples] == [{"P1"}, {None}, {"P3"}]
    assert [set(got(s, "age")) for s in samples] == [{1}, {2}, {3}]
    assert samples[0]["table"].obs["age"].dtype == np.int64
    assert samples[0]["table"].obs["stage"].cat.categories.tolist() == ["I", "II"]
    with warns_here(r"annotations= does not mention 'b'; labels there are missing"):
        sp.pp.label_patches(samples, sheet.iloc[:2], columns="age", key_added="years")
    assert samples[1]["table"].obs["years"].isna().all()
    assert str(samples[1]["table"].obs["years"].dtype) == "Int64"
    sp.pp.split(samples, groupby="stage", fractions=(0.5, 0, 0.5))  # what labels are for


@pytest.mark.parametrize(
    ("frame", "options", "error", "said"),
    [
        ({"sample": ["a", "a"], "x": [1, 2]}, {}, ValueError, r"samples occur more than once: 'a'"),
        ({"spot": ["s00", "s00"], "x": [1, 2]}, {}, ValueError, r"spots occur more than once: 's00'"),
        ({"spot": ["s00", None], "x": [1, 2]}, {}, ValueError, r"rows have no spot: 2"),
        ({"slide": ["a"], "x": [1]}, {}, ValueError, r"no column 'sample' or 'spot'; columns: 'slide', 'x'\. Rename"),
        ({"sample": [], "x": []}, {}, ValueError, r"has no rows"),
        ({"sample": ["a"], "x": [1]}, {"mpp": 1}, ValueError, r"mpp=1.0 is for polygons"),
        (
            {"sample": ["a"], "x": [1]},
            {"columns": "y"},
            KeyError,
            r"columns='y': annotations= has no such columns; .*'x'",
        ),
        ({"sample": ["a"], "%": [1]}, {}, ValueError, r"columns='%' cannot be stored"),
        (
            {"sample": ["a"], "x": [1], "y": [1]},
            {"key_added": "z"},
            ValueError,
            r"renames one column, but .* has 'x', 'y'",
        ),
        ({"sample": ["a"], "region": ["r"]}, {}, ValueError, r"obs\['region'\], because this name is in use"),
        (
            {"sample": ["a"], "x": [pd.Timestamp(0)]},
            {},
            TypeError,
            r"column 'x' holds Timestamp; expected only strings or only num",
        ),
        ({"sample": ["a"], "x": [[1]]}, {}, TypeError, r"column 'x' holds list"),
    ],
)
def test_tables_that_cannot_be_joined(frame, options, error, said):
    sdata = tiny(6, name="a")
    before = sdata["table"].obs.copy()
    with pytest.raises(error, match=said):
        sp.pp.label_patches(sdata, pd.DataFrame(frame), **options)
    pd.testing.assert_frame_equal(sdata["table"].obs, before)
