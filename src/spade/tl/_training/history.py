"""The losses of a training, as tables and as a line of the card."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spade.core.experts.one_process import TrainedExpert


def losses_of_best_epochs(trained: list[TrainedExpert]) -> str:
    """Return the losses of the kept epochs, for the card."""
    parts = []
    for name in ("train", "val"):
        losses = [getattr(one, f"{name}_loss")[one.best_epoch] for one in trained if one.best_epoch >= 0]
        if not np.isnan(losses).all():
            parts.append(f"{name} " + " / ".join("–" if np.isnan(loss) else f"{loss:.3f}" for loss in losses))
    return ", ".join(parts)


def spade_history(trained: list[TrainedExpert], sizes: NDArray[np.int64]) -> pd.DataFrame:
    """Return the losses per expert and epoch."""
    rows = [
        (str(e), epoch, int(sizes[e]), *losses)
        for e, one in enumerate(trained)
        for epoch, losses in enumerate(zip(one.train_loss, one.val_loss, strict=True))
    ]
    return pd.DataFrame(rows, columns=["expert", "epoch", "n_spots", "train_loss", "val_loss"])


def seal_history(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Return every loss per stage and epoch."""
    return pd.DataFrame(rows, columns=["stage", "term", "epoch", "train_loss", "val_loss"])
