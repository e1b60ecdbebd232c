"""Patients with times until an event, of slides that say so."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spade._checks import shorten
from spade.core.arrays import Floats
from spade.core.errors import warn
from spade.tl._slides.bags import Bags

YES, NO = ("1", "true"), ("0", "false")


@dataclass(frozen=True)
class Patients:
    """Patients and their slides.

    Attributes
    ----------
    patients
        Names, sorted.
    time, event
        Per patient.
    slides
        Numbers of the slides that are used.
    of_slide
        Patient of each of them.
    fold
        Given fold per patient, or None.
    """

    patients: list[str]
    time: Floats
    event: NDArray[np.bool_]
    slides: NDArray[np.int64]
    of_slide: NDArray[np.int64]
    fold: NDArray[np.int64] | None

    def slides_of(self, patients: NDArray[np.integer]) -> NDArray[np.int64]:
        """Positions, within ``slides``, of those of some patients."""
        return np.flatnonzero(np.isin(self.of_slide, patients))


def read_patients(bags: Bags, keys: dict[str, str | None]) -> Patients:
    """Check what slides say of their patients; ``keys`` are the columns, for messages."""
    time, event = bags.facts["time_key"], bags.facts["event_key"]
    unknown = (time == "") & (event == "")
    if unknown.all():
        raise ValueError(f"{_said(keys, 'time_key')} and {_said(keys, 'event_key')}: no slide has either.")
    if unknown.any():
        warn(
            f"{int(unknown.sum())} of {len(unknown)} slides have neither time nor event and are left out: "
            f"{shorten(np.array(bags.names)[unknown])}."
        )
    slides = np.flatnonzero(~unknown)
    names = np.array(bags.names, dtype=object)[slides]
    patient = bags.facts["groupby"][slides] if "groupby" in bags.facts else names
    _refuse(patient == "", names, f"{_said(keys, 'groupby')}: no patient", "Fill it in, or pass groupby=None.")
    times, events = _times(time[slides], names, keys), _events(event[slides], names, keys)
    patients, first, of_slide = np.unique(patient.astype(str), return_index=True, return_inverse=True)
    _agree(times, of_slide, patients, names, _said(keys, "time_key"))
    _agree(events, of_slide, patients, names, _said(keys, "event_key"))
    fold = None
    if "fold_key" in bags.facts:
        given = bags.facts["fold_key"][slides]
        _refuse(given == "", names, f"{_said(keys, 'fold_key')}: no fold", "Every patient needs one.")
        numbers = np.unique(given.astype(str), return_inverse=True)[1]
        _agree(numbers, of_slide, patients, names, _said(keys, "fold_key"), given)
        fold = numbers[first]
    if not events.any():
        raise ValueError(
            f"{_said(keys, 'event_key')}: no patient of {len(patients)} has the event; nothing can be learnt."
        )
    return Patients(patients.tolist(), times[first], events[first], slides, of_slide, fold)


def _said(keys: dict[str, str | None], argument: str) -> str:
    return f"{argument}={keys[argument]!r}"


def _refuse(strange: NDArray[np.bool_], names: NDArray[np.object_], what: str, then: str) -> None:
    if strange.any():
        raise ValueError(
            f"{what} for {int(strange.sum())} of {len(names)} slides, such as {shorten(names[strange], 3)}. {then}"
        )


def _times(values: NDArray[np.object_], names: NDArray[np.object_], keys: dict[str, str | None]) -> Floats:
    said, then = _said(keys, "time_key"), "A slide is left out if it has neither time nor event."
    _refuse(values == "", names, f"{said}: no time, but an event entry,", then)
    found = np.empty(len(values))
    for i, value in enumerate(values):
        try:
            found[i] = float(value)
        except ValueError as error:
            raise ValueError(f"slide {names[i]!r}: {said} is {value!r}; expected a number.") from error
    strange = ~np.isfinite(found) | (found < 0)
    if strange.any():
        raise ValueError(
            f"{said}: negative or infinite for {int(strange.sum())} of {len(names)} slides, such as {found[strange][0]:g} of "
            f"{names[strange][0]!r}. Times are counted from the start of follow-up. {then}"
        )
    return found


def _events(values: NDArray[np.object_], names: NDArray[np.object_], keys: dict[str, str | None]) -> NDArray[np.bool_]:
    said = _said(keys, "event_key")
    _refuse(values == "", names, f"{said}: no event entry, but a time,", "Say 1 (event seen) or 0 (censored).")
    text = np.array([value.lower() for value in values])
    strange = ~np.isin(text, YES + NO)
    if strange.any():
        raise ValueError(
            f"{said}: {shorten(sorted(set(values[strange])))} for {int(strange.sum())} of {len(names)} slides; expected 1 or True "
            "(event seen), 0 or False (censored)."
        )
    return np.isin(text, YES)


def _agree(
    values: NDArray, of_slide: NDArray[np.int64], patients: NDArray, names: NDArray, said: str, shown: NDArray | None = None
) -> None:  # fmt: skip
    """Raise unless the slides of each patient have one value."""
    order = np.argsort(of_slide, kind="stable")
    differ = np.flatnonzero((np.diff(of_slide[order]) == 0) & (values[order][1:] != values[order][:-1]))
    if len(differ):
        one, other = order[differ[0]], order[differ[0] + 1]
        shown = values if shown is None else shown
        raise ValueError(
            f"patient {str(patients[of_slide[one]])!r}: {said} is {shown[one]} of slide {names[one]!r} and {shown[other]} of slide "
            f"{names[other]!r}. It is one fact of a patient; correct it, or name the patients with groupby=."
        )
