"""Features and expression of many samples as the arrays that core works on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from spade._checks import plural, shorten
from spade._samples.collect import Collector, Stack, check_widths
from spade._samples.counts import read_expression
from spade._samples.features import read_features
from spade._samples.model_features import OF_EARLIER_SAMPLES, check_source, source_of
from spade._samples.obs import group_labels, read_roles
from spade._samples.open import Item, iter_samples
from spade._samples.sample import Sample
from spade.core.arrays import Rows
from spade.core.checks import check_flag
from spade.core.errors import warn
from spade.core.files import digest
from spade.core.patches.sources import LivePatches, MappedPatches
from spade.core.rng import numpy_stream
from spade.core.roles import NOT_USED, TRAIN
from spade.models import GenePanel, SealConfig, SpadeConfig
from spade.models._gene_names import MATCHING, common_genes
from spade.tl._training.panel import ALL_DROPPED, tell_left_out

Config = TypeVar("Config", SpadeConfig, SealConfig)
Images = NDArray[np.float32] | LivePatches | MappedPatches


@dataclass
class TrainingData:
    """The usable rows of all samples.

    Attributes
    ----------
    images
        Features ``(n, D)``, or the patches of as many rows.
    images_id
        Computes the digest of the images.
    expression
        Log-normalised expression ``(n, G)`` of the panel.
    role
        ``TRAIN``, ``VAL`` or ``NOT_USED``.
    groups, section
        Names per row.
    samples
        Names of the samples.
    """

    images: Any
    images_id: Callable[[], str]
    expression: csr_matrix
    role: NDArray[np.int64]
    groups: NDArray[np.str_]
    section: NDArray[np.str_]
    samples: list[str]

    def shuffled(self, seed: int) -> TrainingData:
        """Permute the expression within each section and role."""
        rows = np.arange(len(self.role))
        for index, (section, role) in enumerate(
            sorted(set(zip(self.section.tolist(), self.role.tolist(), strict=True)))
        ):
            members = np.flatnonzero((self.section == section) & (self.role == role))
            rows[members] = numpy_stream(seed, "shuffled pairs", index).permutation(members)
        return replace(self, expression=self.expression[rows])


@dataclass(frozen=True)
class SampleImages:
    """The images of one sample.

    Attributes
    ----------
    valid
        Whether each row of the table has an image.
    origin
        Settings of the model that the images determine: encoder and size of the patches.
    take
        Adds the images of some rows to those that the reader joins, and returns these rows in the order of the images.
    """

    valid: NDArray[np.bool_]
    origin: dict[str, Any]
    take: Callable[[Rows], Rows]


class ImageReader(Protocol):
    """Reads the images of sample after sample, and joins those that are taken."""

    def read(self, sample: Sample, config: SpadeConfig | SealConfig) -> SampleImages:
        """Read the images of one sample; they must be of the kind that ``config`` says."""

    def joined(self) -> tuple[Images, Callable[[], str]]:
        """Return all images that were taken, and what computes their digest."""


class FeatureReader:
    """Reads image features.

    Parameters
    ----------
    on_disk
        Whether a temporary file holds the joined features instead of memory.
    init
        Settings of the model that training begins with: features of another origin are an error.
    """

    def __init__(self, *, on_disk: bool = False, init: SpadeConfig | None = None) -> None:
        self.init = init
        self.widths: dict[str, int] = {}
        self.rows = Stack(on_disk=check_flag("on_disk", on_disk))

    def read(self, sample: Sample, config: SpadeConfig | SealConfig) -> SampleImages:
        """Read the features of a sample; those of all samples must be of one encoder and width."""
        use_rep = config.use_rep
        if use_rep is None:
            raise ValueError(
                f"use_rep=None: name the obsm key of the image features; {sample.name} has "
                f"{shorten(sample.table.obsm) or 'none'}. sp.pp.encode_patches(samples) or encoder= makes them."
            )
        x = read_features(sample, use_rep)
        expected, origin = source_of(config), {}
        if self.init is not None and (of_init := source_of(self.init)) != expected:
            origin = check_source(sample, use_rep, of_init, "those of init= are")
        origin |= check_source(sample, use_rep, expected, OF_EARLIER_SAMPLES)
        self.widths[sample.name] = x.shape[1]
        check_widths(self.widths, f"obsm[{use_rep!r}]")

        def take(rows: Rows) -> Rows:
            self.rows.add(x, rows)
            return rows

        return SampleImages(np.asarray(~np.isnan(x).any(1)), origin, take)

    def joined(self) -> tuple[NDArray[np.float32], Callable[[], str]]:
        """Return the features of all samples, and what computes their digest."""
        features = self.rows.joined()
        return features, lambda: digest(features)


def read_training_data(
    samples: Sequence[Item],
    config: Config,
    panel: GenePanel,
    *,
    images: ImageReader,
    table_key: str | None,
    keep_unused: bool = True,
) -> tuple[TrainingData, Config]:
    """Read every usable row of every sample, and note the origin of the images in the settings.

    Without ``keep_unused``, rows that neither train nor validate are left out.
    """
    rows_of_all = Collector("training", say=warn)
    left_out: list[str] = []
    absent: dict[str, int] = {}
    var_names: dict[str, pd.Index] = {}
    n_usable = 0
    groupby = config.groupby if isinstance(config, SpadeConfig) else None
    for sample in iter_samples(samples, table_key=table_key, frees=True):
        names = sample.table.var_names
        if sample.name in panel.dropped:
            left_out.append(sample.name)
            continue
        if not sample.has_expression:
            raise ValueError(
                f"{sample.name}: has no expression (table of width 0) and cannot be trained on; leave it out."
            )
        own = images.read(sample, config)
        config = replace(config, **own.origin)
        expression, present, filled = read_expression(sample, panel, config.layer, normalized=config.normalized)
        var_names[sample.name], absent[sample.name] = names, int((~present).sum())
        rows_of_all.skip("without a valid patch", int((~own.valid).sum()))
        rows_of_all.skip("without counts", int((own.valid & ~filled).sum()))
        usable = own.valid & filled
        n_usable += int(usable.sum())
        roles = read_roles(sample, config.split_key)
        rows = own.take(np.flatnonzero(usable & (keep_unused | (roles != NOT_USED))))
        groups = group_labels(sample, groupby)[rows] if groupby is not None else np.zeros(len(rows), dtype="U1")
        rows_of_all.add(sample, rows, expression=expression[rows], role=roles[rows], groups=groups)
        del sample, own, expression  # before the next is read
    _check_genes(var_names, absent, panel)
    tell_left_out(left_out)
    _, columns = rows_of_all.joined()
    if not (columns["role"] == TRAIN).any():
        usable_spots = plural(n_usable, "usable spot")
        raise ValueError(f"no spot is left to train on among {usable_spots} (split_key={config.split_key!r}).")
    data = TrainingData(*images.joined(), **columns, samples=list(var_names))
    return (data.shuffled(config.seed) if config.shuffle_pairs else data), config


def _check_genes(var_names: dict[str, pd.Index], absent: dict[str, int], panel: GenePanel) -> None:
    """Raise unless there are samples, and all of them have every gene of the panel."""
    if not var_names:
        raise ValueError(ALL_DROPPED)
    if any(absent.values()):
        listed = ", ".join(f"{name} lacks {count} of {len(panel)}" for name, count in absent.items() if count)
        raise ValueError(
            f"genes: training needs every gene of the panel in every sample, but {listed}. "
            f"{MATCHING[panel.fold_case]} Are the samples of different species, or named by other ids? Choose a common "
            "panel with sp.pp.select_genes(samples)."
        )
    common_genes(var_names, "Train them apart, or rename the genes.", fold_case=panel.fold_case)
