"""Square patches of tissue, centred on the spots."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import shapely
from geopandas import GeoDataFrame
from numpy.typing import NDArray
from spatialdata import SpatialData
from spatialdata.models import ShapesModel
from spatialdata.transformations import get_transformation

from spade import _keys
from spade._checks import plural, shorten
from spade._said.lines import speaks, wrote
from spade._samples.images import check_stained, image_levels, visible
from spade._samples.open import Samples, add_empty_table, as_list, iter_samples
from spade._samples.placement import SpotPlacement, place
from spade._samples.sample import Sample, Section
from spade.core.arrays import Rows
from spade.core.checks import check_count, check_positive, check_text
from spade.core.errors import warn
from spade.core.files import digest
from spade.io._recorded.frames import frame_of
from spade.pp._scale import section_scale, warn_if_coarse


@dataclass(frozen=True)
class PatchSettings:
    """Size of patches in µm and pixels, where they are stored, and what is stated about images, by region or for all.

    Attributes
    ----------
    size_um, size_px
        Side of a patch.
    image_key
        H&E image; None: chosen automatically.
    mpp
        Microns per pixel of the image at its finest level; None: recorded or recognised.
    shapes_key
        The only region to make patches for; None: all.
    key_added
        Name of the shapes element.
    """

    size_um: float
    size_px: int
    image_key: str | Mapping[str, str] | None
    mpp: float | Mapping[str, float] | None
    shapes_key: str | None
    key_added: str

    def __post_init__(self) -> None:
        """Check all settings."""
        object.__setattr__(self, "size_um", check_positive("size_um", self.size_um, "µm"))
        object.__setattr__(self, "size_px", check_count("size_px", self.size_px))
        for key in self._values(self.image_key):
            check_text("image_key", key)
        for mpp in self._values(self.mpp):
            check_positive("mpp", mpp, "microns per pixel")
        if self.shapes_key is not None:
            check_text("shapes_key", self.shapes_key)
        _keys.check_key(self.key_added)

    @staticmethod
    def _values(setting: object) -> list[object]:
        values = setting.values() if isinstance(setting, Mapping) else [setting]
        return [value for value in values if value is not None]

    @property
    def wanted_mpp(self) -> float:
        """Resolution of a patch in µm/px."""
        return self.size_um / self.size_px

    def image_of(self, region: str) -> str | None:
        """Return the image stated for a region."""
        return self.image_key.get(region) if isinstance(self.image_key, Mapping) else self.image_key

    def mpp_of(self, region: str) -> float | None:
        """Return the µm/px stated for a region."""
        return self.mpp.get(region) if isinstance(self.mpp, Mapping) else self.mpp


@speaks
def patches(
    samples: Samples,
    *,
    image_key: str | Mapping[str, str] | None = None,
    shapes_key: str | None = None,
    table_key: str | None = None,
    size_um: float = 112.0,
    size_px: int = 224,
    mpp: float | Mapping[str, float] | None = None,
    key_added: str = _keys.PATCHES,
) -> None:
    """Lay a square patch of tissue around every spot.

    No colours are read from the image yet: the squares are stored as polygons in the pixel frame of the section's
    image, with the image's transformations, and :func:`encode_patches` reads them. The defaults are those of the paper:
    224 px at 0.5 µm/px.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or a list or dict of these.
    image_key
        H&E image, one name or a dict from region to name. None: the only 8-bit RGB image that shares a coordinate
        system with the spots, or the finest of several that show the same area. An image is RGB if its channels are
        named ``r``, ``g``, ``b`` (with or without ``a``, opacity, which is laid on white) or ``red``, ``green``,
        ``blue``, or are three without names. Any other image, such as stains of fluorescence, is refused, and so is one
        that is dark or grey, as a composite of fluorescence is, unless it is named here.
    shapes_key
        Spots (circles) of an object that has no table yet: a table of width 0 is added for them. With a table: the only
        region to make patches for.
    table_key
        Table; may be left out when there is one.
    size_um
        Side of a patch in µm.
    size_px
        Side of a patch in pixels once it is read: ``size_um / size_px`` is its resolution in µm/px.
    mpp
        Microns per pixel of the image at its finest level, one number or a dict from region to number. None: what a
        reader of this package recorded, else what the spots tell: Visium if they are recognised as such, the bins of
        Visium HD by their name, Xenium cells by ``obs["cell_area"]``.
    key_added
        Name of the shapes element.

    Returns
    -------
    None
        Writes ``shapes[key_added]`` (one square per spot, same index; ``{key_added}_{region}`` if the table has several
        regions, or if other patches of another table have that name), ``obs["spade_valid"]`` (whether the centre lies
        in the image, and not all of the patch is transparent; the part of a square beyond the border is filled by
        reflection) and, in ``uns["spade"]``, the image, coordinate system and µm/px of each region.

    Raises
    ------
    ValueError
        No or several possible images, a dark or grey one that is not named, no coordinate system in common or several
        that contradict each other, as after a registration that left the old one in place, µm/px unknown or more than
        5 % from what the spots, bins or cells tell, duplicated instance ids, all patches off the image.
    KeyError
        An element or spot that is not there.

    Examples
    --------
    >>> import spade as sp
    >>> (sdata,) = sp.datasets.toy(1, 30)
    >>> sp.pp.patches(sdata)
    >>> len(sdata["patches"])
    30
    """
    settings = PatchSettings(size_um, size_px, image_key, mpp, shapes_key, key_added)
    samples = as_list(samples, writes=True)

    def add_table(sdata: SpatialData) -> None:
        add_empty_table(sdata, _only_shapes(sdata, shapes_key))

    by_region = {name: value for name, value in (("image_key", image_key), ("mpp", mpp)) if isinstance(value, Mapping)}
    if by_region:
        opened = iter_samples(samples, table_key=table_key, add_table=add_table)
        regions = {section.region for sample in opened for section in sample.sections}
        for argument, value in by_region.items():
            if unknown := [name for name in value if name not in regions]:
                raise KeyError(
                    f"{argument}= names {shorten(unknown)}, which no table has as a region; regions: "
                    f"{shorten(sorted(regions))}."
                )
    for sample in iter_samples(samples, table_key=table_key, add_table=add_table, writes=True):
        _lay_patches(sample, settings)


def _only_shapes(sdata: SpatialData, shapes_key: str | None) -> str:
    """Return the spots of an object without a table."""
    if shapes_key is None and len(sdata.shapes) == 1:
        return next(iter(sdata.shapes))
    if shapes_key is None or shapes_key not in sdata.shapes:
        raise ValueError(
            f"shapes_key={shapes_key!r}: the object has no table, so the spots must be named; shapes: "
            f"{shorten(sdata.shapes) or 'none'}."
        )
    return shapes_key


def _lay_patches(sample: Sample, settings: PatchSettings) -> None:
    """Write the patches of one sample and save it."""
    table, shapes_key = sample.table, settings.shapes_key
    regions = [section.region for section in sample.sections]
    if shapes_key is not None and shapes_key not in regions:
        raise KeyError(f"{sample.name}: shapes_key={shapes_key!r} is not annotated; the table's regions: {regions}.")
    valid = np.zeros(table.n_obs, dtype=bool)
    if _keys.VALID in table.obs:
        valid = table.obs[_keys.VALID].to_numpy(dtype=bool, copy=True)
    records = dict(_keys.read_provenance(table.uns, settings.key_added).get("regions", {}))
    squares: dict[str, GeoDataFrame] = {}
    n_off = n_transparent = 0
    for section in sample.sections:
        if shapes_key is None or section.region == shapes_key:
            record, polygons, inside, shown = _patches_of_section(sample, section, regions, settings)
            records[section.region], squares[record["element"]] = record, polygons
            valid[section.rows] = shown
            n_off += int((~inside).sum())
            n_transparent += int((inside & ~shown).sum())
    if not valid.any():
        raise ValueError(
            f"{sample.name}: all {len(valid)} patches are off the image{' or wholly transparent' * (n_transparent > 0)}"
            ". Check the transformations of the spots and the image, and the order of x and y."
        )
    for n, of, what in ((n_off, "the centres of ", "off the image"), (n_transparent, "", "wholly transparent")):
        if n:
            warn(
                f"{sample.name}: {of}{n} of {len(valid)} patches are {what}; they are marked obs[{_keys.VALID!r}]="
                "False, get NaN features and are left out of training."
            )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*overwrit", category=UserWarning)
        for element, polygons in squares.items():
            sample.sdata.shapes[element] = polygons
    table.obs[_keys.VALID] = valid
    facts = {"size_um": settings.size_um, "size_px": settings.size_px, "regions": records}
    _keys.write_provenance(table.uns, settings.key_added, function="pp.patches", **facts)
    sample.save(*(f"shapes/{element}" for element in squares))
    detail = f"{valid.sum():,} of {plural(len(valid), 'patch')} valid"
    wrote(sample.name, *(f"shapes[{element!r}]" for element in squares), f"obs[{_keys.VALID!r}]", detail=detail)


def _patches_of_section(
    sample: Sample, section: Section, regions: list[str], settings: PatchSettings
) -> tuple[_keys.RegionRecord, GeoDataFrame, NDArray[np.bool_], NDArray[np.bool_]]:
    """Return record and squares of a section, which rows lie in the image, and which of these show anything there."""
    placement = place(sample.sdata, section.name, section.region, regions, settings.image_of(section.region))
    image, named = sample.sdata.images[placement.image_key], settings.image_of(section.region) is not None
    check_stained(image, placement.image_key, section.name, named=named)
    rows = join_rows(section, placement)
    mpp, diameter_um = section_scale(sample, section, placement, rows, settings.mpp_of(section.region))
    warn_if_coarse(section.name, placement.image_key, mpp, settings.wanted_mpp)
    side = settings.size_um / mpp
    squares = _squares(sample, placement, side)
    frame = frame_of(image, placement.coordinate_system)
    record: _keys.RegionRecord = {
        "element": _element(sample, section.region, regions, settings.key_added, squares),
        "image": placement.image_key,
        "coordinate_system": placement.coordinate_system,
        "mpp": mpp,
        "spot_diameter_um": diameter_um,
        "frame": dict(frame),
        "places": _places(sample, section, settings.key_added, squares.iloc[rows]),
    }
    inside = placement.inside((frame["height"], frame["width"]))[rows]
    shown = visible(image_levels(image), placement.centres[rows], inside, side, settings.size_px)
    return record, squares, inside, shown


def _element(sample: Sample, region: str, regions: list[str], key: str, squares: GeoDataFrame) -> str:
    """Return the name of a section's squares, which is that of no other squares that a record names."""
    records = [
        record
        for table_key, table in sample.sdata.tables.items()
        for name, record in table.uns.get(_keys.UNS, {}).items()
        if (table_key, name) != (sample.table_key, key)
    ]
    taken = {facts["element"] for record in records for facts in record.get("regions", {}).values()}
    names = [f"{key}_{region}", f"{key}_{sample.table_key}", f"{key}_{sample.table_key}_{region}"]
    names = names if len(regions) > 1 else [key, *names]
    if names[0] in regions:
        raise ValueError(f"key_added={key!r}: the patches would replace the spots shapes[{names[0]!r}].")
    shapes = sample.sdata.shapes
    free = [name for name in names if name not in taken or (name in shapes and _are_same(shapes[name], squares))]
    if not free:
        raise ValueError(
            f"{sample.name}: shapes {shorten(names)} are patches of other tables or of another key_added=. Choose "
            f"another than {key!r}."
        )
    return free[0]


