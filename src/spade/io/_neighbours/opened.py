"""Objects of neighbours, given as they are or as a path to a store."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from spade import _keys
from spade._checks import shorten
from spade.core.checks import brief, check_names_given, check_path, check_positive, check_text, is_number
from spade.core.spots.lattice import TOLERANCE
from spade.io._files.store import read_store

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData


def opened(value: object, argument: str) -> SpatialData:
    """Return an object, or that of a store."""
    from spatialdata import SpatialData

    if isinstance(value, SpatialData):
        return value
    if not isinstance(value, (str, PathLike)):
        raise TypeError(
            f"{argument}: got {type(value).__name__}; expected one SpatialData, or a path to a .zarr store."
        )
    path = check_path(argument, value)
    if not path.exists():
        raise FileNotFoundError(f"{argument}: there is no store at {str(path)!r}.")
    return read_store(path, argument)


def check_options(**options: Any) -> None:
    """Raise if numbers or names, None aside, are none."""
    for name, value in options.items():
        if value is None:
            continue
        if name in ("mpp", "size_um", "spot_diameter_px"):
            check_positive(name, value)
        elif name == "image_key":
            _keys.check_key(check_text(name, value), name)
        else:
            check_text(name, value)


def chosen_tables(
    sdata: SpatialData, region: str | None, features: str | Sequence[str] | None, found: dict[str, str], made_by: str
) -> dict[str, AnnData]:
    """Return tables of features by the name of their model: those asked for (None: all that were ``found``).

    ``found`` has the model of every table that looks like one of features of the tiles.
    """
    names = list(found) if features is None else check_names_given("features", features)
    if missing := [name for name in names if name not in sdata.tables]:
        raise KeyError(f"features={missing[0]!r} is not there; tables: {shorten(sdata.tables) or 'none'}.")
    tables = {found.get(name, name): sdata.tables[name] for name in names}
    if len(tables) < len(names):
        raise ValueError(f"features: several of the tables {shorten(names)} are of one model. Choose one.")
    for name, table in zip(names, tables.values(), strict=True):
        of = table_of(table)[0]
        if region is not None and of != region:
            raise ValueError(f"tables[{name!r}] describes {of!r}, not the tiles {region!r}. Leave it out of features=.")
    if not tables and features is None and made_by:
        raise KeyError(f"there are no tables of features ({made_by}); tables: {shorten(sdata.tables) or 'none'}.")
    return tables


def table_of(table: AnnData) -> tuple[object, str]:
    """Return the region that a table annotates, and its column of ids; ``("", "")`` if it annotates nothing."""
    facts = table.uns.get("spatialdata_attrs", {})
    region = facts.get("region", "")
    if isinstance(region, (list, np.ndarray)) and len(region) == 1:
        region = region[0]
    return (region if isinstance(region, str) else tuple(region)), str(facts.get("instance_key", ""))


def unique_ids(ids: pd.Index, what: str) -> pd.Index:
    """Return the ids of tiles, or raise if one occurs more than once."""
    if not ids.is_unique:
        raise ValueError(f"{what}: ids occur more than once, such as {shorten(ids[ids.duplicated()], 3)}.")
    return ids


def settled_mpp(given: float | None, stated: object, what: str) -> float:
    """Return the µm/px that are given, or stated; raise if there are none, or both differ by more than 5 %."""
    known = float(stated) if is_number(stated) and float(stated) > 0 else None  # type: ignore[arg-type]
    if given is None and known is None:
        raise ValueError(
            f"{what} states no µm/px (mpp is {brief(stated)}): give mpp=, microns per pixel of the image at its finest "
            "level."
        )
    if given is not None and known is not None and abs(given / known - 1) > TOLERANCE:
        raise ValueError(f"mpp={given:.4g} contradicts {what}, which states {known:.4g} µm/px; leave mpp= out.")
    return float(given if given is not None else known)  # type: ignore[arg-type]
