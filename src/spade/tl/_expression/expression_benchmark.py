"""How well representations predict the expression of patients that were held out."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from spade import _keys, encoders
from spade._checks import shorten
from spade._samples.counts import read_counts
from spade._samples.encode import BATCH
from spade._samples.features import Representation, named_representations, read_representations
from spade._samples.obs import check_groups, section_groups
from spade._samples.open import Samples, as_list, iter_samples
from spade._samples.patches import row_centres
from spade._samples.sample import check_names
from spade.core.checks import check_count
from spade.core.expression.normalise import TARGET_SUM
from spade.core.spots.blocks import spacing
from spade.encoders import Encoder
from spade.io._store import is_store
from spade.models import GenePanel
from spade.models._gene_names import MATCHING
from spade.tl._expression.hest_bench import read_task, read_task_sample
from spade.tl._expression.protocols import HEST, SOUND, BenchSection, hest_fold, sound_fold, variable_genes

logger = logging.getLogger("spade")
#: Training and test sections of every fold, by its name.
Folds = Mapping[str, tuple[Sequence[str], Sequence[str]]]


def expression_benchmark(
    samples: Samples,
    *,
    use_rep: Representation | Sequence[Representation] | Mapping[str, Representation] | None = None,
    protocol: str | Sequence[str] = (HEST, SOUND),
    groupby: str | None = "patient",
    n_genes: int = 50,
    genes: GenePanel | Sequence[str] | None = None,
    target_sum: float | None = TARGET_SUM,
    encoder: str | Encoder = "texture",
    layer: str | None = None,
    patches_key: str = _keys.PATCHES,
    table_key: str | None = None,
    batch_size: int = BATCH,
) -> pd.DataFrame:
    """Predict the most variable genes of held-out patients by ridge regression, and correlate with what was measured.

    ``"hest"`` is the protocol of HEST-Bench as it is run: the 50 most variable genes of **all** samples, test included; log1p of raw
    counts; features standardised, reduced to 256 principal components, both learned on the training spots; ridge regression
    without intercept, α = 100 / (components × genes); Pearson correlation per gene over all test spots together, so that differences
    between sections count. ``"sound"``: genes chosen on the training sections of each fold only; counts scaled per spot before log1p, so
    that depth is no expression; α chosen by holding out training sections (of a single one, halves); correlation within each section.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or an iterable of these, with features and raw counts. Or the folder of one task of
        HEST-Bench: ``splits/train_k.csv`` and ``test_k.csv`` (``sample_id``, ``patches_path``, ``expr_path``), ``var_50genes.json``, and
        what these name: patches (``.h5``) and counts (``.h5ad``), which are joined by barcode.
    use_rep
        ``obsm`` key of a representation; a tuple of keys is put side by side; a list of these compares several; a dict names them. Spots
        that lack one of them are not used for any. Not for a folder.
    protocol
        ``"hest"``, ``"sound"`` or both.
    groupby
        ``obs`` column, one value per section; each value in turn is held out. None: the section. A folder has folds of its own.
    n_genes
        Number of genes.
    genes
        Names of genes to use in both protocols; None: chosen as above (for ``"hest"`` on a folder: those that it names).
    target_sum
        Counts per spot in ``"sound"``; None: raw counts, as in ``"hest"``.
    encoder
        Encodes the patches of a folder: a name, or what :func:`spade.encoders.get` returned.
    layer
        Layer with raw counts; None: ``X``.
    patches_key
        What :func:`spade.pp.patches` wrote, read to cut a single training section into halves.
    table_key
        Table; may be left out when there is one.
    batch_size
        Patches of a folder that are encoded at a time.

    Returns
    -------
    DataFrame
        One row per ``protocol``, ``representation``, ``fold``, ``section`` (``""`` for ``"hest"``) and ``gene``: ``pearson``, the number of test spots
        ``n_spots``, and ``alpha``. NaN: the gene does not vary there. With fewer features or training spots than 256, ``"hest"`` keeps as many
        components as there are. :func:`expression_summary` makes means and intervals of it.

    Raises
    ------
    FileNotFoundError
        A folder that is no task, or files that its splits name.
    KeyError
        No such representation, column, or genes that a sample lacks.
    ValueError
        One group only, a group that varies within a section, too few genes, files that are truncated or do not fit each other.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(3, 60)
    >>> sp.pp.patches(samples)
    >>> sp.pp.encode_patches(samples)
    >>> table = sp.tl.expression_benchmark(samples, use_rep="X_texture", n_genes=20)
    >>> table.groupby("protocol")["fold"].nunique().to_dict()
    {'hest': 3, 'sound': 3}
    """
    wanted = [protocol] if isinstance(protocol, str) else list(protocol)
    if not wanted or (odd := [one for one in wanted if one not in (HEST, SOUND)]):
        raise ValueError(f'protocol={odd[0] if wanted else wanted!r}: expected "hest", "sound" or both.')
    check_count("n_genes", n_genes)
    check_count("batch_size", batch_size)
    given = None if genes is None else GenePanel.of(genes)
    panel = None if given is None else list(given.names)
    if isinstance(samples, (str, PathLike)) and Path(samples).is_dir() and not is_store(Path(samples)):
        if use_rep is not None:
            raise ValueError(
                f"use_rep={use_rep!r}: a folder of HEST-Bench has no obsm; its patches go through encoder=."
            )
        sections, folds, named = _of_folder(Path(samples), encoder, batch_size)
        hest_genes: list[str] | None = panel or named
    else:
        if use_rep is None:
            raise ValueError('use_rep=None: name an obsm key, such as use_rep="X_texture".')
        sections, folds = _of_samples(samples, use_rep, groupby, layer, patches_key, table_key)
        hest_genes = panel
    if given is not None and given.fold_case:
        sections = {name: _folded(one, given) for name, one in sections.items()}
    _check_genes(sections, panel if HEST not in wanted else hest_genes, given is not None and given.fold_case)
    if hest_genes is None and HEST in wanted:
        hest_genes = variable_genes(list(sections.values()), n_genes)
    shared = set.intersection(*(set(one.genes) for one in sections.values()))
    names = list(next(iter(sections.values())).x)
    found: list[dict[str, Any]] = []
    with tqdm(total=len(folds) * len(wanted) * len(names), desc="expression benchmark", unit="fit") as bar:
        for fold, parts in folds.items():
            train, test = ([sections[name] for name in part] for part in parts)
            chosen = panel or (variable_genes(train, n_genes, shared) if SOUND in wanted else [])
            for one in wanted:
                for rep in names:
                    scores = (
                        hest_fold(train, test, rep, hest_genes or [])
                        if one == HEST
                        else sound_fold(train, test, rep, chosen, target_sum)
                    )
                    found += [{"protocol": one, "representation": rep, "fold": fold} | score for score in scores]
                    bar.update()
    return pd.DataFrame(found)


def _folded(one: BenchSection, panel: GenePanel) -> BenchSection:
    """Name the genes of a section as the panel does; those that more than one goes by get no name of the panel."""
    names = zip(one.genes, panel.fold(one.genes), strict=True)
    return replace(one, genes=pd.Index([folded or f"{name} (ambiguous)" for name, folded in names]))


def _check_genes(sections: Mapping[str, BenchSection], genes: Iterable[str] | None, fold_case: bool) -> None:
    for one in sections.values():
        if missing := [name for name in genes or () if name not in one.genes]:
            raise KeyError(f"{one.name}: genes: {shorten(missing)} are not in the table. {MATCHING[fold_case]}")


def _of_folder(
    folder: Path, encoder: str | Encoder, batch_size: int
) -> tuple[dict[str, BenchSection], Folds, list[str]]:
    task = read_task(folder)
    ready = encoders.get(encoder) if isinstance(encoder, str) else encoder
    sections = {}
    for name in tqdm(task.files, desc=f"{ready.name}: {folder.name}", unit="sample"):
        one = read_task_sample(task, name, ready, batch_size)
        guard = 0.0 if one.points is None else 1.2 * spacing(one.points)  # patches are about as wide as spots are apart
        sections[name] = BenchSection(name, {ready.name: one.x}, one.counts, one.genes, one.points, guard)
    return sections, task.folds, task.genes


def _of_samples(
    samples: Samples, use_rep: Any, groupby: str | None, layer: str | None, patches_key: str, table_key: str | None
) -> tuple[dict[str, BenchSection], Folds]:
    named = named_representations(use_rep)
    sections: dict[str, BenchSection] = {}
    group: dict[str, str] = {}
    for sample in iter_samples(as_list(samples), table_key=table_key):
        x, rows = read_representations(sample, named, "none")
        counts = read_counts(sample, layer)
        groups = section_groups(sample, groupby)
        points, side = row_centres(sample, patches_key, required=False)
        filled = np.asarray(counts.sum(1)).ravel() > 0
        for section in sample.sections:
            check_names([*sections, section.name], "sections")
            here = np.isin(rows, section.rows) & filled[rows]
            own = rows[here]
            if len(own) < len(section.rows):
                logger.info(
                    "%s: %d spots without features or counts are not used", section.name, len(section.rows) - len(own)
                )
            if len(own) < 2:
                raise ValueError(f"{section.name}: {len(own)} spots have features and counts; leave the section out.")
            places = None if np.isnan(points[own]).any() else points[own]
            blocks = {name: block[here] for name, block in x.items()}
            sections[section.name] = BenchSection(
                section.name, blocks, counts[own], sample.table.var_names.astype(str), places, side
            )
            group[section.name] = groups[section.name]
    names = check_groups(group.values(), groupby)
    return sections, {
        name: ([one for one in group if group[one] != name], [one for one in group if group[one] == name])
        for name in names
    }
