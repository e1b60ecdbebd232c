"""Counts averaged over neighbouring spots."""

from __future__ import annotations

import numpy as np
import pandas as pd

from spade import _keys
from spade._checks import plural, shorten
from spade._said.lines import speaks, wrote
from spade._samples.counts import has_counts, read_counts
from spade._samples.open import Samples, iter_samples
from spade._samples.patches import patch_record, placed_patches
from spade._samples.sample import Sample, Section
from spade.core.arrays import Floats, Rows
from spade.core.checks import check_choice, check_positive, check_share
from spade.core.errors import warn
from spade.core.expression.smoothing import pairs_within, smoothing_matrix
from spade.core.spots.lattice import lattice_reach

METHODS = ("lattice", "published", "radius")


@speaks
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

    A spot's counts become :math:`(1 - s)\, x_i + s\, \operatorname{mean}_{j \in N(i) \cup \{i\}} x_j` with s =
    ``share``. In the SEAL paper s = 0.5: half its own counts, half the mean of itself and its neighbours, which reduces
    the noise of genes with few counts. The result may be named as ``layer=`` wherever raw counts are read, as in
    :func:`spade.tl.train_spade`; only :func:`select_genes` needs the counts themselves. Spots on both sides of a border
    share counts: split by section or patient, or with a guard band of twice the distance between neighbours.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or a list or dict of these.
    method
        Which spots of a section are neighbours. ``"lattice"``: the nearest spots on their lattice, 6 on a hexagonal one
        (Visium), 8 on a square one (classic ST, bins of Visium HD). ``"published"``: as in the code of the SEAL
        authors, spots no farther than √2 in ``obs["array_row"]`` and ``obs["array_col"]``; because Visium counts every
        other column, these are only 4 of the 6. ``"radius"``: spots no farther than ``radius_um``, as for cells
        (Xenium).
    radius_um
        Only for ``"radius"``: largest distance between centres in µm.
    layer
        Layer with raw counts; None: ``X``.
    share
        Weight s of the mean, above 0 and up to 1.
    patches_key
        What :func:`patches` wrote; it holds the centres in µm. ``"published"`` does not need it.
    table_key
        Table; may be left out when there is one.
    key_added
        Layer to write.

    Returns
    -------
    None
        Writes ``layers["smoothed"]``, CSR float32, rows and columns as in ``X``. A spot without counts keeps none and
        is nobody's neighbour.

    Raises
    ------
    KeyError
        No such layer, no patches, or no array positions.
    ValueError
        Spots on no lattice, counts that are not raw, a ``radius_um`` that is missing or not used, or a ``key_added``
        that holds something else.

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
    check_choice("method", method, METHODS)
    if method == "radius":
        radius_um = check_positive("radius_um", radius_um, "µm")
    elif radius_um is not None:
        raise ValueError(f'radius_um={radius_um!r} is not used by method={method!r}; leave it out, or choose "radius".')
    share = check_share("share", share, "(0, 1]")
    _keys.check_key(key_added)
    for sample in iter_samples(samples, table_key=table_key, writes=True):
        _check_target(sample, key_added)
        counts = read_counts(sample, layer, smoothed=False)
        filled = has_counts(counts)
        if not filled.all():
            warn(
                f"{sample.name}: {int((~filled).sum())} of {len(filled)} spots have no counts; they keep none and are "
                "nobody's neighbours."
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
            share=share,
            layer=layer or "X",
            radius_um=radius_um,
            patches_key=None if method == "published" else patches_key,
        )
        sample.save()
        wrote(sample.name, f"layers[{key_added!r}]", detail=plural(len(pairs), "pair") + " of neighbours")


def _check_target(sample: Sample, key: str) -> None:
    """Raise if the result would replace anything but an earlier smoothing."""
    record = _keys.read_provenance(sample.table.uns, key)
    if key == "X" or ((record or key in sample.table.layers) and record.get("function") != _keys.SMOOTHING):
        raise ValueError(f"{sample.name}: key_added={key!r} already holds something else; choose another name.")


def _neighbours(sample: Sample, method: str, radius_um: float | None, patches_key: str) -> Rows:
    """Return the pairs of rows that are neighbours ``(n, 2)``, each once."""
    pairs_of_sections = [np.empty((0, 2), dtype=np.int64)]
    for section in sample.sections:
        if method == "published":
            pairs = pairs_within(_array_positions(sample, section), np.sqrt(2))
        else:
            points = placed_patches(sample, section, patch_record(sample, patches_key)).points
            pairs = _lattice_pairs(points, section.name) if radius_um is None else pairs_within(points, radius_um)
        pairs_of_sections.append(section.rows[pairs])
    return np.concatenate(pairs_of_sections)


def _array_positions(sample: Sample, section: Section) -> Floats:
    """Return the array row and column of the spots of a section."""
    obs = sample.table.obs
    if missing := [key for key in _keys.ARRAY if key not in obs]:
        raise KeyError(
            f'{sample.name}: method="published" needs array positions, but obs lacks {shorten(missing)}; columns: '
            f'{shorten(obs.columns, 20)}. method="lattice" finds neighbours by the position of the spots.'
        )
    points = obs[_keys.ARRAY].iloc[section.rows].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    if not np.isfinite(points).all():
        bad = int((~np.isfinite(points)).any(1).sum())
        raise ValueError(
            f'{section.name}: {bad} of {len(points)} spots have no number in obs["array_row"] or obs["array_col"]. '
            'Fill them in, or choose method="lattice".'
        )
    return points


def _lattice_pairs(points: Floats, name: str) -> Rows:
    """Return the pairs of neighbours on the lattice ``(n, 2)``: those within its reach.

    The k nearest spots, which a graph may also join, would reach across gaps where spots are missing.
    """
    reach = lattice_reach(points)
    if np.isnan(reach):
        raise ValueError(
            f"{name}: the {len(points)} spots do not lie on a hexagonal or square lattice. Choose "
            'method="radius" with radius_um=.'
        )
    return pairs_within(points, reach)
