"""The libraries (sections) of an AnnData as scanpy and squidpy hold them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from xarray import DataTree

from spade import _keys
from spade._checks import plural, shorten
from spade.core.arrays import Floats
from spade.core.checks import is_number
from spade.core.errors import warn
from spade.io._neighbours.pictures import as_picture, as_slide
from spade.io._recorded.frames import image_size

if TYPE_CHECKING:
    from anndata import AnnData

SPATIAL = "spatial"
DIAMETER = "spot_diameter_fullres"
#: Name of the image at full resolution, and the share by which the areas of images may differ.
FULL, SAME = "full", 0.01
#: What CELLxGENE adds beside the library, and calls the image at full resolution; names of pictures, not of masks.
SINGLE, FULLRES = "is_single", "fullres"
PICTURES = ("hires", "lowres", FULLRES)


@dataclass(frozen=True)
class Library:
    """One section.

    Attributes
    ----------
    name
        Its name, as elements can be called.
    rows
        Its rows in the table.
    images
        Images by name, with the factor from full-resolution pixels to theirs.
    diameter_px
        Diameter of a spot in full-resolution pixels.
    slide
        What the file of the image at full resolution states, if that is a slide.
    """

    name: str
    rows: NDArray[np.int64]
    images: dict[str, tuple[DataTree, float]]
    diameter_px: float
    slide: dict[str, Any]


def spot_centres(adata: AnnData, spatial_key: str) -> Floats:
    """Return ``obsm[spatial_key]``, or raise if it is not two finite numbers for every spot."""
    if spatial_key not in adata.obsm:
        raise KeyError(
            f"obsm[{spatial_key!r}], the pixels of the spots at full resolution, is not there; keys of obsm: "
            f"{shorten(adata.obsm) or 'none'}. Name another with spatial_key=."
        )
    values = np.asarray(adata.obsm[spatial_key])
    if values.ndim != 2 or values.shape[1] != 2 or values.dtype.kind not in "iuf":
        raise ValueError(
            f"obsm[{spatial_key!r}] has shape {values.shape} and type {values.dtype}; expected two numbers (x, y) for "
            f"each of {adata.n_obs} spots."
        )
    if (wrong := ~np.isfinite(values).all(axis=1)).any():
        raise ValueError(
            f"obsm[{spatial_key!r}] is NaN or infinite for {int(wrong.sum())} of {plural(len(values), 'spot')}, such "
            f"as {shorten(adata.obs_names[wrong], 3)}. Remove these spots, or give their places."
        )
    return values.astype(np.float64)


def find_libraries(adata: AnnData, library_key: str | None, image: object, diameter_px: float | None) -> list[Library]:
    """Return the sections of an AnnData with their images."""
    held = adata.uns.get(SPATIAL, {})
    if isinstance(held, Mapping):
        held = {name: facts for name, facts in held.items() if name != SINGLE or isinstance(facts, Mapping)}
    if not isinstance(held, Mapping) or not all(isinstance(facts, Mapping) for facts in held.values()):
        raise ValueError(f"uns[{SPATIAL!r}] is no dict from library to images and scalefactors, as scanpy writes it.")
    rows = _rows(adata, list(map(str, held)), library_key)
    given = _given(image, list(rows))
    libraries = []
    for name, own in rows.items():
        facts = held.get(name, {})
        picture, slide = given.get(name, (None, {}))
        images = _images(facts, name) | ({} if picture is None else {FULL: (picture, 1.0)})
        if not images:
            raise ValueError(
                f"library {name!r} has no image in uns[{SPATIAL!r}] (libraries there: {shorten(held) or 'none'}). Give "
                "one with image=."
            )
        diameter = _diameter(facts, name, diameter_px)
        libraries.append(Library(_keys.storable(name) or SPATIAL, own, images, diameter, slide))
    if len({library.name for library in libraries}) < len(libraries):
        raise ValueError(
            f"the names of the libraries {shorten(rows)} are the same once they can be stored. Rename some."
        )
    return libraries


def _rows(adata: AnnData, held: list[str], library_key: str | None) -> dict[str, NDArray[np.int64]]:
    """Return the rows of every library."""
    if library_key is None:
        if len(held) > 1:
            columns = [name for name in adata.obs if set(adata.obs[name].astype(str)) <= set(held)]
            raise ValueError(
                f"uns[{SPATIAL!r}] has several libraries, {shorten(held)}: name the obs column that tells them apart "
                f"with library_key=, such as {shorten(columns) or 'none of those there are'}."
            )
        return {held[0] if held else SPATIAL: np.arange(adata.n_obs)}
    if library_key not in adata.obs:
        raise KeyError(f"library_key={library_key!r} is not in obs; columns: {shorten(adata.obs.columns, 20)}.")
    column = adata.obs[library_key]
    if column.isna().any():
        raise ValueError(
            f"obs[{library_key!r}] is missing for {int(column.isna().sum())} of {len(column)} spots. Fill it in."
        )
    names = column.astype(str).to_numpy()
    return {name: np.flatnonzero(names == name) for name in dict.fromkeys(names)}


def _given(image: object, names: list[str]) -> dict[str, tuple[DataTree, dict[str, Any]]]:
    """Return the full-resolution images that were given and what slides state about themselves, by library."""
    if image is None:
        return {}
    by_name = image if isinstance(image, Mapping) and not isinstance(image, DataTree) else None
    if by_name is None:
        if len(names) > 1:
            raise ValueError(
                f"image=: there are several libraries, {shorten(names)}; give a dict from library to image."
            )
        by_name = {names[0]: image}
    if unknown := [name for name in by_name if name not in names]:
        raise KeyError(f"image= names {shorten(unknown)}, which are no libraries; there are {shorten(names)}.")
    return {str(name): as_slide(one, "image") for name, one in by_name.items()}


def _images(facts: Mapping[str, Any], name: str) -> dict[str, tuple[DataTree, float]]:
    """Return the images that a library holds, with their scales; raise if one has no scale."""
    images: dict[str, tuple[DataTree, float]] = {}
    scales = facts.get("scalefactors", {})
    for kind, array in facts.get("images", {}).items():
        if kind not in PICTURES and np.ndim(array) == 2:
            warn(f"library {name!r}: images[{kind!r}] is a mask and no picture; it is left out.")
            continue
        key = f"tissue_{kind}_scalef"
        scale = scales.get(key, 1.0 if kind == FULLRES else None)
        if not is_number(scale) or not scale > 0:
            raise ValueError(
                f"library {name!r}: images[{kind!r}] has no scale: {key!r} is {scale!r} in its scalefactors (there are "
                f"{shorten(scales) or 'none'}). Without it, it is not known where spots lie on the image."
            )
        images[str(kind)] = (as_picture(np.asarray(array), f"library {name!r}: images[{kind!r}]"), float(scale))
    return images


def _diameter(facts: Mapping[str, Any], name: str, given: float | None) -> float:
    """Return the diameter of a spot in full-resolution pixels: what is stated, else what is given."""
    stated = facts.get("scalefactors", {}).get(DIAMETER)
    if given is not None:
        return given
    if not is_number(stated) or not stated > 0:
        raise ValueError(
            f"library {name!r}: the scalefactors have no {DIAMETER!r} (it is {stated!r}). Give the diameter of a spot, "
            "in pixels at full resolution, with spot_diameter_px=."
        )
    return float(stated)


def array_places(adata: AnnData, library: Library) -> Floats | None:
    """Return row and column of every spot of a section in Space Ranger's numbering, None if they are not there.

    Raises
    ------
    ValueError
        Two spots have the same place, as if there were two sections.
    """
    if not set(_keys.ARRAY) <= set(adata.obs):
        return None
    places = adata.obs[_keys.ARRAY].iloc[library.rows].apply(pd.to_numeric, errors="coerce")
    if n_twice := int(places.dropna().duplicated().sum()):
        raise ValueError(
            f"library {library.name!r}: {n_twice} of {plural(len(places), 'spot')} have the array_row and array_col of "
            "another, so it holds several sections, as after concatenating some whose libraries have the same name. "
            f"Take them over one by one, or give each its library in uns[{SPATIAL!r}] and name the obs column that "
            "tells them apart with library_key=."
        )
    return places.to_numpy(float)


def full_size(library: Library) -> tuple[float, float]:
    """Return width and height of a section in full-resolution pixels, by its finest image; raise if others differ."""
    sizes: dict[str, Floats] = {}
    for kind, (image, scale) in sorted(library.images.items(), key=lambda item: -item[1][1]):
        sizes[kind] = np.array(image_size(image)) / scale
        finest, full = next(iter(sizes.items()))
        if (np.abs(sizes[kind] - full) > np.maximum(SAME * full, 2 / scale)).any():
            said = [f"{name} of {width:.0f} × {height:.0f}" for name, (width, height) in sizes.items()]
            raise ValueError(
                f"library {library.name!r}: the images are not of one area: {said[0]} and {said[-1]} pixels at full "
                f"resolution. {'Is image= at full resolution?' if finest == FULL else 'Check the scalefactors.'}"
            )
    width, height = next(iter(sizes.values()))
    return float(width), float(height)
