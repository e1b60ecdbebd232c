"""What experts are made of, counted by hand."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
from helpers.sections import circles, made_of, square_lattice, table, with_experts
from spatialdata import SpatialData

import spade as sp
from spade.core.evaluation.intervals import bootstrap_weights


def test_shares_and_enrichment_are_those_by_hand():
    samples = [
        made_of("a", ["core"] * 6 + ["rim"] * 4, list("0000111111")),
        made_of("b", ["core"] * 2 + ["rim"] * 8, list("0000000001")),
    ]
    found = sp.tl.expert_composition(samples, by="area", n_boot=50).set_index(["value", "expert"])
    assert found["by"].unique().tolist() == ["area"]
    assert found["n"].to_dict() == {("core", "0"): 6, ("core", "1"): 2, ("rim", "0"): 7, ("rim", "1"): 5}
    assert found["n_value"].tolist() == [8, 8, 12, 12]
    assert found["n_units"].tolist() == [2] * 4
    np.testing.assert_allclose(found["share"], [6 / 8, 2 / 8, 7 / 12, 5 / 12])
    np.testing.assert_allclose(found["expected"], [13 / 20, 7 / 20] * 2)
    numbers = ((6, 8, 0.65), (2, 8, 0.35), (7, 12, 0.65), (5, 12, 0.35))
    by_hand = [np.log2((n + 0.5) / (m * e + 0.5)) for n, m, e in numbers]
    np.testing.assert_allclose(found["log2_enrichment"], by_hand)


def test_bounds_are_those_of_drawn_sections_and_patients():
    rng = np.random.default_rng(0)
    samples = []
    for i in range(6):
        experts = list("01")[: i % 2 + 1] + list(rng.choice(["0", "1"], 28, p=[0.2 + 0.1 * i, 0.8 - 0.1 * i]))
        samples.append(made_of(f"s{i}", "all", experts, patient=f"p{i // 2}"))
    counts = np.array([s["table"].obs["spade_expert"].value_counts().reindex(["0", "1"]).to_list() for s in samples])
    for unit, units in ((None, counts), ("patient", counts.reshape(3, 2, 2).sum(1))):
        found = sp.tl.expert_composition(samples, by="area", unit=unit, n_boot=4000, rng=5)
        drawn = bootstrap_weights(len(units), 4000, 99) @ units
        low, high = np.quantile(drawn[:, 0] / drawn.sum(1), [0.025, 0.975])
        assert found["n_units"].tolist() == [len(units)] * 2
        assert (found["share_low"][0], found["share_high"][0]) == pytest.approx((low, high), abs=0.01)
        assert (found["log2_low"] <= found["log2_enrichment"]).all()
    again = [sp.tl.expert_composition(samples, by="area", n_boot=30, rng=rng) for rng in (1, 1, 2)]
    pd.testing.assert_frame_equal(again[0], again[1])
    assert not again[0].equals(again[2])


def test_a_value_of_one_unit_has_no_interval(caplog):
    samples = [made_of(name, "all", list("0011") * 5, donor=name) for name in ("a", "b")]
    with caplog.at_level(logging.INFO, logger="spade"):
        of_donor = sp.tl.expert_composition(samples, by="donor", n_boot=20)
    assert "no interval for values of one section: a, b" in caplog.text
    bounds = ["share_low", "share_high", "log2_low", "log2_high"]
    assert of_donor[bounds].isna().all(axis=None)
    assert of_donor["log2_enrichment"].notna().all()
    assert sp.tl.expert_composition(samples[0], by="area", n_boot=20)[bounds].isna().all(axis=None)
    assert sp.tl.expert_composition(samples, by="area", n_boot=20)[bounds].notna().all(axis=None)


def test_regions_of_one_object_are_units():
    ids = [f"s{i:02d}" for i in range(12)]
    both = SpatialData(
        shapes={"left": circles(square_lattice(12)), "right": circles(square_lattice(12))},
        tables={"table": table(ids * 2, region=["left"] * 12 + ["right"] * 12, area="all")},
    )
    with_experts(both, list("01" * 12))
    found = sp.tl.expert_composition(both, by="area", n_boot=20)
    assert found["n_units"].tolist() == [2, 2]
    assert found["share_low"].tolist() == [0.5, 0.5]


def test_values_keep_their_order_and_missing_ones_are_counted(caplog):
    region = pd.Categorical(["z", "b", None, "z"] * 5, categories=["z", "b", "none"])
    sample = made_of("a", region, ["", *("0", "10", "2") * 6, "0"])
    with caplog.at_level(logging.INFO, logger="spade"):
        found = sp.tl.expert_composition(sample, by="area", n_boot=5)
    assert found["value"].drop_duplicates().tolist() == ["z", "b"]
    assert found["expert"].drop_duplicates().tolist() == ["0", "2", "10"]
    assert found["n"].sum() == 14
    assert "expert_composition: of 20 spots are left out: 1 without expert, 5 without value" in caplog.text
    sample["table"].obs["level"] = [10.0, 9.0, np.nan, 10.0] * 5
    assert sp.tl.expert_composition(sample, by="level")["value"].drop_duplicates().tolist() == ["9", "10"]


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"by": "zone"}, KeyError, r"a: by='zone' is not in obs; columns: .*'area'"),
        ({"by": "area", "unit": "donor"}, KeyError, r"a: unit='donor' is not in obs"),
        ({"by": "area", "unit": "hole"}, ValueError, r"a: obs\['hole'\] is missing for 1 of 10 spots"),
        ({"by": "depth"}, TypeError, r"by='depth' is a column of numbers such as 0\.5, .* pandas\.cut"),
        ({"by": "nothing"}, ValueError, r"by='nothing': no spot has both a value and an expert \(10 spots\)"),
        ({"by": "area", "key": "mine"}, KeyError, r"key='mine'.*experts there: 'spade_expert'"),
        ({"by": "area", "n_boot": 0}, ValueError, r"n_boot=0: expected a whole number"),
        ({"by": "area", "rng": -1}, TypeError, r"rng=-1: expected a non-negative int"),
    ],
)
def test_composition_says_what_it_needs(options, error, said):
    sample = made_of("a", "all", list("01" * 5), hole=[None, *"x" * 9], depth=np.arange(10) + 0.5, nothing=None)
    with pytest.raises(error, match=said):
        sp.tl.expert_composition(sample, **options)
