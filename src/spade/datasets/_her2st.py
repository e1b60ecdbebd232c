"""Sections of HER2-positive breast cancer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spade.core.checks import check_flag
from spade.datasets._sections import DATA_DIR, check_sections, find, place, read_section

if TYPE_CHECKING:
    from spatialdata import SpatialData


def her2st(sections: str | Sequence[str] = ("B4", "C2"), *, labels: bool = False) -> list[SpatialData]:
    """Download and read sections of human HER2-positive breast cancer (classic ST, 0.69 µm/px).

    ``"B4"`` is of patient B, ``"C2"`` and ``"C3"`` are of patient C. Each has an image and the counts of about 15,500
    genes at 180 to 283 spots (4.7 MB). Files such as ``her2st/B4/B4.tsv.gz`` are looked for, downloaded and checked as
    :func:`spade.datasets.mob` does.

    Parameters
    ----------
    sections
        Names of sections: ``"B4"``, ``"C2"``, ``"C3"``.
    labels
        Whether to read regions into ``obs["label"]``, from ``her2st/derived_labels/B4_transferred_labels.tsv`` in
        ``SPADE_DATA_DIR`` (columns ``x``, ``y``, ``label``). There is no download for them: the published regions are
        those of the first section of each patient. False: no ``obs["label"]``.

    Returns
    -------
    list[SpatialData]
        The sections in the order of their names, as :func:`spade.io.read_st` reads them: ``images["image"]``,
        ``shapes["spots"]`` and ``tables["table"]`` with raw counts, ``obs["patient"]`` (``"B"``, ``"C"``) and, if asked
        for, ``obs["label"]``.

    Raises
    ------
    ValueError
        If a section is unknown or named twice, or a file that lies there is not the published one.
    FileNotFoundError
        If ``labels=True`` and there are no labels of a section.
    ConnectionError
        If a file could not be downloaded; the message says where it is expected.

    Notes
    -----
    The data are of Andersson et al., Nature Communications 2021 (doi:10.1038/s41467-021-26271-2). Their repository
    (``almaan/her2st``) states no licence: ask the authors before you share the files or what contains them.

    Examples
    --------
    >>> import spade as sp
    >>> sp.datasets.her2st(["B4", "B4"])
    Traceback (most recent call last):
        ...
    ValueError: sections=['B4', 'B4']: a section is named twice; name each once.
    """
    names = check_sections("her2st", sections)
    regions = {name: {"labels": _labels(name)} if check_flag("labels", labels) else {} for name in names}
    return [read_section("her2st", name, **regions[name]) for name in names]


def _labels(name: str) -> Path:
    file = f"her2st/derived_labels/{name}_transferred_labels.tsv"
    if (path := find(file)) is None:
        raise FileNotFoundError(
            f"labels=True: labels of {name} cannot be downloaded, and there is no {place(file)}. Put a table with the "
            f"columns x, y and label there, set {DATA_DIR} to a folder that has {file}, or leave labels= out."
        )
    return path
