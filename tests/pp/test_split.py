"""Splits: whole patients, whole sections or blocks of tissue, and never the same tissue twice."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import shapely
from helpers.sections import GENES, circles, square_lattice, table, tiny
from spatialdata import read_zarr

import spade as sp

PARTS = ["train", "val", "test"]


def cohort(n=8, spots=12):
    return [tiny(spots, name=f"s{i}") for i in range(n)]


def parts(samples, key="spade_split"):
    return [str(part) for sample in samples for part in sample["table"].obs[key]]


def field(side=14, pitch=30.0, patch=40.0):
    """A square lattice whose patches overlap their neighbours', diagonal ones too."""
    n = side * side
    sdata = tiny(n, spots=circles(20 + pitch * np.column_stack(np.divmod(np.arange(n), side)).astype(float), 5))
    with pytest.warns(UserWarning, match="are off the image"):  # what matters here is geometry alone
        sp.pp.patches(sdata, size_um=patch, size_px=int(patch))
    return sdata


# --- by group


def test_patients_stay_whole_and_shares_are_met():
    samples = cohort()
    for sample, patient in zip(samples, "AABBCDEF", strict=True):  # 2 patients have two sections
        sample["table"].obs["patient"] = pd.Categorical([patient] * 12)
    sp.pp.split(samples, fractions=(0.5, 0.25, 0.25))
    per_patient = pd.Series(parts(samples)).groupby(np.repeat([*"AABBCDEF"], 12)).nunique()
    assert (per_patient == 1).all()
    shares = pd.Series(parts(samples)).value_counts(normalize=True)
    assert shares[PARTS].tolist() == pytest.approx([0.5, 0.25, 0.25], abs=0.13)
    column = samples[0]["table"].obs["spade_split"]
    assert list(column.cat.categories) == [*PARTS, "guard"]


def test_groups_within_one_section():
    sdata = tiny(36)
    sp.pp.split(sdata, groupby="organ", fractions=(0.5, 0.5, 0))
    assert pd.crosstab(sdata["table"].obs["organ"], sdata["table"].obs["spade_split"]).to_numpy().max() == 18
    assert set(parts([sdata])) == {"train", "val"}


def test_without_groups_sections_stay_whole():
    sdata = tiny(12, name="block")
    sdata.shapes["more"] = circles(square_lattice(12))
    ids = list(sdata["spots"].index)
    sdata.tables["table"] = table(ids * 2, GENES, region=["spots"] * 12 + ["more"] * 12)
    sp.pp.split(sdata, groupby=None, fractions=(0.5, 0, 0.5))
    got = np.array(parts([sdata])).reshape(2, 12)
    assert [set(row) for row in got] in ([{"train"}, {"test"}], [{"test"}, {"train"}])


@pytest.mark.parametrize("fractions", [(0.98, 0.01, 0.01), (0.8, 0.1, 0.1), (0, 0.5, 0.5), (1, 0, 0)])
def test_no_wanted_part_stays_empty_and_no_other_is_filled(fractions):
    for seed in range(5):
        samples = cohort(4)
        sp.pp.split(samples, fractions=fractions, rng=seed)
        assert set(parts(samples)) == {part for part, share in zip(PARTS, fractions, strict=True) if share}


def test_the_same_seed_deals_alike_and_another_does_not():
    def dealt(rng):
        samples = cohort()
        sp.pp.split(samples, fractions=(0.5, 0.25, 0.25), rng=rng)
        return parts(samples)

    assert dealt(3) == dealt(3)
    assert dealt(np.random.default_rng(3)) == dealt(np.random.default_rng(3))
    assert len({tuple(dealt(seed)) for seed in range(6)}) > 1
    generator = np.random.default_rng(3)  # moves on with every call
    assert len({tuple(dealt(generator)) for _ in range(6)}) > 1


# --- by block


