"""Heat maps of attention, by what the artists hold."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import fresh
from matplotlib.collections import EllipseCollection
from scipy.stats import rankdata

import spade as sp


@pytest.fixture(autouse=True)
def _close(monkeypatch):
    monkeypatch.setattr(plt, "show", lambda *_, **__: pytest.fail("plt.show was called"))
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def _attended(_cohort):
    samples = [fresh(sample) for sample in _cohort]
    table = samples[0]["table"]
    values = table.obsm["X_texture"].copy()
    values[3] = np.nan
    table.obsm["X_texture"] = values
    sp.tl.attention(samples, label_key="organ", use_rep="X_texture", hidden=8, n_epochs=2, device="cpu")
    return samples


@pytest.fixture
def attended(_attended):
    return [fresh(sample) for sample in _attended]


def heat(ax):
    (spots,) = [one for one in ax.collections if isinstance(one, EllipseCollection)]
    return spots


def test_patches_are_coloured_by_their_rank_in_the_slide(attended):
    axes = sp.pl.attention(attended, key="organ_attention")
    assert axes.shape == (2, 2)
    for row, sample in zip(axes, attended, strict=True):
        values = sample["table"].obs["organ_attention"].to_numpy(dtype=float)
        known = np.isfinite(values)
        drawn = heat(row[1]).get_array()
        np.testing.assert_array_equal(np.ma.getmaskarray(drawn), ~known)
        np.testing.assert_allclose(drawn[known], 100 * (rankdata(values[known]) - 0.5) / known.sum())
        assert heat(row[1]).get_clim() == (0, 100)
        assert not [one for one in row[0].collections if isinstance(one, EllipseCollection)]
        assert len(row[0].images) == len(row[1].images) == 1
        predicted = sample["table"].obs["organ_attention_predicted"].dropna().iloc[0]
        assert row[1].get_title(loc="left") == f"attention, predicted organ: {predicted}"


def test_numbers_are_in_the_title(attended):
    for i, sample in enumerate(attended):
        sample["table"].obs["age"] = 40.25 + 10 * i
    slides = sp.tl.attention(
        attended, label_key="age", target="continuous", use_rep="X_texture", hidden=8, n_epochs=1, device="cpu"
    )
    axes = sp.pl.attention(attended, key="age_attention")
    titles = [ax.get_title(loc="left") for ax in axes[:, 1]]
    assert titles == [f"attention, predicted age: {value:.4g}" for value in slides["predicted"]]


def test_relative_attention_is_one_where_all_count_alike(attended):
    attended[1]["table"].obs["organ_attention"] = np.float32(1 / 80)
    axes = sp.pl.attention(attended[1], key="organ_attention", scale="relative")
    np.testing.assert_allclose(heat(axes[0, 1]).get_array(), 1, rtol=1e-6)
    assert heat(axes[0, 1]).get_clim() == (0, 2)


def test_relative_colours_end_at_a_percentile_and_say_so(attended):
    values = np.full(80, 0.5 / 80)
    values[:4] = np.array([5, 10, 20, 40]) / 80
    attended[1]["table"].obs["organ_attention"] = values
    spots = heat(sp.pl.attention(attended[1], key="organ_attention", scale="relative")[0, 1])
    assert spots.get_clim() == (0, pytest.approx(np.percentile(80 * values, 99)))
    assert (spots.cmap.name, spots.colorbar.extend) == ("inferno", "max")
    assert heat(sp.pl.attention(attended[1], key="organ_attention")[0, 1]).colorbar.extend == "neither"


def test_colours_and_sizes_are_scanpys(attended):
    one, other = (
        sp.pl.attention(attended[1], key="organ_attention", **options)[0]
        for options in ({}, {"cmap": "cividis", "vmin": "p50", "vmax": 90, "size": 2, "alpha_img": 0.2})
    )
    spots = heat(other[1])
    assert spots.cmap.name == "cividis" and spots.get_clim() == (50, 90)  # half of the ranks lie below 50
    np.testing.assert_allclose(spots.get_widths(), 2 * heat(one[1]).get_widths())
    assert [ax.images[0].get_alpha() for ax in other] == [1, 0.2]


def test_ranks_are_within_slides_of_a_section(attended):
    table = attended[1]["table"]
    table.obs["half"] = np.array(["left", "right"])[np.arange(80) % 2]
    table.uns["spade"]["organ_attention"]["slide_key"] = "half"
    drawn = heat(sp.pl.attention(attended[1], key="organ_attention")[0, 1]).get_array()
    for k in (0, 1):
        own = table.obs["organ_attention"].to_numpy()[k::2]
        np.testing.assert_allclose(drawn[k::2], 100 * (rankdata(own) - 0.5) / 40)


def test_axes_that_are_given_are_used(attended):
    _, axes = plt.subplots(1, 2)
    found = sp.pl.attention(attended[0], key="organ_attention", ax=axes)
    assert found[0, 0] is axes[0]
    with pytest.raises(ValueError, match="got 2 Axes for 4 panels"):
        sp.pl.attention(attended, key="organ_attention", ax=axes)


def test_attention_that_is_not_there(attended):
    with pytest.raises(KeyError, match="key='organ' does not hold attention; attention is in: 'organ_attention'"):
        sp.pl.attention(attended, key="organ")
    with pytest.raises(ValueError, match="scale='log': expected"):
        sp.pl.attention(attended, key="organ_attention", scale="log")
    del attended[0]["table"].uns["spade"]["patches"]
    with pytest.raises(KeyError, match="patches_key='patches' is not there"):
        sp.pl.attention(attended, key="organ_attention")
