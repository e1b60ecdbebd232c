"""Settings of a training that follow from the number of its spots."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from spade.core.checks import check_choice

#: Optimiser steps that a training on features takes at least, and those of a tuned encoder, which are far slower.
MIN_STEPS, MIN_PIXEL_STEPS = 2_000, 200
#: Spots per expert, and the largest number of experts: that of the paper.
SPOTS_PER_EXPERT, MAX_EXPERTS = 1_000, 16
#: Up to this number of spots the learning rate is the highest; from the other on a training is that of the paper.
FEW_SPOTS, MANY_SPOTS = 1_000, 100_000
HIGH_LR, PAPER_LR = 1e-3, 1e-4
#: Prototypes per group, as in the paper; in a single group at least this many for every expert.
PROTOTYPES, PROTOTYPES_PER_EXPERT = 16, 2
SPADE_EPOCHS, SPADE_BATCH = 100, 128
SEAL_EPOCHS, SEAL_BATCH = 10, 384
PAPER = "paper"

#: Settings by name; counts are whole numbers.
Recipe = dict[str, Any]


def given_settings(preset: str | None, settings: Mapping[str, float | None]) -> Recipe:
    """Return the settings that were given, those that are not None; raise for an unknown ``preset``."""
    if preset is not None:
        check_choice("preset", preset, (PAPER,))
    return {name: value for name, value in settings.items() if value is not None}


def learning_rate(n_spots: int) -> float:
    """Return 1e-3 up to 1,000 spots, 1e-4 from 100,000 on, and between them a rate that falls with the square root."""
    return max(PAPER_LR, min(HIGH_LR, float(f"{HIGH_LR * math.sqrt(FEW_SPOTS / max(n_spots, 1)):.2g}")))


def cluster_recipe(n_spots: int, n_groups: int, given: Mapping[str, int | float]) -> Recipe:
    """Return ``n_experts`` and ``n_prototypes`` for a number of spots in some groups; ``given`` ones stay.

    One expert per 1,000 spots, from 1 to 16. 16 prototypes per group or, where these are fewer in all, two for every
    expert, so that the second stage of the clustering joins prototypes; never more than half the spots of a group.
    """
    most = min(MAX_EXPERTS, int(given.get("n_prototypes", MAX_EXPERTS)) * n_groups)
    n_experts = int(given.get("n_experts", min(most, max(1, n_spots // SPOTS_PER_EXPERT))))
    wanted = max(PROTOTYPES, math.ceil(PROTOTYPES_PER_EXPERT * n_experts / n_groups))
    possible = max(n_spots // (2 * n_groups), math.ceil(n_experts / n_groups), 1)
    return {"n_experts": n_experts, "n_prototypes": int(given.get("n_prototypes", min(wanted, possible)))}


def spade_recipe(n_spots: int, given: Mapping[str, int | float]) -> Recipe:
    """Return ``batch_size``, ``n_epochs``, ``lr`` and ``warm_start`` of a training of ``given["n_experts"]`` experts.

    ======================  ===============================================================================
    ``batch_size``          128, or the power of two at or below half the spots of an expert
    ``n_epochs``            100, or as many as 2,000 steps of an expert need
    ``lr``                  1e-3 up to 1,000 spots, 1e-3 · √(1,000 / spots) up to 100,000, then 1e-4
    ``warm_start``          for several experts, as many epochs on all spots as 1,000 steps need, at least 20 and at
                            most n_epochs / 2; 0 for one expert, and from 100,000 spots on
    ======================  ===============================================================================

    With 100,000 spots or more in 16 experts this is the recipe of the paper. Values that were ``given`` stay, and the
    others follow from them.
    """
    n_experts = int(given["n_experts"])
    spots = max(1, n_spots // n_experts)
    batch = int(given.get("batch_size", min(SPADE_BATCH, _power_of_two(spots // 2))))
    n_epochs = int(given.get("n_epochs", max(SPADE_EPOCHS, _epochs(MIN_STEPS, spots, batch))))
    shared = n_experts > 1 and n_spots < MANY_SPOTS
    warm_start = min(n_epochs // 2, max(20, _epochs(MIN_STEPS // 2, n_spots, batch))) if shared else 0
    chosen: Recipe = {
        "batch_size": batch,
        "n_epochs": n_epochs,
        "lr": learning_rate(n_spots),
        "warm_start": warm_start,
    }
    return chosen | dict(given)


def seal_recipe(n_spots: int, given: Mapping[str, int | float], *, on_features: bool) -> Recipe:
    """Return ``batch_size``, ``n_epochs`` and ``lr`` of a training of SEAL.

    ======================  ===============================================================================
    ``batch_size``          384, or the power of two at or below half the spots
    ``n_epochs``            10, or as many as 2,000 steps of a head on features need; 200 steps of an encoder, of
                            which one may take seconds on a CPU
    ``lr``                  as in :func:`spade_recipe`
    ======================  ===============================================================================
    """
    batch = int(given.get("batch_size", min(SEAL_BATCH, _power_of_two(n_spots // 2))))
    steps = MIN_STEPS if on_features else MIN_PIXEL_STEPS
    chosen: Recipe = {
        "batch_size": batch,
        "n_epochs": max(SEAL_EPOCHS, _epochs(steps, n_spots, batch)),
        "lr": learning_rate(n_spots),
    }
    return chosen | dict(given)


def _power_of_two(number: int) -> int:
    """Return the largest power of two that is at most ``number``, and at least 2."""
    return 2 ** max(1, int(number).bit_length() - 1)


def _epochs(n_steps: int, n_spots: int, batch_size: int) -> int:
    """Return the epochs that a number of steps needs."""
    return math.ceil(n_steps / max(1, math.ceil(n_spots / batch_size)))
