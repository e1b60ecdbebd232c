"""Four sections of three classes."""

from __future__ import annotations

import pytest
from helpers.few_shot import labelled


@pytest.fixture
def four():
    return [labelled(f"s{i}", seed=i) for i in range(4)]
