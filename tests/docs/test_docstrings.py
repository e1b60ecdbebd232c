"""What Sphinx makes of public docstrings: no entry that says of several names what is true of one, no lost words."""

from __future__ import annotations

import builtins
import importlib
import inspect
import re

import pytest

MODULES = ["io", "datasets", "encoders", "pp", "tl", "pl", "models", "tasks"]
SECTION = r"^{}\n-+\n(.*?)(?=^\w[\w ]*\n-{{3,}}|\Z)"
ENTRY = re.compile(r"^(\w+(?:, \w+)*)\n((?:    .*\n|\n)+)", re.M)


def public() -> list[tuple[str, object]]:
    """Functions and classes of the package by name, and the methods and properties of its classes."""
    found = []
    for module in MODULES:
        loaded = importlib.import_module(f"spade.{module}")
        for name in loaded.__all__:
            member = getattr(loaded, name)
            found.append((f"{module}.{name}", member))
            if inspect.isclass(member):
                inner = {key: getattr(value, "__func__", value) for key, value in vars(member).items()}
                found += [(f"{module}.{name}.{key}", value) for key, value in inner.items() if key[0] != "_"]
    return [(name, member) for name, member in found if callable(member) or isinstance(member, property)]


PUBLIC = public()


def entries(member: object, section: str) -> list[tuple[list[str], str]]:
    """Names and text of each entry of a section of a docstring."""
    text = inspect.getdoc(member) or ""
    found = re.search(SECTION.format(section), text + "\n", re.M | re.S)
    return [(names.split(", "), body) for names, body in ENTRY.findall(found[1] if found else "")]


def wrong_groups(member: object) -> list[str]:
    """Entries of several parameters that speak of one of them, or of None where it is not allowed for all."""
    wrong = []
    for names, body in entries(member, "Parameters"):
        if len(names) == 1:
            continue
        given = inspect.signature(member).parameters
        of_one = [name for name in names if re.search(rf"``{name}\b", body)]
        if of_one or ("None" in body and any("None" not in str(given[name].annotation) for name in names)):
            wrong.append(", ".join(names))
    return wrong


def test_entries_of_several_names_are_true_of_all():
    assert {name: wrong for name, member in PUBLIC if callable(member) and (wrong := wrong_groups(member))} == {}


def test_a_group_that_is_wrong_is_found():
    def grouped(a: int, b: int | None = None, c: int | None = None) -> None:
        """Do nothing.

        Parameters
        ----------
        a, b
            Numbers. None: 3.
        b, c
            Numbers. None: 3.
        c, a
            Numbers, ``a=1`` as a rule.
        """

    assert wrong_groups(grouped) == ["a, b", "c, a"]


def test_attributes_are_described_one_by_one():
    """Sphinx takes the first of several names for a type."""
    assert [name for name, member in PUBLIC if any(len(names) > 1 for names, _ in entries(member, "Attributes"))] == []


def test_properties_have_no_colon_in_their_first_line():
    """Sphinx takes what stands before it for the type."""
    lines = {name: (member.__doc__ or "").partition("\n")[0] for name, member in PUBLIC if isinstance(member, property)}
    assert lines and [name for name, line in lines.items() if ": " in line] == []


@pytest.mark.parametrize("section", ["Raises", "Warns"])
def test_exceptions_that_are_documented_can_be_imported(section):
    named = {one for _, member in PUBLIC for names, _ in entries(member, section) for one in names}
    assert named and {name for name in named if not hasattr(builtins, name)} == set()
