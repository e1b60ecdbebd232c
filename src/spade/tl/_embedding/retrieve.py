"""Search across modalities."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from spatialdata import SpatialData
from tqdm.auto import tqdm

from spade._checks import shorten
from spade._samples.model_features import Model, check_model, features_key
from spade._samples.open import Samples, as_list, iter_samples
from spade._samples.sample import Sample, check_names
from spade.core.errors import warn
from spade.core.evaluation.retrieval import Nearest
from spade.models._gene_names import MATCHING
from spade.tl._embedding.modalities import MODALITIES, check_mix, encode, encode_signature, read_modality

SIGNATURE = "signature"
#: Columns of a spot of the gallery, and what they are called of a query.
QUERY = {"sample": "query_sample", "section": "query_section", "spot": "query"}
#: Change of a gene that is only named, as log2 fold change: four times as much.
FOLD = 2.0


def retrieve(
    query: Samples | Sequence[str] | Mapping[str, float],
    gallery: Samples,
    model: Model,
    *,
    query_by: str = "image",
    gallery_by: str | None = None,
    k: int | None = 10,
    spots: Sequence[str] | None = None,
    same_section: bool = True,
    mix: str = "concat",
    use_rep: str | None = None,
    layer: str | None = None,
    normalized: bool | None = None,
    table_key: str | None = None,
) -> pd.DataFrame:
    """Find the spots whose expression fits an image best, or whose image fits an expression or a gene signature.

    Exact: every query is compared with the whole gallery, which is read sample by sample. Each modality is routed by itself.

    Parameters
    ----------
    query
        Samples, or a gene signature: a list of genes, or a dict of genes and log2 fold changes (of 1 + normalised counts, against
        their mean in training). A gene that is only listed counts as four times its mean (a change of 2).
    gallery
        A ``SpatialData``, a path to a zarr store, or an iterable of these.
    model
        A trained model.
    query_by, gallery_by
        ``"image"`` or ``"expression"``; ``gallery_by=None``: the other one. For a signature the gallery is ``"image"``
        unless ``"expression"`` is asked for.
    k
        Spots per query; None: the whole gallery, ranked.
    spots
        Names (``obs_names``) of the spots of ``query`` to search for; None: all.
    same_section
        Whether spots of the query's own section may be found. With ``gallery_by`` like ``query_by`` the spot itself never is.
    mix
        How experts are compared, as in :func:`retrieval_metrics`; a signature is always compared as ``"logits"``, by the
        weights of the gallery.
    use_rep, layer, normalized, table_key
        As in :func:`embed`, for query and gallery.

    Returns
    -------
    DataFrame
        One row per query and rank: ``query_sample``, ``query_section``, ``query`` (``obs_names``, or ``"signature"``), ``rank`` from 1,
        ``sample``, ``section``, ``spot`` (``obs_names``) and ``score``. Scores are similarities of at most 1; that of a signature is what the change adds to
        the similarity with the mean expression.

    Raises
    ------
    KeyError
        Spots or features that are not there.
    ValueError
        No gene of the signature in the model's panel, nothing to search for or in.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(2, 60)
    >>> sp.pp.patches(samples)
    >>> sp.pp.encode_patches(samples)
    >>> panel = sp.pp.select_genes(samples)
    >>> model = sp.tl.train_spade(samples, use_rep="X_texture", genes=panel, n_prototypes=2, n_experts=2, n_epochs=2)
    >>> sp.tl.retrieve(samples[0], samples[1], model, spots=["toy_0_0000"], k=3)[["query", "rank"]].values.tolist()
    [['toy_0_0000', 1], ['toy_0_0000', 2], ['toy_0_0000', 3]]
    >>> len(sp.tl.retrieve(list(panel.names[:5]), samples, model, k=None))
    120
    """
    check_model(model)
    check_mix(mix, model)
    items = as_list(gallery)
    signature = _is_signature(query)
    if signature:
        query_by, gallery_by = "expression", gallery_by or "image"
    if gallery_by is None:
        gallery_by = "image" if query_by == "expression" else "expression"
    for name, value in (("query_by", query_by), ("gallery_by", gallery_by)):
        if value not in MODALITIES:
            raise ValueError(f'{name}={value!r}: expected "image" or "expression".')
    if k is not None and (isinstance(k, bool) or k != int(k) or k < 1):
        raise ValueError(f"k={k!r}: expected a whole number of at least 1, or None for the whole gallery.")
    source: dict[str, Any] = {
        "use_rep": features_key(model, use_rep) if "image" in (query_by, gallery_by) else "",
        "layer": layer or model.config.layer,
        "normalized": model.config.normalized if normalized is None else normalized,
    }
    if signature:
        if spots is not None or not same_section:
            raise ValueError(
                "spots= and same_section= are of queries from samples; a signature has no spot or section."
            )
        embedded = encode_signature(model, _change(model, query))
        asked = pd.DataFrame({"query_sample": [""], "query_section": [""], "query": [SIGNATURE]})
    else:
        queries = as_list(query)
        embedded, asked = _read_query(queries, model, query_by, mix, spots, source, table_key)
    nearest = Nearest(embedded, np.iinfo(np.int64).max if k is None else int(k))
    found, names = [], []
    for sample in tqdm(iter_samples(items, table_key=table_key), total=len(items), desc="searching", unit="sample"):
        x, there = read_modality(sample, model, gallery_by, **source)
        of = _spots(sample, np.flatnonzero(there))
        passed = None
        if not same_section:
            passed = _numbers(asked["origin"], of["origin"])
        elif query_by == gallery_by and not signature:
            passed = _numbers(asked["origin"] + "\n" + asked["query"], of["origin"] + "\n" + of["spot"])
        if signature:  # weighted by the gallery
            nearest.update(encode(model, gallery_by, x[there], "logits", gallery=False))
        else:
            nearest.update(encode(model, gallery_by, x[there], mix, gallery=True), passed)
        found.append(of)
        names.append(sample.name)
    check_names(names)
    whole = pd.concat(found, ignore_index=True)
    if not signature:  # sections of both are called as in the gallery
        of_section = whole.drop_duplicates("origin").set_index("origin")
        for name in ("sample", "section"):
            asked[QUERY[name]] = asked["origin"].map(of_section[name]).fillna(asked[QUERY[name]])
    return _table(asked, whole, nearest)


def _spots(sample: Sample, rows: NDArray[np.int64]) -> pd.DataFrame:
    """Names of some spots of a sample; those of a section must be unique."""
    names = sample.table.obs_names[rows].astype(str)
    found = pd.DataFrame({"sample": sample.name, "section": sample.section_of_row()[rows], "spot": names})
    if (twice := found.duplicated()).any():
        raise ValueError(
            f"{sample.name}: several spots of a section bear one name, such as {shorten(names[twice.to_numpy()], 3)}. Make obs_names "
            "unique (table.obs_names_make_unique())."
        )
    origin = np.full(sample.table.n_obs, "", dtype=object)
    for section in sample.sections:
        origin[section.rows] = sample.origin(section)
    return found.assign(origin=origin[rows])


def _is_signature(query: Any) -> bool:
    """Whether a query names genes; strings that are paths are samples."""
    if isinstance(query, Mapping):
        return True
    if isinstance(query, (str, PathLike, SpatialData)) or not isinstance(query, Iterable):
        return False
    if isinstance(query, Iterator):
        return False
    items = list(query)
    return bool(items) and all(
        isinstance(one, str) and not one.endswith(".zarr") and not Path(one).exists() for one in items
    )


def _change(model: Model, query: Any) -> NDArray[np.float64]:
    """Change of log1p expression ``(1, G)`` that a signature asks for."""
    if model.genes is None:
        raise ValueError("the model does not know its gene panel, so a signature cannot be put in its order.")
    wanted = (
        {str(gene): float(value) for gene, value in query.items()}
        if isinstance(query, Mapping)
        else dict.fromkeys(query, FOLD)
    )
    if not wanted or not np.isfinite(list(wanted.values())).all() or not any(wanted.values()):
        raise ValueError(f"query={query!r}: expected genes with finite log2 fold changes, not all 0.")
    panel = pd.Index(model.genes.names)
    positions = panel.get_indexer(model.genes.fold(wanted))
    changed = [gene for gene, position in zip(wanted, positions, strict=True) if position >= 0 and wanted[gene]]
    missing = [gene for gene, position in zip(wanted, positions, strict=True) if position < 0]
    if not changed:
        raise ValueError(
            f"query: none of {shorten(list(wanted))} is among the model's {len(panel)} genes, such as {shorten(panel[:3])}. "
            f"{MATCHING[model.genes.fold_case]} Are they of another species, or named by other ids?"
        )
    if missing:
        warn(f"{shorten(missing)} of the signature are not among the model's genes and do not count.")
    change = np.zeros((1, len(panel)))
    change[0, positions[positions >= 0]] = [value * np.log(2) for gene, value in wanted.items() if gene not in missing]
    return change


def _read_query(
    query: Samples, model: Model, query_by: str, mix: str, spots: Sequence[str] | None, source: dict[str, Any],
    table_key: str | None,
) -> tuple[NDArray[np.float32], pd.DataFrame]:  # fmt: skip
    wanted = None if spots is None else pd.Index([spots] if isinstance(spots, str) else list(map(str, spots)))
    if wanted is not None and not len(wanted):
        raise ValueError("spots= is empty: name spots, or leave it out for all.")
    embedded, asked, names = [], [], []
    for sample in iter_samples(query, table_key=table_key):
        x, there = read_modality(sample, model, query_by, **source)
        names_here = sample.table.obs_names
        rows = np.flatnonzero(there if wanted is None else there & names_here.isin(wanted))
        if wanted is not None and (lacking := names_here[~there & names_here.isin(wanted)].tolist()):
            raise ValueError(
                f"{sample.name}: spots={shorten(lacking)} have no {query_by} (no valid patch, or no counts)."
            )
        embedded.append(encode(model, query_by, x[rows], mix, gallery=False))
        asked.append(_spots(sample, rows).rename(columns=QUERY))
        names.append(sample.name)
    check_names(names)
    whole = pd.concat(asked, ignore_index=True)
    if wanted is not None and len(missing := wanted.difference(pd.Index(whole["query"]))):
        raise KeyError(f"spots={shorten(missing)} are not among the obs_names of query ({', '.join(names)}).")
    if not len(whole):
        raise ValueError(f"query: no spot has its {query_by}.")
    return np.concatenate(embedded), whole


def _numbers(one: pd.Series, other: pd.Series) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Give equal strings of both columns equal numbers."""
    numbers = pd.factorize(pd.concat([one, other], ignore_index=True))[0].astype(np.int64)
    return numbers[: len(one)], numbers[len(one) :]


def _table(asked: pd.DataFrame, gallery: pd.DataFrame, nearest: Nearest) -> pd.DataFrame:
    """Put names to the rows found; those passed over have no score."""
    scores, rows = nearest.scores.numpy(), nearest.rows.numpy()
    if not np.isfinite(scores).any():
        raise ValueError(
            "gallery: nothing is left to be found: no spot has the modality that is searched, or same_section=False and all are of the "
            "query's section."
        )
    n, width = rows.shape
    table = asked[list(QUERY.values())].loc[np.repeat(np.arange(n), width)].reset_index(drop=True)
    table["rank"] = np.tile(np.arange(1, width + 1), n)
    found = gallery[list(QUERY)].iloc[rows.ravel()].reset_index(drop=True)
    table = pd.concat([table, found], axis=1)
    table["score"] = scores.ravel()
    return table[np.isfinite(table["score"])].reset_index(drop=True)
