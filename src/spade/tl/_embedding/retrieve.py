"""Search across modalities."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TypeGuard

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from spatialdata import SpatialData
from tqdm.auto import tqdm

from spade._checks import plural, shorten
from spade._said.lines import speaks
from spade._samples.model_features import Model, check_model
from spade._samples.open import Item, Samples, as_list, iter_samples
from spade._samples.sample import Sample, check_names
from spade.core.arrays import Rows
from spade.core.checks import brief, check_choice, check_count, check_flag, check_names_given, check_ordered, is_number
from spade.core.errors import warn
from spade.core.evaluation.retrieval import Nearest
from spade.io._cohort.places import is_place, looks_like_place
from spade.models import GenePanel
from spade.models._gene_names import MATCHING
from spade.tl._embedding.copies import SectionMarks, origins_of_copies, section_marks
from spade.tl._embedding.modalities import MODALITIES, Source, check_mix, encode, encode_signature, read_modality

SIGNATURE = "signature"
Signature = Sequence[str] | Mapping[str, float]
#: Columns that describe a spot of the gallery, and their names for a query.
QUERY_COLUMNS = {"sample": "query_sample", "section": "query_section", "spot": "query"}
#: log2 fold change of a gene that is only listed: four times its mean.
LISTED_CHANGE = 2.0
#: Changes of log1p expression below this are none.
NO_CHANGE = 1e-6


@speaks
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
    complete: bool = True,
    mix: str = "concat",
    use_rep: str | None = None,
    layer: str | None = None,
    normalized: bool | None = None,
    table_key: str | None = None,
) -> pd.DataFrame:
    """Find the spots whose expression fits an image best, or whose image fits an expression or a gene signature.

    The search is exact: every query is compared with the whole gallery, which is read sample by sample. Each modality
    is routed by itself.

    Parameters
    ----------
    query
        Samples, or a gene signature: a list of genes, or a dict of genes and log2 fold changes (of 1 + normalised
        counts, relative to their mean in training). A gene that is only listed counts as four times its mean (a change
        of 2). The model changes with them what changed along with these genes in training, see ``complete``.
    gallery
        A ``SpatialData``, a path to a zarr store, or a list or dict of these.
    model
        A trained model.
    query_by
        Side of the query spots, ``"image"`` or ``"expression"``; of a signature always expression.
    gallery_by
        Side of the gallery that is searched. None: the other one; for a signature ``"image"``.
    k
        Spots per query; None: the whole gallery, ranked.
    spots
        Names (``obs_names``) of the spots of ``query`` to search for; None: all.
    same_section
        Whether spots of the query's own section may be found. With ``gallery_by`` like ``query_by`` the spot itself is
        never found. Copies and parts count as the section itself: a section of the gallery of the same recorded sample
        name and region, whose spots of the same instance ids all hold the same expression (of the model's genes) or
        the same features. A copy whose values or sample name were changed is another section.
    complete
        Whether a signature stands for all that goes along with its genes: the expected change of every gene of the
        panel, given the change of those that are named, in a normal distribution with the covariance of the training
        spots. Three markers then find what thirty genes find. False: the named genes change alone, which no spot of
        the training data did, so that a few genes may rank the wrong way round.
    mix
        How experts are compared, as in :func:`retrieval_metrics`; a signature is always compared as ``"logits"``, with
        the weights of the gallery.
    use_rep, layer, normalized, table_key
        As in :func:`embed`, for query and gallery.

    Returns
    -------
    DataFrame
        One row per query and rank: ``query_sample``, ``query_section``, ``query`` (``obs_names``, or ``"signature"``),
        ``rank`` from 1, ``sample``, ``section``, ``spot`` (``obs_names``) and ``score``. Scores are similarities of at
        most 1; the score of a signature is what its change adds to the similarity with the mean expression.

    Raises
    ------
    KeyError
        Spots or features that do not exist.
    ValueError
        No gene of the signature in the model's panel (the message says whether the gallery measures it, so that a model
        with it in its panel can be trained), or nothing to search for or in.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(2, 60)
    >>> sp.pp.patches(samples)
    >>> sp.pp.encode_patches(samples)
    >>> panel = sp.pp.select_genes(samples)
    >>> sizes = {"n_prototypes": 2, "n_experts": 2, "n_epochs": 2}
    >>> model = sp.tl.train_spade(samples, use_rep="X_texture", genes=panel, **sizes)
    >>> table = sp.tl.retrieve(samples[0], samples[1], model, spots=["toy_0_0000"], k=3)
    >>> table[["query", "rank"]].values.tolist()
    [['toy_0_0000', 1], ['toy_0_0000', 2], ['toy_0_0000', 3]]
    >>> len(sp.tl.retrieve(list(panel.names[:5]), samples, model, k=None))
    120
    """
    check_model(model)
    check_mix(mix, model)
    check_flag("same_section", same_section)
    items = as_list(gallery, "gallery")
    by_signature = _is_signature(query)
    if by_signature:
        query_by, gallery_by = "expression", "image" if gallery_by is None else gallery_by
    check_choice("query_by", query_by, MODALITIES)
    if gallery_by is None:
        gallery_by = "image" if query_by == "expression" else "expression"
    check_choice("gallery_by", gallery_by, MODALITIES)
    n_best = np.iinfo(np.int64).max if k is None else check_count("k", k)
    with_image = "image" in (query_by, gallery_by)
    source = Source.of(model, use_rep, layer, normalized=normalized, with_image=with_image)
    search = _Search(model, query_by, gallery_by, "logits" if by_signature else mix, source, table_key)
    if _is_signature(query):
        if spots is not None or not same_section:
            raise ValueError(
                "spots= and same_section= apply to queries from samples; a signature has no spot or section."
            )
        change = _change(search, query, items, complete=check_flag("complete", complete))
        queries = _Queries.of_signature(model, change)
    else:
        if isinstance(query, str) and not is_place(query):
            raise ValueError(
                f"query={brief(query)} is not the path of a store. To search for genes, pass a list of names, such as "
                f"[{brief(query)}]."
            )
        if not check_flag("complete", complete):
            raise ValueError("complete=False applies to gene signatures; query has samples.")
        queries = _read_queries(as_list(query, "query"), search, spots)
    nearest = Nearest(queries.embedded, n_best)
    spots_of_gallery, copies = _search(items, search, queries, nearest, same_section=same_section)
    return _table(queries.renamed(spots_of_gallery, copies), spots_of_gallery, nearest)


@dataclass(frozen=True)
class _Search:
    """What is compared with what, and how."""

    model: Model
    query_by: str
    gallery_by: str
    mix: str
    source: Source
    table_key: str | None


@dataclass(frozen=True)
class _Queries:
    """Embedded queries ``(n, d)``, their names, and marks of their sections that tell copies.

    ``names`` has no ``origin`` if they are a signature.
    """

    embedded: NDArray[np.float32]
    names: pd.DataFrame
    marks: tuple[SectionMarks, ...] = ()

    @classmethod
    def of_signature(cls, model: Model, change: NDArray[np.float64]) -> _Queries:
        """Embed the change that a signature asks for."""
        names = pd.DataFrame({"query_sample": [""], "query_section": [""], "query": [SIGNATURE]})
        return cls(encode_signature(model, change), names)

    @property
    def is_signature(self) -> bool:
        """Whether the query is a gene signature."""
        return "origin" not in self.names

    def renamed(self, gallery: pd.DataFrame, copies: Mapping[str, str]) -> pd.DataFrame:
        """Return the names, with sample and section named as in the gallery where they, or ``copies``, occur in it."""
        names = self.names.copy()
        if not self.is_signature:
            in_gallery = gallery.drop_duplicates("origin").set_index("origin")
            origin = names["origin"].where(names["origin"].isin(in_gallery.index), names["origin"].replace(copies))
            for column in ("sample", "section"):
                of_query = QUERY_COLUMNS[column]
                names[of_query] = origin.map(in_gallery[column]).fillna(names[of_query])
        return names


def _search(
    items: Sequence[Item], search: _Search, queries: _Queries, nearest: Nearest, *, same_section: bool
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Compare the queries with every sample of the gallery.

    Return the names of all its spots, and the origin in it of every query's section that it holds a copy of.
    """
    parts, sample_names = [], []
    copies: dict[str, str] = {}
    samples = iter_samples(items, table_key=search.table_key)
    for sample in tqdm(samples, total=len(items), desc="searching", unit="sample"):
        x, valid = read_modality(sample, search.model, search.gallery_by, search.source)
        spots = _spots(sample, np.flatnonzero(valid))
        excluded = None
        if not queries.is_signature:
            here = origins_of_copies(queries.marks, sample, search.source, search.model.genes)
            copies = here | copies
            own = queries.names.assign(origin=queries.names["origin"].replace(here))
            if not same_section:
                excluded = _numbers(own["origin"], spots["origin"])
            elif search.query_by == search.gallery_by:
                excluded = _numbers(_identity(own, "query"), _identity(spots, "spot"))
        # a signature is weighted by the gallery, which is then encoded as a query
        as_gallery = not queries.is_signature
        nearest.update(encode(search.model, search.gallery_by, x[valid], search.mix, gallery=as_gallery), excluded)
        parts.append(spots)
        sample_names.append(sample.name)
    check_names(sample_names)
    return pd.concat(parts, ignore_index=True), copies


