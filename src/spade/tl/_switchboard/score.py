"""How well a variant does on held-out sections: expression, retrieval and few-shot classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from spade.core.arrays import Floats
from spade.core.evaluation.metrics import balanced_accuracy, macro_auroc
from spade.core.evaluation.retrieval import chance_rank, chance_recall, pair_ranks, recall_at
from spade.core.evaluation.scaling import within_sections
from spade.core.expression.correlation import pearson_per_gene
from spade.tl._expression.protocols import fit_probe
from spade.tl._expression.table import mean_known
from spade.tl._few_shot.probes import Probe
from spade.tl._few_shot.scores import Row
from spade.tl._switchboard.folds import Fold
from spade.tl._switchboard.shared_spots import SharedSpots
from spade.tl._switchboard.variants import VariantOutputs

EXPRESSION, RETRIEVAL, FEW_SHOT = "expression", "retrieval", "few_shot"
#: A figure comes from the probe on the image representation, alike for all variants, or from the model itself.
PROBE, MODEL = "probe", "model"
DIRECTIONS = ("image_to_expression", "expression_to_image")


def score(
    outputs: VariantOutputs, shared: SharedSpots, fold: Fold, k: int, shots: Sequence[int], seed: int
) -> Iterator[Row]:
    """Yield one row per held-out section and figure."""
    truth = shared.y[fold.test].toarray()
    probe = fit_probe(outputs.image[fold.train], shared.y[fold.train], fold.inner)
    predicted = probe.predict(outputs.image[fold.test])
    spaces = {PROBE: (_profile(predicted, fold), _profile(truth, fold))}
    if outputs.joint is not None:
        spaces[MODEL] = outputs.joint
    for name in np.unique(shared.section[fold.test]):
        in_section = shared.section[fold.test] == name
        unit: Row = {"unit": str(name), "group": str(shared.group[fold.test][in_section][0])}
        for by, values in ((PROBE, predicted), (MODEL, outputs.predicted)):
            if values is not None:
                pearson = float(mean_known(pearson_per_gene(truth[in_section], values[in_section])))
                yield unit | _row(EXPRESSION, "pearson", by, pearson, 0.0)
        for by, (image, expression) in spaces.items():
            yield from (unit | row for row in _retrieval(image[in_section], expression[in_section], by, k))
    yield from _few_shot(outputs, shared, fold, shots, seed)


def _row(task: str, metric: str, by: str, value: float, chance: float, *, direction: str = "", shots: int = 0) -> Row:
    row: Row = {"task": task, "metric": metric, "by": by, "direction": direction}
    return row | {"shots": shots, "value": value, "chance": chance}


def _profile(expression: Floats, fold: Fold) -> Floats:
    """Standardise genes by training and centre every row, so that cosines are correlations over genes."""
    standard = (expression - fold.mean) / fold.deviation
    return standard - standard.mean(1, keepdims=True)


def _retrieval(image: Floats, expression: Floats, by: str, k: int) -> Iterator[Row]:
    """Both directions, within one section."""
    sizes = np.full(len(image), len(image))
    for direction, pair in zip(DIRECTIONS, ((image, expression), (expression, image)), strict=True):
        ranks = pair_ranks(*pair)
        recall, chance = recall_at(ranks, k), chance_recall(sizes, k)
        yield _row(RETRIEVAL, f"recall@{k}", by, recall, chance, direction=direction)
        yield _row(RETRIEVAL, "median_rank", by, float(np.median(ranks)), chance_rank(sizes), direction=direction)


def _few_shot(
    outputs: VariantOutputs, shared: SharedSpots, fold: Fold, shots: Sequence[int], seed: int
) -> Iterator[Row]:
    """Mean over draws for every held-out section that has labels; the probe is that of :func:`spade.tl.few_shot`."""
    x, y = within_sections(outputs.image, shared.section, block=True, by_column=outputs.from_encoder), shared.label
    n_classes = len(shared.classes)
    for k in shots:
        by_section: dict[tuple[str, str], list[float]] = {}
        for draw in fold.draws:
            support, query = draw.shots(k)
            if not len(query):
                continue
            probabilities = Probe().fit(x[support], y[support], seed)(x[query])
            for name in np.unique(shared.section[query]):
                in_section = shared.section[query] == name
                truth, predicted = y[query[in_section]], probabilities[in_section]
                accuracy = balanced_accuracy(truth, predicted.argmax(1), n_classes)
                by_section.setdefault((name, "balanced_accuracy"), []).append(accuracy)
                by_section.setdefault((name, "macro_auroc"), []).append(macro_auroc(truth, predicted))
        for (name, metric), values in by_section.items():
            unit: Row = {"unit": str(name), "group": str(shared.group[shared.section == name][0])}
            chance = 1 / n_classes if metric == "balanced_accuracy" else 0.5
            yield unit | _row(FEW_SHOT, metric, PROBE, float(mean_known(np.array(values))), chance, shots=k)
