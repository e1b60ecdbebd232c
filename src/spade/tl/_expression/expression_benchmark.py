"""How well representations predict the expression of held-out patients."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix
from tqdm.auto import tqdm

from spade import _keys, encoders
from spade._checks import plural, shorten
from spade._said.lines import speaks
from spade._samples.collect import Collector
from spade._samples.counts import has_counts, read_counts
from spade._samples.encode import BATCH
from spade._samples.features import Representation, named_representations, read_representations
from spade._samples.obs import check_groups, section_groups
from spade._samples.open import Samples, as_list, iter_samples
from spade._samples.patches import row_centres
from spade.core.checks import brief, check_choice, check_count, check_path, check_positive
from spade.core.expression.normalise import TARGET_SUM
from spade.encoders import Encoder
from spade.encoders._wrap import as_encoder
from spade.io._cohort.places import holds_stores
from spade.io._store import is_store
from spade.models import GenePanel
from spade.models._gene_names import MATCHING
from spade.tl._expression.hest_bench import read_task, read_task_sample
from spade.tl._expression.protocols import (
    HEST,
    SOUND,
    BenchSection,
    GeneScore,
    hest_fold,
    sound_fold,
    variable_genes,
)

logger = logging.getLogger("spade")
#: Training and test sections of every fold, by its name.
Folds = Mapping[str, tuple[Sequence[str], Sequence[str]]]


@speaks
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
    """Predict the most variable genes of held-out patients by ridge regression, and correlate with the measurement.

    ``"hest"`` is the protocol of HEST-Bench as it is run: the 50 most variable genes of **all** samples, test included;
    log1p of raw counts; features standardised, reduced to 256 principal components, both learned on the training spots;
    ridge regression without intercept, α = 100 / (components × genes); Pearson correlation per gene over all test spots
    together, so that differences between sections count. ``"sound"``: genes chosen on the training sections of each
    fold only; counts scaled per spot before log1p, so that sequencing depth does not count as expression; α chosen by
    holding out training sections (of a single one, halves); correlation within each section.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or a list or dict of these, with features and raw counts. Or the
        folder of one task of HEST-Bench: ``splits/train_k.csv`` and ``test_k.csv`` (``sample_id``, ``patches_path``,
        ``expr_path``), ``var_50genes.json``, and the files that these name: patches (``.h5``) and counts (``.h5ad``),
        which are joined by barcode.
    use_rep
        ``obsm`` key of a representation, or a tuple of keys whose features are concatenated; a list of these compares
        several; a dict names them. Spots that lack one of them are not used for any. Not for a folder.
    protocol
        ``"hest"``, ``"sound"`` or both.
    groupby
        ``obs`` column with one value per section; each value in turn is held out. None: the section. A folder has its
        own folds.
    n_genes
        Number of genes.
    genes
        Names of genes to use in both protocols; None: chosen as above (for ``"hest"`` on a folder: the genes that it
        names).
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
        Number of patches of a folder that are encoded at a time.

    Returns
    -------
    DataFrame
        One row per ``protocol``, ``representation``, ``fold``, ``section`` (``""`` for ``"hest"``) and ``gene``:
        ``pearson``, the number of test spots ``n_spots``, and ``alpha``. NaN: the gene does not vary there. With fewer
        than 256 features or training spots, ``"hest"`` keeps as many components as there are.
        :func:`expression_summary` computes means and intervals.

    Raises
    ------
    FileNotFoundError
        A folder that is not a task, or missing files that its splits name.
    KeyError
        No such representation or column, or genes that a sample lacks.
    ValueError
        A single group, a group that varies within a section, too few genes, or files that are truncated or do not
        match each other.

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
    protocols = _protocols(protocol)
    check_count("n_genes", n_genes)
    check_count("batch_size", batch_size)
    if target_sum is not None:
        check_positive("target_sum", target_sum)
    panel = None if genes is None else GenePanel.of(genes)
    folder = check_path("samples", samples) if isinstance(samples, (str, PathLike)) else None
    if folder is not None and folder.is_dir() and not (is_store(folder) or holds_stores(folder)):
        if use_rep is not None:
            raise ValueError(
                f"use_rep={use_rep!r}: a folder of HEST-Bench has no obsm; its patches are encoded with encoder=."
            )
        bench = _read_folder(folder, encoder, batch_size)
    else:
        if use_rep is None:
            raise ValueError('use_rep=None: name an obsm key, such as use_rep="X_texture".')
        named = named_representations(use_rep)
        bench = _read_samples(
            samples, named, groupby=groupby, layer=layer, patches_key=patches_key, table_key=table_key
        )
    bench = bench.with_panel(panel, check_hest=HEST in protocols)
    hest_genes = bench.hest_genes
    if hest_genes is None and HEST in protocols:
        hest_genes = variable_genes(list(bench.sections.values()), n_genes)
    lines: list[dict[str, object]] = []
    n_fits = len(bench.folds) * len(protocols) * len(bench.representations)
    with tqdm(total=n_fits, desc="expression benchmark", unit="fit") as bar:
        for fold, (train, test) in bench.parts():
            sound_genes: Sequence[str] = () if panel is None else panel.names
            if panel is None and SOUND in protocols:
                sound_genes = variable_genes(train, n_genes, bench.shared_genes)
            for name in protocols:
                for representation in bench.representations:
                    scores: Iterator[GeneScore] = (
                        hest_fold(train, test, representation, hest_genes or ())
                        if name == HEST
                        else sound_fold(train, test, representation, sound_genes, target_sum)
                    )
                    facts = {"protocol": name, "representation": representation, "fold": fold}
                    lines += [{**facts, **score} for score in scores]
                    bar.update()
    return pd.DataFrame(lines)


