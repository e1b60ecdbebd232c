"""A model that was trained briefly."""

from __future__ import annotations

import pytest
from helpers.sections import cohort, train


@pytest.fixture(scope="module")
def model():
    return train(cohort())
