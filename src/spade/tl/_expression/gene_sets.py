"""Weighted gene sets, from whatever users hold them in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from os import PathLike
from typing import TypeAlias

import numpy as np
import pandas as pd

from spade._checks import shorten
from spade.core.checks import brief, check_path, is_number
from spade.io._files.gene_sets import read_gmt

SOURCE, TARGET, WEIGHT = "source", "target", "weight"
Net: TypeAlias = pd.DataFrame | Mapping[str, Iterable[str] | Mapping[str, float]] | str | PathLike[str]


def read_net(net: Net) -> pd.DataFrame:
    """Return a row per pathway (``source``), gene (``target``) and ``weight``; each pair of the first two is unique."""
    if isinstance(net, (str, PathLike)):
        return _checked(_of_dict(read_gmt(check_path("net", net), "net")))
    if isinstance(net, Mapping):
        return _checked(_of_dict(net))
    if not isinstance(net, pd.DataFrame):
        raise TypeError(
            f"net={brief(net)}: expected a DataFrame with the columns 'source', 'target' and 'weight', a dict from "
            "pathway to genes (or to a dict from gene to weight), or a path to a .gmt file."
        )
    if lacking := [name for name in (SOURCE, TARGET) if name not in net]:
        raise KeyError(
            f"net: has no column {shorten(lacking)}; columns: {shorten(net.columns, 20)}. The column of the pathways "
            "is 'source', that of the genes 'target'; rename them with net.rename(columns=...)."
        )
    weights = net[WEIGHT] if WEIGHT in net else np.ones(len(net))
    return _checked(pd.DataFrame({SOURCE: net[SOURCE], TARGET: net[TARGET], WEIGHT: weights}).reset_index(drop=True))


def _of_dict(net: Mapping[str, Iterable[str] | Mapping[str, float]]) -> pd.DataFrame:
    """Return the rows of a dict from pathway to genes, or to weights by gene."""
    rows: list[tuple[object, object, object]] = []
    for name, genes in net.items():
        if isinstance(genes, str) or not isinstance(genes, Iterable):
            flat = f" For a single pathway pass {{'name': {{{name!r}: {genes!r}}}}}." if is_number(genes) else ""
            raise TypeError(
                f"net[{name!r}]={brief(genes)}: expected a list of genes, or a dict from gene to weight.{flat}"
            )
        listed = sorted(genes, key=str) if isinstance(genes, (set, frozenset)) else genes
        weights = genes.items() if isinstance(genes, Mapping) else ((gene, 1.0) for gene in listed)
        rows += [(name, gene, weight) for gene, weight in weights]
    return pd.DataFrame(rows, columns=[SOURCE, TARGET, WEIGHT])


def _checked(net: pd.DataFrame) -> pd.DataFrame:
    """Return names as text and weights as numbers; raise if any is missing, repeated or says nothing."""
    if net.empty:
        raise ValueError("net is empty: it names no gene of any pathway.")
    for column in (SOURCE, TARGET):
        named = net[column].map(lambda value: isinstance(value, str) and bool(value.strip())).astype(bool)
        if not named.all():
            raise ValueError(
                f"net: {int((~named).sum())} of {len(net)} rows have no text as {column!r}, such as row "
                f"{int(np.flatnonzero(~named)[0])}: {shorten(net[column][~named][:1])}. Take them out."
            )
    repeated = net[net.duplicated([SOURCE, TARGET])]
    if len(repeated):
        twice = [f"{source}/{target}" for source, target in zip(repeated[SOURCE], repeated[TARGET], strict=True)]
        raise ValueError(
            f"net: pairs of pathway and gene occur more than once: {shorten(twice, 3)}. Keep one weight for each."
        )
    names, weights = net[[SOURCE, TARGET]].astype(str), net[WEIGHT]
    odd = ~weights.map(lambda value: is_number(value) and value != 0).astype(bool)
    if odd.any():
        row = net[odd].iloc[0]
        raise ValueError(
            f"net: {int(odd.sum())} of {len(net)} weights are not finite numbers other than 0, such as "
            f"{shorten([row[WEIGHT]])} of {row[TARGET]!r} in {row[SOURCE]!r}. Take these genes out, or correct the "
            "weights."
        )
    return names.assign(**{WEIGHT: weights.astype(float)})
