"""Run a task on the features of slides, beside what is published."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias, cast

import h5py
import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from spade._checks import shorten
from spade.core.checks import check_choice
from spade.io._feature_files import read_feature_file
from spade.tasks._labels import EVENT, LABEL, PATIENT, TIME, fold_columns, standard_labels
from spade.tasks._match import Features, check_classes, matched
from spade.tasks._records import METRICS, Facts
from spade.tl import few_shot_summary, slide_task, survival, survival_summary

logger = logging.getLogger("spade")
Row: TypeAlias = dict[str, Any]
Files: TypeAlias = dict[str, list[Path]]
#: What ``source`` says of values that were computed here.
OURS = "this run"
COLUMNS = ["encoder", "method", "shots", "metric", "value", "low", "high", "error", "source", "where"]
#: Arguments of ``tl.slide_task`` and ``tl.survival`` that follow from a task.
SET = frozenset(
    ("bags", "labels", "label_key", "target", "time_key", "event_key", "groupby", "fold_key", "cohort_key", "train_on",
     "test_on", "use_rep", "slide_key", "table_key", "key_added", "return_predictions")
)  # fmt: skip


def run_task(
    facts: Facts,
    features: Features,
    labels: pd.DataFrame | str | PathLike[str],
    *,
    subset: bool,
    metric: str | None,
    n_folds: int | None,
    rng: int | np.random.Generator,
    settings: Row,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the values of this run beside the published ones, and the scores that they summarise."""
    if taken := sorted(SET & set(settings)):
        raise TypeError(f"{shorten(taken)}: the task sets {'this' if len(taken) == 1 else 'these'}; leave out.")
    metric = facts.metric if metric is None else metric
    target = _target(facts, metric)
    files, table = matched(facts, features, standard_labels(facts, labels), subset=subset)
    if PATIENT not in table:
        logger.info("%s: no patients are known, so every slide counts as one of another patient", facts.name)
    splits = _splits(facts, table) if n_folds is None else []
    if n_folds is None and not splits:
        n_folds = facts.protocol.folds
    common = {"groupby": PATIENT if PATIENT in table else None, "rng": rng, **settings}
    common |= {} if n_folds is None else {"n_folds": n_folds}
    if target == "survival":
        scores = _survival(files, table, splits, common)
        ours = _of_survival(scores, settings, rng)
    else:
        check_classes(facts, table)
        table[LABEL] = _typed(facts, table[LABEL], target)
        scores = _slide_task(files, table, splits, common | {"label_key": LABEL, "target": target})
        ours = _of_slides(scores, metric, rng)
    return pd.DataFrame([*ours, *_published(facts)], columns=COLUMNS), scores


def _splits(facts: Facts, table: pd.DataFrame) -> list[str]:
    """Return the columns of folds, or raise if the table of the task has some and this one has none."""
    prefix = facts.rule.folds if facts.rule else None
    splits = fold_columns(table, prefix)
    if prefix is not None and not splits:
        raise ValueError(
            f"{facts.name}: the labels have no columns {prefix}0, … with the folds of the task. Pass n_folds= to deal "
            "folds anew."
        )
    return splits


def _target(facts: Facts, metric: str) -> str:
    """Return how labels are read: grades count as classes if the metric knows no order."""
    kinds = (facts.kind, "classes") if facts.kind == "ordinal" else (facts.kind,)
    known = [name for kind in kinds for name in METRICS[kind]]
    check_choice("metric", metric, tuple(dict.fromkeys(known)))
    return next(kind for kind in kinds if metric in METRICS[kind])


def _typed(facts: Facts, label: pd.Series, target: str) -> pd.Series:
    """Return labels of the type that says what they are: ordered grades, numbers or texts."""
    if target == "classes":
        return label
    if target == "ordinal" and facts.rule is not None and facts.rule.classes:
        return label.astype(pd.CategoricalDtype(facts.rule.classes, ordered=True))
    numbers = pd.to_numeric(label, errors="coerce")
    if (wrong := label[numbers.isna() & label.notna()]).size:
        raise ValueError(f"{facts.name}: {shorten(sorted(set(wrong)))} among the labels; expected numbers.")
    return numbers.astype("Int64") if target == "ordinal" else numbers


