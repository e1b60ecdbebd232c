"""Matching of gene names between samples."""

from __future__ import annotations

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
        f"{MATCHING[fold_case]} Are the samples of different species, or are some named by symbol and others by "
        "Ensembl id?"
    )


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
