"""The gene panel of a training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from spade import _keys
from spade._samples.open import Item, iter_samples
from spade.core.errors import warn
from spade.models import GenePanel

ALL_DROPPED = (
    "samples: none is left to train on; all were dropped when the genes were selected (genes.dropped). Select genes "
    "anew, or pass their names alone: genes=panel.names."
)


def tell_left_out(names: Sequence[str]) -> None:
    """Warn of samples that are not trained on, because they were dropped when the genes were selected."""
    if names:
        warn(f"{', '.join(names)}: left out of training, as when the genes were selected (genes.dropped).")


def resolve_panel(samples: Sequence[Item], genes: GenePanel | Sequence[str] | None, table_key: str | None) -> GenePanel:
    """Return the panel given, or the one that ``pp.select_genes`` marked in the samples."""
    if genes is not None:
        return GenePanel.of(genes)
    key = _keys.gene(_keys.STEM)
    marked: dict[str, GenePanel] = {}
    dropped = []
    for sample in iter_samples(samples, table_key=table_key):
        if sample.has_expression and key in sample.table.var:
            genes_marked = sample.table.var_names[sample.table.var[key].to_numpy(dtype=bool)]
            fold_case = bool(_keys.read_provenance(sample.table.uns, key).get("fold_case", False))
            if len(genes_marked):
                names = map(str.upper, genes_marked) if fold_case else genes_marked
                marked[sample.name] = GenePanel(tuple(sorted(names)), fold_case=fold_case)
            else:
                dropped.append(sample.name)
    if not marked:
        raise ValueError(
            f"genes=None, and no sample has var[{key!r}]: choose genes with sp.pp.select_genes(samples), or pass a "
            "list of names."
        )
    if len(set(marked.values())) > 1:
        sizes = ", ".join(f"{name}: {len(names)}" for name, names in marked.items())
        raise ValueError(
            f"genes=None, but var[{key!r}] differs between samples ({sizes}). Run sp.pp.select_genes on all of them."
        )
    return replace(next(iter(marked.values())), dropped=tuple(dropped))
