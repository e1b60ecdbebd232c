"""Settings of slide heads and of their training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from spade._checks import check_idle
from spade.core.checks import (
    brief,
    check_choice,
    check_count,
    check_flag,
    check_not_negative,
    check_positive,
    check_share,
)
from spade.core.slides.epochs import SCHEDULES
from spade.core.slides.heads import HEADS, N_HEADS, Widths, check_widths, first_width
from spade.tl._few_shot.probes import check_paper, check_strength
from spade.tl._slides.task.targets import CLASSES, CONTINUOUS, ORDINAL

MEAN, N_FOLDS = "mean", 5
SCALINGS = ("block", "train", "none")
CROSS_ENTROPY, CUMULATIVE, SQUARED = "cross_entropy", "cumulative", "squared"
#: Losses of every kind of target; the first is the default, and the last goes with the authors' probe.
LOSSES = {CLASSES: (CROSS_ENTROPY,), ORDINAL: (CUMULATIVE, CROSS_ENTROPY), CONTINUOUS: (SQUARED,)}
#: Rules for ``C`` of every loss; the first is the default.
RULES = {CROSS_ENTROPY: ("norm", "paper"), CUMULATIVE: ("norm",), SQUARED: ("cv", "norm")}


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
    """Settings of heads that learn one target per slide; see :func:`spade.tl.slide_task`.

    ``loss``, ``C`` and ``class_weights`` have defaults that depend on the target; None takes them.
    """

    target: str = CLASSES
    loss: str | None = None
    C: float | str | None = None
    scaling: str = "block"
    class_weights: bool | None = None

    def __post_init__(self) -> None:
        """Check the settings, and fill in the defaults of the target."""
        super().__post_init__()
        check_choice("scaling", self.scaling, SCALINGS)
        losses = LOSSES[self.target]
        of_paper = isinstance(self.C, str) and self.C == "paper"
        loss = losses[-1 if of_paper else 0] if self.loss is None else self.loss
        if not isinstance(loss, str) or loss not in losses:
            raise ValueError(
                f"loss={brief(loss)}: expected {' or '.join(map(repr, losses))} for target={self.target!r}."
            )
        if self.class_weights is not None:
            check_flag("class_weights", self.class_weights)
            if self.target == CONTINUOUS:
                raise ValueError(
                    f"class_weights={self.class_weights}: target={self.target!r} has no classes; leave class_weights= "
                    "out."
                )
        rules = RULES[loss]
        c = rules[0] if self.C is None else self.C
        if isinstance(c, str) and c not in rules and self.target != CLASSES:
            raise ValueError(
                f"C={brief(c)}: expected a positive number or {' or '.join(map(repr, rules))} for "
                f"target={self.target!r} with loss={loss!r}."
            )
        check_strength(c, rules)
        class_weights = self.target != CONTINUOUS if self.class_weights is None else bool(self.class_weights)
        check_paper(c, self.scaling, class_weights=class_weights)
        for name, value in (("loss", loss), ("C", c), ("class_weights", class_weights)):
            object.__setattr__(self, name, value)


def check_used(
    cls: type[HeadConfig],
    heads: Sequence[str],
    of_mean: dict[str, object],
    may_be_preset: dict[str, object],
    **of_attention: object,
) -> None:
    """Raise if settings were given that none of the heads has: those of the mean of patches, or of attention."""
    reason = f"head={', '.join(map(repr, heads))} has no such setting"
    if set(heads) == {MEAN}:
        check_idle([(name, value, None) for name, value in may_be_preset.items()], reason)
        check_idle([(name, value, getattr(cls, name)) for name, value in of_attention.items()], reason)
    elif MEAN not in heads:
        check_idle([(name, value, getattr(cls, name)) for name, value in of_mean.items()], reason)


def check_n_folds(n_folds: object, fold_key: object, *, or_none: bool = False) -> int:
    """Return the number of folds to deal, at least 2 (or 0); raise if it was given beside the folds themselves."""
    if fold_key is not None:
        check_idle([("n_folds", n_folds, N_FOLDS)], f"fold_key={brief(fold_key)} says which fold a slide is in")
    if or_none and check_count("n_folds", n_folds, 0) == 1:
        raise ValueError("n_folds=1: expected a whole number of at least 2, or 0 for no cross-validation.")
    return check_count("n_folds", n_folds, 0 if or_none else 2)


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
