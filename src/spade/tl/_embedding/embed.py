"""Joint embeddings of image and expression."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from spade import _keys
from spade._checks import check_idle, shorten
from spade._samples.counts import read_expression
from spade._samples.encode import BATCH, encode_rows
from spade._samples.expert_colours import palette
from spade._samples.model_features import (
    Model,
    check_model,
    check_patch_size,
    features_key,
    read_model_features,
    reads_patches,
)
from spade._samples.obs import categorical
from spade._samples.open import Samples, iter_samples
from spade._samples.patches import patch_record
from spade._samples.sample import Sample
from spade.core.checks import check_count
from spade.core.errors import warn
from spade.models import GenePanel, SealModel, SpadeModel
from spade.models._gene_names import MATCHING
from spade.tl._embedding.modalities import unit

logger = logging.getLogger("spade")


def embed(
    samples: Samples,
    model: Model,
    *,
    key_added: str | None = None,
    mix: str = "mean",
    use_rep: str | None = None,
    layer: str | None = None,
    normalized: bool | None = None,
    genes: GenePanel | Sequence[str] | None = None,
    min_overlap: float = 0.5,
    patches_key: str = _keys.PATCHES,
    batch_size: int = BATCH,
    table_key: str | None = None,
) -> None:
    r"""Write the joint embeddings of a trained model.

    The joint embedding is the mean of an image side and an expression side, each L2-normalised. Of a mixture of experts, the image
    side of a spot is :math:`\sum_e w_e f_e(x)` with routing weights w from its distances to the prototypes, and the expression side
    uses the same weights. Of a :class:`spade.models.SealModel`, the sides are those of its two towers; a tuned encoder reads the patches.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or an iterable of these; expression is not needed.
    model
        From :func:`train_spade` or :func:`train_seal`, or loaded.
    key_added
        Stem of the keys written; by default ``"spade"``, or ``"seal"`` for a ``SealModel``.
    mix
        ``"mean"``, or ``"concat"``: the experts' outputs side by side, each scaled by its weight.
    use_rep
        ``obsm`` key of the image features; None: the one the model was trained on. For a tuned encoder what
        ``sp.pp.encode_patches(samples, encoder=model)`` wrote; None: the patches are read and encoded here.
    layer, normalized
        Where the expression is, as in :func:`train_spade`; None: as the model was trained. ``layer="X"`` is ``X`` itself.
    genes
        Gene names behind the model's input, for a model that does not know them.
    min_overlap
        Least share of the model's genes that a sample must have. Genes that it lacks are set to their mean in training.
    patches_key, batch_size
        For a tuned encoder without ``use_rep``: what :func:`spade.pp.patches` wrote, and how many of them are encoded at a time.
    table_key
        Table; may be left out when there is one.

    Returns
    -------
    None
        Writes, with stem ``spade``: ``obsm["X_spade"]``, ``["X_spade_image"]``, ``["X_spade_expression"]``
        (float32 ``(n_obs, d)``), and of a mixture ``["spade_expert_weights"]`` ``(n_obs, E)``, ``obs["spade_expert"]`` (largest weight)
        and its colours in ``uns``. Without expression ``X_spade`` is the L2-normalised image side and
        ``X_spade_expression`` is not written. Rows without a valid patch are NaN; a spot without counts has NaN in
        ``X_spade_expression`` and its image side in ``X_spade``.

    Raises
    ------
    KeyError
        Features or table that are not there.
    ValueError
        Features of another width or encoder, patches of another size, too few of the model's genes, settings of no use here.

    Notes
    -----
    The expression side of a mixture uses weights that come from the image, so it reveals its image. To measure retrieval across
    modalities use ``model.encode_expression(x)``, which routes by the expression itself.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(2, 60)
    >>> sp.pp.patches(samples)
    >>> sp.pp.encode_patches(samples)
    >>> panel = sp.pp.select_genes(samples)
    >>> model = sp.tl.train_spade(samples, use_rep="X_texture", genes=panel, n_prototypes=2, n_experts=2, n_epochs=2)
    >>> sp.tl.embed(samples, model)
    >>> samples[0]["table"].obsm["X_spade"].shape
    (60, 256)
    """
    check_model(model)
    stem = _keys.check_key(_stem(model) if key_added is None else key_added)
    if mix not in ("mean", "concat"):
        raise ValueError(f'mix={mix!r}: expected "mean" or "concat".')
    if mix != "mean" and not isinstance(model, SpadeModel):
        raise ValueError(f"mix={mix!r}: a SealModel has no experts to mix; leave mix= out.")
    if not 0 < min_overlap <= 1:
        raise ValueError(f"min_overlap={min_overlap!r}: expected a share above 0 and up to 1.")
    check_count("batch_size", batch_size)
    if use_rep is not None or not reads_patches(model):
        use_rep = features_key(model, use_rep)
        check_idle(
            [("patches_key", patches_key, _keys.PATCHES), ("batch_size", batch_size, BATCH)],
            f"the image side comes from obsm[{use_rep!r}], so no patches are read",
        )
    written = {_keys.joint(stem), _keys.image(stem), _keys.expression(stem), _keys.weights(stem)}
    if use_rep in written:
        raise ValueError(
            f"key_added={stem!r}: the embeddings would replace the image features obsm[{use_rep!r}] they are made from."
        )
    layer = layer or model.config.layer
    normalized = model.config.normalized if normalized is None else normalized
    for sample in iter_samples(samples, table_key=table_key):
        origin: dict[str, Any] = {}
        if use_rep is None and isinstance(model, SealModel):
            features, origin = _read_patches(sample, model, patches_key, batch_size)
        else:
            features = read_model_features(sample, use_rep or "", model)
            if reads_patches(model):  # the image side is these features
                origin = dict(_keys.read_provenance(sample.table.uns, use_rep or ""))
        weights = model.route(features) if isinstance(model, SpadeModel) else None
        options: dict[str, Any] = {} if weights is None else {"weights": weights, "mix": mix}
        image = model.encode_image(features, **options)
        expression = None
        if sample.has_expression:
            x, filled = _panel_expression(sample, _panel_of(model, genes), model, layer, normalized, min_overlap)
            expression = model.encode_expression(x, **options)
            expression[~filled] = np.nan
        _write(sample, model, stem, image, expression, weights, origin, {"use_rep": use_rep, "mix": options.get("mix")})


def _stem(model: Model) -> str:
    return _keys.STEM if isinstance(model, SpadeModel) else _keys.SEAL


def _read_patches(
    sample: Sample, model: SealModel, patches_key: str, batch_size: int
) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """Encode the patches of a sample, which must be of the size that the encoder was tuned on."""
    check_patch_size(sample.name, patch_record(sample, patches_key)["size_um"], model.config.patch_um)
    return encode_rows(sample, model, patches_key, batch_size)


def _write(
    sample: Sample,
    model: Model,
    stem: str,
    image: NDArray[np.float32],
    expression: NDArray[np.float32] | None,
    weights: NDArray[np.floating] | None,
    origin: dict[str, Any],
    settings: dict[str, Any],
) -> None:
    obsm, joint = sample.table.obsm, unit(image)
    written: dict[str, NDArray[np.floating]] = {_keys.image(stem): image}
    if expression is not None:
        filled = ~np.isnan(expression).any(1)
        joint[filled] = (joint[filled] + unit(expression[filled])) / 2
        written[_keys.expression(stem)] = expression
    written[_keys.joint(stem)] = joint
    if weights is not None:
        written[_keys.weights(stem)] = weights
    for key in (_keys.expression(stem), _keys.weights(stem)):  # of an earlier call
        if key in obsm and key not in written:
            del obsm[key]
    for key, values in written.items():
        obsm[key] = values.astype(np.float32)
    if weights is not None:
        _write_experts(sample, stem, weights)
    facts = {
        "model": type(model).__name__,
        "model_id": model.id,
        "encoder": model.config.encoder,
        "seed": model.config.seed,
    }
    _keys.write_provenance(sample.table.uns, _keys.joint(stem), function="tl.embed", **facts, **settings)
    _keys.forget_provenance(sample.table.uns, _keys.image(stem))  # of an earlier call
    if origin:
        _keys.write_provenance(sample.table.uns, _keys.image(stem), **origin | {"function": "tl.embed"})
    sample.save()
    logger.info("%s: wrote obsm %s", sample.name, ", ".join(map(repr, written)))


def _write_experts(sample: Sample, stem: str, weights: NDArray[np.floating]) -> None:
    """Write the expert of the largest weight, and the colours of all."""
    experts = [str(e) for e in range(weights.shape[1])]
    routed = ~np.isnan(weights).any(1)
    largest = np.argmax(np.nan_to_num(weights, nan=-1), axis=1)
    sample.table.obs[_keys.expert(stem)] = categorical(np.where(routed, np.array(experts)[largest], ""), experts)
    sample.table.uns[f"{_keys.expert(stem)}_colors"] = palette(len(experts))


def _panel_of(model: Model, genes: GenePanel | Sequence[str] | None) -> GenePanel:
    if model.genes is None and genes is None:
        raise ValueError(
            "genes=None, and the model does not know its gene panel: pass the names in the order of its input."
        )
    panel = model.genes if genes is None else GenePanel.of(genes)
    if len(panel) != model.n_genes:  # type: ignore[arg-type]
        raise ValueError(f"genes: got {len(panel)} names, but the model reads {model.n_genes}.")  # type: ignore[arg-type]
    if model.genes is not None and panel.names != model.genes.names:  # type: ignore[union-attr]
        raise ValueError("genes differs from the model's own panel (model.genes); leave genes= out.")
    return model.genes or panel  # type: ignore[return-value]


def _panel_expression(
    sample: Sample, panel: GenePanel, model: Model, layer: str | None, normalized: bool, min_overlap: float
) -> tuple[csr_matrix | NDArray[np.float32], NDArray[np.bool_]]:
    """Return expression in panel order with missing genes at their training mean, and which spots have counts."""
    x, present, filled = read_expression(sample, panel, layer, normalized=normalized)
    share = float(present.mean())
    missing = [name for name, there in zip(panel.names, present, strict=True) if not there]
    if share < min_overlap:
        raise ValueError(
            f"{sample.name}: only {int(present.sum())} of the model's {len(panel)} genes are there ({share:.0%}, fewer than "
            f"min_overlap={min_overlap:.0%}); missing: {shorten(missing)}. {MATCHING[panel.fold_case]} Is the sample of another species, "
            "or named by other ids? Lower min_overlap= to embed it all the same."
        )
    if not filled.all():
        warn(
            f"{sample.name}: {int((~filled).sum())} of {len(filled)} spots have no counts: NaN on the expression side, image side "
            "alone in the joint embedding."
        )
    if missing:
        warn(
            f"{sample.name}: {len(missing)} of the model's {len(panel)} genes are missing and set to their mean in training: "
            f"{shorten(missing)}."
        )
        dense = x.toarray()
        dense[:, ~present] = model.expression_mean[~present]
        return dense, filled
    return x, filled
