"""The rows that programs are trained on: scaled image features, and what they shall predict."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from spade.core.arrays import Floats, Rows
from spade.core.evaluation.folds import section_folds
from spade.core.rng import numpy_stream
from spade.core.roles import TRAIN, VAL
from spade.core.spots.blocks import spacing
from spade.tl._training.data import TrainingData

logger = logging.getLogger("spade")
EXPRESSION, IMAGE = "expression", "image"
#: Folds, if there are more sections than this or no positions; and the guard band between halves, in pitches.
N_FOLDS, GUARD_PITCHES = 5, 2


@dataclass
class ProgramRows(TrainingData):
    """Training and validation rows: ``images`` are features scaled within sections, ``groups`` the labels.

    Attributes
    ----------
    points
        Centres ``(n, 2)`` in µm; NaN where there are no patches.
    side
        Side of a patch in µm.
    """

    points: Floats
    side: float

    def folds(self, seed: int) -> list[tuple[Rows, Rows]]:
        """Return training and held-out rows that the penalties are chosen on.

        Held out are the validation rows if there are any; else the sections in turn (five groups of them, if there are
        more than five); of a single section halves with a guard band between them or, without patches, random fifths.
        """
        if (self.role == VAL).any():
            return [(np.flatnonzero(self.role == TRAIN), np.flatnonzero(self.role == VAL))]
        number = np.unique(self.section, return_inverse=True)[1] % N_FOLDS
        known = None if np.isnan(self.points).any() else self.points
        guard = 0.0 if known is None else max(self.side, GUARD_PITCHES * spacing(known) * (1 + 1e-6))
        if folds := section_folds(number.astype(str), known, guard):
            return folds
        logger.info("train_programs: one section without patches: random spots are held out, so scores are optimistic")
        number = numpy_stream(seed, "folds of programs").permutation(len(self.role)) % N_FOLDS
        return [(np.flatnonzero(number != i), np.flatnonzero(number == i)) for i in np.unique(number)]
