"""The scaling of features across slides, and one head trained on slides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from spade.core.arrays import Floats, Rows, scale_of
from spade.core.evaluation.folds import inner_split
from spade.core.evaluation.scaling import scale_of_blocks
from spade.core.rng import numpy_stream, torch_stream
from spade.core.slides.heads import make_head
from spade.core.slides.train import train_bags
from spade.tl._slides.bags import Bags
from spade.tl._slides.slides import Slides
from spade.tl._slides.task.objectives import fit_probe, objective
from spade.tl._slides.task.settings import SlideConfig

#: Patches that are held in double precision at a time.
PATCHES_AT_A_TIME = 4_096
#: Most strata of a continuous target that the slides which select the epoch are taken from.
INNER_STRATA = 4


@dataclass(frozen=True)
class Moments:
    """Mean and variance over the patches of every slide, ``(n_slides, d)``; NaN for slides that were not read."""

    mean: Floats
    variance: Floats

    def over(self, slides: Rows) -> tuple[Floats, Floats]:
        """Mean and variance over the patches of some slides, each of which counts alike."""
        return self.mean[slides].mean(0), self.variance[slides].mean(0) + self.mean[slides].var(0)

    def scale(self, slides: Rows) -> tuple[Floats, Floats]:
        """Mean and deviation over the patches of some slides; constant columns have 1."""
        mean, variance = self.over(slides)
        return mean, scale_of(mean, variance)


def read_moments(bags: Bags, name: str, slides: Rows) -> Moments:
    """Read some slides once, in one representation."""
    shape = len(bags), bags.widths[name]
    mean, variance = np.full(shape, np.nan), np.full(shape, np.nan)
    for i in tqdm(slides, desc=f"reading {name}", unit="slide", leave=False):
        bag = bags.read(i, name)
        mean[i] = bag.mean(0, dtype=np.float64)
        pieces = (bag[start : start + PATCHES_AT_A_TIME] - mean[i] for start in range(0, len(bag), PATCHES_AT_A_TIME))
        variance[i] = sum(np.square(piece).sum(0) for piece in pieces) / len(bag)
    return Moments(mean, variance)


class SlideHead(NamedTuple):
    """A trained head.

    Attributes
    ----------
    read
        From the number of a slide to the probabilities of its classes or grades ``(n_classes,)``, or to the number that
        is predicted ``(1,)``; and the attention of its patches ``(n,)``, which is empty for ``"mean"``.
    selected
        Whether an inner split chose the epoch.
    loss
        What it was trained by, which says how outputs are read.
    """

    read: Callable[[int], tuple[Floats, Floats]]
    selected: bool
    loss: str


def fit_slide_head(
    slides: Slides,
    name: str,
    moments: Moments,
    head: str,
    train: Rows,
    *,
    config: SlideConfig,
    device: str,
    seed: int,
) -> SlideHead:
    """Train a head on the targets of the slides ``train``, in one representation."""
    if head == "mean":
        return _fit_mean(slides, name, moments, train, config, seed)
    scale = _scale(*moments.over(train), slides.bags.blocks[name], config)
    mean, deviation = (torch.from_numpy(values).to(device, torch.float32) for values in scale)

    def read(i: int) -> Tensor:
        return (torch.from_numpy(slides.bags.read(i, name)).to(device) - mean) / deviation

    goal = objective(slides, train, config, device)
    learning, selecting, selected = _inner_split(slides, train, config, seed)
    module = goal.wrapped(
        make_head(
            head, slides.bags.widths[name], goal.n_out, hidden=config.hidden, dropout=config.dropout,
            generator=torch_stream(seed, "head of slides"),
        )
    )  # fmt: skip
    train_bags(
        read, goal.loss, learning.tolist(), selecting.tolist(), module, n_epochs=config.n_epochs, lr=config.lr,
        weight_decay=config.weight_decay, patience=config.patience, schedule=config.schedule, seed=seed, device=device,
    )  # fmt: skip

    @torch.no_grad()
    def predict(i: int) -> tuple[Floats, Floats]:
        outputs, attention = module(read(i))
        return goal.read(outputs.double().cpu().numpy()), attention.double().cpu().numpy()

    return SlideHead(predict, selected, str(config.loss))


def _scale(
    mean: Floats, variance: Floats, blocks: Sequence[tuple[int, bool]], config: SlideConfig
) -> tuple[Floats, Floats]:
    """Mean and deviation that features are scaled by, as ``(x - mean) / deviation``."""
    if config.scaling == "none":
        return np.zeros(len(mean)), np.ones(len(mean))
    return mean, scale_of_blocks(mean, variance, blocks) if config.scaling == "block" else scale_of(mean, variance)


def _fit_mean(slides: Slides, name: str, moments: Moments, train: Rows, config: SlideConfig, seed: int) -> SlideHead:
    """Fit a linear probe to the mean over patches."""
    x = moments.mean[train]
    mean, deviation = _scale(x.mean(0), x.var(0), slides.bags.blocks[name], config)
    outputs = fit_probe(slides, train, (x - mean) / deviation, config, seed)

    def predict(i: int) -> tuple[Floats, Floats]:
        return outputs((moments.mean[[i]] - mean) / deviation)[0], np.zeros(0)

    return SlideHead(predict, selected=False, loss=str(config.loss))


def _inner_split(slides: Slides, train: Rows, config: SlideConfig, seed: int) -> tuple[Rows, Rows, bool]:
    """Return slides to learn from, slides that select the epoch (none if a class has too few), and if there are any."""
    if config.inner_val:
        rng = numpy_stream(seed, "inner split of slides")
        groups = slides.group_numbers(train)
        strata, n_strata = slides.strata(train, max(1, min(INNER_STRATA, len(np.unique(groups)) // 2)))
        selecting = inner_split(groups, strata, n_strata, config.inner_val, rng)
        if selecting is not None:
            return train[~selecting], train[selecting], True
    return train, train[:0], False
