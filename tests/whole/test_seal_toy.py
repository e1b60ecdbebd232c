"""Tuning helps on unseen patients of the synthetic cohort, and shuffled pairs do not."""

from __future__ import annotations

import pytest
from seal_toy import FROZEN, SHUFFLED, TUNED, WAYS, figures, make_cohort

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return make_cohort(tmp_path_factory.mktemp("toy"))


def test_a_tuned_encoder_beats_the_frozen_one_and_shuffled_pairs_do_not(cohort, record_property):
    found = {way: figures(way, cohort, seed=0) for way in WAYS}  # benchmarks/seal_toy.py runs three seeds
    for way, those in found.items():
        print(f"\n{way}: {those}")
        record_property(way, str(those))
    frozen, tuned, shuffled = (found[way] for way in (FROZEN, TUNED, SHUFFLED))
    # expression: by the head of each training, and by ridge regression from the image features
    assert tuned.head > frozen.head
    assert tuned.ridge > frozen.ridge + 0.02
    # the own expression among all of the section: beside a head on the frozen features, and ridge regression from them
    assert tuned.joint < frozen.joint
    assert tuned.joint <= frozen.rank  # medians of ranks of few spots may tie
    assert tuned.rank < frozen.rank
    # what is learned from shuffled pairs knows nothing of pairs;
    # its features, changed at random, are those of the frozen encoder or so
    assert abs(shuffled.head) < 0.06 < frozen.head
    assert shuffled.joint > 0.8 * shuffled.chance > frozen.joint
    assert shuffled.ridge - frozen.ridge < (tuned.ridge - frozen.ridge) / 2
