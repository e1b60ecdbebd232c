"""One task."""

from __future__ import annotations

from difflib import get_close_matches

from spade._checks import shorten
from spade.core.checks import check_text
from spade.tasks._read import tasks
from spade.tasks._task import Task


def get(name: str) -> Task:
    """Return a slide task of the papers.

    Parameters
    ----------
    name
        Name, as in :func:`spade.tasks.list`.

    Returns
    -------
    Task
        What is known of it, with ``labels`` and ``run``.

    Raises
    ------
    KeyError
        No such task.

    Examples
    --------
    >>> import spade as sp
    >>> sp.tasks.get("panda/isup_grade").metric
    'quadratic_kappa'
    """
    known = tasks()
    if check_text("name", name) not in known:
        asked = name.lower().replace(" ", "_")
        near = [task for task in known if asked in task.lower()] or get_close_matches(asked, known, 3, 0.5)
        raise KeyError(f"name={name!r} is not a task; close to it: {shorten(near) or 'none'}. sp.tasks.list() has all.")
    return known[name]