@pytest.mark.parametrize("seed", range(3))
def test_no_two_parts_show_the_same_tissue(seed):
    sdata = field()
    sp.pp.split(sdata, block_um=150, fractions=(0.5, 0.25, 0.25), rng=seed)
    part = np.array(parts([sdata]))
    squares = sdata["patches"].geometry.to_numpy()

    def overlaps(part):
        used = part != "guard"
        first, second = shapely.STRtree(squares).query(squares, predicate="intersects")
        area = shapely.area(shapely.intersection(squares[first], squares[second]))
        return int(((area > 1e-6) & (part[first] != part[second]) & used[first] & used[second]).sum())

    assert overlaps(part) == 0
    assert set(part) == {*PARTS, "guard"}
    sp.pp.split(sdata, block_um=150, guard_um=0, fractions=(0.5, 0.25, 0.25), rng=seed)
    unguarded = np.array(parts([sdata]))
    assert overlaps(unguarded) > 0  # so the guard is what keeps them apart
    # the guard takes from training first, then from validation, and never from the test
    np.testing.assert_array_equal(part[unguarded == "test"], "test")
    kept = part != "guard"
    np.testing.assert_array_equal(part[kept], unguarded[kept])


def test_the_guard_band_holds_the_neighbours_of_spots_that_lie_far_apart(caplog):
    sdata = field(pitch=60.0, patch=40.0)  # patches of neighbours do not touch
    with caplog.at_level("INFO", logger="spade"):
        sp.pp.split(sdata, block_um=300, fractions=(0.6, 0, 0.4))
    part = np.array(parts([sdata]))
    place = np.column_stack(np.divmod(np.arange(196), 14))
    steps = np.abs(place[part == "train"][:, None] - place[part == "test"][None]).max(2)
    assert steps.min() == 2
    n_guard = int((part == "guard").sum())
    assert n_guard >= 14
    assert f"a guard band of 120 µm holds {n_guard} of 196 spots" in caplog.text


def test_spots_of_a_block_go_together():
    sdata = field()
    sp.pp.split(sdata, block_um=120, guard_um=0, fractions=(0.6, 0, 0.4))
    rows, columns = np.divmod(np.arange(196), 14)
    block = (rows // 4) * 10 + columns // 4  # 4 spots 30 µm apart fit into 120 µm
    assert (pd.Series(parts([sdata])).groupby(block).nunique() == 1).all()


def test_every_section_is_cut_by_itself():
    samples = [field(), field()]
    samples[1].attrs["spade"]["sample"] = "other"
    sp.pp.split(samples, block_um=150, fractions=(0.5, 0.25, 0.25))
    one, other = (np.array(parts([sample])) for sample in samples)
    assert set(one) == set(other) == {*PARTS, "guard"}
    assert (one != other).any()


@pytest.mark.parametrize("seed", range(3))
def test_sections_beside_each_other_on_one_image_share_no_tissue(seed):
    sdata = tiny(36)
    lattice = square_lattice(36, pitch=25.0)
    sdata["spots"] = circles(lattice)
    sdata["right"] = circles(lattice + np.array([150, 0]))  # the next columns of the same lattice
    ids, regions = list(sdata["spots"].index), ["spots"] * 36 + ["right"] * 36
    sdata.tables["table"] = table(ids * 2, region=regions)
    sp.pp.patches(sdata, size_um=40, size_px=40)
    options = {"block_um": 75, "fractions": (0.5, 0, 0.5), "rng": seed}
    squares = np.concatenate([sdata["patches_spots"].geometry, sdata["patches_right"].geometry])

    def overlapping():
        part = np.array(parts([sdata]))
        train, test = np.flatnonzero(part == "train"), np.flatnonzero(part == "test")
        assert len(train)
        assert len(test)
        area = shapely.area(shapely.intersection(squares[train][:, None], squares[test][None]))
        return np.unique([(regions[train[i]], regions[test[j]]) for i, j in np.argwhere(area > 1e-6)], axis=0).tolist()

    sp.pp.split(sdata, **options)
    assert overlapping() == []
    sp.pp.split(sdata, guard_um=0, **options)
    between = overlapping()
    assert ["right", "spots"] in between or ["spots", "right"] in between  # so the guard is what keeps them apart


# --- what is written


def test_provenance_and_stem_and_stores(tmp_path):
    sdata = field()
    path = tmp_path / "s.zarr"
    sp.io.write(sdata, path)
    for samples in (sdata, path):
        sp.pp.split(samples, block_um=150, fractions=(0.5, 0.25, 0.25), rng=7, key_added="fold1")
    again = read_zarr(path)["table"]
    pd.testing.assert_series_equal(again.obs["fold1_split"], sdata["table"].obs["fold1_split"])
    facts = sdata["table"].uns["spade"]["fold1_split"]
    assert facts["function"] == "pp.split"
    assert [facts[k] for k in ("train", "val", "test", "block_um", "seed")] == [0.5, 0.25, 0.25, 150, 7]
    assert "groupby" not in facts
    assert again.uns["spade"] == sdata["table"].uns["spade"]


# --- wrong input


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        (
            {"fractions": (0.8, 0.1)},
            ValueError,
            r"fractions=\(0\.8, 0\.1\): expected three shares of at least 0 that sum to 1",
        ),
        ({"fractions": (0.8, 0.1, 0.2)}, ValueError, r"expected three shares"),
        ({"fractions": (1.2, -0.1, -0.1)}, ValueError, r"expected three shares"),
        ({"groupby": "donor"}, KeyError, r"groupby='donor' is not in obs; columns: .*'patient'"),
        (
            {},
            ValueError,
            r"1 group of obs\['patient'\] cannot fill 3 parts .*p_tiny. Set a "
            r"fraction to 0, choose another groupby=.*block",
        ),
        ({"groupby": None}, ValueError, r"1 section cannot fill 3 parts .*: tiny\. .*block_um="),
        ({"block_um": 0}, ValueError, r"block_um=0: expected a positive number of µm"),
        ({"block_um": 100, "patches_key": "tiles"}, KeyError, r"patches_key='tiles' is not there; patches: 'patches'"),
        ({"block_um": 1e6}, ValueError, r"1 block cannot fill 3 parts"),
        (
            {"block_um": 150, "guard_um": 1e4},
            ValueError,
            r"blocks of 150 µm and a guard band of 10000 µm no spot is left for train, val",
        ),
        ({"block_um": 150, "guard_um": -1}, ValueError, r"guard_um=-1: expected a number of µm of at least 0"),
        ({"guard_um": 50}, ValueError, r"guard_um=50 is not used without block_um="),
        ({"rng": -1}, TypeError, r"rng=-1: expected a non-negative int below 2\*\*63 or a numpy\.random\.Generator"),
        ({"rng": True}, TypeError, r"rng=True"),
        ({"key_added": "a b"}, ValueError, r"key_added='a b' cannot be stored"),
    ],
)
def test_settings_that_cannot_be_met_are_refused(options, error, said):
    sdata = field()
    with pytest.raises(error, match=said):
        sp.pp.split(sdata, **options)
    assert not any(column.endswith("_split") for column in sdata["table"].obs)


