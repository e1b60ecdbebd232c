"""Columns of ``obs``: labels, groups and roles."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spade import _keys
from spade._checks import shorten, value_strings
from spade._samples.sample import Sample, table_keys
from spade.core.checks import check_text
from spade.core.roles import NOT_USED, TRAIN, VAL

logger = logging.getLogger("spade")
ROLES = {_keys.TRAIN: TRAIN, _keys.VAL: VAL}


def obs_column(sample: Sample, key: str, argument: str) -> pd.Series:
    """Return an ``obs`` column; raise with the columns there are."""
    if check_text(argument, key) not in sample.table.obs:
        raise KeyError(
            f"{sample.name}: {argument}={key!r} is not in obs; columns: {shorten(sample.table.obs.columns, 20)}."
        )
    sample.check_current(key)
    return sample.table.obs[key]


def category_strings(column: pd.Series, where: str) -> tuple[NDArray[np.object_], list[str]]:
    """Return the category of every row as a string (``""`` where it is missing), and the categories in order.

    The rule of :func:`value_strings` says what is missing; texts that it takes for missing are counted in the log.
    """
    if isinstance(column.dtype, pd.CategoricalDtype):
        known = column.cat.categories.to_series()
    else:
        known = pd.Series(column.dropna().unique()).sort_values()
    if pd.api.types.is_float_dtype(known.dtype) and (known % 1 != 0).any():
        raise TypeError(
            f"{where} is a column of numbers such as {shorten(known, 2)}; expected categories. Cut it into ranges "
            "first, as with pandas.cut."
        )
    values, categories = value_strings(column), dict.fromkeys(value_strings(known))
    if n_texts := int(((values == "") & column.notna().to_numpy()).sum()):
        texts = column.astype(object)[(values == "") & column.notna().to_numpy()].unique()
        logger.info("%s: %d of %d values (%s) are read as missing", where, n_texts, len(values), shorten(texts))
    if isinstance(column.dtype, pd.CategoricalDtype) or column.dtype.kind == "O":
        if none := sorted({"None", "none"} & set(values.tolist())):
            logger.info("%s: %r is read as a value of its own, not as missing", where, none[0])
    return values, [category for category in categories if category]


def group_labels(sample: Sample, groupby: str | None, argument: str = "groupby") -> NDArray[np.str_]:
    """Return the group of every row as a string (None: its section); missing values raise."""
    if groupby is None:
        return sample.section_of_row()
    labels, _ = read_labels(sample, groupby, argument)
    if n_missing := int((labels == "").sum()):
        raise ValueError(
            f"{sample.name}: obs[{groupby!r}] is missing for {n_missing} of {len(labels)} spots. Fill it in."
        )
    return labels.astype(str)


def section_groups(sample: Sample, groupby: str | None) -> dict[str, str]:
    """Return the group of every section (None: the section itself); raise if a section has several."""
    labels, groups = group_labels(sample, groupby), {}
    for section in sample.sections:
        values = np.unique(labels[section.rows])
        if len(values) > 1:
            raise ValueError(
                f"{section.name}: obs[{groupby!r}] has several values ({shorten(values)}), but whole sections are held "
                "out. Choose a column that has one value per section."
            )
        groups[section.name] = str(values[0])
    return groups


def check_groups(names: Iterable[str], groupby: str | None) -> list[str]:
    """Return the groups in order; raise if there are fewer than two, so that none can be held out."""
    groups = sorted(set(names))
    if len(groups) < 2:
        advice = "" if groupby is None else ", or hold sections out with groupby=None"
        raise ValueError(
            f"groupby={groupby!r}: all sections belong to {groups[0]!r}, so no group can be held out. Add sections of "
            f"other groups{advice}."
        )
    return groups


def check_free(sample: Sample, key: str) -> None:
    """Raise if writing ``obs[key]`` would break what the table or this package relies on."""
    _, region_key, instance_key = table_keys(sample.table, sample.name, sample.table_key)
    record = _keys.read_provenance(sample.table.uns, key)
    if key in (region_key, instance_key, _keys.VALID) or (record and key not in sample.table.obs):
        raise ValueError(
            f"{sample.name}: a label cannot be written as obs[{key!r}], because this name is in use"
            f"{'' if not record else ' by sp.' + record.get('function', '')}. Choose another name with key_added=, or "
            "other columns with columns=."
        )


def categorical(values: Sequence[str] | NDArray[Any], categories: Sequence[str] | None = None) -> pd.Categorical:
    """Return a categorical of strings; empty strings become missing."""
    array: Any = np.array(values, dtype=object)
    present: Any = sorted(set(array.tolist()) - {""}) if categories is None else categories
    array[array == ""] = None
    return pd.Categorical(array, categories=present)


def largest_expert(weights: NDArray[np.floating]) -> pd.Categorical:
    """Return the expert with the largest routing weight ``(n, E)`` of every row; missing where the weights are NaN."""
    experts = [str(e) for e in range(weights.shape[1])]
    routed = ~np.isnan(weights).any(1)
    largest = np.argmax(np.nan_to_num(weights, nan=-1), axis=1)
    return categorical(np.where(routed, np.array(experts)[largest], ""), experts)


def read_roles(sample: Sample, split_key: str | None) -> NDArray[np.int64]:
    """Return the role of every row; without a split every row trains."""
    if split_key is None:
        return np.full(sample.table.n_obs, TRAIN)
    parts = value_strings(obs_column(sample, split_key, "split_key"))
    known = {*ROLES, _keys.TEST, _keys.GUARD, ""}
    odd = sorted(set(parts.tolist()) - known)
    if odd:
        raise ValueError(
            f"{sample.name}: obs[{split_key!r}] has the values {shorten(odd)}; expected 'train', 'val' and 'test' "
            "('guard' or missing: not used), as sp.pp.split writes them."
        )
    return np.array([ROLES.get(part, NOT_USED) for part in parts], dtype=np.int64)


def read_labels(sample: Sample, key: str, argument: str) -> tuple[NDArray[np.object_], list[str]]:
    """Return the category of every spot as a string (``""`` where it is missing), and the categories in order."""
    return category_strings(obs_column(sample, key, argument), f"{sample.name}: {argument}={key!r}")
