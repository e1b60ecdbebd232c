"""The gene panel."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from spade import _keys
from spade._samples.counts import read_counts
from spade._samples.obs import obs_column
from spade._samples.open import Samples, as_list, iter_samples
from spade._samples.sample import Sample, check_names
from spade.core.errors import warn
from spade.models import GenePanel
from spade.models._gene_names import MIN_GENES
from spade.pp._genes.common import enough_common, usable_names
from spade.pp._genes.variable import SectionCounts, variable_alone, variable_together

logger = logging.getLogger("spade")
#: Variable genes of each method: per sample, and in all.
N_TOP_GENES = {"spade": 50, "seal": 2_000}


def select_genes(
    samples: Samples,
    *,
    method: str = "spade",
    n_top_genes: int | None = None,
    min_genes: int = MIN_GENES,
    on_few_common: str = "error",
    fold_case: bool | None = None,
    by_section: bool = False,
    split_key: str | None = None,
    layer: str | None = None,
    table_key: str | None = None,
    key_added: str = _keys.STEM,
) -> GenePanel:
    """Choose the gene panel by the rule of the SPADE or the SEAL paper, of the genes that all samples have in common.

    SPADE: each sample contributes its ``n_top_genes`` most variable genes (counts normalised per spot, ``log1p``, scanpy's default
    flavour); the panel is their union. SEAL: names are matched in upper case; control probes, and genes with fewer than 3 counts in all,
    are left out; then the ``n_top_genes`` most variable of the spots of all samples together (scaled to 10,000 counts per spot over all
    genes, ``log1p``, scanpy's ``"seurat"`` flavour). The panel is in alphabetical order.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or an iterable of these. Samples without expression are passed over.
    method
        ``"spade"`` or ``"seal"``.
    n_top_genes
        Variable genes; None: 50 per sample for ``"spade"``, 2,000 in all for ``"seal"``. Of those that tie for the last place all are taken.
    min_genes
        Fewest genes that all samples must have in common.
    on_few_common
        When fewer are common: ``"error"``, or ``"drop"`` to leave out, with a warning that names it, the sample whose
        absence helps most, again and again until enough are common.
    fold_case
        Whether names are matched in upper case, and the panel is ``fold_case``. Genes of a sample whose names become equal are left out
        with a warning. None: for ``"seal"``.
    by_section
        For ``"seal"``: whether genes are to vary within sections (scanpy's ``batch_key``), and not between them alone.
    split_key
        ``obs`` column of a split; only spots in ``"train"`` take part. None: all.
    layer
        Layer with raw counts, not smoothed; None: ``X``.
    table_key
        Table; may be left out when there is one.
    key_added
        Stem of the key written.

    Returns
    -------
    GenePanel
        Ordered names. Also writes ``var["spade_gene"]`` (bool) in every sample with expression, for its own genes behind these names; no
        gene is marked in a dropped one.

    Raises
    ------
    ValueError
        Fewer than ``min_genes`` in common, no expression anywhere, no training spot, or counts that are not raw.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(2, 60)
    >>> panel = sp.pp.select_genes(samples, n_top_genes=20)
    >>> 20 <= len(panel) <= 40
    True
    """
    if method not in N_TOP_GENES:
        raise ValueError(f'method={method!r}: expected "spade" or "seal".')
    if by_section and method != "seal":
        raise ValueError(f'by_section=True: method={method!r} chooses within each sample anyway; it is for "seal".')
    if on_few_common not in ("error", "drop"):
        raise ValueError(f'on_few_common={on_few_common!r}: expected "error" or "drop".')
    n_top_genes = N_TOP_GENES[method] if n_top_genes is None else n_top_genes
    fold_case = method == "seal" if fold_case is None else fold_case
    for name, value in (("n_top_genes", n_top_genes), ("min_genes", min_genes)):
        if value < 1:
            raise ValueError(f"{name}={value!r}: expected a whole number of at least 1.")
    _keys.check_key(key_added)
    samples = as_list(samples)
    usable: dict[str, list[str]] = {}
    without = []
    for sample in iter_samples(samples, table_key=table_key):
        if not sample.has_expression:
            without.append(sample.name)
            continue
        check_names([*usable, sample.name])
        usable[sample.name] = usable_names(sample, fold_case, drop_controls=method == "seal")
    if not usable:
        raise ValueError(f"no sample has expression (all tables have width 0): {', '.join(without)}.")
    if without:
        logger.info("%s: no expression, passed over", ", ".join(without))
    kept, dropped = enough_common(usable, min_genes, on_few_common, fold_case)
    common = GenePanel(tuple(sorted(set.intersection(*(set(usable[name]) for name in kept)))), fold_case=fold_case)
    alone: list[set[str]] = []
    together: list[SectionCounts] = []
    for sample in iter_samples(samples, table_key=table_key):
        if sample.name not in kept:
            continue
        counts, rows = _training_counts(sample, layer, split_key)
        if not len(rows):
            continue
        var_names = sample.table.var_names
        if method == "seal":
            together.append(SectionCounts.of(counts, var_names, sample.section_of_row()[rows], common))
        else:
            alone.append(variable_alone(counts, var_names, common, n_top_genes))
    if not (together or alone):
        raise ValueError(f"split_key={split_key!r}: no spot of any sample is in {_keys.TRAIN!r}.")
    chosen = variable_together(together, common, n_top_genes, by_section) if together else set().union(*alone)
    panel = GenePanel(tuple(sorted(chosen)), n_common=len(common), dropped=tuple(dropped), fold_case=fold_case)
    key = _keys.gene(key_added)
    for sample in iter_samples(samples, table_key=table_key):
        if sample.has_expression:
            columns = panel.columns(sample.table.var_names)
            marked = np.zeros(sample.table.n_vars, dtype=bool)
            marked[columns[columns >= 0]] = sample.name in kept
            sample.table.var[key] = marked
            _keys.write_provenance(
                sample.table.uns,
                key,
                function="pp.select_genes",
                method=method,
                n_top_genes=n_top_genes,
                n_genes=len(panel),
                fold_case=fold_case or None,
                by_section=by_section or None,
                split_key=split_key,
            )
            sample.save()
    logger.info("%d genes of %d common to %d samples; wrote var[%r]", len(panel), len(common), len(kept), key)
    return panel


def _training_counts(sample: Sample, layer: str | None, split_key: str | None) -> tuple[csr_matrix, NDArray[np.int64]]:
    """Return raw counts of the spots that take part, over all genes, and which these are; none if none is in training."""
    counts = read_counts(sample, layer, smoothed=False)
    train = np.ones(len(counts.indptr) - 1, dtype=bool)
    if split_key is not None:
        train = (obs_column(sample, split_key, "split_key").astype(object) == _keys.TRAIN).to_numpy()
        if not train.any():
            logger.info("%s: no spot in %r, takes no part in gene selection", sample.name, _keys.TRAIN)
            return counts[:0], np.empty(0, dtype=np.int64)
    filled = train & (np.asarray(counts.sum(1)).ravel() > 0)
    if without := int((train & ~filled).sum()):
        warn(
            f"{sample.name}: {without} of {int(train.sum())} spots have no counts and do not take part in gene selection."
        )
    if filled.sum() < 2:
        raise ValueError(f"{sample.name}: {int(filled.sum())} spots have counts; gene selection needs at least 2.")
    rows = np.flatnonzero(filled)
    return csr_matrix(counts[rows]), rows