def _spots(sample: Sample, rows: Rows) -> pd.DataFrame:
    """Sample, section, name and origin of some spots of a sample; names must be unique within a section."""
    names = sample.table.obs_names[rows].astype(str)
    spots = pd.DataFrame({"sample": sample.name, "section": sample.section_of_row()[rows], "spot": names})
    if (repeated := spots.duplicated()).any():
        raise ValueError(
            f"{sample.name}: several spots of a section have the same name, such as "
            f"{shorten(names[repeated.to_numpy()], 3)}. Make obs_names unique (table.obs_names_make_unique())."
        )
    return spots.assign(origin=sample.origin_of_row()[rows])


def _is_signature(query: Samples | Signature) -> TypeGuard[Signature]:
    """Whether a query names genes; strings that are paths are samples, of bare names only if all of them exist."""
    check_ordered("query", query)
    if isinstance(query, Mapping):
        return not any(isinstance(value, SpatialData) or is_place(value) for value in query.values())
    if isinstance(query, (str, PathLike, SpatialData, Iterator, pd.DataFrame)) or not isinstance(query, Iterable):
        return False
    items = list(query)
    if not items or not all(isinstance(item, str) and not looks_like_place(item) for item in items):
        return False
    return not all(map(is_place, items))


def _change(search: _Search, signature: Signature, gallery: Sequence[Item], *, complete: bool) -> NDArray[np.float64]:
    """Change of log1p expression ``(1, G)`` that a signature asks for, or that goes along with it."""
    model = search.model
    if model.genes is None:
        raise ValueError("the model does not know its gene panel, so a signature cannot be ordered for its input.")
    if model.genes.scale == "counts":
        raise ValueError("query: the model reads raw counts, to which no fold change can be added; search with spots.")
    changes = dict(signature) if isinstance(signature, Mapping) else dict.fromkeys(signature, LISTED_CHANGE)
    if not changes or not all(map(is_number, changes.values())) or not any(changes.values()):
        raise ValueError(f"query={brief(signature)}: expected genes with finite log2 fold changes, not all 0.")
    changes = {str(gene): float(value) for gene, value in changes.items()}
    panel = pd.Index(model.genes.names)
    positions = dict(zip(changes, panel.get_indexer(model.genes.fold(changes)), strict=True))
    missing = [gene for gene, position in positions.items() if position < 0]
    if not any(value for gene, value in changes.items() if gene not in missing):
        raise ValueError(
            f"query: none of {shorten(list(changes))} is among the model's {len(panel)} genes, such as "
            f"{shorten(panel[:3])}. {_why_not_in_panel(missing, model.genes, gallery, search.table_key)}"
        )
    if missing:
        warn(
            f"{shorten(missing)} of the signature are not among the model's genes and do not count. "
            "sp.pp.select_genes(samples, include=…) puts genes in the panel of a new model."
        )
    known = {position: changes[gene] * np.log(2) for gene, position in positions.items() if position >= 0}
    genes, values = np.array(list(known)), np.array(list(known.values()))
    covariation = model.covariation if complete else None
    change = np.zeros(len(panel)) if covariation is None else covariation.expected(genes, values)
    if np.abs(change).max() < NO_CHANGE:
        change[genes] = values
        if complete:
            why = "does not know which genes change together" if covariation is None else "saw none change with them"
            named = plural(len(genes), "gene")
            warn(f"the model {why}: only the {named} of the signature change, as with complete=False.")
    return change[None]


