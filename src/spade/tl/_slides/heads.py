"""Settings of slide heads, the scaling of features across slides, and one classification head trained on slides."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import softmax
from torch import Tensor
from tqdm.auto import tqdm

from spade.core.arrays import Floats, Rows, scale_of
from spade.core.checks import (
    brief,
    check_choice,
    check_count,
    check_flag,
    check_not_negative,
    check_positive,
    check_share,
)
from spade.core.evaluation.folds import inner_split
from spade.core.evaluation.scaling import column_scale
from spade.core.rng import numpy_stream, torch_stream
from spade.core.slides.epochs import SCHEDULES
from spade.core.slides.heads import HEADS, N_HEADS, Widths, check_widths, first_width, make_head
from spade.core.slides.train import train_bags
from spade.tl._few_shot.probes import linear
from spade.tl._slides.bags import Bags
from spade.tl._slides.slides import Slides

#: Patches that are held in double precision at a time.
PATCHES_AT_A_TIME = 4_096
SCALINGS = ("train", "none")


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """Settings of heads and their training; see :func:`spade.tl.slide_task`."""

    hidden: Widths = 256
    dropout: float = 0.25
    n_epochs: int = 20
    lr: float = 2e-4
    weight_decay: float = 1e-5
    patience: int = 5
    inner_val: float = 0.2
    schedule: str = "constant"

    def __post_init__(self) -> None:
        """Check the settings."""
        object.__setattr__(self, "hidden", check_widths(self.hidden))
        check_choice("schedule", self.schedule, SCHEDULES)
        for name in ("n_epochs", "patience"):
            check_count(name, getattr(self, name))
        check_share("dropout", self.dropout, "[0, 1)")
        check_positive("lr", self.lr)
        check_not_negative("weight_decay", self.weight_decay)
        if check_not_negative("inner_val", self.inner_val) > 0.5:
            raise ValueError(f"inner_val={brief(self.inner_val)}: expected a number from 0 to 0.5.")


@dataclass(frozen=True, kw_only=True)
class SlideConfig(HeadConfig):
    """Settings of heads that learn classes; see :func:`spade.tl.slide_task`."""

    scaling: str = "train"
    class_weights: bool = True

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        check_choice("scaling", self.scaling, SCALINGS)
        check_flag("class_weights", self.class_weights)


def check_heads(head: object, choices: Sequence[str] = HEADS, *, hidden: Widths) -> list[str]:
    """Return the heads asked for, one or several; ``hidden`` must suit TransMIL if it is among them."""
    heads = list(head) if isinstance(head, Iterable) and not isinstance(head, str) else [head]
    named = [check_choice("head", one, choices) for one in heads]
    if not named or len(set(named)) < len(named):
        raise ValueError(
            f"head={brief(head)}: expected one of {', '.join(map(repr, choices))}, or a list without repeats."
        )
    if "transmil" in named and first_width(hidden) % N_HEADS:
        raise ValueError(f"hidden={brief(hidden)}: expected a multiple of {N_HEADS}, the attention heads of TransMIL.")
    return named


@dataclass(frozen=True)
class Moments:
    """Mean and variance over the patches of every slide, ``(n_slides, d)``; NaN for slides that were not read."""

    mean: Floats
    variance: Floats

    def scale(self, slides: Rows) -> tuple[Floats, Floats]:
        """Mean and deviation over the patches of some slides, each of which counts alike; constant columns have 1."""
        mean = self.mean[slides].mean(0)
        return mean, scale_of(mean, self.variance[slides].mean(0) + self.mean[slides].var(0))


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
        From the number of a slide to the probabilities of its classes ``(n_classes,)`` and the attention of its
        patches ``(n,)``, which is empty for ``"mean"``.
    selected
        Whether an inner split chose the epoch.
    """

    read: Callable[[int], tuple[Floats, Floats]]
    selected: bool


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
    """Train a head on the classes of the slides ``train``, in one representation."""
    if head == "mean":
        return _fit_mean(slides, moments, train, config)
    scale = moments.scale(train) if config.scaling == "train" else _no_scale(slides.bags.widths[name])
    mean, deviation = (torch.from_numpy(values).to(device, torch.float32) for values in scale)

    def read(i: int) -> Tensor:
        return (torch.from_numpy(slides.bags.read(i, name)).to(device) - mean) / deviation

    weight = torch.from_numpy(_class_weights(slides, train, config)).to(device, torch.float32)
    truth = torch.from_numpy(slides.y).to(device)

    def loss(outputs: Tensor, i: int) -> Tensor:
        return weight[truth[i]] * F.cross_entropy(outputs, truth[i])

    learning, selecting, selected = _inner_split(slides, train, config, seed)
    module = make_head(
        head, slides.bags.widths[name], len(slides.classes), hidden=config.hidden, dropout=config.dropout,
        generator=torch_stream(seed, "head of slides"),
    )  # fmt: skip
    train_bags(
        read, loss, learning.tolist(), selecting.tolist(), module, n_epochs=config.n_epochs, lr=config.lr,
        weight_decay=config.weight_decay, patience=config.patience, schedule=config.schedule, seed=seed, device=device,
    )  # fmt: skip

    @torch.no_grad()
    def predict(i: int) -> tuple[Floats, Floats]:
        outputs, attention = module(read(i))
        return softmax(outputs.double().cpu().numpy()), attention.double().cpu().numpy()

    return SlideHead(predict, selected)


def _no_scale(width: int) -> tuple[Floats, Floats]:
    return np.zeros(width), np.ones(width)


def _fit_mean(slides: Slides, moments: Moments, train: Rows, config: SlideConfig) -> SlideHead:
    """Logistic regression on the mean over patches."""
    x = moments.mean[train]
    width = x.shape[1]
    mean, deviation = column_scale(x) if config.scaling == "train" else _no_scale(width)
    strength = width * len(slides.classes) / 100
    probabilities = linear((x - mean) / deviation, slides.y[train], strength, balanced=bool(config.class_weights))

    def predict(i: int) -> tuple[Floats, Floats]:
        return probabilities((moments.mean[[i]] - mean) / deviation)[0], np.zeros(0)

    return SlideHead(predict, selected=False)


def _class_weights(slides: Slides, train: Rows, config: SlideConfig) -> Floats:
    """Weight of every class, ``(n_classes,)``: inversely proportional to its training slides, or 1."""
    n_classes = len(slides.classes)
    if not config.class_weights:
        return np.ones(n_classes)
    return len(train) / (n_classes * np.bincount(slides.y[train], minlength=n_classes))


def _inner_split(slides: Slides, train: Rows, config: SlideConfig, seed: int) -> tuple[Rows, Rows, bool]:
    """Return slides to learn from, slides that select the epoch (none if a class has too few), and if there are any."""
    if config.inner_val:
        rng = numpy_stream(seed, "inner split of slides")
        groups, n_classes = slides.group_numbers(train), len(slides.classes)
        selecting = inner_split(groups, slides.y[train], n_classes, config.inner_val, rng)
        if selecting is not None:
            return train[~selecting], train[selecting], True
    return train, train[:0], False
