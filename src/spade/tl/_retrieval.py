"""How well image and expression of the same spot find each other."""

from __future__ import annotations

import numpy as np
import pandas as pd

from spade import _keys
from spade._samples import Samples, check_names, iter_samples, obs_column
from spade.core.retrieval import chance_rank, chance_recall, ranks_within, recall_at
from spade.models import SpadeModel
from spade.tl._inputs import check_model, features_key, read_expression, read_model_features


def retrieval_metrics(
    samples: Samples,
    model: SpadeModel,
    *,
    k: int = 10,
    mix: str = "concat",
    split_key: str | None = None,
    part: str = _keys.TEST,
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
    use_rep
        ``obsm`` key of the image features; None: the one the model was trained on.
    layer, normalized
        Where the expression is, as in :func:`train_spade`; None: as the model was trained. ``layer="X"`` is ``X`` itself.
    table_key
        Table; may be left out when there is one.

    Returns
    -------
    DataFrame
        One row per ``direction`` (``"image → expression"``, ``"expression → image"``) and ``gallery``, the spots that compete
        with the true partner: ``"all spots"``; ``"same section"``, so that what tells sections apart (stain, batch) does
        not count; ``"same expert"``, those that the image routes to the query's expert, so that what routing alone
        explains does not count. Columns: number of queries ``n``, ``k``, ``recall`` beside ``chance_recall``,
        ``median_rank`` beside ``chance_rank``.

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
    (6, 8)
    """
    check_model(model)
    if k < 1:
        raise ValueError(f"k={k!r}: expected a whole number of at least 1.")
    if mix not in ("concat", "logits", "mean"):
        raise ValueError(f'mix={mix!r}: expected "concat", "logits" or "mean".')
    if model.genes is None:
        raise ValueError("the model does not know its gene panel, so expression cannot be put in its order.")
    use_rep = features_key(model, use_rep)
    layer = layer or model.config.layer
    normalized = model.config.normalized if normalized is None else normalized
    parts: dict[str, list[np.ndarray]] = {}
    names: list[str] = []
    for sample in iter_samples(samples, table_key=table_key):
        features = read_model_features(sample, use_rep, model)
        if not sample.has_expression:
            raise ValueError(
                f"{sample.name}: has no expression (table of width 0), so nothing can be found; leave it out."
            )
        x, present, filled = read_expression(sample, model.genes, layer, normalized)
        if not present.all():
            raise ValueError(f"{sample.name}: lacks {int((~present).sum())} of the model's {len(model.genes)} genes.")
        usable = filled & ~np.isnan(features).any(1)
        if split_key is not None:
            usable &= (obs_column(sample, split_key, "split_key") == part).to_numpy(dtype=bool)
        rows = np.flatnonzero(usable)
        image, expression = features[rows], x[rows]
        found: dict[str, np.ndarray] = {
            "image": model.encode_image(image, mix=mix),
            "expression": model.encode_expression(expression, mix=mix),
        }
        galleries = found
        if mix == "logits":  # the weights are those of the query alone
            even = np.ones((len(rows), model.n_experts))
            galleries = {
                "image": model.encode_image(image, even, mix=mix),
                "expression": model.encode_expression(expression, even, mix=mix),
            }
        found |= {f"gallery of {name}": value for name, value in galleries.items()}
        found["expert"] = np.argmax(model.route(image), axis=1)
        found["section"] = sample.section_of_row()[rows]
        for name, value in found.items():
            parts.setdefault(name, []).append(value)
        names.append(sample.name)
    check_names(names)
    whole = {name: np.concatenate(values) for name, values in parts.items()}
    expert = whole["expert"]
    if not len(expert):
        where = "" if split_key is None else f" with obs[{split_key!r}] == {part!r}"
        raise ValueError(f"no spot{where} has a valid patch and counts.")
    rows_out = []
    groups_of = {"all spots": np.zeros_like(expert), "same section": whole["section"], "same expert": expert}
    for query, gallery in (("image", "expression"), ("expression", "image")):
        for name, groups in groups_of.items():
            ranks = ranks_within(whole[query], whole[f"gallery of {gallery}"], groups)
            rows_out.append(
                {
                    "direction": f"{query} → {gallery}",
                    "gallery": name,
                    "n": len(ranks),
                    "k": k,
                    "recall": recall_at(ranks, k),
                    "chance_recall": chance_recall(groups, k),
                    "median_rank": float(np.median(ranks)),
                    "chance_rank": chance_rank(groups),
                }
            )
    return pd.DataFrame(rows_out)
