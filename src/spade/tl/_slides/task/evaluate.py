"""Heads trained across folds, and on some cohorts for others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
from tqdm.auto import tqdm

from spade.core.arrays import Rows
from spade.core.errors import NonFiniteLossError
from spade.core.rng import numpy_stream
from spade.tl._few_shot.scores import Row
from spade.tl._slides.heads import Moments, SlideHead, fit_slide_head, read_moments
from spade.tl._slides.slide_folds import SlideFolds
from spade.tl._slides.slides import Slides
from spade.tl._slides.task.scores import Predictions
from spade.tl._slides.task.settings import SlideConfig
from spade.tl._slides.task.targets import CONTINUOUS

#: Value of the column ``shots`` if heads are trained on all slides of the other folds.
ALL_SLIDES = 0
CROSS_VALIDATED, EXTERNAL = "cross-validated", "external"


class Draws(NamedTuple):
    """What is trained on every fold: heads, numbers of shots, and repeats with random streams of their own."""

    heads: list[str]
    shots: list[int]
    n_repeats: int
    seed: int


class Fit(NamedTuple):
    """Predictions for a fold or a test cohort, the ``unit``, by one head; and if an inner split chose its epoch."""

    facts: Row
    unit: str
    predictions: Predictions
    selected: bool
    is_external: bool = False


@dataclass(frozen=True)
class Evaluation:
    """Slides and what is trained on them."""

    slides: Slides
    draws: Draws
    config: SlideConfig
    device: str

    def run(self, folds: SlideFolds) -> Iterator[Fit]:
        """Predict every fold of the slides to train on, then every test cohort, by heads that never saw them."""
        moments = {name: read_moments(self.slides.bags, name, self.slides.labelled) for name in self.slides.bags.widths}
        cohorts, within, repeats = self.slides.cohorts, self.slides.to_train(), range(self.draws.n_repeats)
        n_parts = len(folds.names) + (cohorts is not None)
        n_heads = len(moments) * len(self.draws.heads) * len(self.draws.shots)
        with tqdm(total=n_heads * n_parts * len(repeats), desc="slides", unit="fit") as bar:
            for repeat, f in product(repeats, range(len(folds.names))):
                others, query = folds.split(f, within)
                index = repeat * len(folds.names) + f
                for facts, head, train in self._heads(within, moments, others, "slides", index, folds.names[f]):
                    cohort = {} if cohorts is None else _place(CROSS_VALIDATED, " + ".join(cohorts.train_on))
                    predictions = self._predict(head, train, query)
                    yield Fit(facts | {"repeat": repeat} | cohort, folds.names[f], predictions, head.selected)
                    bar.update()
            if cohorts is None:
                return
            for repeat in repeats:
                for facts, head, train in self._heads(within, moments, within.labelled, "cohorts", repeat, "all folds"):
                    for name in cohorts.test_on or ():
                        predictions = self._predict(head, train, self.slides.of_cohorts([name]))
                        place = {"repeat": repeat} | _place(EXTERNAL, name)
                        yield Fit(facts | place, name, predictions, head.selected, is_external=True)
                    bar.update()

    def _predict(self, head: SlideHead, train: Rows, query: Rows) -> Predictions:
        outputs = np.stack([head.read(i)[0] for i in query])
        reference = np.full(len(query), self.slides.value[train].mean())
        return Predictions(query, outputs, reference, head.loss)

    def _heads(
        self, slides: Slides, moments: dict[str, Moments], others: Rows, stream: str, index: int, where: str
    ) -> Iterator[tuple[Row, SlideHead, Rows]]:
        """Train every head on every draw from the slides ``others``."""
        draws = self.draws
        order = numpy_stream(draws.seed, f"shots of {stream}", index).permutation(others)
        seed = int(numpy_stream(draws.seed, f"fit of {stream}", index).integers(2**63))
        first = _first_that_differ if slides.kind == CONTINUOUS else _first_of_every_class
        for n_shots, (name, of_slides), head in product(draws.shots, moments.items(), draws.heads):
            train = others if n_shots == ALL_SLIDES else first(order, slides, n_shots)
            try:
                fitted = fit_slide_head(
                    slides, name, of_slides, head, train, config=self.config, device=self.device, seed=seed
                )
            except NonFiniteLossError as error:
                raise NonFiniteLossError(f"{name}, {head}, {where}: {error}") from error
            representation = name if len(draws.heads) == 1 else f"{name}, {head}"
            yield {"representation": representation, "classifier": head, "shots": n_shots}, fitted, train


def _place(evaluation: str, cohort: str) -> Row:
    return {"evaluation": evaluation, "cohort": cohort}


def _first_of_every_class(order: Rows, slides: Slides, n_shots: int) -> Rows:
    """Return the first ``n_shots`` slides of every class."""
    return np.concatenate([order[slides.y[order] == c][:n_shots] for c in range(len(slides.classes))])


def _first_that_differ(order: Rows, slides: Slides, n_shots: int) -> Rows:
    """Return the first ``n_shots`` slides, the second of which is the first one with another target."""
    second = int(np.flatnonzero(slides.value[order] != slides.value[order[0]])[0])
    return np.concatenate([order[[0, second]], np.delete(order, [0, second])])[:n_shots]
