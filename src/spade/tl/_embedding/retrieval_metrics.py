"""How well image and expression of the same spot find each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spade import _keys
from spade._samples.model_features import Model, check_model, features_key
from spade._samples.obs import obs_column
from spade._samples.open import Samples, as_list, iter_samples
from spade._samples.sample import check_names
from spade.core.evaluation.retrieval import chance_rank, chance_recall, group_sizes, ranks_within, recall_at
from spade.models import SpadeModel
from spade.tl._embedding.modalities import MODALITIES, check_mix, encode, read_modality

#: Expert of a spot for a model that has none.
NO_EXPERT = -1


def retrieval_metrics(
    samples: Samples,
    model: Model,
    *,
    k: int = 10,
    mix: str = "concat",
    split_key: str | None = None,
    part: str = _keys.TEST,
    control: Model | None = None,
    use_rep: str | None = None,
    layer: str | None = None,
    normalized: bool | None = None,
    table_key: str | None = None,
) -> pd.DataFrame:
    """Rank, for every spot, its own expression among all spots' given its image, and the reverse.

    Each modality is routed by itself, so that weights carry nothing across. The gallery holds the spots asked for, of all samples.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or an iterable of these, with image features and expression.
    model
        A trained model.
    k
        Recall@k is the share of spots whose partner is among the first ``k``.
    mix
        How experts, which do not share axes, are compared. ``"concat"``: cosine of all experts' outputs side by side, both sides
        weighted. ``"logits"``: Σ_e w_e cos_e of query and gallery, by the weights of the query alone, as in MoDE. ``"mean"``: cosine of
        the mixtures Σ_e w_e f_e.
    split_key, part
        Use only spots whose ``obs[split_key]`` is ``part``; all spots if ``split_key`` is None.
    control
        A model trained like this one with ``shuffle_pairs=True``, measured on the same spots: what it finds takes no pairs to find.
    use_rep
        ``obsm`` key of the image features; None: the one the model was trained on.
    layer, normalized
        Where the expression is, as in :func:`train_spade`; None: as the model was trained. ``layer="X"`` is ``X`` itself.
    table_key
        Table; may be left out when there is one.

    Returns
    -------
    DataFrame
        One row per ``direction`` (``"image_to_expression"``, ``"expression_to_image"``) and ``gallery``, the spots that
        compete with the true partner: ``"all_spots"``; ``"same_section"``, so that differences between sections (stain,
        batch) do not help; ``"other_sections"``, all spots but those of the query's section (if there are several
        sections); ``"same_expert"`` (of a mixture), the spots that the image routes to the query's expert, so that
        routing alone does not help. Columns: number of queries ``n``, ``k``, ``recall`` beside ``chance_recall``,
        ``median_rank`` beside ``chance_rank``. With ``control`` also ``control_recall`` and ``control_rank``.

    Raises
    ------
    ValueError
        No spot has both modalities, genes of the panel missing, or features of another encoder.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(2, 60)
    >>> sp.pp.patches(samples)
    >>> sp.pp.encode_patches(samples)
    >>> panel = sp.pp.select_genes(samples)
    >>> model = sp.tl.train_spade(samples, use_rep="X_texture", genes=panel, n_prototypes=2, n_experts=2, n_epochs=2)
    >>> sp.tl.retrieval_metrics(samples, model).shape
    (8, 8)
    """
    check_model(model)
    if k < 1:
        raise ValueError(f"k={k!r}: expected a whole number of at least 1.")
    check_mix(mix, model)
    listed = as_list(samples)
    options = (mix, split_key, part, use_rep, layer, normalized, table_key)
    found = _embed_pairs(listed, model, *options)
    other = None
    if control is not None:
        check_model(control, "control")
        other = _embed_pairs(listed, control, *options)
        if not np.array_equal(other.row, found.row):
            raise ValueError(
                f"control: reads obsm[{control.config.use_rep!r}], which other spots have than obsm[{model.config.use_rep!r}] of the model. "
                "Train both on the same features."
            )
        other.expert = found.expert  # the galleries are those of the model
    rows = []
    for query in MODALITIES:
        for gallery, (ranks, sizes) in _ranks(found, query).items():
            row = {
                "direction": f"{query}_to_{MODALITIES[1 - MODALITIES.index(query)]}",
                "gallery": gallery,
                "n": len(ranks),
                "k": k,
                "recall": recall_at(ranks, k),
                "chance_recall": chance_recall(sizes, k),
                "median_rank": float(np.median(ranks)),
                "chance_rank": chance_rank(sizes),
            }
            if other is not None:
                controls, _ = _ranks(other, query)[gallery]
                row |= {"control_recall": recall_at(controls, k), "control_rank": float(np.median(controls))}
            rows.append(row)
    return pd.DataFrame(rows)


@dataclass
class _Pairs:
    """Both modalities of the same spots, as queries and as a gallery."""

    query: dict[str, NDArray[np.float32]]
    gallery: dict[str, NDArray[np.float32]]
    expert: NDArray[np.int64]
    section: NDArray[np.str_]
    row: NDArray[np.int64]


def _embed_pairs(
    samples: Samples,
    model: Model,
    mix: str,
    split_key: str | None,
    part: str,
    use_rep: str | None,
    layer: str | None,
    normalized: bool | None,
    table_key: str | None,
) -> _Pairs:
    use_rep = features_key(model, use_rep)
    layer = layer or model.config.layer
    normalized = model.config.normalized if normalized is None else normalized
    parts: list[_Pairs] = []
    names: list[str] = []
    for sample in iter_samples(samples, table_key=table_key):
        both, usable = {}, np.ones(sample.table.n_obs, dtype=bool)
        for modality in MODALITIES:
            both[modality], there = read_modality(sample, model, modality, use_rep, layer, normalized)
            usable &= there
        if split_key is not None:
            usable &= (obs_column(sample, split_key, "split_key") == part).to_numpy(dtype=bool)
        rows = np.flatnonzero(usable)
        query, gallery = (
            {modality: encode(model, modality, x[rows], mix, gallery=side) for modality, x in both.items()}
            for side in (False, True)
        )
        expert = np.full(len(rows), NO_EXPERT)
        if isinstance(model, SpadeModel):
            expert = np.argmax(model.route(both["image"][rows]), axis=1)
        parts.append(_Pairs(query, gallery, expert, sample.section_of_row()[rows], rows))
        names.append(sample.name)
    check_names(names)
    expert = np.concatenate([one.expert for one in parts])
    if not len(expert):
        where = "" if split_key is None else f" with obs[{split_key!r}] == {part!r}"
        raise ValueError(f"no spot{where} has a valid patch and counts.")
    return _Pairs(
        {name: np.concatenate([one.query[name] for one in parts]) for name in MODALITIES},
        {name: np.concatenate([one.gallery[name] for one in parts]) for name in MODALITIES},
        expert,
        np.concatenate([one.section for one in parts]),
        np.concatenate([one.row for one in parts]),
    )


def _ranks(pairs: _Pairs, query: str) -> dict[str, tuple[NDArray[np.float64], NDArray[np.int64]]]:
    """Rank of every true partner in every gallery, and the gallery's size."""
    gallery = MODALITIES[1 - MODALITIES.index(query)]
    groups = {"all_spots": np.zeros_like(pairs.expert), "same_section": pairs.section}
    if (pairs.expert != NO_EXPERT).all():
        groups["same_expert"] = pairs.expert
    found = {
        name: (ranks_within(pairs.query[query], pairs.gallery[gallery], of), group_sizes(of))
        for name, of in groups.items()
    }
    (overall, n), (own, n_own) = found["all_spots"], found["same_section"]
    if (n > n_own).any():  # the partner and all that are not of its section
        found["other_sections"] = overall - own + 1, n - n_own + 1
    return found
