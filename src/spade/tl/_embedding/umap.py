"""Representations in two dimensions, which ``pl.embedding`` draws."""

from __future__ import annotations

import logging
import sys
from dataclasses import asdict, dataclass
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spade import _keys
from spade._said.lines import size, speaks, wrote
from spade._samples.collect import Stack, check_widths
from spade._samples.features import read_features
from spade._samples.given.origins import Origins
from spade._samples.open import Samples, as_list, iter_samples
from spade._samples.sample import Sample
from spade.core.checks import check_choice, check_count, check_not_negative, check_text
from spade.core.files import digest
from spade.core.rng import as_seed

logger = logging.getLogger("spade")
#: Metrics that :func:`scanpy.pp.neighbors` knows by name and that suit features.
METRICS = (
    "euclidean", "cosine", "correlation", "cityblock", "manhattan", "l1", "l2", "chebyshev", "canberra", "braycurtis",
    "minkowski", "sqeuclidean", "jaccard", "hamming", "dice", "rogerstanimoto", "russellrao", "yule",
)  # fmt: skip
#: The package that scanpy imports for UMAP, and whose functions numba compiles when they are first called.
COMPILES = "umap"
#: Fewest rows of which UMAP is computed.
MIN_ROWS = 10


@speaks
def umap(
    samples: Samples,
    *,
    use_rep: str = _keys.joint(_keys.STEM),
    n_neighbors: int = 15,
    min_dist: float = 0.5,
    metric: str = "euclidean",
    table_key: str | None = None,
    rng: int | np.random.Generator = 0,
) -> None:
    """Compute UMAP of a representation over all samples.

    :func:`spade.pl.embedding` computes the same whenever it is called; what is written here is drawn at once, as long
    as the representation, the samples and the settings are the same.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or a list or dict of these.
    use_rep
        ``obsm`` key of the representation.
    n_neighbors
        As in :func:`scanpy.pp.neighbors`.
    min_dist
        As in :func:`scanpy.tl.umap`.
    metric
        Distance between rows by one of scanpy's names, as in :func:`scanpy.pp.neighbors`.
    table_key
        Table; may be left out when there is one.
    rng
        Seed.

    Returns
    -------
    None
        Writes ``obsm["X_spade_umap"]`` (``{use_rep}_umap``), ``(n_obs, 2)``; NaN where the representation is missing.

    Raises
    ------
    KeyError
        A representation that is not there.
    ValueError
        Fewer than ten rows, samples whose representations differ in width, or settings out of range.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(2, 60)
    >>> sp.pp.patches(samples)
    >>> sp.pp.encode_patches(samples)
    >>> sp.tl.umap(samples, use_rep="X_texture")
    >>> samples[0]["table"].obsm["X_texture_umap"].shape
    (60, 2)
    """
    settings = UmapSettings(n_neighbors, min_dist, metric, as_seed(rng))
    listed, key = as_list(samples, writes=True), _keys.umap(check_text("use_rep", use_rep))
    rows = Stack()
    widths: dict[str, int] = {}
    origins = Origins()
    for sample in iter_samples(listed, table_key=table_key, tables_only=True):
        features = read_features(sample, use_rep)
        widths[sample.name] = features.shape[1]
        check_widths(widths, f"use_rep={use_rep!r}")
        origins.check(sample, use_rep)
        rows.add(features)
    x = rows.joined()
    xy, of, start = settings.coordinates(x, f"use_rep={use_rep!r}"), digest(x), 0
    for sample in iter_samples(listed, table_key=table_key, writes=True):
        sample.table.obsm[key] = xy[start : start + sample.table.n_obs]
        start += sample.table.n_obs
        _keys.write_provenance(sample.table.uns, key, **settings.facts(use_rep), rows_id=of)
        sample.save()
        wrote(sample.name, f"obsm[{key!r}]", detail=size(sample.table.obsm[key]))


@dataclass(frozen=True)
class UmapSettings:
    """Settings of UMAP, checked."""

    n_neighbors: int
    min_dist: float
    metric: str
    seed: int

    def __post_init__(self) -> None:
        """Check all settings."""
        check_count("n_neighbors", self.n_neighbors, 2)
        check_not_negative("min_dist", self.min_dist)
        check_choice("metric", self.metric, METRICS)

    def facts(self, use_rep: str) -> dict[str, Any]:
        """Return what a record says of UMAP of a representation."""
        return {"function": "tl.umap", "use_rep": use_rep, **asdict(self)}

    def coordinates(self, x: NDArray[np.float32], what: str) -> NDArray[np.float32]:
        """Return UMAP ``(n, 2)`` of ``x`` ``(n, d)``, which messages call ``what``; rows with NaN stay NaN."""
        rows = np.flatnonzero(~np.isnan(x).any(1))
        if len(rows) < MIN_ROWS:
            raise ValueError(f"{what} has {len(rows)} rows without NaN of {len(x)}; at least {MIN_ROWS} are needed.")
        xy = np.full((len(x), 2), np.nan, dtype=np.float32)
        xy[rows] = self._umap(x[rows])
        return xy

    def _umap(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return coordinates ``(n, 2)`` of the rows of ``x`` ``(n, d)``, from their nearest neighbours."""
        import scanpy as sc

        if COMPILES not in sys.modules:
            logger.info("the first UMAP of a process compiles its code, which can take half a minute")
        scratch = ad.AnnData(obs=pd.DataFrame(index=np.arange(len(x)).astype(str)), obsm={"x": x})
        state, n_neighbors = self.seed % 2**32, min(self.n_neighbors, len(x) - 1)
        sc.pp.neighbors(scratch, n_neighbors=n_neighbors, use_rep="x", metric=self.metric, random_state=state)
        sc.tl.umap(scratch, min_dist=self.min_dist, random_state=state)
        return np.asarray(scratch.obsm["X_umap"])


def stored_umap(sample: Sample, use_rep: str, settings: UmapSettings) -> tuple[NDArray[np.float32], str] | None:
    """Return what :func:`umap` wrote with the same settings, and the id of the rows of which; None if it did not."""
    key = _keys.umap(use_rep)
    record: dict[str, Any] = {**_keys.read_provenance(sample.table.uns, key)}
    if key not in sample.table.obsm or any(
        record.get(name) != value for name, value in settings.facts(use_rep).items()
    ):
        return None
    return np.asarray(sample.table.obsm[key]), record["rows_id"]
