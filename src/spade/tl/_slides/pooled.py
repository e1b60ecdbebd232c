"""The slides of a patient as one bag, and what has to be alike among them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from spade._checks import plural
from spade.core.arrays import Rows
from spade.core.checks import check_choice
from spade.tl._slides.bags import Bags, Block, Reader

logger = logging.getLogger("spade")
SLIDE, PATIENT = "slide", "patient"


def check_unit(unit: object, groupby: str | None) -> str:
    """Return what a bag is; raise if bags of patients are asked for without a column of patients."""
    if check_choice("unit", unit, (SLIDE, PATIENT)) == PATIENT and groupby is None:
        raise ValueError(f"unit={PATIENT!r} with groupby=None: name the column of the patients with groupby=.")
    return str(unit)


def check_alike(
    values: NDArray[np.generic],
    of_slide: Rows,
    names: NDArray[np.object_],
    patients: NDArray[np.generic],
    said: str,
    shown: NDArray[np.generic] | None = None,
) -> None:
    """Raise if two slides of a patient, whose number is in ``of_slide``, have different values (NaN is like NaN)."""
    codes = np.unique(values, return_inverse=True)[1]
    order = np.argsort(of_slide, kind="stable")
    pairs = np.flatnonzero((np.diff(of_slide[order]) == 0) & (np.diff(codes[order]) != 0))
    if len(pairs):
        one, other = (int(i) for i in order[pairs[0] : pairs[0] + 2])
        shown = values if shown is None else shown
        raise ValueError(
            f"patient {str(patients[of_slide[one]])!r}: {said} is {_said(shown[one])} for slide {names[one]!r} "
            f"and {_said(shown[other])} for slide {names[other]!r}, but a patient has one value. Correct it, or the "
            "names of the patients."
        )


def _said(value: object) -> str:
    return str(value) or "empty"


def pooled(bags: Bags, patients: Sequence[str], members: Sequence[Rows]) -> Bags:
    """Return bags of patients: the patches of some slides each, in the order of the slides, read one bag at a time.

    Facts are those of the first of these slides; ``places`` stays that of all slides.
    """
    n_slides = sum(map(len, members))
    logger.info(
        "%s of %s: the patches of a patient's slides are one bag",
        plural(n_slides, "slide"), plural(len(patients), "patient"),
    )  # fmt: skip
    first = [int(slides[0]) for slides in members]
    return replace(
        bags,
        names=list(patients),
        facts={argument: values[first] for argument, values in bags.facts.items()},
        readers={
            name: [partial(_read_all, [readers[i] for i in slides]) for slides in members]
            for name, readers in bags.readers.items()
        },
        n_rows={name: [sum(counts[i] for i in slides) for slides in members] for name, counts in bags.n_rows.items()},
    )


def _read_all(readers: Sequence[Reader]) -> Block:
    """Read the patches of several slides as one bag."""
    blocks = [read() for read in readers]
    return np.concatenate(blocks) if len(blocks) > 1 else blocks[0]
