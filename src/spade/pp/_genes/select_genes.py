"""The gene panel."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from spade import _keys
from spade._checks import plural, shorten
from spade._said.lines import speaks, wrote
from spade._samples.counts import has_counts, read_counts
from spade._samples.obs import read_roles
from spade._samples.open import Samples, as_list, iter_samples
from spade._samples.sample import Sample, check_names
from spade.core.arrays import Rows
from spade.core.checks import check_choice, check_count, check_flag, check_names_given, check_text
from spade.core.errors import warn
from spade.core.roles import TRAIN
from spade.models import GenePanel
from spade.models._gene_names import MIN_GENES
from spade.pp._genes.common import enough_common, usable_names
from spade.pp._genes.variable import (
    FEW_SHARE,
    RARE_SHARE,
    RARE_SPOTS,
    SectionCounts,
    rare_genes,
    spots_with,
    variable_alone,
    variable_together,
)

logger = logging.getLogger("spade")
ON_FEW_COMMON = ("error", "drop")
#: Most names of genes in a line of the log.
MOST_NAMED = 10
#: Default number of variable genes: per sample for SPADE, in total for SEAL.
N_TOP_GENES = {"spade": 50, "seal": 2_000}


@dataclass(frozen=True)
class GeneSettings:
    """How genes are chosen, as in :func:`select_genes`; the defaults of the method are filled in."""

    method: str
    n_top_genes: int
    include: tuple[str, ...]
    min_genes: int
    on_few_common: str
    fold_case: bool
    by_section: bool
    split_key: str | None
    layer: str | None


@speaks
def select_genes(
    samples: Samples,
    *,
    method: str = "spade",
    n_top_genes: int | None = None,
    include: Sequence[str] | None = None,
    min_genes: int = MIN_GENES,
    on_few_common: str = "error",
    fold_case: bool | None = None,
    by_section: bool = False,
    split_key: str | None = None,
    layer: str | None = None,
    table_key: str | None = None,
    key_added: str = _keys.STEM,
) -> GenePanel:
    """Choose the gene panel from the genes that all samples have in common, by the rule of the SPADE or the SEAL paper.

    SPADE: each sample contributes its ``n_top_genes`` most variable genes (counts normalised per spot, ``log1p``,
    scanpy's default flavour); the panel is their union. SEAL: names are matched in upper case; control probes and genes
    with fewer than 3 counts in total are left out; of the rest, the ``n_top_genes`` that vary most over the spots of
    all samples are taken (scaled to 10,000 counts per spot over all genes, ``log1p``, scanpy's ``"seurat"`` flavour).
    The panel is in alphabetical order. Variances are sums that are rounded in the order of the rows, so genes that vary
    all but equally may change places if the rows do.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or a list or dict of these. Samples without expression are skipped.
    method
        ``"spade"`` or ``"seal"``.
    n_top_genes
        Number of variable genes; None: 50 per sample for ``"spade"``, 2,000 in total for ``"seal"``. All genes that tie
        for the last place are taken.
    include
        Genes that are in the panel whether they vary or not, such as ``["ERBB2", "CD74"]``. All samples must have them.
    min_genes
        Fewest genes that all samples must have in common.
    on_few_common
        What to do if fewer are common: ``"error"``, or ``"drop"``, which leaves samples out one by one, each time the
        one whose absence helps most, until enough genes are common, and names them in a warning.
    fold_case
        Whether names are matched in upper case; the panel is then ``fold_case`` too. Genes of a sample whose names
        become equal are left out with a warning. None: True for ``"seal"``, False for ``"spade"``.
    by_section
        Only for ``"seal"``: whether genes must vary within sections (scanpy's ``batch_key``) and not merely between
        them.
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
        Ordered names. Also writes ``var["spade_gene"]`` (bool) in every sample with expression: its own genes that
        match these names. In a dropped sample no gene is marked.

    Raises
    ------
    ValueError
        Fewer than ``min_genes`` in common, a gene of ``include`` that a sample lacks, no expression anywhere, no
        training spot, counts that are not raw, or a ``split_key`` with other parts than those of :func:`split`.

    Warns
    -----
    UserWarning
        If most of the genes chosen are hardly expressed: found in fewer than 1 % of the spots, or in fewer than 3. The
        log names genes that are found in fewer than 5 %.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(2, 60)
    >>> panel = sp.pp.select_genes(samples, n_top_genes=20)
    >>> 20 <= len(panel) <= 40
    True
    """
    check_choice("method", method, N_TOP_GENES)
    if check_flag("by_section", by_section) and method != "seal":
        raise ValueError(
            f"by_section=True: method={method!r} chooses genes within each sample anyway; leave it out, or choose "
            '"seal".'
        )
    if split_key is not None:
        check_text("split_key", split_key)
    settings = GeneSettings(
        method=method,
        n_top_genes=check_count("n_top_genes", N_TOP_GENES[method] if n_top_genes is None else n_top_genes),
        include=() if include is None else tuple(dict.fromkeys(check_names_given("include", include))),
        min_genes=check_count("min_genes", min_genes),
        on_few_common=check_choice("on_few_common", on_few_common, ON_FEW_COMMON),
        fold_case=method == "seal" if fold_case is None else check_flag("fold_case", fold_case),
        by_section=by_section,
        split_key=split_key,
        layer=layer,
    )
    key = _keys.gene(_keys.check_key(key_added))
    samples = as_list(samples, writes=True)
    common, names, dropped = _common_panel(samples, settings, table_key)
    chosen, few, rare = _variable_genes(samples, names, common, settings, table_key)
    chosen |= {name for gene in settings.include for name in common.fold([gene])}
    panel = GenePanel(tuple(sorted(chosen)), n_common=len(common), dropped=tuple(dropped), fold_case=settings.fold_case)
    for sample in iter_samples(samples, table_key=table_key, writes=True, tables_only=True):
        if sample.has_expression:
            _mark_genes(sample, panel, settings, key, kept=sample.name in names)
    _tell_rare(chosen, [gene for gene in few if gene in chosen], [gene for gene in rare if gene in chosen])
    return panel


def _tell_rare(chosen: set[str], few: list[str], rare: list[str]) -> None:
    """Log which of the chosen genes are found in few spots; warn if most are hardly expressed."""
    if 2 * len(rare) > len(chosen):
        warn(
            f"{len(rare)} of the {plural(len(chosen), 'gene')} chosen have counts in fewer than {RARE_SHARE:.0%} of "
            f"the spots, or in fewer than {RARE_SPOTS}: {shorten(rare)}. Most of the panel is noise: lower "
            "n_top_genes=, add spots or samples, or leave such genes out of the tables (scanpy.pp.filter_genes)."
        )
    elif few:
        logger.info(
            "%d of the %s chosen have counts in fewer than %.0f%% of the spots, or in fewer than %d; the rarest first: "
            "%s", len(few), plural(len(chosen), "gene"), 100 * FEW_SHARE, RARE_SPOTS, shorten(few, MOST_NAMED),
        )  # fmt: skip


def _common_panel(
    samples: Samples, settings: GeneSettings, table_key: str | None
) -> tuple[GenePanel, list[str], list[str]]:
    """Return the common genes, and the names of the samples that are kept and dropped."""
    usable: dict[str, list[str]] = {}
    without = []
    for sample in iter_samples(samples, table_key=table_key, tables_only=True):
        if not sample.has_expression:
            without.append(sample.name)
            continue
        check_names([*usable, sample.name])
        usable[sample.name] = usable_names(
            sample, fold_case=settings.fold_case, drop_controls=settings.method == "seal"
        )
    if not usable:
        raise ValueError(f"no sample has expression (all tables have width 0): {', '.join(without)}.")
    if without:
        logger.info("%s: no expression, skipped", ", ".join(without))
    kept, dropped = enough_common(usable, settings.min_genes, settings.on_few_common, fold_case=settings.fold_case)
    genes = sorted(set.intersection(*(set(usable[name]) for name in kept)))
    common = GenePanel(tuple(genes), fold_case=settings.fold_case)
    _check_included(settings.include, common, {name: set(usable[name]) for name in kept})
    return common, kept, dropped


def _check_included(include: tuple[str, ...], common: GenePanel, usable: dict[str, set[str]]) -> None:
    """Raise if a sample lacks genes that the panel must have."""
    wanted = {gene: name for gene in include for name in common.fold([gene])}
    lacking = {
        sample: missing
        for sample, there in usable.items()
        if (missing := [gene for gene, name in wanted.items() if name not in there])
    }
    if lacking:
        said = "; ".join(f"{sample} lacks {shorten(missing)}" for sample, missing in list(lacking.items())[:3])
        more = f", and {len(lacking) - 3} samples more lack some" if len(lacking) > 3 else ""
        raise ValueError(
            f"include: {said}{more}, or has them only as control probes or twice. Check the spelling, bring the "
            "samples to one naming (sp.pp.harmonize_genes), or leave these genes or samples out."
        )


def _variable_genes(
    samples: Samples, names: list[str], common: GenePanel, settings: GeneSettings, table_key: str | None
) -> tuple[set[str], list[str], list[str]]:
    """Return the most variable of the common genes in these samples, those in few spots, and those hardly expressed."""
    n_found, n_spots = np.zeros(len(common)), 0
    alone: list[set[str]] = []
    together: list[SectionCounts] = []
    for sample in iter_samples(samples, table_key=table_key, tables_only=True):
        if sample.name not in names:
            continue
        counts, rows = _training_counts(sample, settings.layer, settings.split_key)
        if not len(rows):
            continue
        var_names = sample.table.var_names
        n_found, n_spots = n_found + spots_with(counts, var_names, common), n_spots + len(rows)
        if settings.method == "seal":
            together.append(SectionCounts.of(counts, var_names, sample.section_of_row()[rows], common))
        else:
            alone.append(variable_alone(counts, var_names, common, settings.n_top_genes))
    if not (together or alone):
        raise ValueError(f"split_key={settings.split_key!r}: no spot of any sample is in {_keys.TRAIN!r}.")
    few, rare = (rare_genes(n_found, n_spots, common, share) for share in (FEW_SHARE, RARE_SHARE))
    if together:
        return variable_together(together, common, settings.n_top_genes, by_section=settings.by_section), few, rare
    return set().union(*alone), few, rare


def _mark_genes(sample: Sample, panel: GenePanel, settings: GeneSettings, key: str, *, kept: bool) -> None:
    """Write which genes of a sample are in the panel (none if it was dropped), and save it."""
    columns = panel.columns(sample.table.var_names)
    marked = np.zeros(sample.table.n_vars, dtype=bool)
    marked[columns[columns >= 0]] = kept
    sample.table.var[key] = marked
    _keys.write_provenance(
        sample.table.uns,
        key,
        function="pp.select_genes",
        method=settings.method,
        n_top_genes=settings.n_top_genes,
        include=", ".join(settings.include) or None,
        n_genes=len(panel),
        fold_case=settings.fold_case or None,
        by_section=settings.by_section or None,
        split_key=settings.split_key,
    )
    sample.save()
    wrote(sample.name, f"var[{key!r}]")


def _training_counts(sample: Sample, layer: str | None, split_key: str | None) -> tuple[csr_matrix, Rows]:
    """Return raw counts of the spots that take part, over all genes, and their rows; none if no spot is in training."""
    counts = read_counts(sample, layer, smoothed=False)
    train = np.ones(len(counts.indptr) - 1, dtype=bool)
    if split_key is not None:
        train = read_roles(sample, split_key) == TRAIN
        if not train.any():
            logger.info("%s: no spot in %r, takes no part in gene selection", sample.name, _keys.TRAIN)
            return counts[:0], np.empty(0, dtype=np.int64)
    filled = train & has_counts(counts)
    if without := int((train & ~filled).sum()):
        warn(
            f"{sample.name}: {without} of {int(train.sum())} spots have no counts and do not take part in gene "
            "selection."
        )
    rows = np.flatnonzero(filled)
    if len(rows) < 2:
        n = "no spot has" if not len(rows) else "only 1 spot has"
        raise ValueError(f"{sample.name}: {n} counts; gene selection needs at least 2 spots with counts.")
    return csr_matrix(counts[rows]), rows
