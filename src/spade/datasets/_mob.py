"""Sections of the mouse olfactory bulb."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from spade.datasets._sections import check_sections, read_section

if TYPE_CHECKING:
    from spatialdata import SpatialData


def mob(sections: str | Sequence[str] = ("MOB_11",)) -> list[SpatialData]:
    """Download and read sections of the mouse olfactory bulb (classic ST, 2.75 µm/px) with five layers as labels.

    ``"MOB_11"`` has an image, labels and the counts of 16,218 genes at 262 spots (2.6 MB). ``"MOB_01"`` to ``"MOB_04"``
    are of another animal and have an image and labels, but no counts (1.2 to 1.7 MB each).

    Files are downloaded once, into the folder that the environment variable ``SPADE_DATA_DIR`` names, else (or if that
    folder is read-only) into the cache of the user. Files that lie there already, such as ``mob/MOB_11/11.jpg``, are
    not downloaded. Size and SHA-256 of every file are checked.

    Parameters
    ----------
    sections
        Names of sections: ``"MOB_11"``, ``"MOB_01"``, ``"MOB_02"``, ``"MOB_03"``, ``"MOB_04"``.

    Returns
    -------
    list[SpatialData]
        The sections in the order of their names, as :func:`spade.io.read_st` reads them: ``images["image"]``,
        ``shapes["spots"]`` and ``tables["table"]`` with raw counts (width 0 without counts), ``obs["label"]`` (the
        layer; NaN: unlabelled) and ``obs["animal"]`` (``"A"``: 01 to 04, ``"E"``: 11).

    Raises
    ------
    ValueError
        If a section is unknown or named twice, or a file that lies there is not the published one.
    ConnectionError
        If a file could not be downloaded; the message says where it is expected.

    Notes
    -----
    Images and counts are of Ståhl et al., Science 2016 (doi:10.1126/science.aaf2403), the labels of Äijö et al.,
    Splotch, bioRxiv 2019 (doi:10.1101/757096). Images and labels come from a repository under BSD-3-Clause
    (``tare/Splotch``), counts from one under MIT (``almaan/sepal``).

    Examples
    --------
    >>> import spade as sp
    >>> sp.datasets.mob("MOB_12")
    Traceback (most recent call last):
        ...
    ValueError: sections='MOB_12': expected one of 'MOB_01', 'MOB_02', 'MOB_03', 'MOB_04', 'MOB_11'.
    """
    return [read_section("mob", name) for name in check_sections("mob", sections)]
