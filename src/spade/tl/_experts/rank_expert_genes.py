"""Marker genes of every expert."""

from __future__ import annotations

import logging

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from spade import _keys
from spade._checks import log_left_out, shorten
from spade._samples.counts import log_expression
from spade._samples.experts import by_number, iter_experts, need_experts
from spade._samples.open import Samples, as_list, iter_samples
from spade.core.checks import check_count
from spade.core.errors import warn
from spade.core.expression.markers import higher_in_sections, shares_above_zero
from spade.models._gene_names import common_genes
from spade.tl._experts.top_genes import compare_experts

logger = logging.getLogger("spade")
METHODS = ("wilcoxon", "t-test", "t-test_overestim_var")
#: Spots in and outside of an expert that a section needs to say where a gene is higher.
SECTION_SPOTS = 3
#: What scanpy calls them, and we.
STATISTICS = {"scores": "score", "logfoldchanges": "log_fold_change", "pvals": "p", "pvals_adj": "p_adjusted"}


def rank_expert_genes(
    samples: Samples,
    *,
    key: str = _keys.STEM,
    n_genes: int | None = 50,
    method: str = "wilcoxon",
    layer: str | None = None,
    normalized: bool = False,
    min_spots: int = 20,
    table_key: str | None = None,
    key_added: str = _keys.MARKERS,
) -> pd.DataFrame:
    """Rank the genes that tell each expert's spots from all others.

    Samples with expression are put together on the genes that all of them have, log-normalised (counts scaled to 1e4 per spot,
    log1p), and tested with :func:`scanpy.tl.rank_genes_groups`, each expert against the rest.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or an iterable of these; those without expression are passed over.
    key
        Stem of the keys that :func:`embed` or :func:`cluster_experts` wrote.
    n_genes
        Best genes per expert to return; None: all genes.
    method
        ``"wilcoxon"``, ``"t-test"`` or ``"t-test_overestim_var"``, as scanpy has them.
    layer
        Layer with raw counts; None: ``X``.
    normalized
        Take the values as they are, as natural ``log1p`` of normalised counts.
    min_spots
        An expert with fewer spots, or fewer spots outside it, is not ranked: a warning names it, and the table has no rows for it.
        Its spots still are among the rest of the others.
    table_key
        Table; may be left out when there is one.
    key_added
        ``uns`` key of the table.

    Returns
    -------
    DataFrame
        For every expert, best gene first, its ``n_genes`` best genes and those of the other experts, so that one sees how
        specific a gene is; ``table[table["rank"] <= n_genes]`` keeps the expert's own. Columns: ``expert``; ``gene``; ``rank``
        within the expert among all common genes, from 1; ``score`` (z or t); ``log_fold_change`` (log2, as scanpy has it: of the counts that belong to the mean log values);
        ``p``; ``p_adjusted`` (Benjamini–Hochberg over all common genes); ``share_in`` and ``share_out``, of spots in and outside of
        the expert with a value above 0; ``sections`` where the mean is higher in the expert than outside, out of ``n_sections`` that
        have at least 3 spots of each. For a single object the table is also written to ``uns["rank_expert_genes"]``.

    Raises
    ------
    KeyError
        No experts or clusters with this ``key``, or no such layer.
    ValueError
        No expression, too few common genes, one expert only, no expert with ``min_spots``, or counts that are not raw.

    Notes
    -----
    Spots are no independent replicates: neighbours share tissue, sections share a patient. The p values are therefore far too
    small and rank genes only. ``sections`` tells whether a gene holds up from section to section.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(2, 60)
    >>> sp.pp.patches(samples)
    >>> sp.pp.encode_patches(samples)
    >>> routing = sp.tl.cluster_experts(samples, use_rep="X_texture", n_prototypes=2, n_experts=2)
    >>> table = sp.tl.rank_expert_genes(samples, n_genes=3)
    >>> len(table[table["rank"] <= 3])
    6
    """
    if n_genes is not None:
        check_count("n_genes", n_genes)
    check_count("min_spots", min_spots, 2)
    if method not in METHODS:
        raise ValueError(f"method={method!r}: expected one of {shorten(METHODS)}.")
    _keys.check_uns_key(key_added)
    items = as_list(samples)
    joined = _joined(items, key, layer, normalized, table_key)
    experts = _able(joined.obs["expert"], min_spots)
    table = _ranked(joined, experts, method)
    if n_genes is not None:
        best = set(table.loc[table["rank"] <= n_genes, "gene"])
        table = table[table["gene"].isin(best)].reset_index(drop=True)
    if len(items) == 1:
        (sample,) = iter_samples(items, table_key=table_key)
        sample.table.uns[key_added] = table.copy()
        _keys.write_provenance(
            sample.table.uns,
            key_added,
            function="tl.rank_expert_genes",
            stem=key,
            method=method,
            n_genes=n_genes,
            layer=layer,
            normalized=normalized,
            min_spots=min_spots,
        )
        sample.save()
        logger.info("%s: wrote uns[%r]", sample.name, key_added)
    return table


