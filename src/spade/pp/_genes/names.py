"""Which gene a name means: by Ensembl id, approved symbol, former symbol, alias, or in another case."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from copy import copy
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import pandas as pd

from spade.io._genes.shipped import shipped_genes
from spade.io._genes.tables import bare_id

#: How a name was understood, the surest first.
BY_ID, BY_SYMBOL, BY_PREVIOUS, BY_ALIAS, BY_CASE = "Ensembl id", "symbol", "previous symbol", "alias", "other case"
HOW = (BY_ID, BY_SYMBOL, BY_PREVIOUS, BY_ALIAS, BY_CASE)


class Meant(NamedTuple):
    """Symbols of the genes that a name may mean, and how it was understood."""

    symbols: tuple[str, ...]
    how: str


class GeneIndex:
    """The genes of one species, found by any of their names."""

    def __init__(self, frame: pd.DataFrame) -> None:
        """Take a table of names, as :class:`~spade.io._genes.tables.GeneFiles` holds it."""
        self._ids: dict[str, list[str]] = {}
        self._by: dict[str, dict[str, list[str]]] = {how: {} for how in HOW}
        columns = (frame[name].tolist() for name in ("symbol", "ensembl", "previous", "alias"))
        for symbol, ids, previous, alias in zip(*columns, strict=True):
            self._ids[symbol] = [one for one in map(bare_id, ids.split("|")) if one]
            names = ([symbol], [symbol.upper()], self._ids[symbol], previous.split("|"), alias.split("|"))
            for how, listed in zip((BY_SYMBOL, BY_CASE, BY_ID, BY_PREVIOUS, BY_ALIAS), names, strict=True):
                for name in listed:
                    if name:
                        self._by[how].setdefault(name, []).append(symbol)

    def with_ids(self, symbols: Mapping[str, str]) -> GeneIndex:
        """Return an index that also has Ensembl ids that it does not know, by the symbols beside them.

        An id is that of the gene that its symbol means, also as a former symbol or an alias; else of a new gene.
        """
        unknown = {one: symbol for one, symbol in symbols.items() if one not in self._by[BY_ID]}
        if not unknown:
            return self
        new = {one: self._current(symbol) for one, symbol in unknown.items()}
        more = copy(self)
        more._by = self._by | {
            BY_ID: self._by[BY_ID] | {one: [symbol] for one, symbol in new.items()},
            BY_SYMBOL: {symbol: [symbol] for symbol in new.values()} | self._by[BY_SYMBOL],
        }
        more._ids = {symbol: [one] for one, symbol in new.items()} | self._ids
        return more

    def _current(self, symbol: str) -> str:
        """Return the approved symbol of the one gene that had this symbol, or has it as an alias; else the symbol."""
        found = next((found for how in (BY_SYMBOL, BY_PREVIOUS, BY_ALIAS) if (found := self._by[how].get(symbol))), ())
        return found[0] if len(found) == 1 else symbol

    def ids(self, symbol: str) -> list[str]:
        """Return the Ensembl ids of a gene."""
        return self._ids.get(symbol, [])

    def meant(self, name: str, gene_id: str = "") -> Meant:
        """Return the genes that a name, or the Ensembl id beside it, may mean."""
        for one in (gene_id, bare_id(name)):
            if found := self._by[BY_ID].get(one):
                return Meant(tuple(found), BY_ID)
        for how in HOW[1:]:
            if found := self._by[how].get(name.upper() if how == BY_CASE else name):
                return Meant(tuple(found), how)
        return Meant((), "")

    def n_symbols(self, names: Iterable[str]) -> int:
        """Return how many names are approved symbols."""
        return sum(name in self._by[BY_SYMBOL] for name in names)


@cache
def shipped_index(species: str) -> GeneIndex:
    """Return the index of the shipped table."""
    return GeneIndex(shipped_genes().names[species])


@dataclass(frozen=True)
class Naming:
    """How genes are named: by what, of which species, and through which orthologues."""

    to: str
    species: str
    #: Symbols of the species wanted, by those of the other.
    orthologues: Mapping[str, str]


class Named(NamedTuple):
    """The name that a gene gets, ``""`` if none is known, and the report on it."""

    name: str
    status: str
    how: str


MATCHED, RENAMED, AMBIGUOUS, MISSING = "matched", "renamed", "ambiguous", "missing"


def name_of(gene: str, gene_id: str, own: GeneIndex, wanted: GeneIndex, naming: Naming, *, crosses: bool) -> Named:
    """Return the name of one gene; ``own`` are the genes of its species, ``wanted`` those of the naming."""
    symbols, how = own.meant(gene, gene_id)
    if not symbols:
        return Named("", MISSING, "not in the tables")
    if len(symbols) > 1:
        return Named("", AMBIGUOUS, f"{how} of {', '.join(sorted(symbols))}")
    symbol = symbols[0]
    if crosses:
        if symbol not in naming.orthologues:
            return Named("", MISSING, "no one-to-one orthologue")
        symbol, how = naming.orthologues[symbol], f"orthologue of {symbol}"
    if naming.to == "symbol":
        return Named(symbol, MATCHED if symbol == gene else RENAMED, how)
    ids = wanted.ids(symbol)
    if gene_id in ids and not crosses:
        ids = [gene_id]
    if len(ids) != 1:
        return Named(
            "", AMBIGUOUS if ids else MISSING, f"{symbol} has {'several Ensembl ids' if ids else 'no Ensembl id'}"
        )
    return Named(ids[0], MATCHED if ids[0] == gene else RENAMED, how)


def identities(genes: list[str], ids: list[str]) -> list[str]:
    """Return what tells genes apart, whatever they are called: the Ensembl id, or the name where there is none."""
    return [one or gene for one, gene in zip(ids, genes, strict=True)]


def parted(genes: list[str], ids: list[str], named: list[Named], kept: list[str]) -> list[Named]:
    """Return names such that no gene gets the name of another one; ``kept`` are those of genes without a new name.

    Of several genes that would get one name, the one that is understood most surely gets it, and the others keep
    theirs, as ambiguous; where two are understood as surely, all of them do. A name that another gene keeps is not
    given either.
    """
    parted, gene = list(named), identities(genes, ids)
    while True:
        rows = defaultdict(list)
        for row, one in enumerate(parted):
            rows[one.name or kept[row]].append(row)
        without = {}
        for name, same in rows.items():
            groups = defaultdict(list)
            for row in same:
                groups[gene[row]].append(row)
            if len(groups) == 1:
                continue
            held = any(not parted[row].name for row in same)
            rank = {key: min(_rank(genes[row], parted[row], name) for row in group) for key, group in groups.items()}
            best = [key for key in groups if rank[key] == min(rank.values())]
            for key, group in groups.items():
                for row in group if held or len(best) > 1 or key != best[0] else ():
                    if parted[row].name and (not held or kept[row] != name):
                        others = sorted({genes[i] for i in same} - {genes[row]})
                        also = ", ".join(others) or "another gene of this name"
                        without[row] = Named("", AMBIGUOUS, f"{parted[row].how}; {name} is also {also}")
        if not without:
            return parted
        for row, one in without.items():
            parted[row] = one


def _rank(gene: str, named: Named, name: str) -> tuple[bool, int]:
    return gene != name, HOW.index(named.how) if named.how in HOW else len(HOW)
