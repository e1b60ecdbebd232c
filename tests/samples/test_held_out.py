"""Groups of sections that are held out together, and where the rows of a sample lie."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from helpers.sections import circles, square_lattice, table, tiny

import spade as sp
from spade._samples.obs import check_groups, section_groups
from spade._samples.open import iter_samples
from spade._samples.patches import row_centres


def two_sections():
    """An object with two regions, which have a patient each."""
    one, other = circles(square_lattice(12)), circles(square_lattice(12, start=60.0))
    sdata = tiny(12, shapes={"more": other}, spots=one)
    ids = [*one.index, *other.index]
    patients = pd.Categorical(["p"] * 12 + ["q"] * 12)
    sdata["table"] = table(ids, region=["spots"] * 12 + ["more"] * 12, patient=patients, mixed=["a", "b"] * 12)
    return sdata


def opened(sdata):
    return next(iter_samples(sdata))


def test_every_section_has_one_group():
    sample = opened(two_sections())
    assert section_groups(sample, "patient") == {"tiny/more": "q", "tiny/spots": "p"}
    assert section_groups(sample, None) == {"tiny/more": "tiny/more", "tiny/spots": "tiny/spots"}
    with pytest.raises(ValueError, match=r"tiny/\w+: obs\['mixed'\] has several values \('a', 'b'\).*held out"):
        section_groups(sample, "mixed")
    with pytest.raises(KeyError, match="groupby='donor' is not in obs"):
        section_groups(sample, "donor")


def test_it_takes_two_groups_to_hold_one_out():
    assert check_groups(["q", "p", "q"], "patient") == ["p", "q"]
    with pytest.raises(ValueError, match=r"groupby='patient': all sections belong to 'p'.*groupby=None\."):
        check_groups(["p", "p"], "patient")
    with pytest.raises(ValueError, match=r"groupby=None: all sections belong to 's', .* of other groups\.$"):
        check_groups(["s"], None)


def test_centres_of_all_rows_are_in_micrometres():
    sdata = tiny(12, mpp=2.0)
    sp.pp.patches(sdata, size_um=40)
    centres, side = row_centres(opened(sdata), "patches", required=True)
    np.testing.assert_allclose(centres, 2 * square_lattice(12))
    assert side == 40
    assert row_centres(opened(sdata), "patches", required=False)[0].tolist() == centres.tolist()


def test_centres_are_missing_without_patches_unless_they_are_required():
    sdata = two_sections()
    centres, side = row_centres(opened(sdata), "patches", required=False)
    assert np.isnan(centres).all()
    assert side == 0
    with pytest.raises(KeyError, match="patches_key='patches' is not there"):
        row_centres(opened(sdata), "patches", required=True)
    sp.pp.patches(sdata, shapes_key="more", size_um=40)
    with pytest.raises(KeyError, match=r"tiny/spots has no patches"):
        row_centres(opened(sdata), "patches", required=True)
    centres, side = row_centres(opened(sdata), "patches", required=False)
    assert np.isnan(centres).any(1).tolist() == [True] * 12 + [False] * 12
    assert side == 40
    del sdata.images["image"]
    assert np.isnan(row_centres(opened(sdata), "patches", required=False)[0]).all()
