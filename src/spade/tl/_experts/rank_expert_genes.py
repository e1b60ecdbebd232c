"""Marker genes of every expert."""

from __future__ import annotations

import logging

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from spade import _keys
from spade._checks import log_left_out
from spade._said.lines import speaks, wrote
from spade._samples.counts import log_expression
from spade._samples.experts import by_number, iter_experts, need_experts
from spade._samples.open import Samples, as_list, iter_samples
from spade.core.checks import check_choice, check_count, check_flag, check_text
from spade.core.errors import warn
from spade.core.expression.markers import higher_in_sections, log_fold_changes, shares_above_zero
from spade.models._gene_names import common_genes
from spade.tl._experts.top_genes import compare_experts

logger = logging.getLogger("spade")
METHODS = ("wilcoxon", "t-test", "t-test_overestim_var")
#: Spots that a section needs in and outside of an expert to count in ``n_sections``.
SECTION_SPOTS = 3
#: Names of the statistics in scanpy, and in the table.
STATISTICS = {"scores": "score", "pvals": "p", "pvals_adj": "p_adjusted"}


@speaks
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
    """Rank the genes that distinguish each expert's spots from all others.

    Samples with expression are concatenated over the genes that all of them have, log-normalised (counts scaled to 1e4
    per spot, log1p), and tested with :func:`scanpy.tl.rank_genes_groups`, each expert against the rest.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or a list or dict of these; samples without expression are skipped.
    key
        Stem of the keys that :func:`embed` or :func:`cluster_experts` wrote.
    n_genes
        Best genes per expert to return; None: all genes.
    method
        ``"wilcoxon"``, ``"t-test"`` or ``"t-test_overestim_var"``, as in scanpy.
    layer
        Layer with raw counts; None: ``X``.
    normalized
        The values are the natural ``log1p`` of normalised counts already, and are used as they are.
    min_spots
        An expert with fewer spots, or with fewer spots outside of it, is not ranked: a warning names it, and the table
        has no rows for it. Its spots still belong to the rest for the other experts.
    table_key
        Table; may be left out when there is one.
    key_added
        ``uns`` key of the table.

    Returns
    -------
    DataFrame
        For every expert, best gene first, its ``n_genes`` best genes and those of the other experts, which shows how
        specific a gene is; ``table[table["rank"] <= n_genes]`` keeps the expert's own. Columns: ``expert``; ``gene``;
        ``rank`` within the expert among all common genes, from 1; ``score`` (z or t); ``log_fold_change`` (log2, of the
        counts per 10,000 that the mean log values correspond to, plus 1 each; scanpy adds 1e-9, with which a gene that
        a single spot has gets 20); ``p``; ``p_adjusted`` (Benjamini–Hochberg over all common genes); ``share_in`` and
        ``share_out``, the shares of spots in and outside of the expert with a value above 0; ``sections`` in which the
        mean is higher in the expert than outside of it, of the ``n_sections`` that have at least 3 spots of each. For a
        single object the table is also written to ``uns["rank_expert_genes"]``.

    Raises
    ------
    KeyError
        No experts or clusters with this ``key``, or no such layer.
    ValueError
        No expression, too few common genes, one expert only, no expert with ``min_spots``, or counts that are not raw.

    Notes
    -----
    Spots are not independent replicates: neighbours share tissue, sections share a patient. The p values are therefore
    far too small, and only rank genes. ``sections`` says in how many sections a gene holds up.

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
    check_choice("method", method, METHODS)
    check_text("key", key)
    _keys.check_uns_key(key_added)
    items = as_list(samples)
    as_list(items, writes=len(items) == 1)
    joined = _join(items, key, layer, table_key, normalized=check_flag("normalized", normalized))
    table = _rank(joined, _large_enough(joined.obs["expert"], min_spots), method)
    if n_genes is not None:
        best = set(table.loc[table["rank"] <= n_genes, "gene"])
        table = table[table["gene"].isin(best)].reset_index(drop=True)
    if len(items) == 1:
        for sample in iter_samples(items, table_key=table_key, writes=True):
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
            wrote(sample.name, f"uns[{key_added!r}]")
    return table


def _join(samples: Samples, key: str, layer: str | None, table_key: str | None, *, normalized: bool) -> ad.AnnData:
    """Return log-normalised expression of all spots with an expert, on the common genes, with expert and section."""
    tables: dict[str, ad.AnnData] = {}
    experts, without_expression = [], []
    n_empty = 0
    for sample, expert in iter_experts(samples, key, table_key):
        if not sample.has_expression:
            without_expression.append(sample.name)
            continue
        experts.append(expert)
        table = log_expression(sample, layer, normalized=normalized)
        rows = table.obs_names.astype(int).to_numpy()
        n_empty += int((expert != "").sum() - (expert[rows] != "").sum())
        table.obs["expert"], table.obs["section"] = expert[rows], sample.section_of_row()[rows]
        tables[sample.name] = table[expert[rows] != ""]
    if not tables:
        raise ValueError(f"no sample has expression (all tables have width 0): {', '.join(without_expression)}.")
    if without_expression:
        logger.info("%s: no expression, skipped", ", ".join(without_expression))
    of_spots = np.concatenate(experts)
    need_experts(of_spots, key)
    without = {"without expert": int((of_spots == "").sum()), "without counts": n_empty}
    log_left_out("rank_expert_genes", len(of_spots), without)
    common_genes({name: table.var_names for name, table in tables.items()}, "Rank them apart, or rename the genes.")
    return ad.concat(tables, join="inner", index_unique="-")


def _large_enough(experts: pd.Series, min_spots: int) -> list[str]:
    """Return the experts with at least ``min_spots`` in and outside of them; warn of the others."""
    sizes = experts.value_counts()
    names = by_number(experts.to_numpy(dtype=object))
    if len(names) < 2:
        problem = f"all {len(experts)} spots with counts belong to expert {names[0]!r}" if names else "none has counts"
        raise ValueError(
            f"of the spots with an expert, {problem}; genes are ranked against the spots of other experts, so pass "
            "samples with at least two experts."
        )
    ranked = [name for name in names if min_spots <= sizes[name] <= len(experts) - min_spots]
    listed = ", ".join(f"{name}: {sizes[name]}" for name in names if name not in ranked)
    if not ranked:
        raise ValueError(
            f"min_spots={min_spots}: no expert has as many spots with counts both in and outside of it ({listed}, of "
            f"{len(experts)}). Lower min_spots= or pass more samples."
        )
    if listed:
        warn(
            f"experts with fewer than min_spots={min_spots} spots in or outside of them are not ranked ({listed}, of "
            f"{len(experts)})."
        )
    return ranked


def _rank(joined: ad.AnnData, experts: list[str], method: str) -> pd.DataFrame:
    """Return one row per expert and common gene, best first."""
    ranking = compare_experts(joined, experts, method)
    group: NDArray[np.int64] = joined.obs["expert"].cat.codes.to_numpy(dtype=np.int64)
    names = list(joined.obs["expert"].cat.categories)
    values = csr_matrix(joined.X)
    share_in, share_out = shares_above_zero(values, group, len(names))
    change = log_fold_changes(values, group, len(names))
    section = pd.factorize(joined.obs["section"])[0]
    higher, compared = higher_in_sections(values, group, section, len(names), SECTION_SPOTS)
    frames = []
    for expert in experts:
        genes = pd.Index(ranking["names"][expert])
        column, row = joined.var_names.get_indexer(genes), names.index(expert)
        frame = pd.DataFrame({"expert": expert, "gene": genes.astype(str), "rank": np.arange(1, len(genes) + 1)})
        for theirs, ours in STATISTICS.items():
            frame[ours] = ranking[theirs][expert].astype(np.float64)
        frame.insert(4, "log_fold_change", change[row, column])
        frame["share_in"], frame["share_out"] = share_in[row, column], share_out[row, column]
        frame["sections"], frame["n_sections"] = higher[row, column], compared[row]
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)