def _places(sample: Sample, section: Section, key: str, squares: GeoDataFrame) -> str:
    """Return what tells the squares of a section's rows from others: what was made of them is outdated if they move."""
    earlier: Mapping[str, Any] = _keys.read_provenance(sample.table.uns, key).get("regions", {}).get(section.region, {})
    old = sample.sdata.shapes.get(earlier.get("element"))
    rows = np.array([-1]) if old is None else pd.Index(old.index).get_indexer(section.ids)
    if "places" in earlier and (rows >= 0).all() and _are_same(old.iloc[rows], squares):
        return str(earlier["places"])
    return digest(shapely.get_coordinates(squares.geometry.to_numpy()), "\n".join(map(str, squares.index)))


def _are_same(some: GeoDataFrame, others: GeoDataFrame) -> bool:
    """Whether squares have the same ids and places, up to rounding."""
    if not some.index.equals(others.index):
        return False
    one, other = (shapely.get_coordinates(frame.geometry.to_numpy()) for frame in (some, others))
    return one.shape == other.shape and np.allclose(one, other, rtol=0, atol=1e-3)


def join_rows(section: Section, placement: SpotPlacement) -> Rows:
    """Return the position of every row's spot."""
    rows = pd.Index(placement.index).get_indexer(section.ids)
    missing = section.ids[rows < 0]
    if len(missing):
        raise KeyError(
            f"{section.name}: {len(missing)} of {len(section.ids)} rows of the table have no spot in "
            f"shapes[{section.region!r}], such as {shorten(missing)}. Rows are joined by instance id; spots there are: "
            f"{shorten(placement.index, 3)}. Leave such rows out: table[table.obs[instance_key].isin("
            f"sdata[{section.region!r}].index)].copy()."
        )
    return rows


def _squares(sample: Sample, placement: SpotPlacement, side: float) -> GeoDataFrame:
    """Return the square of every spot, in the pixel frame of the image and with its transformations."""
    (x, y), half = placement.centres.T, side / 2
    squares = GeoDataFrame(geometry=shapely.box(x - half, y - half, x + half, y + half), index=placement.index)
    image = sample.sdata.images[placement.image_key]
    return ShapesModel.parse(squares, transformations=get_transformation(image, get_all=True))
