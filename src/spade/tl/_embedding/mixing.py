"""How well sections, patients or other groups mix in a representation."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spade import _keys
from spade._said.lines import speaks
from spade._samples.collect import Collector
from spade._samples.features import read_features
from spade._samples.obs import group_labels
from spade._samples.open import Samples, iter_samples
from spade.core.checks import check_count, check_text
from spade.core.errors import warn
from spade.core.evaluation.mixing import expected_shares, neighbour_shares

logger = logging.getLogger("spade")


@speaks
def mixing(
    samples: Samples,
    *,
    use_rep: str = _keys.joint(_keys.STEM),
    groupby: str | None = None,
    n_neighbors: int = 30,
    table_key: str | None = None,
) -> pd.DataFrame:
    """Measure how well groups mix in a representation, from the groups of nearest neighbours.

    Groups that lie apart, as by stain or batch, have neighbours only among themselves; the neighbours of perfectly
    mixed groups are as if drawn from all spots.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or a list or dict of these.
    use_rep
        ``obsm`` key of the representation, such as ``"X_spade"`` or the image features it came from.
    groupby
        ``obs`` column of the groups, such as ``"patient"``; None: sections.
    n_neighbors
        Number of nearest neighbours of each spot, exact, by Euclidean distance and without the spot itself.
    table_key
        Table; may be left out when there is one.

    Returns
    -------
    DataFrame
        One row per ``group``. Columns: ``n`` spots; ``other_share``, the mean share of their neighbours that belong to
        other groups; ``expected_share`` if neighbours were drawn from all other spots; ``mixing``, the ratio of the
        two; ``lisi``, the inverse Simpson index of the groups among the neighbours (one over the mean of Σ p², all
        neighbours weighted alike), scaled so that neighbours of one group give 0 and neighbours drawn from all spots
        give 1. Up to chance, both measures are 1 for perfectly mixed groups and 0 for separate ones.

    Raises
    ------
    KeyError
        ``use_rep`` or ``groupby`` that does not exist.
    ValueError
        A single group, no more spots than neighbours, or samples whose representations differ in width.

    Notes
    -----
    Groups that differ in tissue should not mix perfectly: compare representations on the same spots rather than with 1.
    A group of no more than ``n_neighbors`` spots cannot appear separate, and a warning names it. Rows with NaN are left
    out, which is logged.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(2, 60)
    >>> sp.pp.patches(samples)
    >>> sp.pp.encode_patches(samples)
    >>> sp.tl.mixing(samples, use_rep="X_texture", n_neighbors=10)["group"].tolist()
    ['toy_0', 'toy_1']
    """
    from sklearn.neighbors import NearestNeighbors

    check_count("n_neighbors", n_neighbors)
    x, label = _read(samples, check_text("use_rep", use_rep), groupby, table_key)
    groups = list(dict.fromkeys(label.tolist()))
    if len(groups) < 2:
        advice = (
            "Pass several sections." if groupby is None else "Pass samples of other groups, or name another column."
        )
        raise ValueError(
            f"groupby={groupby!r}: all {len(label)} spots without NaN belong to one group "
            f"({', '.join(groups) or 'none'}); mixing needs two. {advice}"
        )
    if len(x) <= n_neighbors:
        raise ValueError(
            f"n_neighbors={n_neighbors}: there are only {len(x)} spots without NaN; expected fewer neighbours."
        )
    codes = pd.Categorical(label, categories=groups).codes.astype(np.int64)
    sizes = np.bincount(codes)
    if small := [f"{name}: {n}" for name, n in zip(groups, sizes, strict=True) if n <= n_neighbors]:
        warn(
            f"groups with no more than n_neighbors={n_neighbors} spots ({', '.join(small)}) have neighbours of other "
            "groups even if they lie apart. Lower n_neighbors=."
        )
    neighbours = NearestNeighbors(n_neighbors=n_neighbors).fit(x).kneighbors(return_distance=False)
    other, simpson = neighbour_shares(neighbours, codes, len(groups))
    expected, expected_simpson = expected_shares(sizes, n_neighbors)
    with np.errstate(invalid="ignore"):  # a single spot among one other group: nothing can be measured
        lisi = (1 / simpson - 1) / (1 / expected_simpson - 1)
    return pd.DataFrame(
        {
            "group": groups,
            "n": sizes,
            "other_share": other,
            "expected_share": expected,
            "mixing": other / expected,
            "lisi": lisi,
        }
    )


def _read(
    samples: Samples, use_rep: str, groupby: str | None, table_key: str | None
) -> tuple[NDArray[np.float32], NDArray[np.str_]]:
    """Return the representation ``(n, d)`` of all rows without NaN, and their groups."""
    collector = Collector("mixing", say=logger.info)
    for sample in iter_samples(samples, table_key=table_key):
        features = read_features(sample, use_rep)
        rows = np.flatnonzero(~np.isnan(features).any(1))
        collector.skip(f"with NaN in obsm[{use_rep!r}]", len(features) - len(rows))
        collector.add(sample, rows, {use_rep: features[rows]}, group=group_labels(sample, groupby)[rows])
    features_by_key, columns = collector.joined()
    return features_by_key[use_rep], columns["group"]