def _joined(samples: Samples, key: str, layer: str | None, normalized: bool, table_key: str | None) -> ad.AnnData:
    """Return log-normalised expression of all spots with an expert, on the common genes, with expert and section."""
    tables: dict[str, ad.AnnData] = {}
    experts, without = [], []
    empty = 0
    for sample, names in iter_experts(samples, key, table_key):
        if not sample.has_expression:
            without.append(sample.name)
            continue
        experts.append(names)
        table = log_expression(sample, layer, normalized=normalized)
        rows = table.obs_names.astype(int).to_numpy()
        empty += int((names != "").sum() - (names[rows] != "").sum())
        table.obs["expert"], table.obs["section"] = names[rows], sample.section_of_row()[rows]
        tables[sample.name] = table[names[rows] != ""]
    if not tables:
        raise ValueError(f"no sample has expression (all tables have width 0): {', '.join(without)}.")
    if without:
        logger.info("%s: no expression, passed over", ", ".join(without))
    everything = np.concatenate(experts)
    need_experts(everything, key)
    log_left_out(
        "rank_expert_genes", len(everything), {"without expert": int((everything == "").sum()), "without counts": empty}
    )
    common_genes({name: table.var_names for name, table in tables.items()}, "Rank them apart, or rename the genes.")
    return ad.concat(tables, join="inner", index_unique="-")


def _able(experts: pd.Series, min_spots: int) -> list[str]:
    """Return the experts that can be ranked."""
    sizes = experts.value_counts()
    names = by_number(experts.to_numpy(dtype=object))
    if len(names) < 2:
        there = f"all {len(experts)} spots with counts belong to expert {names[0]!r}" if names else "none has counts"
        raise ValueError(
            f"of the spots with an expert, {there}; genes are ranked against other experts' spots, so pass samples that have two or "
            "more."
        )
    able = [name for name in names if min_spots <= sizes[name] <= len(experts) - min_spots]
    listed = ", ".join(f"{name}: {sizes[name]}" for name in names if name not in able)
    if not able:
        raise ValueError(
            f"min_spots={min_spots}: no expert has as many spots with counts in and outside of it ({listed}, of {len(experts)}). Lower "
            "min_spots= or pass more samples."
        )
    if listed:
        warn(
            f"experts with fewer than min_spots={min_spots} spots in or outside of them are not ranked ({listed}, of {len(experts)})."
        )
    return able


def _ranked(joined: ad.AnnData, experts: list[str], method: str) -> pd.DataFrame:
    """Return one row per expert and common gene, best first."""
    found = compare_experts(joined, experts, method)
    group: NDArray[np.int64] = joined.obs["expert"].cat.codes.to_numpy(dtype=np.int64)
    names = list(joined.obs["expert"].cat.categories)
    values = csr_matrix(joined.X)
    share_in, share_out = shares_above_zero(values, group, len(names))
    higher, compared = higher_in_sections(
        values, group, pd.factorize(joined.obs["section"])[0], len(names), SECTION_SPOTS
    )
    frames = []
    for expert in experts:
        genes = pd.Index(found["names"][expert])
        column, row = joined.var_names.get_indexer(genes), names.index(expert)
        statistics = {ours: found[theirs][expert].astype(np.float64) for theirs, ours in STATISTICS.items()}
        frames.append(
            pd.DataFrame(
                {
                    "expert": expert,
                    "gene": genes.astype(str),
                    "rank": np.arange(1, len(genes) + 1),
                    **statistics,
                    "share_in": share_in[row, column],
                    "share_out": share_out[row, column],
                    "sections": higher[row, column],
                    "n_sections": compared[row],
                }
            )
        )
    return pd.concat(frames, ignore_index=True)
