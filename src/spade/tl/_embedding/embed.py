"""Joint embeddings of image and expression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from spade import _keys
from spade._checks import check_idle, shorten
from spade._said.lines import speaks, wrote
from spade._samples.counts import read_expression
from spade._samples.encode import BATCH, ORIGIN, encode_rows
from spade._samples.experts import palette
from spade._samples.given.output import check_out
from spade._samples.model_features import (
    Model,
    check_model,
    check_patch_size,
    features_key,
    read_model_features,
    reads_patches,
)
from spade._samples.obs import largest_expert
from spade._samples.open import Samples, as_list, iter_samples
from spade._samples.patches import patch_record
from spade._samples.sample import Sample
from spade.core.checks import check_choice, check_count, check_flag, check_share, check_text
from spade.core.errors import warn
from spade.models import GenePanel, ProgramModel, SealModel, SpadeModel
from spade.models._gene_names import MATCHING
from spade.tl._embedding.embed_files import OF_TABLES, embed_files, embed_program_files
from spade.tl._embedding.embed_programs import embed_programs
from spade.tl._embedding.modalities import unit


@speaks
def embed(
    samples: Samples,
    model: Model | ProgramModel,
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
    out: str | PathLike[str] | None = None,
) -> None:
    r"""Write the joint embeddings of a trained model.

    The joint embedding is the mean of an image side and an expression side, each L2-normalised. For a mixture of
    experts, the image side of a spot is :math:`\sum_e w_e f_e(x)` with routing weights w from its distances to the
    prototypes, and the expression side uses the same weights. For a :class:`spade.models.SealModel`, the sides are the
    outputs of its two towers; a tuned encoder reads the patches.

    A :class:`spade.models.ProgramModel` has an image side only: logits of its clusters and its programs, predicted from
    the features that it was trained on, scaled within each section. Only ``key_added`` and ``table_key`` apply to it.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or a list or dict of these; expression is not needed. Or feature
        files as TRIDENT and CLAM write them, by their folder, a pattern, a list or a sample sheet.
    model
        From :func:`train_spade`, :func:`train_seal` or :func:`train_programs`, or loaded.
    key_added
        Stem of the keys written; by default ``"spade"``, or ``"seal"`` for a ``SealModel`` and ``"programs"`` for a
        ``ProgramModel``.
    mix
        ``"mean"``, or ``"concat"``: the outputs of all experts concatenated, each scaled by its weight.
    use_rep
        ``obsm`` key of the image features; None: those that the model was trained on. For a tuned encoder, what
        ``sp.pp.encode_patches(samples, encoder=model)`` wrote; None: the patches are read and encoded here.
    layer
        Layer with the expression, as in :func:`train_spade`. None: that of the training; ``"X"`` is ``X`` itself.
    normalized
        Whether these values are normalised already. None: as in training. Whole numbers above 20 are counts, and an
        error if they are called normalised.
    genes
        Gene names of the model's input, for a model that does not know them.
    min_overlap
        Smallest share of the model's genes that a sample must have. Genes that it lacks are set to their mean in
        training.
    patches_key
        For a tuned encoder without ``use_rep``: what :func:`spade.pp.patches` wrote.
    batch_size
        For a tuned encoder without ``use_rep``: how many patches are encoded at a time.
    table_key
        Table; may be left out when there is one.
    out
        For feature files: folder in which every slide gets a file, which is made if need be. A second call skips the
        slides that are done; a file there that it would not have written is an error.

    Returns
    -------
    None
        Writes, with stem ``spade``: ``obsm["X_spade"]``, ``["X_spade_image"]``, ``["X_spade_expression"]``
        (float32 ``(n_obs, d)``) and, for a mixture, ``["spade_expert_weights"]`` ``(n_obs, E)``,
        ``obs["spade_expert"]`` (largest weight) and its colours in ``uns``; with a learned gate also its logits,
        ``obsm["spade_expert_logits"]``. Without expression, ``X_spade`` is the
        L2-normalised image side and ``X_spade_expression`` is not written. Rows without a valid patch are NaN; a spot
        without counts has NaN in ``X_spade_expression`` and its image side in ``X_spade``. For a ``ProgramModel`` only
        ``obsm["X_programs"]``, float32 ``(n_obs, d)``, is written. Of feature files, ``out`` gets one ``<slide>.h5``
        each, in the layout of TRIDENT: ``features``, what is else in ``X_spade``, float32 ``(n, d)``; ``coords`` with
        their attributes; for a mixture ``expert_weights`` ``(n, E)``, and ``entropy`` and ``distance`` ``(n,)`` of
        :func:`routing_scores`; and attributes such as ``spade_model_id``. Every function reads these files as samples,
        :func:`slide_task` as slides.

    Raises
    ------
    KeyError
        Features or a table that do not exist.
    ValueError
        Features of another width or encoder, patches of another size, too few of the model's genes, settings that
        have no effect here, or keys that another function, or another stem, has written.

    Notes
    -----
    The expression side of a mixture uses weights that come from the image, so it gives away its image. To measure
    retrieval across modalities use ``model.encode_expression(x)``, which routes by the expression itself.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(2, 60)
    >>> sp.pp.patches(samples)
    >>> sp.pp.encode_patches(samples)
    >>> panel = sp.pp.select_genes(samples)
    >>> sizes = {"n_prototypes": 2, "n_experts": 2, "n_epochs": 2}
    >>> model = sp.tl.train_spade(samples, use_rep="X_texture", genes=panel, **sizes)
    >>> sp.tl.embed(samples, model)
    >>> samples[0]["table"].obsm["X_spade"].shape
    (60, 256)
    """
    if not isinstance(model, ProgramModel):
        check_model(model)
    samples = as_list(samples)
    folder = check_out(samples, out)
    if isinstance(model, ProgramModel):
        check_idle(
            [
                ("mix", mix, "mean"), ("use_rep", use_rep, None), ("layer", layer, None),
                ("normalized", normalized, None), ("genes", genes, None), ("min_overlap", min_overlap, 0.5),
                ("patches_key", patches_key, _keys.PATCHES), ("batch_size", batch_size, BATCH),
            ],
            "a ProgramModel reads the features that it was trained on, and nothing else",
        )  # fmt: skip
        if folder is not None:
            check_idle([("key_added", key_added, None), ("table_key", table_key, None)], OF_TABLES)
            embed_program_files(samples, model, folder)
            return
        stem = _keys.PROGRAMS if key_added is None else check_text("key_added", key_added)
        embed_programs(samples, model, _keys.check_key(stem), table_key)
        return
    if folder is not None:
        check_idle(
            [
                ("key_added", key_added, None), ("layer", layer, None), ("normalized", normalized, None),
                ("genes", genes, None), ("min_overlap", min_overlap, 0.5), ("patches_key", patches_key, _keys.PATCHES),
                ("batch_size", batch_size, BATCH), ("table_key", table_key, None),
            ],
            OF_TABLES,
        )  # fmt: skip
        embed_files(samples, model, folder, mix=mix, use_rep=use_rep)
        return
    stem = _keys.check_key(_stem(model) if key_added is None else check_text("key_added", key_added))
    settings = _Settings(
        mix=mix,
        use_rep=use_rep,
        layer=model.config.layer if layer is None else layer,
        normalized=model.config.normalized if normalized is None else check_flag("normalized", normalized),
        min_overlap=check_share("min_overlap", min_overlap, "(0, 1]"),
        patches_key=patches_key,
        batch_size=check_count("batch_size", batch_size),
    ).checked(model, stem)
    panel = None
    for sample in iter_samples(samples, table_key=table_key, writes=True):
        if sample.has_expression and panel is None:
            panel = _panel_of(model, genes)
        keys = [_keys.joint(stem), _keys.image(stem), _keys.expression(stem)]
        keys += [_keys.expert(stem)] if isinstance(model, SpadeModel) else []
        _keys.check_parts(sample.table.uns, sample.name, stem, "tl.embed", *keys)
        _write(sample, model, stem, _embed_sample(sample, model, panel, settings), settings)


@dataclass(frozen=True)
class _Settings:
    """What is read, and how experts are mixed; without ``use_rep`` patches are read."""

    mix: str
    use_rep: str | None
    layer: str | None
    normalized: bool
    min_overlap: float
    patches_key: str
    batch_size: int

    def checked(self, model: Model, stem: str) -> _Settings:
        """Raise if a setting does not suit the model; return the settings with the key of its features filled in."""
        check_choice("mix", self.mix, ("mean", "concat"))
        if self.mix != "mean" and not isinstance(model, SpadeModel):
            raise ValueError(f"mix={self.mix!r}: a SealModel has no experts to mix; leave mix= out.")
        if self.use_rep is None and reads_patches(model):
            return self
        use_rep = features_key(model, self.use_rep)
        check_idle(
            [("patches_key", self.patches_key, _keys.PATCHES), ("batch_size", self.batch_size, BATCH)],
            f"the image side comes from obsm[{use_rep!r}], so no patches are read",
        )
        if use_rep in (_keys.joint(stem), _keys.image(stem), _keys.expression(stem), _keys.weights(stem)):
            raise ValueError(
                f"key_added={stem!r}: the embeddings would replace the image features obsm[{use_rep!r}] that they are "
                "made from."
            )
        return replace(self, use_rep=use_rep)


@dataclass(frozen=True)
class _Embedded:
    """Both sides of a sample ``(n_obs, d)``, weights and logits ``(n_obs, E)`` of a routing, and the image's record."""

    image: NDArray[np.float32]
    expression: NDArray[np.float32] | None
    weights: NDArray[np.floating] | None
    logits: NDArray[np.floating] | None
    origin: dict[str, Any]


