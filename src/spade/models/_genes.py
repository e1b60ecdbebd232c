"""The gene panel: the ordered names that a model reads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from spade._checks import plural, shorten
from spade.core.arrays import Rows
from spade.core.checks import brief, check_choice, check_count, check_flag, check_ordered, check_positive
from spade.core.expression.normalise import TARGET_SUM, log_normalise
from spade.core.files import parse_json, read_small_text
from spade.models._gene_names import fold_names

Scale = Literal["log1p", "counts"]
#: Fields that say how expression is read for a panel.
READING = ("target_sum", "fold_case", "scale")


def _check_listed(genes: object) -> None:
    """Raise unless these are names in an order."""
    check_ordered("genes", genes)
    if isinstance(genes, str):
        raise TypeError(
            f"genes={brief(genes)}: expected a GenePanel or a list of gene names, got one string; for one gene pass "
            f"[{brief(genes)}]."
        )
    if not isinstance(genes, Iterable) or isinstance(genes, (Mapping, pd.DataFrame)):
        raise TypeError(f"genes={brief(genes)}: expected a GenePanel or a list of gene names.")
    if isinstance(genes, Sequence) and (other := [name for name in genes if not isinstance(name, str)]):
        raise TypeError(f"genes: {brief(other[0])} is not a name; expected a GenePanel or a list of gene names.")


@dataclass(frozen=True)
class GenePanel:
    """Ordered gene names that a model reads, and how they were chosen.

    Parameters
    ----------
    names
        Gene names, each once.
    n_common
        Number of genes that the samples had in common; None if not known.
    target_sum
        Sum to which the counts of a spot, over all genes of the sample, are scaled before ``log1p``.
    dropped
        Samples that shared too few genes and were left out of the selection; training leaves them out as well, even if
        they have all genes of the panel.
    fold_case
        Whether names are matched in upper case, so that ``Sox2`` is ``SOX2``; ``names`` are then upper case. Where
        several genes of a sample get the same name, none of them counts: the sample lacks that gene. False: names
        are matched exactly.
    scale
        ``"log1p"``: counts are scaled to ``target_sum``, then ``log1p``. ``"counts"``: counts as they are, for weights
        of others that were trained on raw counts.

    Examples
    --------
    >>> from spade.models import GenePanel
    >>> len(GenePanel(("Sox2", "Mbp")))
    2
    >>> GenePanel(("SOX2", "MBP"), fold_case=True).columns(["Mbp", "Sox2"])
    array([1, 0])
    """

    names: tuple[str, ...]
    n_common: int | None = None
    target_sum: float = TARGET_SUM
    dropped: tuple[str, ...] = ()
    fold_case: bool = False
    scale: Scale = "log1p"

    def __post_init__(self) -> None:
        """Check the values."""
        check_flag("fold_case", self.fold_case)
        check_positive("target_sum", self.target_sum)
        check_choice("scale", self.scale, get_args(Scale))
        if self.n_common is not None:
            check_count("n_common", self.n_common, 0)
        _check_listed(self.names)
        names = map(str, self.names)
        object.__setattr__(self, "names", tuple(map(str.upper, names) if self.fold_case else names))
        object.__setattr__(self, "dropped", tuple(map(str, self.dropped)))
        if not self.names:
            raise ValueError("genes: the gene panel is empty; choose genes with sp.pp.select_genes or name some.")
        if len(set(self.names)) < len(self.names):
            repeated = sorted({name for name in self.names if self.names.count(name) > 1})
            raise ValueError(f"genes: names occur more than once in the panel, such as {repeated[:5]}.")

    @classmethod
    def recorded(cls, names: Iterable[str], record: Mapping[str, Any]) -> GenePanel:
        """Return a panel for which expression is read as in a record that holds :meth:`reading`."""
        return cls(tuple(names), **{name: value for name, value in record.items() if name in READING})

    def __len__(self) -> int:
        """Return the number of genes."""
        return len(self.names)

    def __repr__(self) -> str:
        common = "" if self.n_common is None else f" of {self.n_common:,} in common"
        reading = "".join(f", {name}={value!r}" for name, value in self.reading().items())
        dropped = f"; samples left out: {shorten(self.dropped)}" if self.dropped else ""
        return f"GenePanel: {plural(len(self), 'gene')}{common}{reading}: {shorten(self.names)}{dropped}"

    @classmethod
    def of(cls, genes: GenePanel | Iterable[str]) -> GenePanel:
        """Return a panel as it is, or one of a list of names."""
        if isinstance(genes, GenePanel):
            return genes
        _check_listed(genes)
        return cls(tuple(genes))

    def normalise(self, counts: csr_matrix) -> csr_matrix:
        """Return counts ``(n, genes of the sample)`` in the scale of the panel."""
        return counts if self.scale == "counts" else log_normalise(counts, self.target_sum)

    def fold(self, names: Iterable[str]) -> list[str]:
        """Return names as they are looked up in the panel, ``""`` for those that several genes share."""
        return fold_names(names) if self.fold_case else list(names)

    def columns(self, var_names: Iterable[str]) -> Rows:
        """Return the column of every panel gene among ``var_names``, −1 where it is missing."""
        position = {name: i for i, name in enumerate(self.fold(var_names))}
        return np.array([position.get(name, -1) for name in self.names], dtype=np.int64)

    def take(self, matrix: csr_matrix, var_names: Iterable[str]) -> tuple[csr_matrix, NDArray[np.bool_]]:
        """Return ``matrix`` in panel order ``(n, G)``, missing genes as zeros, and which genes are present ``(G,)``."""
        columns = self.columns(var_names)
        present = columns >= 0
        selector = csr_matrix(
            (np.ones(int(present.sum()), dtype=np.float32), (columns[present], np.flatnonzero(present))),
            shape=(matrix.shape[1], len(self)),
        )
        return (matrix @ selector).tocsr(), present

    def facts(self) -> dict[str, Any]:
        """Return the fields as files and ids hold them: 0 for an unknown ``n_common``; later fields if given."""
        facts = asdict(self) | {"n_common": self.n_common or 0}
        usual = {"fold_case", "scale"} - set(self.reading())
        return {name: value for name, value in facts.items() if name not in usual}

    def reading(self) -> dict[str, Any]:
        """Return the fields that say how expression is read, where they are not the default."""
        usual = {field.name: field.default for field in fields(self)}
        return {name: value for name in READING if (value := getattr(self, name)) != usual[name]}

    def save(self, path: Path) -> None:
        """Write the panel as JSON."""
        path.write_text(json.dumps(self.facts(), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> GenePanel:
        """Read a panel written by :meth:`save`."""
        try:
            facts = parse_json(read_small_text(path))
            return cls(**facts | {"n_common": facts.get("n_common") or None})
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a gene panel ({error}); was it cut off or edited?") from error
