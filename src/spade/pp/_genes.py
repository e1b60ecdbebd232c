"""The gene panel."""

from __future__ import annotations

import logging
import warnings

import anndata as ad
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from spade import _keys
from spade._samples import Sample, Samples, as_list, check_names, iter_samples, read_counts
from spade.models import GenePanel
from spade.models._genes import MIN_GENES, few_common

logger = logging.getLogger("spade")


def select_genes(
    samples: Samples,
    *,
    method: str = "spade",
    n_top_genes: int = 50,
    min_genes: int = MIN_GENES,
    on_few_common: str = "error",
    layer: str | None = None,
    table_key: str | None = None,
    key_added: str = _keys.STEM,
) -> GenePanel:
    """Choose the gene panel by the rule of the SPADE paper.

    Of the genes that all samples have in common (names matched exactly), each sample contributes its ``n_top_genes`` most
    variable ones (counts normalised per spot, ``log1p``, scanpy's default flavour); the panel is their union, in
    alphabetical order.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or an iterable of these. Samples without expression are passed over.
    method
        ``"spade"``.
    n_top_genes
        Variable genes per sample.
    min_genes
        Fewest genes that all samples must have in common.
    on_few_common
        When fewer are common: ``"error"``, or ``"drop"`` to leave out, with a warning that names it, the sample whose
        absence helps most, again and again until enough are common.
    layer
        Layer with raw counts; None: ``X``.
    table_key
        Table; may be left out when there is one.
    key_added
        Stem of the key written.

    Returns
    -------
    GenePanel
        Ordered names. Also writes ``var["spade_gene"]`` (bool) in every sample with expression; no gene is marked in a dropped one.

    Raises
    ------
    ValueError
        Fewer than ``min_genes`` in common, no expression anywhere, or counts that are not raw.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(2, 60)
    >>> panel = sp.pp.select_genes(samples, n_top_genes=20)
    >>> 20 <= len(panel) <= 40
    True
    """
    if method != "spade":
        raise ValueError(f'method={method!r}: there is "spade".')
    if on_few_common not in ("error", "drop"):
        raise ValueError(f'on_few_common={on_few_common!r}: expected "error" or "drop".')
    for name, value in (("n_top_genes", n_top_genes), ("min_genes", min_genes)):
        if value < 1:
            raise ValueError(f"{name}={value!r}: expected a whole number of at least 1.")
    _keys.check_key(key_added)
    samples = as_list(samples)
    var_names: dict[str, pd.Index] = {}
    without = []
    for sample in iter_samples(samples, table_key=table_key):
        if not sample.has_expression:
            without.append(sample.name)
            continue
        check_names([*var_names, sample.name])
        var_names[sample.name] = sample.table.var_names
    if not var_names:
        raise ValueError(f"no sample has expression (all tables have width 0): {', '.join(without)}.")
    if without:
        logger.info("%s: no expression, passed over", ", ".join(without))
    kept, dropped = _enough_common(var_names, min_genes, on_few_common)
    common = set.intersection(*(set(var_names[name]) for name in kept))
    chosen: set[str] = set()
    for sample in iter_samples(samples, table_key=table_key):
        if sample.name in kept:
            chosen |= _highly_variable(sample, common, n_top_genes, layer)
    panel = GenePanel(tuple(sorted(chosen)), n_common=len(common), dropped=tuple(dropped))
    key = _keys.gene(key_added)
    for sample in iter_samples(samples, table_key=table_key):
        if sample.has_expression:
            sample.table.var[key] = sample.table.var_names.isin(chosen if sample.name in kept else set())
            _keys.write_provenance(
                sample.table.uns,
                key,
                function="pp.select_genes",
                method=method,
                n_top_genes=n_top_genes,
                n_genes=len(panel),
            )
            sample.save()
    logger.info("%d genes of %d common to %d samples; wrote var[%r]", len(panel), len(common), len(kept), key)
    return panel


def _enough_common(var_names: dict[str, pd.Index], min_genes: int, on_few_common: str) -> tuple[list[str], list[str]]:
    """Return the samples that stay and those that are dropped."""
    sets = {name: set(genes) for name, genes in var_names.items()}
    dropped: list[str] = []
    while len(common := set.intersection(*sets.values())) < min_genes:
        if on_few_common == "error" or len(sets) == 1:
            raise ValueError(
                f"{few_common({name: var_names[name] for name in sets}, len(common), f'min_genes={min_genes}')} "
                'Train them apart, rename the genes, or leave samples out with on_few_common="drop".'
            )
        worst = max(sets, key=lambda name: len(set.intersection(*(s for other, s in sets.items() if other != name))))
        del sets[worst]
        dropped.append(worst)
    if dropped:
        warnings.warn(
            f"{', '.join(dropped)}: left out of gene selection and training, as with them fewer than min_genes={min_genes} genes "
            f"are common; {len(common)} are common to {', '.join(sets)}.",
            stacklevel=3,
        )
    return list(sets), dropped


def _highly_variable(sample: Sample, common: set[str], n_top_genes: int, layer: str | None) -> set[str]:
    """Return the most variable of the common genes; spots without counts are left out."""
    import scanpy as sc

    counts = read_counts(sample, layer)
    filled = np.asarray(counts.sum(1)).ravel() > 0
    if not filled.all():
        warnings.warn(
            f"{sample.name}: {int((~filled).sum())} of {len(filled)} spots have no counts and do not take part in gene selection.",
            stacklevel=3,
        )
    if filled.sum() < 2:
        raise ValueError(f"{sample.name}: {int(filled.sum())} spots have counts; gene selection needs at least 2.")
    var = pd.DataFrame(index=sample.table.var_names)
    scratch = ad.AnnData(csr_matrix(counts[filled]), var=var)
    sc.pp.normalize_total(scratch)
    sc.pp.log1p(scratch)
    scratch = scratch[:, scratch.var_names.isin(common)].copy()
    if n_top_genes >= scratch.n_vars:
        return set(scratch.var_names)
    sc.pp.highly_variable_genes(scratch, n_top_genes=n_top_genes)
    return set(scratch.var_names[scratch.var["highly_variable"]])
