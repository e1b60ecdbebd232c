"""Settings that follow from the number of spots: few experts and many steps for few spots, the paper's for many."""

from __future__ import annotations

import math

import pytest

from spade.core.recipes import cluster_recipe, given_settings, learning_rate, seal_recipe, spade_recipe
from spade.models import SealConfig, SpadeConfig


def chosen(n_spots, n_groups=1, **given):
    clusters = cluster_recipe(n_spots, n_groups, given)
    return clusters | spade_recipe(n_spots, given | {"n_experts": clusters["n_experts"]})


@pytest.mark.parametrize("n_spots", [100_000, 534_087, 10**7])
def test_many_spots_of_several_groups_get_the_recipe_of_the_paper(n_spots):
    names = ("n_experts", "n_prototypes", "batch_size", "n_epochs", "lr", "warm_start")
    assert chosen(n_spots, n_groups=12) == {name: getattr(SpadeConfig(), name) for name in names}
    paper = {name: getattr(SealConfig(), name) for name in ("batch_size", "n_epochs", "lr")}
    assert seal_recipe(n_spots, {}, on_features=True) == paper == seal_recipe(n_spots, {}, on_features=False)


@pytest.mark.parametrize("n_groups", [1, 2, 5])
@pytest.mark.parametrize("n_spots", [2, 10, 50, 107, 262, 999, 2_000, 7_500, 20_000, 99_999])
def test_every_expert_has_enough_spots_and_steps(n_spots, n_groups):
    found = chosen(n_spots, n_groups)
    spots = n_spots // found["n_experts"]
    assert found["n_experts"] == 1 or spots >= 1_000
    assert 2 <= found["batch_size"] <= max(2, spots / 2)
    assert found["n_epochs"] * math.ceil(spots / found["batch_size"]) >= 2_000
    assert found["n_epochs"] >= 100
    assert found["n_prototypes"] * n_groups > found["n_experts"] or n_spots < 4 * n_groups
    assert (found["warm_start"] > 0) == (found["n_experts"] > 1)
    assert 1e-4 <= found["lr"] <= 1e-3


def test_one_section_of_classic_st_gets_one_expert():
    assert chosen(262) == {
        "n_experts": 1, "n_prototypes": 16, "batch_size": 128, "n_epochs": 667, "lr": 1e-3, "warm_start": 0,
    }  # fmt: skip
    assert chosen(4_000) == {
        "n_experts": 4, "n_prototypes": 16, "batch_size": 128, "n_epochs": 250, "lr": 5e-4, "warm_start": 32,
    }  # fmt: skip
    assert [learning_rate(n) for n in (1, 1_000, 10_000, 100_000, 10**6)] == [1e-3, 1e-3, 3.2e-4, 1e-4, 1e-4]
    assert cluster_recipe(50_000, 1, {}) == {"n_experts": 16, "n_prototypes": 32}


def test_given_settings_stay_and_the_others_follow_from_them():
    assert chosen(2_000, n_experts=4)["n_epochs"] == 500  # 500 spots, four steps an epoch
    assert chosen(107, n_experts=8)["n_prototypes"] == 16
    assert chosen(2_000, n_experts=4, n_epochs=3) | {"n_epochs": 3, "warm_start": 1} == chosen(
        2_000, n_experts=4, n_epochs=3
    )
    assert chosen(50_000, n_prototypes=4)["n_experts"] == 4
    assert chosen(500, batch_size=50, lr=0.5, n_epochs=7, warm_start=9)["lr"] == 0.5
    assert seal_recipe(200, {"batch_size": 10}, on_features=True)["n_epochs"] == 100
    assert seal_recipe(200, {"batch_size": 10}, on_features=False)["n_epochs"] == 10
    assert given_settings(None, {"lr": None, "n_epochs": 3}) == {"n_epochs": 3}
    with pytest.raises(ValueError, match=r"preset='fast': expected one of 'paper'"):
        given_settings("fast", {})
