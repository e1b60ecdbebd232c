"""One naming of genes for all samples."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from spade import _keys
from spade._checks import plural, shorten
from spade._said.lines import speaks, wrote
from spade._samples.open import Samples, as_list, iter_samples
from spade._samples.sample import Sample, check_names
from spade._samples.shown.carried import put
from spade.core.checks import brief, check_choice
from spade.core.errors import warn
from spade.io._files.matrices import to_csr
from spade.io._genes.shipped import shipped_genes
from spade.io._genes.tables import COLUMNS, PREFIXES, GeneFiles, bare_id, gene_files
from spade.pp._genes.common import is_control
from spade.pp._genes.names import (
    AMBIGUOUS,
    MATCHED,
    MISSING,
    RENAMED,
    GeneIndex,
    Named,
    Naming,
    identities,
    name_of,
    parted,
    shipped_index,
)
from spade.pp._genes.species import species_of, stated_species

logger = logging.getLogger("spade")
SPECIES = tuple(PREFIXES.values())
STATUS = (MATCHED, RENAMED, AMBIGUOUS, MISSING)
#: ``var`` columns in which readers keep the names that are not in ``var_names``.
ID_COLUMNS = ("gene_ids", "gene_id", "ensembl_id", "ensembl_gene_id", "feature_id", "ensembl")
SYMBOL_COLUMNS = ("gene_name", "gene_names", "gene_symbol", "gene_symbols", "feature_name", "symbol")


@dataclass(frozen=True)
class SampleGenes:
    """The genes of a sample: names, the Ensembl ids beside them (``""``: none), and the species."""

    genes: list[str]
    ids: list[str]
    species: str


@speaks
def harmonize_genes(
    samples: Samples,
    *,
    to: str = "symbol",
    species: str | None = None,
    own_species: str | Mapping[str, str] | None = None,
    tables: str | PathLike[str] | Sequence[str | PathLike[str]] | None = None,
    table_key: str | None = None,
) -> pd.DataFrame:
    """Give the genes of all samples one naming, in place, and report on every gene.

    A gene is found by its Ensembl id, in ``var_names`` or in a column of ``var`` such as ``gene_ids``, whatever the
    version; else by its approved symbol, a former symbol, an alias, or the approved symbol in another case, in this
    order. Where a name may mean several genes, or several genes would get one name, nothing is guessed: they keep their
    names and are reported as ambiguous.

    Names come from tables that are shipped: of HGNC for human genes and their one-to-one orthologues, of MGI for mouse
    genes. Ids with symbols in ``var`` of any sample are used in all samples for ids that no table has: of the gene that
    the symbol means, or of one that is new.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or a list or dict of these. Samples without expression are skipped.
    to
        ``"symbol"`` or ``"ensembl"`` (ids without version).
    species
        ``"human"`` or ``"mouse"``: whose names all samples get. Genes of the other species are named by their
        one-to-one orthologues, so that both may train together; those without get their species appended, such as
        ``Gm10 (mouse)``, and match no gene of the other. None: all samples must be of one species.
    own_species
        Species of the samples, or a dict from their names to it, where neither ids and symbols nor ``obs["species"]``
        tell.
    tables
        Files that take the place of the shipped tables for the species that they hold, as they are downloaded: HGNC's
        complete set or custom download; MGI's ``MRK_List2.rpt``, ``MRK_ENSEMBL.rpt``, ``HOM_MouseHumanSequence.rpt``;
        exports of Ensembl BioMart with *Gene stable ID*, *Gene name* and, for orthologues, *Mouse gene stable ID*,
        *Mouse gene name* and *Mouse homology type*.
    table_key
        Table; may be left out when there is one.

    Returns
    -------
    pandas.DataFrame
        One row per sample and gene: ``sample``, ``gene`` (name before), ``name`` (name now), ``status`` (``"matched"``:
        it had this name; ``"renamed"``; ``"ambiguous"`` and ``"missing"``: it keeps its name) and ``reason``. Also
        writes ``var_names`` and, with the names before, ``var["harmonized_from"]``. One gene that is there several
        times, as with versions of one id, becomes one with the sum of the counts, also in layers; where their type is
        too small for a sum, as of 8 bits, a larger one is taken.

    Raises
    ------
    ValueError
        Samples of two species without ``species=``, a sample whose species is not clear, another than
        ``obs["species"]`` says, or with genes of two, a file of no known kind, no expression anywhere, several columns
        of one gene whose values are not counts.

    Examples
    --------
    >>> import spade as sp
    >>> (sdata,) = sp.datasets.toy(1, 30, n_genes=9)
    >>> names = ["ENSG00000141510.18", "CD8", "Gapdh", "EPCAM", "VIM", "KRT8", "CD3E", "PTPRC", "MKI67"]
    >>> sdata["table"].var_names = names
    >>> report = sp.pp.harmonize_genes(sdata)
    >>> report[["name", "reason"]].head(3).to_numpy().tolist()
    [['TP53', 'Ensembl id'], ['CD8A', 'previous symbol'], ['GAPDH', 'other case']]
    """
    check_choice("to", to, ("symbol", "ensembl"))
    if species is not None:
        check_choice("species", species, SPECIES)
    for one in own_species.values() if isinstance(own_species, Mapping) else [own_species]:
        if one is not None:
            check_choice("own_species", one, SPECIES)
    items = as_list(samples, writes=True)
    files = _files(tables)
    shipped = shipped_genes().names
    indices = {
        name: shipped_index(name) if frame is shipped.get(name) else GeneIndex(frame)
        for name, frame in files.names.items()
    }
    found, pairs = _read(items, own_species, indices, table_key)
    wanted = _wanted(found, species)
    for name in {one.species for one in found.values()} | {wanted}:
        indices[name] = indices.get(name, GeneIndex(pd.DataFrame(columns=COLUMNS))).with_ids(pairs[name])
    naming = _naming(to, wanted, files)
    reports = []
    for sample in iter_samples(items, table_key=table_key, writes=True):
        if sample.name not in found:
            continue
        report = _rename(sample, found[sample.name], indices, naming)
        reports.append(report)
    return pd.concat(reports, ignore_index=True)


def _files(tables: str | PathLike[str] | Sequence[str | PathLike[str]] | None) -> GeneFiles:
    """Return the shipped names, those of species in the files given replaced."""
    shipped = shipped_genes()
    if tables is None:
        return shipped
    if not isinstance(tables, (str, PathLike, list, tuple)):
        raise TypeError(f"tables={brief(tables)}: expected the path of a file, or a list of these.")
    given = gene_files([tables] if isinstance(tables, (str, PathLike)) else tables)
    given.names = shipped.names | given.names
    if not given.orthologues():
        given.pairs = shipped.pairs
    return given


def _read(
    items: Samples, own_species: str | Mapping[str, str] | None, indices: Mapping[str, GeneIndex], table_key: str | None
) -> tuple[dict[str, SampleGenes], dict[str, dict[str, str]]]:
    """Return the genes of every sample with expression, and symbols of Ensembl ids as ``var`` tells, by species."""
    found: dict[str, SampleGenes] = {}
    told: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    names = []
    for sample in iter_samples(items, table_key=table_key, tables_only=True):
        names.append(sample.name)
        check_names(names)
        if not sample.has_expression:
            logger.info("%s: no expression, skipped", sample.name)
            continue
        genes, ids, symbols = _columns(sample.table)
        own = own_species.get(sample.name) if isinstance(own_species, Mapping) else own_species
        stated = stated_species(sample.table.obs)
        found[sample.name] = SampleGenes(genes, ids, own or species_of(sample.name, genes, ids, indices, stated))
        for one, symbol in zip(ids, symbols, strict=True):
            if one and symbol:
                told[found[sample.name].species][one].add(symbol)
    if isinstance(own_species, Mapping) and (unknown := [name for name in own_species if name not in names]):
        raise KeyError(f"own_species= names {shorten(unknown)}, which is no sample; samples: {shorten(names)}.")
    if not found:
        raise ValueError(f"no sample has expression (all tables have width 0): {', '.join(names)}.")
    sure = {kind: {one: min(names) for one, names in ids.items() if len(names) == 1} for kind, ids in told.items()}
    return found, defaultdict(dict, sure)


def _columns(table: ad.AnnData) -> tuple[list[str], list[str], list[str]]:
    """Return the names of the genes of a table, and Ensembl ids and symbols beside them, ``""`` where none are."""
    genes = table.var_names.astype(str).tolist()
    in_var = [next((table.var[name].astype(str) for name in names if name in table.var), None)
              for names in (ID_COLUMNS, SYMBOL_COLUMNS)]  # fmt: skip
    ids = [bare_id(gene) for gene in genes]
    if in_var[0] is not None:
        ids = [own or bare_id(one) for own, one in zip(ids, in_var[0], strict=True)]
    beside = genes if in_var[1] is None else in_var[1].tolist()
    symbols = ["" if bare_id(one) or one in ("", "nan", "None") else one for one in beside]
    return genes, ids, symbols


def _wanted(found: Mapping[str, SampleGenes], species: str | None) -> str:
    """Return whose names are wanted; raise if samples are of two species and it was not said."""
    kinds = {one.species: name for name, one in reversed(list(found.items()))}
    if species is None and len(kinds) > 1:
        listed = " and ".join(f"{name} is {kind}" for kind, name in sorted(kinds.items()))
        raise ValueError(
            f"samples are of two species ({listed}): pass species='human' or 'mouse' to name all by the genes of one "
            "through one-to-one orthologues, or keep the species apart."
        )
    if unknown := [kind for kind in kinds if kind not in SPECIES and species is not None]:
        raise ValueError(
            f"{kinds[unknown[0]]}: its Ensembl ids begin with {unknown[0]}; orthologues are known of human and mouse "
            "alone. Leave the sample out, or species=."
        )
    return species or next(iter(kinds))


def _naming(to: str, wanted: str, files: GeneFiles) -> Naming:
    pairs = files.orthologues()
    return Naming(to, wanted, {mouse: human for human, mouse in pairs.items()} if wanted == "human" else pairs)


def _rename(sample: Sample, found: SampleGenes, indices: Mapping[str, GeneIndex], naming: Naming) -> pd.DataFrame:
    """Rename the genes of a sample, save it, and return the report."""
    own, wanted, crosses = indices[found.species], indices[naming.species], found.species != naming.species
    named = [
        Named("", MISSING, "control probe") if is_control(gene)
        else name_of(gene, one, own, wanted, naming, crosses=crosses)
        for gene, one in zip(found.genes, found.ids, strict=True)
    ]  # fmt: skip
    ending = f" ({found.species})" if crosses else ""
    kept = [gene if is_control(gene) else gene.removesuffix(ending) + ending for gene in found.genes]
    named = parted(found.genes, found.ids, named, kept)
    names = [one.name or own for one, own in zip(named, kept, strict=True)]
    report = pd.DataFrame({"sample": sample.name, "gene": found.genes, "name": names})
    report["status"] = pd.Categorical([one.status for one in named], categories=STATUS)
    report["reason"] = [one.how for one in named]
    table = _renamed(sample.table, names, identities(found.genes, found.ids), report)
    _keys.write_provenance(
        table.uns, _keys.HARMONIZED, function="pp.harmonize_genes", to=naming.to, species=naming.species,
        own_species=found.species,
    )  # fmt: skip
    put(sample.sdata, f"tables/{sample.table_key}", table)
    sample.save()
    counts = report["status"].value_counts()
    told = ", ".join(f"{counts[status]:,} {status}" for status in STATUS)
    logger.info("%s: %s, %s", sample.name, plural(len(report), "gene"), told)
    wrote(sample.name, "var_names", f"var[{_keys.HARMONIZED!r}]")
    if counts[MATCHED] + counts[RENAMED] < len(report) / 2:
        warn(
            f"{sample.name}: fewer than half of its genes are known ({told}). See the column 'reason' of the report; "
            "pass tables= with more names."
        )
    return report


def _renamed(table: ad.AnnData, names: list[str], genes: list[str], report: pd.DataFrame) -> ad.AnnData:
    """Return a table with these names; columns of one name and of one of the genes are added up."""
    before = table.var_names.astype(str)
    index = pd.MultiIndex.from_arrays([names, genes])
    column, twice = pd.factorize(index)[0], index.duplicated(keep=False)
    if twice.any():
        first = np.flatnonzero(~index.duplicated())
        selector = csr_matrix((np.ones(len(index), np.float32), (np.arange(len(index)), column)))
        summed = table[:, first].copy()
        for key in [None, *(key for key in table.layers if key is not None)]:
            matrix = table.X if key is None else table.layers[key]
            if matrix is None:
                continue
            source = "X" if key is None else f"layers[{key!r}]"
            values = to_csr(matrix, source, np.float64)
            total, kind = csr_matrix(values @ selector), matrix.dtype
            if key is None or _keys.read_provenance(table.uns, key).get("function") != _keys.SMOOTHING:
                _check_counts(values[:, twice], f"{report['sample'].iloc[0]}: {source}", report["name"][twice])
                kind = _holding(total, kind)
            if key is None:
                summed.X = total.astype(kind)
            else:
                summed.layers[key] = total.astype(kind)
        table, names = summed, [names[i] for i in first]
        report.loc[twice, "reason"] += "; counts of several columns are added up"
        before = pd.Series(before).groupby(column).agg("|".join)
    table.var[_keys.HARMONIZED] = before.to_numpy(dtype=object)
    table.var_names = pd.Index(names, dtype=object)
    return table


def _holding(sums: csr_matrix, given: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type of the counts, or the first wider one that holds their sums, too."""
    if given.kind == "f":
        given = np.promote_types(given, np.float32)  # sparse matrices hold no smaller ones
    wider = map(np.dtype, ("float64",) if given.kind == "f" else ("int32", "int64"))
    with np.errstate(invalid="ignore", over="ignore"):  # of values that a type does not hold
        holding = (
            kind for kind in (given, *wider) if np.array_equal(sums.data.astype(kind), sums.data, equal_nan=True)
        )
        return next(holding, np.dtype(np.float64))


def _check_counts(values: csr_matrix, source: str, names: pd.Series) -> None:
    """Raise if columns of one gene hold anything but counts, which alone can be added up."""
    if not np.array_equal(values.data, np.round(values.data)):
        example = values.data[values.data != np.round(values.data)][0]
        raise ValueError(
            f"{source}: columns of one gene are added up, as of {shorten(sorted(set(names)), 3)}, "
            f"but these hold values that are not whole numbers (such as {example:g}). Call this before counts are "
            "normalised, or remove the layer, or all but one of the columns."
        )
