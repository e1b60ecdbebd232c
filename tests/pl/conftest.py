"""Figures are closed after every test, and an embedded toy cohort."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest

import spade as sp


@pytest.fixture(autouse=True)
def _close(monkeypatch):
    monkeypatch.setattr(plt, "show", lambda *_, **__: pytest.fail("plt.show was called"))
    yield
    plt.close("all")


@pytest.fixture
def embedded(cohort, model):
    sp.tl.embed(cohort, model)
    return cohort