def test_patients_must_be_known():
    samples = cohort(4)
    samples[2]["table"].obs["patient"] = pd.Categorical([None] * 12)
    with pytest.raises(ValueError, match=r"s2: obs\['patient'\] is missing for 12 of 12 spots"):
        sp.pp.split(samples)


def test_sections_of_one_name_are_not_taken_for_one():
    samples = [tiny(12, name="a"), tiny(12, name="a"), tiny(12, name="b")]
    with pytest.raises(ValueError, match=r"two sections are named 'a'; give each its own name"):
        sp.pp.split(samples, groupby=None, fractions=(0.5, 0, 0.5))


def test_every_region_needs_patches_for_blocks():
    sdata = field()
    ids = list(sdata["spots"].index)
    sdata.shapes["more"] = circles(square_lattice(196))
    two = table(ids * 2, GENES, region=["spots"] * 196 + ["more"] * 196)
    two.uns["spade"] = sdata["table"].uns["spade"]
    sdata.tables["table"] = two
    with pytest.raises(KeyError, match=r"tiny/more has no patches; run sp\.pp\.patches for every region first"):
        sp.pp.split(sdata, block_um=150, fractions=(0.5, 0.25, 0.25))


def test_a_split_does_not_replace_the_column_that_it_is_made_by():
    samples = sp.datasets.toy(3, 30)
    sp.pp.split(samples, fractions=(0.4, 0.3, 0.3))
    with pytest.raises(ValueError, match=r"key_added='spade' would replace obs\['spade_split'\], which groupby= reads"):
        sp.pp.split(samples, groupby="spade_split", fractions=(0.5, 0, 0.5))
    sp.pp.split(samples, groupby="spade_split", fractions=(0.5, 0, 0.5), key_added="inner")
