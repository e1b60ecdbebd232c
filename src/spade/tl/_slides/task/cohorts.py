"""Cohorts of slides: those that heads are trained on, and those that they are tested on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spade._checks import plural, shorten
from spade.core.arrays import Floats, Rows
from spade.core.checks import brief, check_names_given, check_text


class Cohorts(NamedTuple):
    """Names of the cohorts to train on and to test on (None: all others), and the column that holds them."""

    key: str
    train_on: list[str]
    test_on: list[str] | None


def asked_for(cohort_key: str | None, train_on: object, test_on: object) -> Cohorts | None:
    """Return the cohorts that the arguments ask for, or None; raise if they do not go together."""
    if cohort_key is None:
        for name, given in (("train_on", train_on), ("test_on", test_on)):
            if given is not None:
                raise ValueError(f"{name}={brief(given)} names cohorts: name their column with cohort_key=.")
        return None
    check_text("cohort_key", cohort_key)
    if train_on is None:
        raise ValueError(f"cohort_key={cohort_key!r}: name the cohorts to train on with train_on=.")
    trained = list(dict.fromkeys(check_names_given("train_on", train_on)))
    tested = None if test_on is None else list(dict.fromkeys(check_names_given("test_on", test_on)))
    if both := [name for name in trained if name in (tested or ())]:
        raise ValueError(
            f"test_on= and train_on= both name {shorten(both)}: slides that heads were trained on test nothing."
        )
    return Cohorts(cohort_key, trained, tested)


def used_cohorts(
    cohorts: Cohorts, cohort: NDArray[np.object_], labelled: NDArray[np.bool_], names: list[str]
) -> Cohorts:
    """Check the cohorts against the column; return them with all names."""
    if len(lacking := np.flatnonzero(labelled & (cohort == ""))):
        raise ValueError(
            f"cohort_key={cohorts.key!r} is missing for {plural(len(lacking), 'slide')} with a label, such as "
            f"{shorten((names[i] for i in lacking), 3)}. Fill it in."
        )
    there = sorted(set(cohort[labelled].tolist()))
    for name, asked in (("train_on", cohorts.train_on), ("test_on", cohorts.test_on or [])):
        if unknown := [one for one in asked if one not in there]:
            raise ValueError(
                f"{name}={shorten(unknown)}: no slide with a label is of this cohort; {cohorts.key!r} has "
                f"{shorten(there, 20)}."
            )
    tested = [name for name in there if name not in cohorts.train_on] if cohorts.test_on is None else cohorts.test_on
    if not tested:
        raise ValueError(
            f"train_on={shorten(cohorts.train_on)} is every cohort of {cohorts.key!r}, so none is left to test on."
        )
    return cohorts._replace(test_on=tested)


def check_patients(cohorts: Cohorts, cohort: NDArray[np.object_], group: NDArray[np.object_], used: Rows) -> None:
    """Raise if a patient is in two cohorts."""
    cohorts_of: dict[str, set[str]] = {}
    for i in used:
        cohorts_of.setdefault(group[i], set()).add(cohort[i])
    if several := [patient for patient, of_patient in cohorts_of.items() if len(of_patient) > 1]:
        raise ValueError(
            f"cohort_key={cohorts.key!r}: patient {several[0]!r} is in the cohorts "
            f"{shorten(sorted(cohorts_of[several[0]]))}{_others(several)}. Leave the slides of one cohort without a "
            "label, or name patients by cohort if two have the same name."
        )


def _others(several: list[str]) -> str:
    return f", as {'is' if len(several) == 2 else 'are'} {shorten(several[1:], 3)} in several" if several[1:] else ""


def check_tested(
    cohorts: Cohorts, cohort: NDArray[np.object_], y: Rows, values: Floats, classes: list[str], unit: str
) -> None:
    """Raise if a class or grade occurs in test cohorts alone, or a test cohort has a single value, slide or patient."""
    trained = np.isin(cohort, cohorts.train_on)
    unknown = [name for k, name in enumerate(classes) if k not in set(y[trained].tolist())]
    if unknown:
        where = sorted({str(cohort[i]) for i in np.flatnonzero(y >= 0) if classes[y[i]] in unknown})
        raise ValueError(
            f"{shorten(unknown)} {'occurs' if len(unknown) == 1 else 'occur'} in {shorten(where)} but not in "
            f"train_on={shorten(cohorts.train_on)}, so no head can learn it. Leave these {unit}s without a label, "
            "or train on more cohorts."
        )
    for name in cohorts.test_on or ():
        of_cohort = values[(cohort == name) & (y >= 0)]
        if len(np.unique(of_cohort)) < 2:
            there = shorten({classes[k] for k in y[(cohort == name) & (y >= 0)]}) if classes else f"{of_cohort[0]:g}"
            raise ValueError(
                f"test_on={name!r} has {plural(len(of_cohort), unit)} with a label, and all are {there}: it cannot "
                "measure how well they are told apart. Leave the cohort out of test_on=."
            )