def _stem(model: Model) -> str:
    return _keys.STEM if isinstance(model, SpadeModel) else _keys.SEAL


def _embed_sample(sample: Sample, model: Model, panel: GenePanel | None, settings: _Settings) -> _Embedded:
    features, origin = _read_image(sample, model, settings)
    weights = model.route(features) if isinstance(model, SpadeModel) else None
    gated = isinstance(model, SpadeModel) and model.routing.gate is not None
    logits = model.routing.logits(features) if isinstance(model, SpadeModel) and gated else None
    options: dict[str, Any] = {} if weights is None else {"weights": weights, "mix": settings.mix}
    image = model.encode_image(features, **options)
    if not sample.has_expression or panel is None:
        return _Embedded(image, None, weights, logits, origin)
    x, filled = _panel_expression(sample, panel, model, settings)
    expression = model.encode_expression(x, **options)
    expression[~filled] = np.nan
    return _Embedded(image, expression, weights, logits, origin)


def _read_image(sample: Sample, model: Model, settings: _Settings) -> tuple[NDArray[np.floating], dict[str, Any]]:
    """Return features of the image, and the origin of an image side that consists of these features."""
    if settings.use_rep is None and isinstance(model, SealModel):
        size_um = patch_record(sample, settings.patches_key)["size_um"]
        check_patch_size(sample.name, size_um, model.config.patch_um)
        return encode_rows(sample, model, settings.patches_key, settings.batch_size)
    use_rep = settings.use_rep or ""
    features = read_model_features(sample, use_rep, model)
    if not reads_patches(model):
        return features, {}
    record = _keys.read_provenance(sample.table.uns, use_rep)
    return features, {name: value for name, value in record.items() if name in ORIGIN}


