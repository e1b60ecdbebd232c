"""All tasks."""

from __future__ import annotations

import pandas as pd

from spade.tasks._read import tasks


def list() -> pd.DataFrame:
    """Return the slide tasks that are known, one row per task.

    Returns
    -------
    DataFrame
        ``name``; ``title``; ``paper``; ``kind`` of the target (classes, ordinal, continuous or survival);
        ``n_classes`` and ``n_samples`` (missing: unknown); ``metric``; ``data``, the data set; ``licence`` of its
        slides (``"unknown"``: not established); ``labels``, whether :meth:`spade.tasks.Task.labels` can read its table;
        ``published``, the number of published figures; and ``unknown``, what could not be established.

    Examples
    --------
    >>> import spade as sp
    >>> table = sp.tasks.list()
    >>> table.loc[table["name"] == "panda", ["kind", "n_classes", "licence"]].values.tolist()
    [['ordinal', 6, 'CC BY-NC-SA 4.0']]
    """
    rows = [
        {
            "name": task.name,
            "title": task.title,
            "paper": task.paper,
            "kind": task.kind,
            "n_classes": task.n_classes,
            "metric": task.metric,
            "n_samples": task.n_samples,
            "data": task.data.title,
            "licence": task.data.licence or "unknown",
            "labels": task.rule is not None,
            "published": len(task.published),
            "unknown": ", ".join(task.unknown),
        }
        for task in tasks().values()
    ]
    return pd.DataFrame(rows).astype({"n_classes": "Int64", "n_samples": "Int64"})
