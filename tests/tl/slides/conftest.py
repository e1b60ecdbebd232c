"""Twelve slides, as samples and as feature files."""

from __future__ import annotations

import pandas as pd
import pytest
from helpers.slides import slide, write_h5


@pytest.fixture(scope="module")
def _twelve():
    return [slide(i) for i in range(12)]


@pytest.fixture
def twelve(_twelve):
    from conftest import fresh

    return [fresh(one) for one in _twelve]


@pytest.fixture
def files(tmp_path, twelve):
    """The same slides as feature files, and their labels."""
    folder = tmp_path / "features"
    folder.mkdir()
    for i, sample in enumerate(twelve):
        write_h5(folder / f"s{i:02d}.h5", sample["table"].obsm["X_f"], three=i % 2 == 0)
    labels = pd.DataFrame(
        {"sample": [f"s{i:02d}" for i in range(12)], "kind": [*"ab"] * 6, "patient": [f"p{i}" for i in range(12)]}
    )
    return folder, labels
