"""The rows that programs are trained on: scaled image features, and what they shall predict."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spade.core.arrays import Floats, Rows
from spade.core.evaluation.held_out import penalty_folds
from spade.tl._training.data import TrainingData

EXPRESSION, IMAGE = "expression", "image"


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
        """Return training and held-out rows that the penalties are chosen on."""
        known = None if np.isnan(self.points).any() else self.points
        return penalty_folds(self.role, self.section, known, self.side, seed)
