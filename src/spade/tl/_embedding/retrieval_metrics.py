"""How well image and expression of the same spot retrieve each other."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spade import _keys
from spade._checks import check_counts
from spade._said.lines import speaks
from spade._samples.collect import Collector
from spade._samples.model_features import Model, check_model
from spade._samples.obs import obs_column, value_strings
from spade._samples.open import Samples, as_list, iter_samples
from spade.core.arrays import Rows
from spade.core.checks import check_text
from spade.core.evaluation.retrieval import chance_rank, chance_recall, group_sizes, ranks_within, recall_at
from spade.models import SpadeModel
from spade.tl._embedding.modalities import MODALITIES, Source, check_mix, encode, read_modality

logger = logging.getLogger("spade")
#: Expert of a spot for a model that has none.
NO_EXPERT = -1


@speaks
def retrieval_metrics(
    samples: Samples,
    model: Model,
    *,
    k: int | Sequence[int] = 10,
    mix: str = "concat",
    split_key: str | None = None,
    part: str = _keys.TEST,
    control: Model | None = None,
    use_rep: str | None = None,
    layer: str | None = None,
    normalized: bool | None = None,
    table_key: str | None = None,
) -> pd.DataFrame:
    """Rank the true expression of every spot among that of all spots, given its image, and the reverse.

    Each modality is routed by itself, so that the weights carry no information across. The gallery holds the chosen
    spots of all samples.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or a list or dict of these, with image features and expression.
    model
        A trained model.
    k
        Recall@k is the share of spots whose partner is among the first ``k``; one number or several, such as
        ``(1, 5, 10, 50)``, which :func:`spade.pl.retrieval_curve` draws.
    mix
        How experts, which do not share axes, are compared. ``"concat"``: cosine of the concatenated outputs of all
        experts, weighted on both sides. ``"logits"``: Σ_e w_e cos_e of query and gallery, with the weights of the query
        alone, as in MoDE. ``"mean"``: cosine of the mixtures Σ_e w_e f_e.
    split_key
        ``obs`` column of a split; None: all spots are used.
    part
        Value of ``obs[split_key]`` of the spots that are used.
    control
        A model trained like this one with ``shuffle_pairs=True``, measured on the same spots: what it retrieves does
        not depend on true pairs.
    use_rep
        ``obsm`` key of the image features; None: those that the model was trained on.
    layer
        Layer with the expression, as in :func:`train_spade`. None: that of the training; ``"X"`` is ``X`` itself.
    normalized
        Whether these values are normalised already. None: as in training.
    table_key
        Table; may be left out when there is one.

    Returns
    -------
    DataFrame
        One row per ``direction`` (``"image_to_expression"``, ``"expression_to_image"``), ``gallery`` and ``k``. The
        gallery are the spots that compete with the true partner: ``"all_spots"``; ``"same_section"``, so that
        differences between sections (stain, batch) do not help; ``"other_sections"``, all spots but those of the
        query's section (if there are several sections); ``"same_expert"`` (of a mixture), the spots that the image
        routes to the query's expert, so that routing alone does not help. Columns: number of queries ``n``, ``k``,
        ``recall`` beside ``chance_recall``, ``median_rank`` beside ``chance_rank``. With ``control`` also
        ``control_recall`` and ``control_rank``.

    Raises
    ------
    ValueError
        No spot with both modalities, genes of the panel that are missing, or features of another encoder.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(2, 60)
    >>> sp.pp.patches(samples)
    >>> sp.pp.encode_patches(samples)
    >>> panel = sp.pp.select_genes(samples)
    >>> sizes = {"n_prototypes": 2, "n_experts": 2, "n_epochs": 2}
    >>> model = sp.tl.train_spade(samples, use_rep="X_texture", genes=panel, **sizes)
    >>> sp.tl.retrieval_metrics(samples, model).shape
    (8, 8)
    """
    check_model(model)
    counts = check_counts("k", k)
    check_mix(mix, model)
    if split_key is not None:
        check_text("part", part)
    listed = as_list(samples)
    chosen = _Chosen(split_key, part, table_key)
    source = Source.of(model, use_rep, layer, normalized=normalized)
    pairs = _embed_pairs(listed, model, mix, source, chosen)
    controls = None
    if control is not None:
        check_model(control, "control")
        source = Source.of(control, use_rep, layer, normalized=normalized)
        controls = _embed_pairs(listed, control, mix, source, chosen)
        if not np.array_equal(controls.row, pairs.row):
            raise ValueError(
                f"control: reads obsm[{control.config.use_rep!r}], which covers other spots than "
                f"obsm[{model.config.use_rep!r}] of the model. Train both on the same features."
            )
        controls = replace(controls, expert=pairs.expert)  # the galleries are those of the model
    return pd.DataFrame([line for query in MODALITIES for line in _compare(pairs, controls, query, counts)])


@dataclass(frozen=True)
class _Chosen:
    """Which spots are used: those of one part of a split, or all."""

    split_key: str | None
    part: str
    table_key: str | None


@dataclass(frozen=True)
class _Pairs:
    """Both modalities of the same spots, as queries and as a gallery."""

    query: dict[str, NDArray[np.float32]]
    gallery: dict[str, NDArray[np.float32]]
    expert: Rows
    section: NDArray[np.str_]
    row: Rows


def _embed_pairs(samples: Samples, model: Model, mix: str, source: Source, chosen: _Chosen) -> _Pairs:
    """Embed the spots that have both modalities, each modality as queries and as a gallery."""
    collector = Collector("retrieval", say=logger.info)
    for sample in iter_samples(samples, table_key=chosen.table_key):
        modalities, usable = {}, np.ones(sample.table.n_obs, dtype=bool)
        for name in MODALITIES:
            modalities[name], valid = read_modality(sample, model, name, source)
            usable &= valid
        if chosen.split_key is not None:
            usable &= value_strings(obs_column(sample, chosen.split_key, "split_key")) == chosen.part
        rows = np.flatnonzero(usable)
        embedded = {
            f"{side}_{name}": encode(model, name, x[rows], mix, gallery=side == "gallery")
            for side in ("query", "gallery")
            for name, x in modalities.items()
        }
        expert = np.full(len(rows), NO_EXPERT)
        if isinstance(model, SpadeModel):
            expert = np.argmax(model.route(modalities["image"][rows]), axis=1)
        collector.add(sample, rows, embedded, expert=expert, row=rows)
    embedded, columns = collector.joined()
    if not len(columns["row"]):
        part = "" if chosen.split_key is None else f" with obs[{chosen.split_key!r}] == {chosen.part!r}"
        raise ValueError(f"no spot{part} has a valid patch and counts.")
    query, gallery = ({name: embedded[f"{side}_{name}"] for name in MODALITIES} for side in ("query", "gallery"))
    return _Pairs(query, gallery, columns["expert"], columns["section"], columns["row"])


def _compare(pairs: _Pairs, controls: _Pairs | None, query: str, counts: Sequence[int]) -> Iterator[dict[str, object]]:
    """Yield one line per gallery and k for queries of one modality."""
    control_ranks = {} if controls is None else _ranks(controls, query)
    for gallery, (ranks, sizes) in _ranks(pairs, query).items():
        for k in counts:
            line: dict[str, object] = {
                "direction": f"{query}_to_{_other(query)}",
                "gallery": gallery,
                "n": len(ranks),
                "k": k,
                "recall": recall_at(ranks, k),
                "chance_recall": chance_recall(sizes, k),
                "median_rank": float(np.median(ranks)),
                "chance_rank": chance_rank(sizes),
            }
            if controls is not None:
                of_control = control_ranks[gallery][0]
                line |= {"control_recall": recall_at(of_control, k), "control_rank": float(np.median(of_control))}
            yield line


def _other(modality: str) -> str:
    return MODALITIES[1 - MODALITIES.index(modality)]


def _ranks(pairs: _Pairs, query: str) -> dict[str, tuple[NDArray[np.float64], Rows]]:
    """Rank of every true partner in every gallery, and the size of that gallery."""
    groups: dict[str, NDArray[np.int64] | NDArray[np.str_]] = {
        "all_spots": np.zeros_like(pairs.expert),
        "same_section": pairs.section,
    }
    if (pairs.expert != NO_EXPERT).all():
        groups["same_expert"] = pairs.expert
    ranks = {
        name: (ranks_within(pairs.query[query], pairs.gallery[_other(query)], group), group_sizes(group))
        for name, group in groups.items()
    }
    (overall, n), (within, n_within) = ranks["all_spots"], ranks["same_section"]
    if (n > n_within).any():  # the partner and all spots of other sections
        ranks["other_sections"] = overall - within + 1, n - n_within + 1
    return ranks
