"""Elements that are written about a slide: which names are free, and records of what they were made from."""

from __future__ import annotations

from collections.abc import Iterable

import shapely
from geopandas import GeoDataFrame

from spade import _keys
from spade._checks import shorten
from spade._samples.sample import Opened
from spade.core.files import digest
from spade.io._recorded.scale import SectionRecord


def check_name(key_added: str) -> str:
    """Return the name of an element to write, or raise if it cannot be stored, or is a name in ``attrs["spade"]``."""
    if _keys.check_key(key_added) in SectionRecord.__annotations__:
        raise ValueError(
            f"key_added={key_added!r}: the name is in use for what is known of the sample; choose another."
        )
    return key_added


def check_free(slide: Opened, elements: Iterable[str], key_added: str, function: str, *, own: bool) -> None:
    """Raise if elements to write, such as ``"shapes/tiles"``, are there already and are not our ``own``."""
    there = [f"{kind}/{name}" for kind, name, _ in slide.sdata.gen_elements()]
    names = {element.split("/")[1] for element in elements}
    taken = [one for one in there if one.split("/")[1] in names and not (own and one in elements)]
    if taken:
        raise ValueError(
            f"{slide.name}: key_added={key_added!r}: {taken[0]} is there, and sp.{function} did not write it. Choose "
            "another name."
        )


def tissue_shapes(slide: Opened, tissue_key: str) -> GeoDataFrame:
    """Return outlines of tissue; raise if they are not there."""
    if tissue_key not in slide.sdata.shapes:
        raise KeyError(
            f"{slide.name}: tissue_key={tissue_key!r} is not among the shapes: "
            f"{shorten(slide.sdata.shapes) or 'none'}. Find the tissue with sp.pp.tissue(samples), name outlines that "
            "were drawn, or pass tissue_key=None to take the whole image."
        )
    return slide.sdata.shapes[tissue_key]


def tissue_record(slide: Opened, tissue_key: str) -> dict[str, str]:
    """Return the record of outlines, found or drawn, that tables made from them hold: it changes with the outlines."""
    geometry = slide.sdata.shapes[tissue_key].geometry.to_numpy()
    return {"function": "pp.tissue", "outlines": digest(shapely.get_coordinates(geometry))}