def _write(sample: Sample, model: Model, stem: str, embedded: _Embedded, settings: _Settings) -> None:
    obsm, uns, joint = sample.table.obsm, sample.table.uns, unit(embedded.image)
    written: dict[str, NDArray[np.floating]] = {_keys.image(stem): embedded.image}
    if embedded.expression is not None:
        filled = ~np.isnan(embedded.expression).any(1)
        joint[filled] = (joint[filled] + unit(embedded.expression[filled])) / 2
        written[_keys.expression(stem)] = embedded.expression
    written[_keys.joint(stem)] = joint
    if embedded.weights is not None:
        written[_keys.weights(stem)] = embedded.weights
        _write_experts(sample, stem, embedded.weights)
    if embedded.logits is not None:
        written[_keys.logits(stem)] = embedded.logits
    for key in (_keys.expression(stem), _keys.weights(stem), _keys.logits(stem)):  # of an earlier call
        if key in obsm and key not in written:
            del obsm[key]
            _keys.forget_provenance(uns, key)
    for key, values in written.items():
        obsm[key] = values.astype(np.float32)
    _keys.write_provenance(
        uns,
        _keys.joint(stem),
        function="tl.embed",
        model=type(model).__name__,
        model_id=model.id,
        encoder=model.config.encoder,
        seed=model.config.seed,
        use_rep=settings.use_rep,
        patches_key=settings.patches_key if settings.use_rep is None else None,
        mix=None if embedded.weights is None else settings.mix,
    )
    _keys.write_provenance(uns, _keys.image(stem), _keys.joint(stem), **embedded.origin | {"function": "tl.embed"})
    if embedded.expression is not None:
        _keys.write_provenance(uns, _keys.expression(stem), _keys.joint(stem), function="tl.embed")
    if embedded.weights is not None:  # outdated by later clusters under this stem
        sources = _keys.joint(stem), _keys.cluster(stem)
        _keys.write_provenance(uns, _keys.expert(stem), *sources, function="tl.embed")
        _keys.write_parts(uns, _keys.expert(stem), _keys.weights(stem))
    if embedded.logits is not None:
        _keys.write_parts(uns, _keys.joint(stem), _keys.logits(stem))
    sample.save()
    experts = [] if embedded.weights is None else [f"obs[{_keys.expert(stem)!r}]"]
    wrote(sample.name, *(f"obsm[{key!r}]" for key in written), *experts)


