"""Image features of a spot's surroundings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from spade import _keys
from spade._said.lines import size, speaks, wrote
from spade._samples.features import read_features
from spade._samples.given.origins import SOURCE
from spade._samples.open import Samples, iter_samples
from spade._samples.patches import patch_record, placed_patches
from spade._samples.sample import Sample
from spade.core.arrays import Floats
from spade.core.checks import check_positive, check_text
from spade.core.spots.blocks import spacing

#: Default radius in pitches: it reaches the 8 neighbours on a square lattice and the 6 on a hexagonal one.
PITCHES = 1.5


@speaks
def spatial_context(
    samples: Samples,
    *,
    use_rep: str,
    radius_um: float | None = None,
    patches_key: str = _keys.PATCHES,
    table_key: str | None = None,
    key_added: str | None = None,
) -> None:
    """Average image features over each spot and its neighbours.

    A patch shows 112 µm; tissue regions are larger. Concatenated with the features themselves, as
    ``use_rep=("X_texture", "X_texture_context")``, the averages tell in which region a spot lies. They blur details
    smaller than the radius. Spots on both sides of a border share neighbours: split by section or patient, or with a
    guard band of the side of a patch plus twice the radius.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or a list or dict of these, with patches and image features.
    use_rep
        ``obsm`` key of the image features.
    radius_um
        Spots of a section whose centres are no farther apart than this are neighbours; None: 1.5 times the median
        distance of a spot to the nearest other (on a lattice, its direct neighbours).
    patches_key
        What :func:`patches` wrote.
    table_key
        Table; may be left out when there is one.
    key_added
        ``obsm`` key; None: ``"<use_rep>_context"``.

    Returns
    -------
    None
        Writes ``obsm["<use_rep>_context"]``, float32 of the shape of ``obsm[use_rep]``. Spots without features get NaN
        and are nobody's neighbours.

    Raises
    ------
    KeyError
        No such features or patches.
    ValueError
        A radius that is not positive, or a ``key_added`` of what is read.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(2, 60)
    >>> sp.pp.patches(samples)
    >>> sp.pp.encode_patches(samples)
    >>> sp.pp.spatial_context(samples, use_rep="X_texture")
    >>> samples[0]["table"].obsm["X_texture_context"].shape == samples[0]["table"].obsm["X_texture"].shape
    True
    """
    check_text("use_rep", use_rep)
    if radius_um is not None:
        radius_um = check_positive("radius_um", radius_um, "µm")
    key = _keys.check_key(f"{use_rep}_context" if key_added is None else key_added)
    if key == use_rep:
        raise ValueError(
            f"key_added={key!r} would replace the features use_rep= that are averaged; choose another key."
        )
    for sample in iter_samples(samples, table_key=table_key, writes=True):
        table = sample.table
        if key in _keys.made_from(table.uns, use_rep):
            raise ValueError(
                f"{sample.name}: key_added={key!r} would replace what obsm[{use_rep!r}] was made from; choose another "
                "key."
            )
        table.obsm[key], largest = _context(sample, read_features(sample, use_rep), radius_um, patches_key)
        facts = {"use_rep": use_rep, "radius_um": largest, "patches_key": patches_key}
        facts |= _origin(_keys.read_provenance(table.uns, use_rep), radius_um)
        _keys.write_provenance(table.uns, key, function="pp.spatial_context", **facts)
        sample.save()
        wrote(sample.name, f"obsm[{key!r}]", detail=size(table.obsm[key]))


def _origin(record: Mapping[str, Any], radius_um: float | None) -> dict[str, Any]:
    """Return the origin of the features that are averaged, and over what, as the record of the means has it."""
    facts = {name: record[name] for name in (*SOURCE.values(), "about_um") if name in record}
    over = f"{PITCHES:g} pitches" if radius_um is None else f"{radius_um:g} µm"
    return facts | {"context": f"{over} of {record['context']}" if "context" in record else over}


def _context(
    sample: Sample, features: NDArray[np.float32], radius_um: float | None, patches_key: str
) -> tuple[NDArray[np.float32], float]:
    """Return the mean features around every row, and the largest radius."""
    record = patch_record(sample, patches_key)
    means, largest = np.full_like(features, np.nan), 0.0
    for section in sample.sections:
        usable = ~np.isnan(features[section.rows]).any(1)
        centres, rows = placed_patches(sample, section, record).points[usable], section.rows[usable]
        radius = PITCHES * spacing(centres) if radius_um is None else radius_um
        means[rows] = neighbour_means(features[rows], centres, radius)
        largest = max(largest, radius)
    return means, largest


def neighbour_means(x: NDArray[np.float32], points: Floats, radius: float) -> NDArray[np.float32]:
    """Return the mean of the rows of ``x`` within ``radius`` of each point, the point included."""
    tree = KDTree(points)
    near = tree.sparse_distance_matrix(tree, radius, output_type="coo_matrix").tocsr()
    near.data[:] = 1.0  # one per pair; distances of 0 are stored as well
    near.setdiag(1.0)
    return np.asarray(near @ x / near.sum(1).reshape(-1, 1), dtype=np.float32)
