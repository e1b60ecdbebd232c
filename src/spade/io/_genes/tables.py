"""Gene names from the files that HGNC, MGI and Ensembl BioMart offer for download, as they are."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from os import PathLike

import pandas as pd

from spade._checks import shorten
from spade.core.checks import check_path
from spade.io._bytes import read_text

#: Columns of names of one species; several names in a field are parted by ``|``.
COLUMNS = ["symbol", "ensembl", "previous", "alias"]
#: An Ensembl id of a gene: prefix of the species, number, version, and the copy on the Y chromosome.
ENSEMBL = re.compile(r"(ENS[A-Z]*G)(\d{11})(?:\.\d+)?(?:_PAR_Y)?")
PREFIXES = {"ENSG": "human", "ENSMUSG": "mouse"}
ONE_TO_ONE = "ortholog_one2one"
KNOWN = (
    "HGNC's complete set or custom download, MGI's MRK_List2.rpt, MRK_ENSEMBL.rpt or HOM_MouseHumanSequence.rpt, or an "
    "export of Ensembl BioMart with 'Gene stable ID'"
)


@dataclass
class GeneFiles:
    """What files say: names by species, and pairs of human and mouse genes, by symbol or MGI id."""

    names: dict[str, pd.DataFrame] = field(default_factory=dict)
    pairs: list[tuple[str, str]] = field(default_factory=list)
    #: Symbols of mouse genes by MGI id.
    mgi: dict[str, str] = field(default_factory=dict)

    def add(self, species: str, frame: pd.DataFrame) -> None:
        """Take names of a species; those of one symbol are joined."""
        frame = frame.reindex(columns=COLUMNS, fill_value="").astype(str)
        frame = frame[frame["symbol"] != ""]
        if species in self.names:
            frame = pd.concat([self.names[species], frame])
        several = frame["symbol"].duplicated(keep=False)
        if several.any():
            joined = frame[several].groupby("symbol", sort=False, as_index=False).agg(_joined)
            frame = pd.concat([frame[~several], joined])
        self.names[species] = frame.reset_index(drop=True)

    def orthologues(self) -> dict[str, str]:
        """Return human symbols and those of mouse that are paired with each other alone."""
        named = {(human, self.mgi.get(mouse, mouse)) for human, mouse in self.pairs}
        named = {(human, mouse) for human, mouse in named if human and mouse and not mouse.startswith("MGI:")}
        n = [Counter(pair[side] for pair in named) for side in (0, 1)]
        return {human: mouse for human, mouse in sorted(named) if n[0][human] == n[1][mouse] == 1}


def _joined(values: pd.Series) -> str:
    return "|".join(dict.fromkeys(name for value in values for name in value.split("|") if name))


def gene_files(paths: Iterable[str | PathLike[str]], argument: str = "tables") -> GeneFiles:
    """Read files of gene names; raise if one is of no known kind."""
    files = GeneFiles()
    for given in paths:
        path = check_path(argument, given)
        text = read_text(path, argument)
        first = text.split("\n", 1)[0].rstrip("\r")
        separator = "\t" if "\t" in first else ","
        rows = list(csv.reader(io.StringIO(text), delimiter=separator))
        rows = [row for row in rows if row]
        header = [name.strip() for name in rows[0]] if rows else []
        headless = bool(header) and header[0].startswith("MGI:") and len(header) > 5
        if headless:
            header = ["MGI Accession ID", "Marker Symbol", "", "", "", "Ensembl gene ID"]
        width = len(header)
        body = [[*row[:width], *[""] * (width - len(row))] for row in (rows if headless else rows[1:])]
        frame = pd.DataFrame(body, columns=header, dtype=object)
        frame = frame.loc[:, [name != "" for name in header]]
        reader = next((read for column, read in READERS.items() if column in frame), None)
        if reader is None or not len(frame):
            raise ValueError(
                f"{argument}={str(path)!r}: no table of gene names is recognised; columns: {shorten(header, 8)}. "
                f"Expected {KNOWN}."
            )
        reader(frame, files)
    return files


def _several(column: pd.Series) -> pd.Series:
    """Return fields with several names, parted by ``|`` or commas, parted by ``|``."""
    return column.str.strip('"').str.replace(r"\s*[|,]\s*", "|", regex=True)


def _hgnc(frame: pd.DataFrame, files: GeneFiles) -> None:
    """HGNC's table: the columns of the complete set, or those of a custom download."""
    custom = {
        "Approved symbol": "symbol", "Status": "status", "Alias symbols": "alias_symbol",
        "Alias symbol": "alias_symbol", "Previous symbols": "prev_symbol", "Previous symbol": "prev_symbol",
        "Ensembl gene ID": "ensembl_gene_id", "Ensembl ID(supplied by Ensembl)": "ensembl_gene_id",
        "Mouse genome database ID(supplied by MGI)": "mgd_id",
    }  # fmt: skip
    frame = frame.rename(columns=custom)
    frame = frame.loc[:, ~frame.columns.duplicated()]
    if "status" in frame:
        frame = frame[frame["status"] == "Approved"]
    columns = {"ensembl_gene_id": "ensembl", "prev_symbol": "previous", "alias_symbol": "alias"}
    names = frame.rename(columns=columns).reindex(columns=COLUMNS, fill_value="")
    files.add("human", names.assign(previous=_several(names["previous"]), alias=_several(names["alias"])))
    if "mgd_id" in frame:
        mice = _several(frame["mgd_id"]).str.split("|")
        files.pairs += [(human, one) for human, ones in zip(frame["symbol"], mice, strict=True) for one in ones if one]


