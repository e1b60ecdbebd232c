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

from spade._checks import plural, shorten
from spade.core.checks import check_choice
from spade.io._feature_files import read_feature_file
from spade.io._label_table import SAMPLE
from spade.tasks._labels import EVENT, LABEL, PATIENT, TIME, fold_columns, standard_labels
from spade.tasks._match import Features, check_classes, matched
from spade.tasks._records import METRICS, Facts
from spade.tl import few_shot_summary, slide_task, survival, survival_summary
from spade.tl._slides.pooled import PATIENT as PATIENTS
from spade.tl._slides.pooled import check_alike

logger = logging.getLogger("spade")
Row: TypeAlias = dict[str, Any]
Files: TypeAlias = dict[str, list[Path]]
#: Kind of a benchmark whose samples are cases: the slides of a patient are one bag.
CASE = "case"
#: Part of the slides that a split neither trains on nor tests.
LEFT_OUT = "left out"
#: What ``source`` says of values that were computed here.
OURS = "this run"
COLUMNS = ["encoder", "method", "shots", "metric", "value", "low", "high", "error", "source", "where"]
#: Arguments of ``tl.slide_task`` and ``tl.survival`` that follow from a task.
SET = frozenset(
    ("bags", "labels", "label_key", "target", "time_key", "event_key", "groupby", "unit", "fold_key", "cohort_key",
     "train_on", "test_on", "use_rep", "slide_key", "table_key", "key_added", "return_predictions")
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
    patients: Row = {"groupby": PATIENT} if PATIENT in table else {"groupby": None}
    if facts.unit == CASE and PATIENT in table:
        patients["unit"] = PATIENTS
        _check_splits(table, splits)
    common = {"rng": rng, **patients, **settings}
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
    """Return the split that tests every slide, if one of several does and all others train on it."""
    tests, trains = table[splits] == "test", table[splits] == "train"
    are_folds = len(splits) > 1 and (tests.sum(axis=1) == 1).all() and (tests | trains).all(axis=None)
    return tests.idxmax(axis=1) if are_folds else None


def _slide_task(files: Files, table: pd.DataFrame, splits: list[str], common: Row) -> pd.DataFrame:
    """Score the folds that are dealt, or those that are given."""
    given = _parts(table, splits)
    kept = table.drop(columns=splits)
    if given is not None:
        return _scores(files, kept.assign(fold=given), common | {"fold_key": "fold"})
    if not splits:
        return _scores(files, kept, common)
    of_cases = common.get("unit") == PATIENTS
    with TemporaryDirectory() as folder:
        if common["head"] == "mean" and len(splits) > 1:
            cases = dict(zip(table[SAMPLE], table[PATIENT].fillna(table[SAMPLE]), strict=True)) if of_cases else {}
            files = _pooled(files, Path(folder), cases)
        return pd.concat([_one_split(files, kept, table[name], common) for name in splits], ignore_index=True)


def _scores(files: Files, labels: pd.DataFrame, options: Row) -> pd.DataFrame:
    return cast(pd.DataFrame, slide_task(files, labels=labels, **options))


def _one_split(files: Files, table: pd.DataFrame, split: pd.Series, common: Row) -> pd.DataFrame:
    """Scores of the slides that a split tests, by heads that are trained once, on all slides that it trains on."""
    part = split.replace("", LEFT_OUT)
    if n_left_out := int((part == LEFT_OUT).sum()):
        logger.info("%s: %s in neither train nor test, left out", split.name, plural(n_left_out, "slide"))
    try:
        cohorts = {"cohort_key": "part", "train_on": "train", "test_on": "test", "n_folds": 0}
        tested = _scores(files, table.assign(part=part), common | cohorts)
    except ValueError as error:
        raise ValueError(f"{split.name}: {error}") from error
    return tested.assign(unit=tested["unit"].where(tested["unit"] != "test", split.name), split=split.name)


def _check_splits(table: pd.DataFrame, splits: list[str]) -> None:
    """Raise if a split trains on one slide of a case and tests another, or leaves one out."""
    known = table[table[PATIENT].notna()]
    patients, of_slide = np.unique(known[PATIENT].astype(str), return_inverse=True)
    for name in splits:
        entries = known[name].to_numpy(dtype=object)
        check_alike(entries, of_slide, known[SAMPLE].to_numpy(dtype=object), patients, f"labels: {name!r}")


def _pooled(files: Files, folder: Path, cases: Mapping[str, str]) -> Files:
    """Write the mean over the patches of every case, which is all that a linear head sees of it, to be read often.

    Every slide gets a file with that of its case; a slide that has none is a case of its own.
    """
    pooled: Files = {}
    for number, (encoder, paths) in enumerate(files.items()):
        case = {path: cases.get(path.stem, path.stem) for path in paths}
        total: dict[str, Any] = dict.fromkeys(case.values(), 0.0)
        count = dict.fromkeys(case.values(), 0)
        for path in tqdm(paths, desc="slides", unit="slide"):
            x = read_feature_file(path)
            total[case[path]] += x.sum(0, dtype=np.float64)
            count[case[path]] += len(x)
        pooled[encoder] = [folder / str(number) / f"{path.stem}.h5" for path in paths]
        (folder / str(number)).mkdir()
        for path, target in zip(paths, pooled[encoder], strict=True):
            with h5py.File(target, "w") as file:
                file["features"] = (total[case[path]] / count[case[path]]).astype(np.float32)[None]
                file["coords"] = np.zeros((1, 2), dtype=np.int64)
    return pooled


def _survival(files: Files, table: pd.DataFrame, splits: list[str], common: Row) -> pd.DataFrame:
    """Predict risks over the folds that are dealt, or those that are given."""
    keys: Row = {"time_key": TIME, "event_key": EVENT}
    if not splits:
        return survival(files, labels=table, **keys, **common)
    given = _parts(table, splits)
    if given is None:
        raise ValueError(
            f"labels: {shorten(splits)} do not test every slide once and train on it otherwise, as folds of survival "
            "do. Pass n_folds= to deal folds anew."
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
