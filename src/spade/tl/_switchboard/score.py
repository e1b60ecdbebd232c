"""How well a variant does on held-out sections: expression, retrieval and few-shot classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spade._samples.features import column_scale
from spade.core.arrays import Floats
from spade.core.evaluation.metrics import balanced_accuracy, macro_auroc
from spade.core.evaluation.retrieval import chance_rank, chance_recall, pair_ranks, recall_at
from spade.core.expression.correlation import pearson_per_gene
from spade.tl._expression.protocols import fit_probe
from spade.tl._expression.table import mean_known
from spade.tl._few_shot.probes import Probe
from spade.tl._switchboard.shared_spots import Fold, SharedSpots
from spade.tl._switchboard.variants import VariantOutputs

EXPRESSION, RETRIEVAL, FEW_SHOT = "expression", "retrieval", "few_shot"
#: Whether a figure is that of a probe on the image representation, alike for all variants, or of the model's own head or space.
PROBE, MODEL = "probe", "model"
DIRECTIONS = ("image_to_expression", "expression_to_image")


def score(
    outputs: VariantOutputs, shared: SharedSpots, fold: Fold, k: int, shots: Sequence[int], seed: int
) -> Iterator[dict[str, Any]]:
    """Yield one row per held-out section and figure."""
    truth = shared.y[fold.test].toarray()
    predicted = fit_probe(outputs.image[fold.train], shared.y[fold.train], fold.inner).predict(outputs.image[fold.test])
    spaces = {PROBE: (_profile(predicted, fold), _profile(truth, fold))}
    if outputs.joint is not None:
        spaces[MODEL] = outputs.joint
    for name in np.unique(shared.section[fold.test]):
        own = shared.section[fold.test] == name
        facts = {"unit": str(name), "group": str(shared.group[fold.test][own][0])}
        for by, values in ((PROBE, predicted), (MODEL, outputs.predicted)):
            if values is not None:
                pearson = float(mean_known(pearson_per_gene(truth[own], values[own])))
                yield facts | _row(EXPRESSION, "pearson", by, pearson, 0.0)
        for by, (image, expression) in spaces.items():
            yield from (facts | row for row in _retrieval(image[own], expression[own], by, k))
    yield from _few_shot(outputs.image, shared, fold, shots, seed)


def _row(
    task: str, metric: str, by: str, value: float, chance: float, direction: str = "", shots: int = 0
) -> dict[str, Any]:
    return {
        "task": task,
        "metric": metric,
        "by": by,
        "direction": direction,
        "shots": shots,
        "value": value,
        "chance": chance,
    }


def _profile(expression: Floats, fold: Fold) -> Floats:
    """Standardise genes by training and centre every row, so that cosines are correlations over genes."""
    standard = (expression - fold.mean) / fold.deviation
    return standard - standard.mean(1, keepdims=True)


def _retrieval(image: Floats, expression: Floats, by: str, k: int) -> Iterator[dict[str, Any]]:
    """Both ways within one section."""
    sizes = np.full(len(image), len(image))
    for direction, pair in zip(DIRECTIONS, ((image, expression), (expression, image)), strict=True):
        ranks = pair_ranks(*pair)
        yield _row(RETRIEVAL, f"recall@{k}", by, recall_at(ranks, k), chance_recall(sizes, k), direction)
        yield _row(RETRIEVAL, "median_rank", by, float(np.median(ranks)), chance_rank(sizes), direction)


def _few_shot(
    image: NDArray[np.float32], shared: SharedSpots, fold: Fold, shots: Sequence[int], seed: int
) -> Iterator[dict[str, Any]]:
    """Mean over draws, of every held-out section that has labels."""
    x, y = image.astype(np.float64), shared.label
    for name in np.unique(shared.section):
        own = shared.section == name
        mean, deviation = column_scale(x[own])
        x[own] = (x[own] - mean) / deviation
    n_classes = len(shared.classes)
    for k in shots:
        found: dict[tuple[str, str], list[float]] = {}
        for draw in fold.draws:
            support, query = draw.shots(k)
            if not len(query):
                continue
            probabilities = Probe().fit(x[support], y[support], seed)(x[query])
            for name in np.unique(shared.section[query]):
                own = shared.section[query] == name
                truth = y[query[own]]
                accuracy = balanced_accuracy(truth, probabilities[own].argmax(1), n_classes)
                found.setdefault((name, "balanced_accuracy"), []).append(accuracy)
                found.setdefault((name, "macro_auroc"), []).append(macro_auroc(truth, probabilities[own]))
        for (name, metric), values in found.items():
            facts = {"unit": str(name), "group": str(shared.group[shared.section == name][0])}
            chance = 1 / n_classes if metric == "balanced_accuracy" else 0.5
            yield facts | _row(FEW_SHOT, metric, PROBE, float(mean_known(np.array(values))), chance, shots=k)
