"""Slides that have both features and a label."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import TypeAlias

import pandas as pd

from spade._checks import plural, shorten
from spade.core.checks import check_flag
from spade.io._feature_files import find_feature_files
from spade.io._label_table import SAMPLE
from spade.tasks._labels import LABEL
from spade.tasks._records import Facts

logger = logging.getLogger("spade")
Folder: TypeAlias = str | PathLike[str] | Iterable[str | PathLike[str]]
Features: TypeAlias = Folder | Mapping[str, Folder]


def matched(
    facts: Facts, features: Features, table: pd.DataFrame, *, subset: bool
) -> tuple[dict[str, list[Path]], pd.DataFrame]:
    """Return the feature files of every encoder and the rows of the table, for slides that have both."""
    check_flag("subset", subset)
    found = _files(features)
    sets = [set(paths) for paths in found.values()]
    with_features, any_features = set.intersection(*sets), set.union(*sets)
    labelled = set(table.loc[table[LABEL].notna(), SAMPLE] if LABEL in table else table[SAMPLE])
    both = with_features & labelled
    parts = _differences(labelled - with_features, any_features - labelled)
    if not both:
        raise ValueError(
            f"{facts.name}: no slide has both features and a label: {' and '.join(parts)}. Slides are named as their "
            "feature files, without suffix."
        )
    if parts and not subset:
        raise ValueError(
            f"{facts.name}: {' and '.join(parts)}; pass subset=True to use the {plural(len(both), 'slide')} that "
            f"{'has' if len(both) == 1 else 'have'} both."
        )
    if parts:
        logger.info("%s: %s; %s used", facts.name, " and ".join(parts), plural(len(both), "slide"))
    files = {encoder: [path for name, path in paths.items() if name in both] for encoder, paths in found.items()}
    return files, table[table[SAMPLE].isin(both)].reset_index(drop=True)


def check_classes(facts: Facts, table: pd.DataFrame) -> None:
    """Raise unless the slides have all classes of the task, and no others."""
    if facts.kind == "continuous":
        return
    there = sorted(set(table[LABEL]))
    known = facts.rule.classes if facts.rule else []
    n_slides = plural(len(table), "slide")
    if lacking := [name for name in known if name not in there]:
        raise ValueError(f"{facts.name}: none of the {n_slides} is of class {shorten(lacking, 20)}.")
    if not known and facts.n_classes and len(there) != facts.n_classes:
        raise ValueError(
            f"{facts.name}: the {n_slides} have {len(there)} classes, {shorten(there, 20)}, but the task has "
            f"{facts.n_classes}."
        )


def _files(features: Features) -> dict[str, dict[str, Path]]:
    """Return the feature files by encoder and slide."""
    if isinstance(features, Mapping):
        if not features:
            raise ValueError("features is empty; expected a folder of feature files per encoder.")
        return {str(name): find_feature_files(folder, f"features[{name!r}]") for name, folder in features.items()}
    return {"features": find_feature_files(features, "features")}


def _differences(only_labels: set[str], only_features: set[str]) -> list[str]:
    parts = []
    if only_labels:
        parts.append(f"{plural(len(only_labels), 'slide')} with a label but no features ({_some(only_labels)})")
    if only_features:
        parts.append(f"{plural(len(only_features), 'slide')} with features but no label ({_some(only_features)})")
    return parts


def _some(names: set[str]) -> str:
    listed = sorted(names)
    return ", ".join(map(repr, listed[:3])) + (", …" if len(listed) > 3 else "")