def _why_not_in_panel(genes: list[str], panel: GenePanel, gallery: Sequence[Item], table_key: str | None) -> str:
    """Say of genes that are not in the model's panel whether the gallery measures them, and what to do."""
    measured: set[str] = set()
    for sample in iter_samples(gallery, table_key=table_key, tables_only=True):
        measured |= set(panel.fold(sample.table.var_names))
    there = [gene for gene, name in zip(genes, panel.fold(genes), strict=True) if name in measured]
    if not there:
        return f"{MATCHING[panel.fold_case]} Are they of another species, or named by other ids?"
    return (
        f"The samples measure {shorten(there)}, but the model was trained without: train one with a panel that holds "
        f"{'it' if len(there) == 1 else 'them'}, sp.pp.select_genes(samples, include={brief(there)})."
    )


def _read_queries(items: Sequence[Item], search: _Search, spots: Sequence[str] | None) -> _Queries:
    """Embed the spots to search for: all that have the modality, or those that are named."""
    wanted = None if spots is None else pd.Index(check_names_given("spots", spots))
    embedded, parts, sample_names, marks = [], [], [], []
    for sample in iter_samples(items, table_key=search.table_key):
        x, valid = read_modality(sample, search.model, search.query_by, search.source)
        names = sample.table.obs_names
        chosen = np.ones(len(names), dtype=bool) if wanted is None else names.isin(wanted)
        if wanted is not None and (lacking := names[~valid & chosen].tolist()):
            raise ValueError(
                f"{sample.name}: spots={shorten(lacking)} have no {search.query_by} (no valid patch, or no counts)."
            )
        rows = np.flatnonzero(valid & chosen)
        embedded.append(encode(search.model, search.query_by, x[rows], search.mix, gallery=False))
        parts.append(_spots(sample, rows).rename(columns=QUERY_COLUMNS))
        marks += section_marks(sample, search.source, search.model.genes)
        sample_names.append(sample.name)
    check_names(sample_names)
    queries = pd.concat(parts, ignore_index=True)
    if wanted is not None and len(missing := wanted.difference(pd.Index(queries["query"]))):
        raise KeyError(f"spots={shorten(missing)} are not among the obs_names of query ({', '.join(sample_names)}).")
    if not len(queries):
        raise ValueError(f"query: no spot has its {search.query_by}.")
    return _Queries(np.concatenate(embedded), queries, tuple(marks))


