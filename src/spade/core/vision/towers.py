"""Image towers: an encoder of pixels, or a small head on the features of a frozen encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spade.core.arrays import Floats

HEADS = ("mlp", "linear")


class PixelTower(nn.Module):
    """An encoder that normalises its input.

    Parameters
    ----------
    model
        An encoder of ``(n, 3, h, w)`` as ``(n, d)``. For ``"cls+mean"`` its ``forward_features`` returns tokens.
    mean, deviation
        Mean and deviation of every channel, for values from 0 to 1.
    pool
        ``"model"``: the output of the encoder. ``"cls+mean"``: class token and mean of the patch tokens, concatenated.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self, model: nn.Module, mean: Sequence[float], deviation: Sequence[float], pool: str = "model"
    ) -> None:
        super().__init__()
        self.model, self.pool = model, pool
        for name, values in (("mean", mean), ("deviation", deviation)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Encode ``(n, 3, h, w)`` with values from 0 to 1 to ``(n, d)``."""
        return pooled(self.model, (x - self.mean) / self.deviation, self.pool)


def pooled(model: Any, x: Tensor, pool: str) -> Tensor:
    """Return the features ``(n, d)`` of a normalised input; ``pool`` is that of :class:`PixelTower`."""
    if pool != "cls+mean":
        return model(x)
    tokens = model.forward_features(x)
    return torch.cat([tokens[:, 0], tokens[:, model.num_prefix_tokens :].mean(1)], dim=-1)


def to_unit(pixels: Tensor) -> Tensor:
    """Turn uint8 ``(n, h, w, 3)`` into ``(n, 3, h, w)`` with values from 0 to 1."""
    return pixels.permute(0, 3, 1, 2).float() / 255


class FeatureTower(nn.Module):
    """A head on standardised features of a frozen encoder.

    Parameters
    ----------
    mean, deviation
        Mean and deviation of every feature in training ``(D,)``.
    dim, hidden
        Widths of the output and of the hidden layer.
    head
        ``"linear"``: ``P x``. ``"mlp"``: ``P x + W2 GELU(W1 x)``, the same with a correction by one hidden layer.
    dropout
        Share of the hidden layer that is dropped in training.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self, mean: Floats, deviation: Floats, dim: int, *, hidden: int = 512, head: str = "mlp", dropout: float = 0.1
    ) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("deviation", deviation)):
            self.register_buffer(name, torch.as_tensor(values, dtype=torch.float32).clone())
        self.projection = nn.Linear(len(mean), dim)
        self.correction = None
        if head == "mlp":
            self.correction = nn.Sequential(
                nn.Linear(len(mean), hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, dim)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Embed features ``(n, D)`` as ``(n, d)``."""
        x = (x - self.mean) / self.deviation
        return self.projection(x) if self.correction is None else self.projection(x) + self.correction(x)
