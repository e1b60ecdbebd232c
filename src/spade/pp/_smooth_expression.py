"""Counts averaged over neighbouring spots."""

from __future__ import annotations

import logging

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import triu

from spade import _keys
from spade._checks import shorten
from spade._samples.counts import read_counts
from spade._samples.open import Samples, iter_samples
from spade._samples.patches import patch_centres, patch_record
from spade._samples.sample import Sample, Section
from spade.core.arrays import Floats
from spade.core.errors import warn
from spade.core.expression.smoothing import pairs_within, smoothing_matrix
from spade.core.spots.lattice import lattice_reach

logger = logging.getLogger("spade")
METHODS = ("lattice", "published", "radius")
ARRAY = ("array_row", "array_col")


def smooth_expression(
    samples: Samples,
    *,
    method: str = "lattice",
    radius_um: float | None = None,
    layer: str | None = None,
    share: float = 0.5,
    patches_key: str = _keys.PATCHES,
    table_key: str | None = None,
    key_added: str = _keys.SMOOTHED,
) -> None:
    r"""Average raw counts over each spot and its neighbours.

    A spot's counts become :math:`(1 - s)\, x_i + s\, \operatorname{mean}_{j \in N(i) \cup \{i\}} x_j` with s = ``share``: in the SEAL paper
    half its own, half the mean of itself and its neighbours, which steadies genes that are rarely found. The result may be named as
    ``layer=`` wherever raw counts are read, as in :func:`spade.tl.train_spade`; genes are selected from the counts themselves. Spots on
    both sides of a border share counts: split by section or patient, or with a guard band of twice the distance of neighbours.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or an iterable of these.
    method
        Which spots of a section are neighbours. ``"lattice"``: those of the lattice that the spots lie on, 6 on a hexagonal one (Visium), 8
        on a square one (classic ST, bins of Visium HD). ``"published"``: as the authors of SEAL have it, those no farther than √2 in
        ``obs["array_row"]`` and ``obs["array_col"]``; as Visium counts every other column, these are only 4 of the 6. ``"radius"``: those
        no farther than ``radius_um``, as for cells (Xenium).
    radius_um
        For ``"radius"``: distance between centres in µm.
    layer
        Layer with raw counts; None: ``X``.
    share
        How much of the result is the mean, above 0 and up to 1.
    patches_key
        What :func:`patches` wrote: it knows the centres in µm. ``"published"`` does without.
    table_key
        Table; may be left out when there is one.
    key_added
        Layer to write.

    Returns
    -------
    None
        Writes ``layers["smoothed"]``, CSR float32, rows and columns as in ``X``. A spot without counts of its own stays so, and does not
        count as a neighbour.

    Raises
    ------
    KeyError
        No such layer, no patches, or no array positions.
    ValueError
        Spots on no lattice, counts that are not raw, a ``radius_um`` that is missing or has no use, or a ``key_added`` that holds
        something else.

    Examples
    --------
    >>> import spade as sp
    >>> sdata = sp.datasets.toy(1, 60)[0]
    >>> sp.pp.patches(sdata)
    >>> sp.pp.smooth_expression(sdata)
    >>> table = sdata["table"]
    >>> table.layers["smoothed"].nnz > table.X.nnz
    True
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r}: expected one of {', '.join(map(repr, METHODS))}.")
    if method == "radius" and (radius_um is None or not 0 < radius_um < np.inf):
        raise ValueError(f'radius_um={radius_um!r}: method="radius" needs a positive number of µm.')
    if method != "radius" and radius_um is not None:
        raise ValueError(
            f'radius_um={radius_um!r}: method={method!r} has no use for it; leave it out, or choose "radius".'
        )
    if not 0 < share <= 1:
        raise ValueError(f"share={share!r}: expected a number above 0 and up to 1.")
    _keys.check_key(key_added)
    for sample in iter_samples(samples, table_key=table_key):
        _check_target(sample, key_added)
        counts = read_counts(sample, layer, smoothed=False)
        filled = np.asarray(counts.sum(1)).ravel() > 0
        if not filled.all():
            warn(
                f"{sample.name}: {int((~filled).sum())} of {len(filled)} spots have no counts: they stay so, and do not count as "
                "neighbours."
            )
        pairs = _neighbours(sample, method, radius_um, patches_key)
        smoothed = (smoothing_matrix(pairs, filled, share) @ counts).tocsr()
        smoothed.eliminate_zeros()
        smoothed.sort_indices()
        sample.table.layers[key_added] = smoothed
        _keys.write_provenance(
            sample.table.uns,
            key_added,
            function=_keys.SMOOTHING,
            method=method,
            share=float(share),
            layer=layer or "X",
            radius_um=None if radius_um is None else float(radius_um),
        )
        sample.save()
        logger.info("%s: %d pairs of neighbours; wrote layers[%r]", sample.name, len(pairs), key_added)


def _check_target(sample: Sample, key: str) -> None:
    """Raise if the result would replace anything but an earlier smoothing."""
    record = _keys.read_provenance(sample.table.uns, key)
    if key == "X" or ((record or key in sample.table.layers) and record.get("function") != _keys.SMOOTHING):
        raise ValueError(f"{sample.name}: key_added={key!r} holds something else already; choose another name.")


def _neighbours(sample: Sample, method: str, radius_um: float | None, patches_key: str) -> NDArray[np.int64]:
    """Pairs of rows that are neighbours, each once."""
    found = [np.empty((0, 2), dtype=np.int64)]
    for section in sample.sections:
        if method == "published":
            pairs = pairs_within(_array_positions(sample, section), np.sqrt(2))
        else:
            points = _centres(sample, section, patches_key)
            pairs = _lattice_pairs(points, section.name) if radius_um is None else pairs_within(points, radius_um)
        found.append(section.rows[pairs])
    return np.concatenate(found)


def _array_positions(sample: Sample, section: Section) -> Floats:
    """Row and column of the spots of a section in their array."""
    obs = sample.table.obs
    if missing := [key for key in ARRAY if key not in obs]:
        raise KeyError(
            f'{sample.name}: method="published" needs array positions, but obs lacks {shorten(missing)}; columns: '
            f'{shorten(obs.columns, 20)}. method="lattice" finds neighbours by where the spots lie.'
        )
    points = obs[list(ARRAY)].iloc[section.rows].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    if not np.isfinite(points).all():
        bad = int((~np.isfinite(points)).any(1).sum())
        raise ValueError(
            f'{section.name}: {bad} of {len(points)} spots have no number in obs["array_row"] or obs["array_col"]. Fill them in, or '
            'choose method="lattice".'
        )
    return points


def _centres(sample: Sample, section: Section, patches_key: str) -> Floats:
    """Centres of the spots of a section in µm."""
    facts = patch_record(sample, patches_key)["regions"].get(section.region)
    if facts is None:
        raise KeyError(f"{section.name}: has no patches; run sp.pp.patches for every region first.")
    return patch_centres(sample, section, facts)[0] * facts["mpp"]


def _lattice_pairs(points: Floats, name: str) -> NDArray[np.int64]:
    """Neighbours on the lattice, from squidpy.

    By distance, for its graph of the k nearest takes spots from beyond a gap for neighbours where many are missing.
    """
    import squidpy as sq

    reach = lattice_reach(points)
    if np.isnan(reach):
        raise ValueError(
            f'{name}: the {len(points)} spots lie on no hexagonal or square lattice. Choose method="radius" with radius_um=.'
        )
    if hasattr(sq.gr, "neighbors"):
        graph, _ = sq.gr.neighbors.RadiusBuilder(reach).build(points)
    else:  # before 1.8.2
        scratch = ad.AnnData(obsm={"spatial": points})
        graph = sq.gr.spatial_neighbors(scratch, coord_type="generic", radius=reach, copy=True)[0]
    return np.column_stack(triu(graph, k=1).nonzero())
