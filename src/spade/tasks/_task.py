"""A slide task: what is known of it, and how it is run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from os import PathLike
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from spade.core.checks import check_flag
from spade.tasks._records import Facts

Folder: TypeAlias = str | PathLike[str] | Iterable[str | PathLike[str]]


@dataclass(frozen=True, repr=False)
class Task(Facts):
    """A slide task of the papers: what is known of it, each fact with its source.

    ``name`` and ``title`` name it, short and in words. A value of None is unknown: it was not found in what was read
    (:class:`spade.tasks.Source`).

    Attributes
    ----------
    paper
        Paper or benchmark that the task is of.
    kind
        Kind of the target: ``"classes"``, ``"ordinal"``, ``"continuous"`` or ``"survival"``.
    metric
        Metric of the paper: ``"macro_auroc"``, ``"balanced_accuracy"``, ``"quadratic_kappa"`` or ``"c_index"``.
    data
        Where the slides come from, with licence and access.
    source
        Where target, classes and metric were read.
    protocol
        Folds, shots and repeats.
    rule
        Which columns of which table hold the labels.
    n_classes
        Number of classes.
    n_samples
        Number of cases or slides in the benchmark.
    unit
        What is learned and scored, and what ``n_samples`` counts: ``"case"``, a patient with one or several slides, or
        ``"slide"``; None: unknown.
    note
        What the facts leave open.
    published
        Published figures.

    Examples
    --------
    >>> import spade as sp
    >>> task = sp.tasks.get("imp/grade")
    >>> task
    imp/grade (Patho-Bench): Grade of colorectal dysplasia, IMP
      ordinal, 3 classes, quadratic_kappa; 5,333 slides of IMP-CRS 2024, colorectal biopsies (CC BY-NC 2.0)
      labels: grade in k=all.tsv; patients: case_id; folds: 1; shots: unknown
      published figures: 8; unknown: access, shots, use by SEAL, figures of SEAL
    >>> task.figures[["encoder", "value"]].head(2).values.tolist()
    [['Virchow, mean', 0.913], ['GigaPath, mean', 0.903]]
    """

    @property
    def unknown(self) -> list[str]:
        """What could not be established."""
        facts = {
            "slides": self.data.slides,
            "licence": self.data.licence,
            "access": self.data.access,
            "number of classes": self.n_classes or ("none" if self.kind in ("survival", "continuous") else None),
            "labels": self.rule,
            "meaning of codes": self.rule is None or self.kind == "survival" or self.rule.codes,
            "patients": self.rule is None or self.rule.patient,
            "folds": self.protocol.folds,
            "shots": self.protocol.shots or ("none" if self.kind == "survival" else None),
        }
        return [*(name for name, value in facts.items() if not value), *self.other_unknown]

    @property
    def figures(self) -> pd.DataFrame:
        """Published figures, one row each, with the source and where they stand in it."""
        columns = ["encoder", "method", "metric", "value", "error", "low", "high", "source", "where"]
        rows = [asdict(figure) | {"source": figure.source.text} for figure in self.published]
        numbers = dict.fromkeys(("value", "error", "low", "high"), float)
        return pd.DataFrame(rows, columns=columns).astype(numbers)

    def labels(self, table: pd.DataFrame | str | PathLike[str]) -> pd.DataFrame:
        """Read the labels of a task from the table that its data set publishes.

        Parameters
        ----------
        table
            The table (``rule.table``), or a path to it.

        Returns
        -------
        DataFrame
            One row per slide, in the order of the table: ``sample``; ``patient``, if the table names patients;
            ``label``, the meaning of the code if it is known, else the code, None where it is missing; or ``time`` and
            ``event``; and the columns of folds, if there are any.

        Raises
        ------
        KeyError
            The table lacks a column.
        ValueError
            The label rule is unknown; labels that the task does not have; slides that occur twice.

        Examples
        --------
        >>> import pandas as pd
        >>> import spade as sp
        >>> table = pd.DataFrame({"image_id": [4, 66], "label": ["HGSC", "CC"], "is_tma": [False, True]})
        >>> sp.tasks.get("ubc_ocean").labels(table).values.tolist()
        [['4', 'HGSC'], ['66', 'CC']]
        """
        from spade.tasks._labels import read_labels

        return read_labels(self, table)

    def run(
        self,
        features: Folder | Mapping[str, Folder],
        labels: pd.DataFrame | str | PathLike[str],
        *,
        subset: bool = False,
        metric: str | None = None,
        head: str | Sequence[str] = "mean",
        shots: int | Sequence[int] | None = None,
        n_folds: int | None = None,
        n_repeats: int | None = None,
        return_scores: bool = False,
        rng: int | np.random.Generator = 0,
        **settings: Any,
    ) -> pd.DataFrame | tuple[pd.DataFrame, pd.DataFrame]:
        """Run the task on features of slides, and put the result beside the published figures.

        Folds, shots and repeats are those of the protocol, as far as it is known, and slides of a patient are never in
        two folds. If the table of labels has columns of folds, these are used: as folds, if they test every slide once;
        else heads are trained and tested on each column by itself, once, and slides that are neither are left out.
        If the ``unit`` of the task is the case and patients are known, all patches of a patient's slides are one bag
        with one label: a head learns cases, predicts one value for each, and ``n_query`` of the scores counts cases.
        Heads are those of this package, so a difference to a published figure may be one of the head and its settings.
        ``preset="paper"`` takes what the authors of SPADE state.

        Parameters
        ----------
        features
            Feature files as TRIDENT and CLAM write them, a folder or a list; or a dict of these, one per encoder.
        labels
            The table that the data set publishes, or a path to it, as for ``labels``. If its rule is unknown, or
            the labels are your own: a DataFrame with ``sample`` and ``label``, or ``time`` and ``event``; and
            ``patient``, if it is known.
        subset
            Use the slides that have both features and a label. By default slides that lack one of them are an error.
        metric
            Metric; None: that of the paper. Grades are read as classes for a metric that knows no order.
        head
            Head of :func:`spade.tl.slide_task`, or of :func:`spade.tl.survival`.
        shots
            Training slides (or cases) per class; None: as in the protocol, or all if it is unknown.
        n_folds
            Folds that are dealt, also if the table has some; None: those of the table, else as in the protocol, or 5.
        n_repeats
            Draws of shots or, for survival, of folds; None: as in the protocol, or 1.
        return_scores
            Also return the scores that are summarised.
        rng
            Seed.
        **settings
            Further settings of :func:`spade.tl.slide_task`, or of :func:`spade.tl.survival`.

        Returns
        -------
        DataFrame
            One row per encoder and head of this run, then one per published figure: ``encoder``; ``method``; ``shots``
            (0: all slides); ``metric``; ``value``; ``low`` and ``high``, bounds of 95 % (of this run: bootstrap over
            folds; over patients, if there is one fold, if folds are scored together, or for survival); ``error``, the
            standard error of published figures; ``source``, ``"this run"`` or a citation; and ``where`` in it.
        DataFrame
            With ``return_scores``: what :func:`spade.tl.slide_task` or :func:`spade.tl.survival` returned.

        Raises
        ------
        KeyError
            The table of labels lacks a column.
        TypeError
            A setting that follows from the task.
        ValueError
            Slides without features or without a label; classes of the task that no slide has; an unknown label rule;
            cases whose slides differ in label or fold.

        Examples
        --------
        >>> import pathlib, tempfile
        >>> import h5py, numpy as np, pandas as pd
        >>> import spade as sp
        >>> folder, rows = pathlib.Path(tempfile.mkdtemp()), []
        >>> for i in range(24):
        ...     rows.append({"case_id": f"c{i}", "slide_id": f"s{i}", "response": i % 2, "fold_0": "train"})
        ...     with h5py.File(folder / f"s{i}.h5", "w") as file:
        ...         file["features"] = np.random.default_rng(i).normal(i % 2, 1, (9, 4)).astype("f4")
        ...         file["coords"] = np.zeros((9, 2), dtype=int)
        >>> table = pd.DataFrame(rows)
        >>> table.loc[16:, "fold_0"] = "test"
        >>> result = sp.tasks.get("nadt/response").run(folder, table)
        >>> result.loc[:1, ["encoder", "method", "value", "source"]].values.tolist()[0]
        ['features', 'mean', 1.0, 'this run']
        """
        from spade.tasks._run import run_task

        check_flag("return_scores", return_scores)
        drawn = {
            "shots": self.protocol.shots if shots is None else shots,
            "n_repeats": self.protocol.repeats if n_repeats is None else n_repeats,
        }
        given = {name: value for name, value in drawn.items() if value is not None}
        if self.kind == "survival" and "shots" in given:
            raise ValueError(f"shots={shots!r}: {self.name} is a task of survival, which has no shots; leave it out.")
        result, scores = run_task(
            self, features, labels, subset=subset, metric=metric, n_folds=n_folds, rng=rng,
            settings={"head": head, **given, **settings},
        )  # fmt: skip
        return (result, scores) if return_scores else result

    def __repr__(self) -> str:
        return "\n".join([f"{self.name} ({self.paper}): {self.title}", *(f"  {line}" for line in self._lines())])

    def _repr_html_(self) -> str:
        lines = "<br>".join(map(escape, self._lines()))
        return f"<div><b>{escape(self.name)}</b> ({escape(self.paper)}): {escape(self.title)}<br>{lines}</div>"

    def _lines(self) -> list[str]:
        """Facts in three lines."""
        rule, protocol = self.rule, self.protocol
        unclassed = self.kind in ("survival", "continuous")
        classes = [] if unclassed else [f"{self.n_classes or 'unknown number of'} classes"]
        samples = f"{self.n_samples:,} {self.unit}s of " if self.n_samples else ""
        labels = "unknown" if rule is None else f"{rule.label or f'{rule.time} and {rule.event}'} in {rule.table}"
        patients = "unknown" if rule is None or rule.patient is None else rule.patient
        shots = [] if self.kind == "survival" else [f"shots: {protocol.shots or 'unknown'}"]
        return [
            f"{', '.join([self.kind, *classes, self.metric])}; {samples}{self.data.title} "
            f"({self.data.licence or 'licence unknown'})",
            "; ".join([f"labels: {labels}", f"patients: {patients}", f"folds: {protocol.folds or 'unknown'}", *shots]),
            f"published figures: {len(self.published) or 'unknown'}; unknown: {', '.join(self.unknown) or 'nothing'}",
        ]
