"""How well sections, patients or other groups mix in a representation."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd

from spade import _keys
from spade._checks import log_left_out
from spade._samples.features import read_features
from spade._samples.obs import group_labels
from spade._samples.open import Samples, iter_samples
from spade._samples.sample import check_names
from spade.core.checks import check_count
from spade.core.errors import warn
from spade.core.evaluation.mixing import expected_shares, neighbour_shares

logger = logging.getLogger("spade")


def mixing(
    samples: Samples,
    *,
    use_rep: str = _keys.joint(_keys.STEM),
    groupby: str | None = None,
    n_neighbors: int = 30,
    table_key: str | None = None,
) -> pd.DataFrame:
    """Measure how well groups mix in a representation, from whose spots are each other's nearest neighbours.

    Groups that lie apart, as by stain or batch, have neighbours of their own only; perfectly mixed ones have neighbours as if drawn
    from all spots.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or an iterable of these.
    use_rep
        ``obsm`` key of the representation, such as ``"X_spade"`` or the image features it came from.
    groupby
        ``obs`` column of the groups, such as ``"patient"``; None: sections.
    n_neighbors
        Neighbours of each spot, exact, by Euclidean distance, itself not among them.
    table_key
        Table; may be left out when there is one.

    Returns
    -------
    DataFrame
        One row per ``group``. Columns: ``n`` spots; ``other_share``, the mean share of their neighbours that are of other groups;
        ``expected_share`` if neighbours were drawn from all other spots; ``mixing``, the ratio of the two; ``lisi``, the inverse Simpson
        index of the groups among the neighbours (one over the mean of Σ p², all neighbours of equal weight), scaled so that one group
        alone is 0 and drawn neighbours are 1. Both are 1 if perfectly mixed and 0 if apart, up to chance.

    Raises
    ------
    KeyError
        ``use_rep`` or ``groupby`` that is not there.
    ValueError
        One group only, no more spots than neighbours, or samples whose representations differ in width.

    Notes
    -----
    Groups that differ in tissue should not mix perfectly: compare representations on the same spots rather than with 1. A group of
    no more spots than ``n_neighbors`` cannot come out as apart, and is named in a warning. Rows with NaN are left out, and logged.

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
    parts, labels = [], []
    names: list[str] = []
    for sample in iter_samples(samples, table_key=table_key):
        check_names([*names, sample.name])
        names.append(sample.name)
        parts.append(read_features(sample, use_rep))
        labels.append(group_labels(sample, groupby).astype(object))
    widths = sorted({x.shape[1] for x in parts})
    if len(widths) > 1:
        raise ValueError(f"obsm[{use_rep!r}] differs in width between samples: {widths}. Make it anew for all of them.")
    valid = np.concatenate([~np.isnan(x).any(1) for x in parts])
    x = np.concatenate(parts)[valid]
    label = np.concatenate(labels)[valid]
    groups = list(dict.fromkeys(label))
    if len(groups) < 2:
        raise ValueError(
            f"groupby={groupby!r}: all {len(label)} spots without NaN are of one group ({', '.join(groups) or 'none'}); mixing needs two. "
            + ("Pass several sections." if groupby is None else "Pass samples of other groups, or name another column.")
        )
    if len(x) <= n_neighbors:
        raise ValueError(
            f"n_neighbors={n_neighbors}: there are only {len(x)} spots without NaN; expected fewer neighbours."
        )
    log_left_out("mixing", len(valid), {f"with NaN in obsm[{use_rep!r}]": int((~valid).sum())})
    codes = pd.Categorical(label, categories=groups).codes.astype(np.int64)
    sizes = np.bincount(codes)
    if small := [f"{name}: {n}" for name, n in zip(groups, sizes, strict=True) if n <= n_neighbors]:
        warn(
            f"groups with no more than n_neighbors={n_neighbors} spots ({', '.join(small)}) have neighbours of other groups even "
            "where they lie apart. Lower n_neighbors=."
        )
    neighbours = NearestNeighbors(n_neighbors=n_neighbors).fit(x).kneighbors(return_distance=False)
    other, simpson = neighbour_shares(neighbours, codes, len(groups))
    expected, expected_simpson = expected_shares(sizes, n_neighbors)
    with np.errstate(invalid="ignore"):  # a single spot among one other group: nothing to be measured
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