def _parts(table: pd.DataFrame, splits: list[str]) -> pd.Series | None:
    """Return the split that tests every slide, if exactly one does."""
    tests = table[splits] == "test"
    return tests.idxmax(axis=1) if (tests.sum(axis=1) == 1).all() and len(splits) > 1 else None


def _slide_task(files: Files, table: pd.DataFrame, splits: list[str], common: Row) -> pd.DataFrame:
    """Score the folds that are dealt, or those that are given."""
    given = _parts(table, splits)
    kept = table.drop(columns=splits)
    if given is not None:
        return _scores(files, kept.assign(fold=given), common | {"fold_key": "fold"})
    if not splits:
        return _scores(files, kept, common)
    with TemporaryDirectory() as folder:
        if common["head"] == "mean" and len(splits) > 1:
            files = _pooled(files, Path(folder))
        return pd.concat([_one_split(files, kept, table[name], common) for name in splits], ignore_index=True)


def _scores(files: Files, labels: pd.DataFrame, options: Row) -> pd.DataFrame:
    return cast(pd.DataFrame, slide_task(files, labels=labels, **options))


def _one_split(files: Files, table: pd.DataFrame, split: pd.Series, common: Row) -> pd.DataFrame:
    """Scores of the slides that a split tests, by heads of all slides that it trains on."""
    try:
        # of the folds within the training slides nothing is kept; two are the fewest
        cohorts = {"cohort_key": "part", "train_on": "train", "test_on": "test", "n_folds": 2}
        scores = _scores(files, table.assign(part=split), common | cohorts)
    except ValueError as error:
        raise ValueError(f"{split.name}: {error}") from error
    tested = scores[scores["evaluation"] == "external"]
    return tested.assign(unit=tested["unit"].where(tested["unit"] != "test", split.name), split=split.name)


def _pooled(files: Files, folder: Path) -> Files:
    """Write the mean over patches of every slide, which is all that a linear head sees of it, to be read often."""
    pooled: Files = {}
    for number, (encoder, paths) in enumerate(files.items()):
        pooled[encoder] = []
        for path in tqdm(paths, desc="slides", unit="slide"):
            target = folder / str(number) / f"{path.stem}.h5"
            target.parent.mkdir(exist_ok=True)
            with h5py.File(target, "w") as file:
                file["features"] = read_feature_file(path).mean(0, dtype=np.float64, keepdims=True).astype(np.float32)
                file["coords"] = np.zeros((1, 2), dtype=np.int64)
            pooled[encoder].append(target)
    return pooled


def _survival(files: Files, table: pd.DataFrame, splits: list[str], common: Row) -> pd.DataFrame:
    """Predict risks over the folds that are dealt, or those that are given."""
    keys: Row = {"time_key": TIME, "event_key": EVENT}
    if not splits:
        return survival(files, labels=table, **keys, **common)
    given = _parts(table, splits)
    if given is None:
        raise ValueError(
            f"labels: {shorten(splits)} do not test every slide once, as folds of survival do. Pass n_folds= to deal "
            "folds anew."
        )
    return survival(files, labels=table.drop(columns=splits).assign(fold=given), fold_key="fold", **keys, **common)


def _of_slides(scores: pd.DataFrame, metric: str, rng: int | np.random.Generator) -> Iterable[Row]:
    """Mean over folds, with its interval; of a single split, the interval over patients."""
    summary = few_shot_summary(scores, metric=metric, rng=rng)
    methods = dict(zip(scores["representation"], scores["classifier"], strict=True))
    for row in summary.itertuples():
        yield {
            "encoder": row.representation, "method": methods[row.representation], "shots": row.shots, "metric": metric,
            "value": row.mean, "low": row.low, "high": row.high, "source": OURS,
        }  # fmt: skip


def _of_survival(scores: pd.DataFrame, settings: Mapping[str, Any], rng: int | np.random.Generator) -> Iterable[Row]:
    for row in survival_summary(scores, rng=rng).itertuples():
        yield {
            "encoder": row.representation, "method": settings["head"], "shots": 0, "metric": "c_index",
            "value": row.c_index, "low": row.low, "high": row.high, "source": OURS,
        }  # fmt: skip


def _published(facts: Facts) -> Iterable[Row]:
    for figure in facts.published:
        yield asdict(figure) | {"source": figure.source.text}