def _mgi(frame: pd.DataFrame, files: GeneFiles) -> None:
    """MGI's lists of markers with synonyms, or with Ensembl ids."""
    if "Marker Type" in frame:
        frame = frame[frame["Marker Type"].isin(["Gene", "Pseudogene"])]
    columns = {
        "Marker Symbol": "symbol", "Marker Synonyms (pipe-separated)": "alias", "Ensembl gene ID": "ensembl",
    }  # fmt: skip
    files.add("mouse", frame.rename(columns=columns))
    files.mgi |= dict(zip(frame["MGI Accession ID"], frame["Marker Symbol"], strict=True))


def _homology(frame: pd.DataFrame, files: GeneFiles) -> None:
    """MGI's homology classes; genes of one class are orthologues."""
    species = frame["Common Organism Name"].str.split(",").str[0]
    for name in PREFIXES.values():
        files.add(name, frame[species == name].rename(columns={"Symbol": "symbol"}))
    of = {name: frame[species == name].groupby("DB Class Key")["Symbol"].agg(list) for name in PREFIXES.values()}
    for key in of["human"].index.intersection(of["mouse"].index):
        files.pairs += [(human, mouse) for human in of["human"][key] for mouse in of["mouse"][key]]


def _biomart(frame: pd.DataFrame, files: GeneFiles) -> None:
    """An export of BioMart for human or mouse genes, with the orthologues of the other if they were chosen."""
    found = frame["Gene stable ID"].map(species_of_id)
    for own, other in (("human", "Mouse"), ("mouse", "Human")):
        rows = frame[found == own]
        if not len(rows):
            continue
        columns = {"Gene stable ID": "ensembl", "Gene name": "symbol", "Gene Synonym": "alias"}
        files.add(own, rows.rename(columns=columns))
        kind, ids, symbols = f"{other} homology type", f"{other} gene stable ID", f"{other} gene name"
        if kind in rows and symbols in rows and "Gene name" in rows:
            one = rows[rows[kind] == ONE_TO_ONE]
            files.add(other.lower(), one.rename(columns={symbols: "symbol", ids: "ensembl"})[["symbol", "ensembl"]])
            pairs: Sequence[tuple[str, str]] = list(zip(one["Gene name"], one[symbols], strict=True))
            files.pairs += pairs if own == "human" else [(human, mouse) for mouse, human in pairs]


#: Readers by a column that only their files have.
READERS = {
    "DB Class Key": _homology,
    "hgnc_id": _hgnc,
    "Approved symbol": _hgnc,
    "Gene stable ID": _biomart,
    "MGI Accession ID": _mgi,
}


def species_of_id(name: str) -> str:
    """Return the species of an Ensembl id, its prefix if that is neither human nor mouse, ``""`` if it is none."""
    match = ENSEMBL.fullmatch(name)
    return "" if match is None else PREFIXES.get(match[1], match[1])


def bare_id(name: str) -> str:
    """Return an Ensembl id without version, ``""`` if it is none."""
    match = ENSEMBL.fullmatch(name)
    return "" if match is None else match[1] + match[2]
