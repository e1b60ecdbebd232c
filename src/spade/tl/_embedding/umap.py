"""Representations in two dimensions, which ``pl.embedding`` draws."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spade import _keys
from spade._checks import plural
from spade._samples.collect import check_widths, concatenate
from spade._samples.features import read_features
from spade._samples.open import Samples, as_list, iter_samples
from spade._samples.sample import Sample
from spade.core.checks import check_choice, check_count, check_names_given, check_not_negative
from spade.core.files import digest
from spade.core.rng import as_seed

logger = logging.getLogger("spade")
#: Metrics that :func:`scanpy.pp.neighbors` knows by name and that suit features.
METRICS = (
    "euclidean", "cosine", "correlation", "cityblock", "manhattan", "l1", "l2", "chebyshev", "canberra", "braycurtis",
    "minkowski", "sqeuclidean", "jaccard", "hamming", "dice", "rogerstanimoto", "russellrao", "yule",
)  # fmt: skip
#: Fewest rows of which UMAP is computed.
MIN_ROWS = 10


def umap(
    samples: Samples,
    *,
    use_rep: str | Sequence[str] = _keys.joint(_keys.STEM),
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
        ``obsm`` key of the representation. Several, such as ``["X_spade_image", "X_spade_expression"]``: one UMAP of
        all of them, in which the same spot has a place for each; they must share a space, and so a width.
    n_neighbors, min_dist, metric
        As in :func:`scanpy.pp.neighbors` and :func:`scanpy.tl.umap`; ``metric`` is one of scanpy's names.
    table_key
        Table; may be left out when there is one.
    rng
        Seed.

    Returns
    -------
    None
        Writes ``obsm["X_spade_umap"]`` (``{use_rep}_umap`` for each key), ``(n_obs, 2)``; NaN where any of the
        representations is missing.

    Raises
    ------
    KeyError
        A representation that is not there.
    ValueError
        Fewer than ten rows, representations of different width, or settings out of range.

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
    names = check_names_given("use_rep", use_rep)
    listed = as_list(samples, writes=True)
    parts: dict[str, list[NDArray[np.float32]]] = {name: [] for name in names}
    widths: dict[str, int] = {}
    for sample in iter_samples(listed, table_key=table_key, tables_only=True):
        for name, part in parts.items():
            part.append(read_features(sample, name))
            widths[f"{sample.name} {name}" if len(names) > 1 else sample.name] = part[-1].shape[1]
    check_widths(widths, f"use_rep={use_rep!r}")
    joined = [concatenate(part) for part in parts.values()]
    flat = settings.coordinates(joined, f"use_rep={use_rep!r}")
    of, start = digest(*joined), 0
    for sample in iter_samples(listed, table_key=table_key, writes=True):
        rows = slice(start, start + sample.table.n_obs)
        start += sample.table.n_obs
        for name, xy in zip(names, flat, strict=True):
            sample.table.obsm[_keys.umap(name)] = xy[rows]
            _keys.write_provenance(sample.table.uns, _keys.umap(name), **settings.facts(names), rows_id=of)
        sample.save()
        logger.info("%s: wrote %s", sample.name, ", ".join(f"obsm[{_keys.umap(name)!r}]" for name in names))


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

    def facts(self, names: Sequence[str]) -> dict[str, object]:
        """Return what a record says of UMAP of some representations."""
        return {"function": "tl.umap", "use_rep": " + ".join(names), **asdict(self)}

    def coordinates(self, parts: Sequence[NDArray[np.float32]], what: str) -> list[NDArray[np.float32]]:
        """Return one UMAP of all rows of all parts, ``(n, 2)`` per part; rows with NaN in one of them are NaN in all.

        The parts are representations of the same ``n`` spots; ``what`` names them in messages.
        """
        rows = np.flatnonzero(~np.logical_or.reduce([np.isnan(part).any(1) for part in parts]))
        if len(rows) < MIN_ROWS:
            raise ValueError(
                f"{what} has {plural(len(rows), 'row')} without NaN of {len(parts[0])}; at least {MIN_ROWS} are needed."
            )
        flat = np.full((len(parts), len(parts[0]), 2), np.nan, dtype=np.float32)
        flat[:, rows] = self._umap(np.concatenate([part[rows] for part in parts])).reshape(len(parts), -1, 2)
        return list(flat)

    def _umap(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return coordinates ``(n, 2)`` of the rows of ``x`` ``(n, d)``, from their nearest neighbours."""
        import scanpy as sc

        scratch = ad.AnnData(obs=pd.DataFrame(index=np.arange(len(x)).astype(str)), obsm={"x": x})
        state, n_neighbors = self.seed % 2**32, min(self.n_neighbors, len(x) - 1)
        sc.pp.neighbors(scratch, n_neighbors=n_neighbors, use_rep="x", metric=self.metric, random_state=state)
        sc.tl.umap(scratch, min_dist=self.min_dist, random_state=state)
        return np.asarray(scratch.obsm["X_umap"])


def stored_umap(
    sample: Sample, names: Sequence[str], settings: UmapSettings
) -> tuple[list[NDArray[np.float32]], str] | None:
    """Return what :func:`umap` wrote with the same settings, and the id of the rows of which; None if there is none."""
    keys, ids = list(map(_keys.umap, names)), set()
    for key in keys:
        record = dict(_keys.read_provenance(sample.table.uns, key))
        if key not in sample.table.obsm or any(
            record.get(name) != value for name, value in settings.facts(names).items()
        ):
            return None
        ids.add(str(record["rows_id"]))
    return ([np.asarray(sample.table.obsm[key]) for key in keys], ids.pop()) if len(ids) == 1 else None
