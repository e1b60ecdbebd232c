"""Patients with survival times, read from the facts of their slides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from spade._checks import shorten
from spade.core.arrays import Floats, Rows
from spade.core.errors import warn
from spade.tl._slides.bags import Bags
from spade.tl._slides.pooled import check_alike, pooled

YES, NO = ("1", "true"), ("0", "false")


@dataclass(frozen=True)
class Patients:
    """Patients and their slides.

    Attributes
    ----------
    names
        Of the patients, sorted.
    time, event
        Per patient.
    slides
        Numbers of the slides that are used.
    of_slide
        Patient of each of them.
    fold
        Given fold per patient, or None.
    """

    names: list[str]
    time: Floats
    event: NDArray[np.bool_]
    slides: Rows
    of_slide: Rows
    fold: Rows | None

    def __len__(self) -> int:
        return len(self.names)

    def as_bags(self, bags: Bags) -> tuple[Bags, Patients]:
        """Return one bag per patient, and the patients with one bag each in place of their slides."""
        each = np.arange(len(self))
        members = [self.slides[self.of_slide == patient] for patient in each]
        return pooled(bags, self.names, members), replace(self, slides=each, of_slide=each)

    def slides_of(self, patients: NDArray[np.integer]) -> Rows:
        """Positions, within ``slides``, of those of some patients."""
        return np.flatnonzero(np.isin(self.of_slide, patients))

    def mean_over_slides(self, values: Floats, patients: Rows) -> Floats:
        """Mean of values per slide, ``(n_slides, …)``, over the slides of each of some patients."""
        return np.stack([values[self.of_slide == patient].mean(0) for patient in patients])


def read_patients(bags: Bags, keys: Mapping[str, str | None]) -> Patients:
    """Check what slides say of their patients; ``keys`` are the columns, for messages."""
    said = {argument: f"{argument}={column!r}" for argument, column in keys.items()}
    time, event = bags.facts["time_key"], bags.facts["event_key"]
    unknown = (time == "") & (event == "")
    if unknown.all():
        raise ValueError(f"{said['time_key']} and {said['event_key']}: no slide has either.")
    if unknown.any():
        warn(
            f"{int(unknown.sum())} of {len(unknown)} slides have neither time nor event and are left out: "
            f"{shorten(np.array(bags.names)[unknown])}."
        )
    slides = np.flatnonzero(~unknown)
    names = np.array(bags.names, dtype=object)[slides]
    patient = bags.facts["groupby"][slides] if "groupby" in bags.facts else names
    _refuse(patient == "", names, f"{said['groupby']}: no patient", "Fill it in, or pass groupby=None.")
    times, events = _times(time[slides], names, said["time_key"]), _events(event[slides], names, said["event_key"])
    patients, first, of_slide = np.unique(patient.astype(str), return_index=True, return_inverse=True)

    check_alike(times, of_slide, names, patients, said["time_key"])
    check_alike(events, of_slide, names, patients, said["event_key"])
    fold = None
    if "fold_key" in bags.facts:
        given = bags.facts["fold_key"][slides]
        _refuse(given == "", names, f"{said['fold_key']}: no fold", "Every patient needs one.")
        numbers = np.unique(given.astype(str), return_inverse=True)[1]
        check_alike(numbers, of_slide, names, patients, said["fold_key"], given)
        fold = numbers[first]
    if not events.any():
        raise ValueError(f"{said['event_key']}: no patient of {len(patients)} has the event; nothing can be learned.")
    return Patients(patients.tolist(), times[first], events[first], slides, of_slide, fold)


def _refuse(wrong: NDArray[np.bool_], names: NDArray[np.object_], what: str, advice: str) -> None:
    if wrong.any():
        raise ValueError(
            f"{what} for {int(wrong.sum())} of {len(names)} slides, such as {shorten(names[wrong], 3)}. {advice}"
        )


def _times(values: NDArray[np.object_], names: NDArray[np.object_], said: str) -> Floats:
    advice = "A slide is left out if it has neither time nor event."
    _refuse(values == "", names, f"{said}: no time, but an event entry,", advice)
    times = np.empty(len(values))
    for i, value in enumerate(values):
        try:
            times[i] = float(value)
        except ValueError as error:
            raise ValueError(f"slide {names[i]!r}: {said} is {value!r}; expected a number.") from error
    wrong = ~np.isfinite(times) | (times < 0)
    if wrong.any():
        raise ValueError(
            f"{said}: negative or infinite for {int(wrong.sum())} of {len(names)} slides, such as {times[wrong][0]:g} "
            f"for {names[wrong][0]!r}. Times are counted from the start of follow-up. {advice}"
        )
    return times


def _events(values: NDArray[np.object_], names: NDArray[np.object_], said: str) -> NDArray[np.bool_]:
    _refuse(values == "", names, f"{said}: no event entry, but a time,", "Write 1 (event seen) or 0 (censored).")
    text = np.array([value.lower() for value in values])
    wrong = ~np.isin(text, YES + NO)
    if wrong.any():
        raise ValueError(
            f"{said}: {shorten(sorted(set(values[wrong])))} for {int(wrong.sum())} of {len(names)} slides; expected 1 "
            "or True (event seen), 0 or False (censored)."
        )
    return np.isin(text, YES)
