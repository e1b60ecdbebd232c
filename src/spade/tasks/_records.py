"""What is known of a task; a value of None is unknown."""

from __future__ import annotations

from dataclasses import dataclass

#: Metrics of :func:`spade.tl.slide_task` and :func:`spade.tl.survival`, by the kind of target that they are of.
METRICS = {
    "classes": ("macro_auroc", "balanced_accuracy", "macro_f1"),
    "ordinal": ("quadratic_kappa", "balanced_accuracy", "mae"),
    "continuous": ("pearson", "r2", "c_index", "mae"),
    "survival": ("c_index",),
}


@dataclass(frozen=True)
class Source:
    """What a fact was read in.

    Attributes
    ----------
    text
        Citation.
    address
        Public page.
    read
        What of it was read.
    """

    text: str
    address: str
    read: str


@dataclass(frozen=True)
class Data:
    """Where the slides of a task come from.

    Attributes
    ----------
    title
        Name of the data set.
    source
        Where this was read.
    slides
        Who gives the slides out.
    address
        Public page.
    licence
        Licence of slides and labels.
    access
        What has to be done to get them.
    """

    title: str
    source: tuple[Source, ...]
    slides: str | None = None
    address: str | None = None
    licence: str | None = None
    access: str | None = None


@dataclass(frozen=True)
class LabelRule:
    """Which columns of which table hold the labels.

    Attributes
    ----------
    table
        Name of the file.
    slide
        Column of the slides: names of files without suffix.
    source
        Where this was read.
    label
        Column of the class, grade or value.
    time
        Of a survival task: column with the time until the event or the end of follow-up.
    event
        Of a survival task: column that says whether the event was seen.
    patient
        Column of the patient; None: the table names no patients.
    folds
        How names of columns with ``train`` and ``test`` begin.
    codes
        Codes in ``label`` and the classes that they mean, in order; None: unknown, and labels are the codes.
    """

    table: str
    slide: str
    source: tuple[Source, ...]
    label: str | None = None
    time: str | None = None
    event: str | None = None
    patient: str | None = None
    folds: str | None = None
    codes: tuple[tuple[str, str], ...] | None = None

    @property
    def classes(self) -> list[str]:
        """Classes in order, none if they are unknown."""
        return [name for _, name in self.codes or ()]


@dataclass(frozen=True)
class Protocol:
    """How a task is evaluated.

    Attributes
    ----------
    source
        Where this was read; empty: nothing is known.
    folds
        Number of folds.
    shots
        Training slides per class.
    repeats
        Draws of shots.
    """

    source: tuple[Source, ...] = ()
    folds: int | None = None
    shots: tuple[int, ...] | None = None
    repeats: int | None = None


@dataclass(frozen=True)
class Figure:
    """A published figure.

    Attributes
    ----------
    value
        The figure.
    metric
        Name of the metric.
    encoder
        Representation of slides.
    method
        What was trained on it.
    source
        Paper.
    where
        Table of the paper.
    error
        Standard error over folds.
    low
        Lower end of the 95 % interval.
    high
        Upper end of the 95 % interval.
    shots
        Training slides per class; 0: all.
    """

    value: float
    metric: str
    encoder: str
    method: str
    source: Source
    where: str
    error: float | None = None
    low: float | None = None
    high: float | None = None
    shots: int = 0


@dataclass(frozen=True)
class Facts:
    """All that is known of a task; :class:`spade.tasks.Task` says what each field is."""

    name: str
    title: str
    paper: str
    kind: str
    metric: str
    data: Data
    source: tuple[Source, ...]
    protocol: Protocol
    rule: LabelRule | None = None
    n_classes: int | None = None
    n_samples: int | None = None
    unit: str | None = None
    note: str | None = None
    published: tuple[Figure, ...] = ()
    other_unknown: tuple[str, ...] = ()
