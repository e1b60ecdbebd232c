"""A model that was trained briefly, and a toy cohort."""

from __future__ import annotations

import pytest
from helpers.expression import cohort
from helpers.sections import train

import spade as sp


@pytest.fixture(scope="module")
def model():
    return train(cohort(), n_epochs=10, routing_temperature=1.0)


@pytest.fixture(scope="module")
def toy():
    samples = sp.datasets.toy(4, 150)
    sp.pp.patches(samples)
    sp.pp.encode_patches(samples)
    return samples
