"""Matching of gene names between samples."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from spade._checks import plural

#: Samples with fewer genes in common than this are not trained together.
MIN_GENES = 50
#: How names are matched, by ``fold_case``; for messages.
MATCHING = {
    False: "Names are matched exactly.",
    True: "Names are matched in upper case; those that become equal are left out.",
}

#: What names of genes look like; symbols of three letters and more tell the species by their case.
IDS, HUMAN, MOUSE = "Ensembl ids", "human", "mouse"
LOOKS = {
    IDS: re.compile(r"ENS[A-Z]*G\d{11}(\.\d+)?(_PAR_Y)?"),
    HUMAN: re.compile(r"[A-Z][A-Z0-9][A-Z0-9.-]*(orf\d+)?"),
    MOUSE: re.compile(r"[A-Z][a-z]+[a-z0-9.-]*|\d+[A-Z0-9]+Rik"),
}
#: More than this share of the names must look so.
MOST = 0.6


def fold_names(names: Iterable[str]) -> list[str]:
    """Return names in upper case, ``""`` for those that then equal another."""
    folded = [str(name).upper() for name in names]
    count = Counter(folded)
    return [name if count[name] == 1 else "" for name in folded]


def few_common(names: Mapping[str, Sequence[str]], n_common: int, least: str, *, fold_case: bool = False) -> str:
    """Say that samples, given by the names of their genes, have too few genes in common, and why that may be."""
    listed = "; ".join(f"{name}: {len(genes)} genes such as {', '.join(genes[:3])}" for name, genes in names.items())
    return (
        f"samples have only {plural(n_common, 'gene name')} in common, fewer than {least} ({listed}). "
        f"{MATCHING[fold_case]} {_why(names)}"
    )


def _why(names: Mapping[str, Sequence[str]]) -> str:
    """Say why samples have few genes in common, and what to do: two namings, two species, or a question."""
    kinds: dict[str, list[str]] = {}
    for name, genes in names.items():
        kinds.setdefault(_kind(genes), []).append(name)
    if IDS in kinds and len(kinds) > 1:
        other = next(listed[0] for kind, listed in kinds.items() if kind != IDS)
        return (
            f"{kinds[IDS][0]} is named by Ensembl ids and {other} by symbols: sp.pp.harmonize_genes(samples) gives all "
            "one naming."
        )
    if MOUSE in kinds and HUMAN in kinds:
        return (
            f"The names look like different species, {MOUSE} in {kinds[MOUSE][0]} and {HUMAN} in {kinds[HUMAN][0]}: "
            "sp.pp.harmonize_genes(samples, species='human') joins them through one-to-one orthologues."
        )
    return "Are the samples of different species, or are some named by symbol and others by Ensembl id?"


def _kind(genes: Sequence[str]) -> str:
    """Return what most names look like: Ensembl ids, symbols of human (``TP53``) or mouse (``Trp53``), or neither."""
    if not len(genes):
        return ""
    for kind, pattern in LOOKS.items():
        if sum(pattern.fullmatch(gene) is not None for gene in genes) > MOST * len(genes):
            return kind
    return ""


def common_genes(names: Mapping[str, Sequence[str]], advice: str, *, fold_case: bool = False) -> set[str]:
    """Return the genes of all samples.

    It is an error if there are suspiciously few: under 50, and under a tenth of those of the smallest sample.
    """
    if fold_case:
        names = {sample: list(filter(None, fold_names(genes))) for sample, genes in names.items()}
    common = set.intersection(*map(set, names.values()))
    if len(names) > 1 and len(common) < min(MIN_GENES, min(map(len, names.values())) / 10):
        raise ValueError(f"{few_common(names, len(common), str(MIN_GENES), fold_case=fold_case)} {advice}")
    return common
