"""Settings of slide heads, and one head trained on slides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import softmax
from torch import Tensor
from tqdm.auto import tqdm

from spade._samples.features import column_scale
from spade.core.arrays import Floats, scale_of
from spade.core.checks import check_count
from spade.core.evaluation.folds import inner_split
from spade.core.rng import numpy_stream, torch_stream
from spade.core.slides.heads import HEADS, N_HEADS, make_head
from spade.core.slides.train import train_bags
from spade.tl._few_shot.probes import linear
from spade.tl._slides.slides import Ints, Read, Slides

#: Rows that are in memory in double precision.
PIECE = 4_096


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """Settings of heads and their training; see :func:`spade.tl.slide_task`."""

    hidden: int = 256
    dropout: float = 0.25
    n_epochs: int = 20
    lr: float = 2e-4
    weight_decay: float = 1e-5
    patience: int = 5
    inner_val: float = 0.2

    def __post_init__(self) -> None:
        """Check the settings."""
        for name in ("hidden", "n_epochs", "patience"):
            check_count(name, getattr(self, name))
        for name, low, high in (("dropout", 0, 1), ("inner_val", 0, 0.5 + 1e-9)):
            if not low <= getattr(self, name) < high:
                raise ValueError(f"{name}={getattr(self, name)!r}: expected a number from 0 to {high:.1g}.")
        if not 0 < self.lr < np.inf:
            raise ValueError(f"lr={self.lr!r}: expected a positive number.")
        if not 0 <= self.weight_decay < np.inf:
            raise ValueError(f"weight_decay={self.weight_decay!r}: expected a number of at least 0.")


@dataclass(frozen=True, kw_only=True)
class SlideConfig(HeadConfig):
    """Settings of heads that learn classes; see :func:`spade.tl.slide_task`."""

    scaling: str = "train"
    class_weights: bool = True

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        if self.scaling not in ("train", "none"):
            raise ValueError(f'scaling={self.scaling!r}: expected "train" or "none".')


def check_heads(head: str | Sequence[str], among: Sequence[str] = HEADS, hidden: int = N_HEADS) -> list[str]:
    """Return the heads asked for."""
    heads = [head] if isinstance(head, str) else list(head)
    if not heads or len(set(heads)) < len(heads) or any(one not in among for one in heads):
        raise ValueError(
            f"head={head!r}: expected {', '.join(map(repr, among))}, or a list of different ones of these."
        )
    if "transmil" in heads and hidden % N_HEADS:
        raise ValueError(f"hidden={hidden!r}: expected a multiple of {N_HEADS}, the attention heads of TransMIL.")
    return heads


@dataclass(frozen=True)
class Moments:
    """Mean and variance over the patches of every slide, ``(n_slides, d)``; NaN for slides that were not read."""

    mean: Floats
    variance: Floats

    def scale(self, train: Ints) -> tuple[Floats, Floats]:
        """Mean and deviation over the patches of some slides, each of which counts alike; a constant column has deviation 1."""
        mean = self.mean[train].mean(0)
        return mean, scale_of(mean, self.variance[train].mean(0) + self.mean[train].var(0))


def read_moments(slides: Slides, name: str) -> Moments:
    """Read every labelled slide once."""
    shape = len(slides.bags), slides.bags.widths[name]
    mean, variance = np.full(shape, np.nan), np.full(shape, np.nan)
    for i in tqdm(slides.labelled, desc=f"reading {name}", unit="slide", leave=False):
        block = slides.bags.read(i, name)
        mean[i] = block.mean(0, dtype=np.float64)
        pieces = (block[start : start + PIECE] - mean[i] for start in range(0, len(block), PIECE))
        variance[i] = sum(np.square(piece).sum(0) for piece in pieces) / len(block)
    return Moments(mean, variance)


def fit(
    slides: Slides, name: str, moments: Moments, head: str, train: Ints, config: SlideConfig, device: str, seed: int
) -> tuple[Read, bool]:
    """Learn the classes of the slides ``train``; also return whether an inner split chose the epoch."""
    y, n_classes = slides.y[train], len(slides.classes)
    if head == "mean":
        x = moments.mean[train]
        mean, deviation = column_scale(x) if config.scaling == "train" else (np.zeros(x.shape[1]), np.ones(x.shape[1]))
        predict = linear((x - mean) / deviation, y, x.shape[1] * n_classes / 100, balanced=config.class_weights)

        def of_mean(i: int) -> tuple[Floats, Floats]:
            return predict((moments.mean[[i]] - mean) / deviation)[0], np.zeros(0)

        return of_mean, False
    width = slides.bags.widths[name]
    scale = moments.scale(train) if config.scaling == "train" else (np.zeros(width), np.ones(width))
    mean_, deviation_ = (torch.from_numpy(one).to(device, torch.float32) for one in scale)

    def read(i: int) -> Tensor:
        return (torch.from_numpy(slides.bags.read(i, name)).to(device) - mean_) / deviation_

    weights = np.ones(n_classes)
    if config.class_weights:
        weights = len(y) / (n_classes * np.bincount(y, minlength=n_classes))
    weight, truth = torch.from_numpy(weights).to(device, torch.float32), torch.from_numpy(slides.y).to(device)

    def loss(outputs: Tensor, i: int) -> Tensor:
        return weight[truth[i]] * F.cross_entropy(outputs, truth[i])

    val = None
    if config.inner_val:
        groups = np.unique(slides.group[train].astype(str), return_inverse=True)[1]
        val = inner_split(groups, y, n_classes, config.inner_val, numpy_stream(seed, "inner split of slides"))
    own, others = (train, train[:0]) if val is None else (train[~val], train[val])
    module = make_head(
        head,
        width,
        n_classes,
        hidden=config.hidden,
        dropout=config.dropout,
        generator=torch_stream(seed, "head of slides"),
    )
    train_bags(
        read,
        loss,
        own.tolist(),
        others.tolist(),
        module,
        n_epochs=config.n_epochs,
        lr=config.lr,
        weight_decay=config.weight_decay,
        patience=config.patience,
        seed=seed,
        device=device,
    )

    @torch.no_grad()
    def of_head(i: int) -> tuple[Floats, Floats]:
        outputs, attention = module(read(i))
        return softmax(outputs.double().cpu().numpy()), attention.double().cpu().numpy()

    return of_head, val is not None