def _write_experts(sample: Sample, stem: str, weights: NDArray[np.floating]) -> None:
    """Write the expert of the largest weight of every spot, and the colours of all experts."""
    sample.table.obs[_keys.expert(stem)] = largest_expert(weights)
    sample.table.uns[f"{_keys.expert(stem)}_colors"] = palette(weights.shape[1])


def _panel_of(model: Model, genes: GenePanel | Sequence[str] | None) -> GenePanel:
    """Return the gene panel of the model's input; raise if neither the model nor the user knows it, or they differ."""
    if genes is None:
        if model.genes is None:
            raise ValueError(
                "genes=None, and the model does not know its gene panel: pass the names in the order of its input."
            )
        return model.genes
    panel = GenePanel.of(genes)
    if len(panel) != model.n_genes:
        raise ValueError(f"genes: got {len(panel)} names, but the model reads {model.n_genes}.")
    if model.genes is not None and panel.names != model.genes.names:
        raise ValueError("genes differs from the model's own panel (model.genes); leave genes= out.")
    if model.genes is not None and isinstance(genes, GenePanel) and panel.reading() != model.genes.reading():
        raise ValueError(
            f"genes: this panel is read with {panel.reading() or 'the defaults'}, but the model's own (model.genes) "
            f"with {model.genes.reading() or 'the defaults'}; leave genes= out."
        )
    return model.genes or panel


def _panel_expression(
    sample: Sample, panel: GenePanel, model: Model, settings: _Settings
) -> tuple[csr_matrix | NDArray[np.float32], NDArray[np.bool_]]:
    """Return expression in panel order with missing genes at their training mean, and which spots have counts."""
    x, present, filled = read_expression(sample, panel, settings.layer, normalized=settings.normalized)
    share = float(present.mean())
    missing = [name for name, is_present in zip(panel.names, present, strict=True) if not is_present]
    if share < settings.min_overlap:
        raise ValueError(
            f"{sample.name}: only {int(present.sum())} of the model's {len(panel)} genes are there ({share:.0%}, fewer "
            f"than min_overlap={settings.min_overlap:.0%}); missing: {shorten(missing)}. {MATCHING[panel.fold_case]} "
            "Is the sample of another species, or are its genes named by other ids? Lower min_overlap= to embed it."
        )
    if not filled.all():
        warn(
            f"{sample.name}: {int((~filled).sum())} of {len(filled)} spots have no counts: NaN on the expression side, "
            "image side alone in the joint embedding."
        )
    if missing:
        warn(
            f"{sample.name}: {len(missing)} of the model's {len(panel)} genes are missing and set to their mean in "
            f"training: {shorten(missing)}."
        )
        dense = x.toarray()
        dense[:, ~present] = model.expression_mean[~present]
        return dense, filled
    return x, filled
