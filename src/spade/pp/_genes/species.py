"""Of which species the genes of a sample are, told by their ids or symbols."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import pandas as pd

from spade._checks import plural
from spade.io._genes.tables import species_of_id
from spade.pp._genes.names import GeneIndex

#: Share of the genes that tell the species; and of those of another that make a sample one of two species.
ENOUGH, SECOND = 0.2, 0.02
#: How many times as many symbols must be of one species as of the other.
CLEAR = 2.0
#: Names of species here, by what ``obs["species"]`` may say.
NAMES = {"homo sapiens": "human", "human": "human", "mus musculus": "mouse", "mouse": "mouse"}


def stated_species(obs: pd.DataFrame) -> str | None:
    """Return the one species that ``obs["species"]`` states, as in HEST-1k; None: none, several or another."""
    said = set(obs["species"].dropna().astype(str).str.lower()) if "species" in obs else set()
    return NAMES.get(said.pop()) if len(said) == 1 else None


def species_of(
    name: str, genes: Sequence[str], ids: Sequence[str], indices: Mapping[str, GeneIndex], stated: str | None = None
) -> str:
    """Return the species of a sample, which decides where genes do not tell if it is stated.

    Raises
    ------
    ValueError
        It is not clear, another than stated, or there are genes of two.
    """
    told = _by_genes(name, genes, ids, indices, otherwise=stated)
    if stated not in (None, told):
        raise ValueError(
            f"{name}: obs['species'] says {stated}, but its genes are of {told}. Correct it, or pass own_species=."
        )
    return told


def _by_genes(
    name: str, genes: Sequence[str], ids: Sequence[str], indices: Mapping[str, GeneIndex], *, otherwise: str | None
) -> str:
    """Return the species that genes tell; if they do not, ``otherwise`` or, without that, raise."""
    of_ids = Counter(filter(None, (species_of_id(one) for one in ids)))
    told = of_ids.most_common(2)
    if len(told) == 2 and told[1][1] > SECOND * sum(of_ids.values()):
        raise ValueError(
            f"{name}: the sample has genes of two species, {told[0][1]:,} Ensembl ids of {told[0][0]} and "
            f"{told[1][1]:,} of {told[1][0]}. Keep those of one: sdata.tables[...] = table[:, chosen]."
        )
    if told and told[0][1] >= ENOUGH * len(genes):
        return told[0][0]
    n = {species: index.n_symbols(genes) for species, index in indices.items()}
    first, second = sorted(n, key=lambda one: -n[one])[:2]
    if n[first] < ENOUGH * len(genes) or n[first] < CLEAR * n[second]:
        if otherwise is not None:
            return otherwise
        counts = " and ".join(f"{count:,} of {species}" for species, count in n.items())
        raise ValueError(
            f"{name}: the species is not clear: of {plural(len(genes), 'gene')} such as {', '.join(genes[:3])}, "
            f"{counts} are known. State it with own_species=."
        )
    return first
