"""Attention that can be compared between slides."""

from __future__ import annotations

import numpy as np

from spade.tl._slides.attention_scale import PERCENTILE, RELATIVE, scaled_attention

VALUES = np.array([0.1, 0.2, 0.2, 0.5, np.nan, 0.25, 0.75])
SLIDES = np.array(["a"] * 5 + ["b"] * 2)


def test_percentiles_are_ranks_within_a_slide_with_ties_in_their_middle():
    np.testing.assert_allclose(scaled_attention(VALUES, SLIDES, PERCENTILE), [12.5, 50, 50, 87.5, np.nan, 25, 75])


def test_relative_attention_has_mean_one_on_every_slide():
    scaled = scaled_attention(VALUES, SLIDES, RELATIVE)
    np.testing.assert_allclose(scaled, [0.4, 0.8, 0.8, 2.0, np.nan, 0.5, 1.5])


def test_a_slide_without_attention_has_none():
    assert np.isnan(scaled_attention(np.full(2, np.nan), np.array(["a", "a"]), PERCENTILE)).all()