def _identity(spots: pd.DataFrame, column: str) -> pd.Series:
    """What distinguishes a spot from all others: its section and its name."""
    return spots["origin"] + "\n" + spots[column]


def _numbers(first: pd.Series, second: pd.Series) -> tuple[Rows, Rows]:
    """Give equal strings of both columns equal numbers."""
    numbers = pd.factorize(pd.concat([first, second], ignore_index=True))[0].astype(np.int64)
    return numbers[: len(first)], numbers[len(first) :]


def _table(queries: pd.DataFrame, gallery: pd.DataFrame, nearest: Nearest) -> pd.DataFrame:
    """Name the rows that were found; rows that were excluded have no score and are left out."""
    scores, rows = nearest.scores.numpy(), nearest.rows.numpy()
    if not np.isfinite(scores).any():
        raise ValueError(
            "gallery: no spot can be found: none has the modality that is searched, or same_section=False and all "
            "belong to the query's section."
        )
    n, width = rows.shape
    table = queries[list(QUERY_COLUMNS.values())].loc[np.repeat(np.arange(n), width)].reset_index(drop=True)
    table["rank"] = np.tile(np.arange(1, width + 1), n)
    spots = gallery[list(QUERY_COLUMNS)].iloc[rows.ravel()].reset_index(drop=True)
    table = pd.concat([table, spots], axis=1)
    table["score"] = scores.ravel()
    return table[np.isfinite(table["score"])].reset_index(drop=True)
