"""Expression predicted from the image."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from tqdm.auto import tqdm

from spade import _keys
from spade._samples.features import read_features
from spade._samples.model_features import Model
from spade._samples.open import Samples, as_list, iter_samples
from spade._samples.sample import Sample
from spade.core.errors import warn
from spade.models import GenePanel
from spade.tl._expression.gene_head import predict_by_head
from spade.tl._expression.predictor import Predictor
from spade.tl._expression.reference import Reference, read_reference
from spade.tl._expression.settings import HEAD, METHODS, PredictionSettings

logger = logging.getLogger("spade")


def predict_expression(
    samples: Samples,
    model: Model | None = None,
    *,
    reference: Samples | None = None,
    genes: GenePanel | Sequence[str] | None = None,
    method: str = "neighbours",
    use_rep: str | tuple[str, ...] | None = None,
    k: int = 50,
    temperature: float = 0.1,
    mix: str = "concat",
    alpha: float | str = "cv",
    scaling: str = "reference",
    layer: str | None = None,
    normalized: bool | None = None,
    patches_key: str = _keys.PATCHES,
    table_key: str | None = None,
    key_added: str = _keys.PREDICTED,
) -> None:
    r"""Predict the expression of spots from their image, by sections in which both were measured.

    ``"neighbours"``: the image is compared with the expression of all reference spots in the joint space of a model, each modality
    routed by itself; predicted is the mean of the ``k`` best, weighted by softmax(similarity / temperature). ``"ridge"``: linear
    regression from any representation. ``"head"``: the image-to-gene head of a :class:`spade.models.SealModel`, which needs no reference.
    Samples need no expression. A section never predicts itself: where it is in ``reference``
    too (as the same object or store: a copy is another section), its rows there are passed over.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or an iterable of these, with image features.
    model
        A trained model, for ``"neighbours"`` and ``"head"``.
    reference
        Samples with image features and expression; only ``"head"`` goes without.
    genes
        Names of genes to predict, which every sample of ``reference`` has; None: all that these have in common. For ``"head"`` some of
        the model's panel; None: all. Memory is that of two dense arrays of spots × genes.
    method
        ``"neighbours"``, ``"ridge"`` or ``"head"``.
    use_rep
        ``obsm`` key of the image features; None: the one the model was trained on. For ``"ridge"`` any representation, or a tuple
        of keys that are put side by side; it must be named.
    k, temperature
        Neighbours, and how sharply they are weighted by their similarity, which is at most 1.
    mix
        How experts are compared, as in :func:`retrieval_metrics`.
    alpha
        Penalty of ``"ridge"``, for features of deviation 1 and Σ‖y − xB‖² + α‖B‖²; ``"cv"``: of 13 from 1 to 10⁶ the one
        that explains most when each section of ``reference`` in turn is held out (of a single section, each half).
    scaling
        Of the features for ``"ridge"``: by the mean and deviation of ``"reference"``, or of each ``"section"`` by itself, which takes
        differences in stain away but needs whole sections.
    layer, normalized
        Where the expression of ``reference`` is, as in :func:`train_spade`; None: as the model was trained, else raw counts in ``X``.
    patches_key
        What :func:`spade.pp.patches` wrote, read to cut a single reference section into halves.
    table_key
        Table; may be left out when there is one.
    key_added
        Stem of the keys written.

    Returns
    -------
    None
        Writes ``obsm["X_predicted"]``, log-normalised expression, and ``obsm["X_predicted_deviation"]``, both float32 ``(n_obs, G)``, and
        the names of the genes in ``uns["predicted_genes"]``. The deviation is the weighted one among the neighbours; for ``"ridge"``
        the root mean squared error of each gene on held-out parts of ``reference``, the same for all spots (NaN, with a warning, where
        nothing can be held out); ``"head"`` tells none. Rows without a valid patch are NaN.

    Raises
    ------
    KeyError
        Features, genes or table that are not there.
    ValueError
        A reference without spots that have both modalities, or without any but the section itself; features of another width or encoder.

    Notes
    -----
    Which genes can be trusted is another matter: :func:`expression_trust` measures it on held-out sections.

    Examples
    --------
    >>> import pandas as pd
    >>> import spade as sp
    >>> samples = sp.datasets.toy(3, 60)
    >>> sp.pp.patches(samples)
    >>> sp.pp.encode_patches(samples)
    >>> genes = sp.pp.select_genes(samples[:2], n_top_genes=20)
    >>> sp.tl.predict_expression(samples[2], reference=samples[:2], method="ridge", use_rep="X_texture", genes=genes)
    >>> table = samples[2]["table"]
    >>> found = pd.DataFrame(table.obsm["X_predicted"], table.obs_names, table.uns["predicted_genes"])
    >>> found.shape == (60, len(genes))
    True
    """
    _keys.check_key(key_added)
    if method not in (*METHODS, HEAD):
        raise ValueError(f"method={method!r}: expected one of {', '.join(map(repr, (*METHODS, HEAD)))}.")
    if method == HEAD:
        if reference is not None:
            raise ValueError('reference=: method="head" predicts from the image alone; leave reference= out.')
        predict_by_head(samples, model, genes, use_rep, key_added, table_key)  # type: ignore[arg-type]
        return
    if reference is None:
        raise ValueError(
            f'reference=None: method={method!r} predicts from samples with expression; only "head" goes without.'
        )
    settings = PredictionSettings.of(
        method=method, model=model, use_rep=use_rep, k=k, temperature=temperature, mix=mix, alpha=alpha, scaling=scaling,
        layer=layer, normalized=normalized, patches_key=patches_key,
    )  # fmt: skip
    written = {_keys.predicted(key_added), _keys.predicted_deviation(key_added)}
    if clash := written & set(settings.keys):
        raise ValueError(f"key_added={key_added!r}: would replace obsm[{clash.pop()!r}], which is predicted from.")
    reference, listed = as_list(reference), as_list(samples)  # held, so that no two objects ever have one id
    known = read_reference(reference, settings, genes, table_key)
    fitted: dict[tuple[str, ...], Predictor] = {}
    for sample in iter_samples(listed, table_key=table_key):  # nothing is written unless all can be predicted
        for key in settings.keys:
            read_features(sample, key)
    done = tqdm(iter_samples(listed, table_key=table_key), total=len(listed), desc="predicting", unit="sample")
    for sample in done:
        found = _predict_sample(sample, known, settings, fitted)
        _write(sample, known, found, settings, key_added)


def _predict_sample(
    sample: Sample, known: Reference, settings: PredictionSettings, fitted: dict[tuple[str, ...], Predictor]
) -> tuple[np.ndarray, np.ndarray, float]:
    """Predict section by section, each from the rows that are not its own."""
    image, rows = settings.read_image(sample)
    mean = np.full((sample.table.n_obs, len(known.genes)), np.nan, dtype=np.float32)
    deviation = np.full_like(mean, np.nan)
    alpha = np.nan
    for section in sample.sections:
        origin = sample.origin(section)
        own = (origin,) if (known.origin == origin).any() else ()
        if own not in fitted:
            others = np.flatnonzero(known.origin != origin)
            if not len(others):
                raise ValueError(
                    f"reference: holds no section but {section.name} itself, which would be predicted from its own expression. Add "
                    "others; to part a section, give its parts as objects of their own."
                )
            fitted[own] = Predictor(settings, known, others)
            residual = fitted[own].residual
            if residual is not None and np.isnan(residual).any():
                warn(
                    f"reference: nothing can be held out of one section without patches, so {_keys.predicted_deviation('…')} is NaN."
                )
        here = np.isin(rows, section.rows)
        if here.any():
            mean[rows[here]], deviation[rows[here]] = fitted[own].predict(image[here])
        alpha = fitted[own].alpha
    if not len(rows):
        warn(f"{sample.name}: no spot has image features; all predictions are NaN.")
    return mean, deviation, alpha


def _write(
    sample: Sample,
    known: Reference,
    found: tuple[np.ndarray, np.ndarray, float],
    settings: PredictionSettings,
    key_added: str,
) -> None:
    mean, deviation, alpha = found
    key = _keys.predicted(key_added)
    sample.table.obsm[key] = mean
    sample.table.obsm[_keys.predicted_deviation(key_added)] = deviation
    sample.table.uns[_keys.predicted_genes(key_added)] = np.array(known.genes)
    neighbours = settings.method == "neighbours" and settings.model is not None
    _keys.write_provenance(
        sample.table.uns,
        key,
        function="tl.predict_expression",
        fold_case=known.fold_case or None,
        method=settings.method,
        use_rep=settings.use_rep
        if settings.use_rep is None or isinstance(settings.use_rep, str)
        else " + ".join(settings.use_rep),
        model_id=settings.model.id if neighbours and settings.model is not None else None,
        k=settings.k if neighbours else None,
        temperature=settings.temperature if neighbours else None,
        mix=settings.mix if neighbours else None,
        alpha=None if neighbours else alpha,
        scaling=None if neighbours else settings.scaling,
        n_reference=known.y.shape[0],
        reference=", ".join(dict.fromkeys(known.section.tolist())),
    )
    sample.save()
    logger.info("%s: wrote obsm[%r], %d × %d", sample.name, key, *mean.shape)
