"""Rows that a penalty is chosen on."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from spade.core.arrays import Floats, Rows
from spade.core.evaluation.folds import section_folds
from spade.core.rng import numpy_stream
from spade.core.roles import TRAIN, VAL

logger = logging.getLogger("spade")
#: Folds, if there are more sections than this, or neither sections nor positions.
N_FOLDS = 5


def penalty_folds(
    role: Rows, section: NDArray[np.str_], points: Floats | None, patch: float, seed: int
) -> list[tuple[Rows, Rows]]:
    """Return training and held-out rows.

    Held out are the validation rows if there are any; else the sections in turn (five groups of them, if there are more
    than five); of a single section halves with a guard band between them or, if positions are not known, random fifths.

    Parameters
    ----------
    role, section
        Role ``(n,)`` and section of every row; all rows train or validate.
    points, patch
        Positions ``(n, 2)``, and the side of a patch in their unit.
    seed
        Seed of the random fifths.
    """
    if (role == VAL).any():
        return [(np.flatnonzero(role == TRAIN), np.flatnonzero(role == VAL))]
    number = np.unique(section, return_inverse=True)[1] % N_FOLDS
    if folds := section_folds(number.astype(str), points, patch):
        return folds
    logger.info("one section without positions: random spots are held out, so that penalties are chosen too small")
    number = numpy_stream(seed, "random fifths").permutation(len(role)) % N_FOLDS
    return [(np.flatnonzero(number != i), np.flatnonzero(number == i)) for i in np.unique(number)]
