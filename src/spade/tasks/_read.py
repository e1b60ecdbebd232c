"""Read the facts that the package ships."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from spade.tasks._records import Data, Figure, LabelRule, Protocol, Source
from spade.tasks._task import Task

#: Files of tasks, and of figures with what was trained on the features of slides.
TASKS, FIGURES = ("spade", "patho_bench"), ("threads",)
PROBES = {"survival": "CoxNet"}


@cache
def tasks() -> Mapping[str, Task]:
    """Every task by its name."""
    found: dict[str, Task] = {}
    for name in TASKS:
        content = _load(name)
        for task, facts in content["task"].items():
            if task in found:
                raise ValueError(f"{name}.toml: task {task!r} occurs twice.")
            found[task] = _task(task, content["common"] | facts, content["common"].get("labels"))
    return MappingProxyType(found)


def _task(name: str, facts: dict[str, Any], common_labels: dict[str, Any] | None) -> Task:
    protocol = facts.get("protocol", {})
    return Task(
        name=name,
        title=facts["title"],
        paper=facts["paper"],
        kind=facts["kind"],
        metric=facts["metric"],
        data=_datasets()[facts["data"]],
        source=_sources(facts["source"]),
        protocol=Protocol(
            source=_sources(protocol.get("source", [])),
            folds=protocol.get("folds"),
            shots=tuple(protocol["shots"]) if "shots" in protocol else None,
            repeats=protocol.get("repeats"),
        ),
        rule=_rule((common_labels or {}) | facts["labels"]) if "labels" in facts else None,
        n_classes=facts.get("n_classes"),
        n_samples=facts.get("n_samples"),
        unit=facts.get("unit"),
        note=facts.get("note"),
        published=tuple(
            figure for group in FIGURES for figure in _figures(group, name, facts["metric"], facts["kind"])
        ),
        other_unknown=tuple(facts.get("unknown", ())),
    )


def _rule(labels: dict[str, Any]) -> LabelRule:
    codes = labels.pop("classes", None)
    return LabelRule(**labels | {"source": _sources(labels["source"]), "codes": codes and tuple(codes.items())})


def _figures(group: str, task: str, metric: str, kind: str) -> list[Figure]:
    """Return the published figures of a task."""
    content = _load(group)
    if task not in content["task"]:
        return []
    row = content["task"][task]
    spread = [name for name in ("error", "low", "high") if name in row]
    return [
        Figure(
            value=value,
            metric=metric,
            encoder=encoder,
            method=PROBES.get(kind, "linear probe"),
            source=_all_sources()[content["source"]],
            where=f"Extended Data Table {row['table']}",
            **{name: row[name][i] for name in spread},
        )
        for i, (encoder, value) in enumerate(zip(content["encoders"], row["value"], strict=True))
        if not math.isnan(value)
    ]


@cache
def _load(name: str) -> dict[str, Any]:
    """Return the content of a file of facts."""
    return tomllib.loads(files("spade.tasks").joinpath("_facts", f"{name}.toml").read_text(encoding="utf-8"))


@cache
def _all_sources() -> dict[str, Source]:
    return {name: Source(**facts) for name, facts in _load("sources").items()}


@cache
def _datasets() -> dict[str, Data]:
    return {name: Data(**facts | {"source": _sources(facts["source"])}) for name, facts in _load("datasets").items()}


def _sources(names: list[str]) -> tuple[Source, ...]:
    return tuple(_all_sources()[name] for name in names)