def _protocols(protocol: object) -> list[str]:
    """Return the protocols as a list; raise if one is unknown, or there are none."""
    names = list(protocol) if isinstance(protocol, Sequence) and not isinstance(protocol, str) else [protocol]
    if not names:
        raise ValueError(f'protocol={brief(protocol)}: expected "hest", "sound" or both.')
    return [check_choice("protocol", name, (HEST, SOUND)) for name in names]


@dataclass(frozen=True)
class _Bench:
    """Sections, folds and, if they are given, the genes of ``"hest"``."""

    sections: dict[str, BenchSection]
    folds: Folds
    hest_genes: Sequence[str] | None = None

    @property
    def representations(self) -> list[str]:
        """Names of the representations."""
        return list(next(iter(self.sections.values())).x)

    @property
    def shared_genes(self) -> set[str]:
        """Genes that all sections have."""
        return set.intersection(*(set(section.genes) for section in self.sections.values()))

    def parts(self) -> Iterator[tuple[str, tuple[list[BenchSection], list[BenchSection]]]]:
        """Yield the training and test sections of every fold."""
        for fold, (train, test) in self.folds.items():
            yield fold, ([self.sections[name] for name in train], [self.sections[name] for name in test])

    def with_panel(self, panel: GenePanel | None, *, check_hest: bool) -> _Bench:
        """Name genes as the panel does; raise if a section lacks one of its genes or (``check_hest``) of ``"hest"``."""
        sections, hest_genes = self.sections, self.hest_genes
        fold_case = panel is not None and panel.fold_case
        if panel is not None:
            hest_genes = panel.names
            if fold_case:
                sections = {name: _folded(section, panel) for name, section in sections.items()}
        needed = hest_genes if check_hest else None if panel is None else panel.names
        for section in sections.values():
            if missing := [name for name in needed or () if name not in section.genes]:
                raise KeyError(f"{section.name}: genes: {shorten(missing)} are not in the table. {MATCHING[fold_case]}")
        return replace(self, sections=sections, hest_genes=hest_genes)


def _folded(section: BenchSection, panel: GenePanel) -> BenchSection:
    """Name the genes of a section as the panel does; a name that several genes share is marked as ambiguous."""
    names = zip(section.genes, panel.fold(section.genes), strict=True)
    return replace(section, genes=pd.Index([folded or f"{name} (ambiguous)" for name, folded in names]))


def _read_folder(folder: Path, encoder: str | Encoder, batch_size: int) -> _Bench:
    """Read a task of HEST-Bench, and encode its patches."""
    task = read_task(folder)
    ready = encoders.get(encoder) if isinstance(encoder, str) else as_encoder(encoder)
    sections = {}
    for name in tqdm(task.files, desc=f"{ready.name}: {folder.name}", unit="sample"):
        sample = read_task_sample(task, name, ready, batch_size)
        # patches of a task are about as wide as spots are apart, so that two pitches keep them apart
        sections[name] = BenchSection(
            name, {ready.name: sample.x}, sample.counts, sample.genes, points=sample.points, patch=0.0
        )
    return _Bench(sections, task.folds, task.genes)


def _read_samples(
    samples: Samples,
    named: Mapping[str, tuple[str, ...]],
    *,
    groupby: str | None,
    layer: str | None,
    patches_key: str,
    table_key: str | None,
) -> _Bench:
    """Read all sections of all samples; a fold holds out the sections of one group."""
    collector = Collector("the benchmark", say=logger.info)
    expression: dict[str, tuple[csr_matrix, pd.Index, float]] = {}  # sections may differ in their genes
    groups: dict[str, str] = {}
    for sample in iter_samples(as_list(samples), table_key=table_key):
        features, rows = read_representations(sample, named, "none")
        for key in dict.fromkeys(key for keys in named.values() for key in keys):
            collector.origins.check(sample, key)
        counts = read_counts(sample, layer)
        groups |= section_groups(sample, groupby)
        points, side = row_centres(sample, patches_key, required=False)
        usable = has_counts(counts)[rows]
        rows = rows[usable]
        collector.skip("without features or counts", sample.table.n_obs - len(rows))
        collector.add(sample, rows, {name: x[usable] for name, x in features.items()}, points=points[rows])
        for section in sample.sections:
            section_rows = rows[np.isin(rows, section.rows)]
            if len(section_rows) < 2:
                raise ValueError(
                    f"{section.name}: {plural(len(section_rows), 'spot')} with features and counts, but two are "
                    "needed; leave the section out."
                )
            expression[section.name] = counts[section_rows], sample.table.var_names.astype(str), side
    features, columns = collector.joined()
    sections = {}
    for name, (counts, genes, patch) in expression.items():
        in_section = columns["section"] == name
        points = columns["points"][in_section]
        sections[name] = BenchSection(
            name,
            {representation: x[in_section] for representation, x in features.items()},
            counts,
            genes,
            points=None if np.isnan(points).any() else points,
            patch=patch,
        )
    folds = {
        group: (
            [name for name in groups if groups[name] != group],
            [name for name in groups if groups[name] == group],
        )
        for group in check_groups(groups.values(), groupby)
    }
    return _Bench(sections, folds)
