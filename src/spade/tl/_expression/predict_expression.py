"""Expression predicted from the image."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from spade import _keys
from spade._checks import shorten
from spade._said.lines import size, speaks, wrote
from spade._samples.features import read_features
from spade._samples.given.features import DEVIATION
from spade._samples.given.output import FeatureOutput
from spade._samples.model_features import Model, read_model_features
from spade._samples.open import Item, Samples, as_list, iter_samples
from spade._samples.sample import Sample, Section
from spade.core.checks import check_choice
from spade.core.errors import warn
from spade.core.files import digest
from spade.io._feature_files import GENES
from spade.models import GenePanel, ProgramModel
from spade.tl._embedding.copies import section_marks
from spade.tl._expression.gene_head import listed_for, predict_by_head
from spade.tl._expression.predictor import Predictor, RidgePredictor, fit_predictor
from spade.tl._expression.reference import Reference, read_reference
from spade.tl._expression.settings import HEAD, METHODS, PredictionSettings


@speaks
def predict_expression(
    samples: Samples,
    model: Model | ProgramModel | None = None,
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
    out: str | PathLike[str] | None = None,
) -> None:
    r"""Predict the expression of spots from their image, with the help of sections in which both were measured.

    ``"neighbours"``: the image is compared with the expression of all reference spots in the joint space of a model,
    each modality routed by itself; the prediction is the mean of the ``k`` best spots, weighted by
    softmax(similarity / temperature). ``"ridge"``: linear regression from any representation. ``"head"``: the
    image-to-gene head of a :class:`spade.models.SealModel`, which needs no reference. A
    :class:`spade.models.ProgramModel` needs none either, and predicts in its own way whatever the method. Samples need
    no expression. A section never predicts itself: if it is in ``reference`` as well (as the same object or store; a
    copy is another section), its rows there are left out.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or a list or dict of these, with image features. Or feature files as
        TRIDENT and CLAM write them, by their folder, a pattern, a list or a sample sheet.
    model
        A trained model, for ``"neighbours"`` and ``"head"``, or a ``ProgramModel``.
    reference
        Samples with image features and expression; not for ``"head"``. A section is never predicted from itself, nor
        from a copy or a part of it, as :func:`retrieve` tells these.
    genes
        Names of genes to predict, which every sample of ``reference`` has; None: all genes that these have in common.
        For ``"head"`` some genes of the model's panel; None: all. Memory is that of two dense arrays of spots × genes.
    method
        ``"neighbours"``, ``"ridge"`` or ``"head"``.
    use_rep
        ``obsm`` key of the image features; None: those that the model was trained on. For ``"ridge"`` any
        representation, or a tuple of keys whose features are concatenated; it must be named.
    k
        Number of neighbours.
    temperature
        Temperature of the weights of the neighbours; similarities are at most 1.
    mix
        How experts are compared, as in :func:`retrieval_metrics`.
    alpha
        Penalty of ``"ridge"``, for features of deviation 1 and Σ‖y − xB‖² + α‖B‖²; ``"cv"``: the one of 13 values from
        1 to 10⁶ that explains most when each section of ``reference`` in turn is held out (of a single section, each
        half).
    scaling
        Scaling of the features for ``"ridge"``: by the mean and deviation of ``"reference"``, or of each ``"section"``
        by itself, which removes differences in stain but needs whole sections.
    layer
        Layer with the expression of ``reference``, as in :func:`train_spade`. None: that of the model's training, else
        ``X``.
    normalized
        Whether these values are normalised already. None: as in the model's training, else raw counts.
    patches_key
        What :func:`spade.pp.patches` wrote, read to cut a single reference section into halves.
    table_key
        Table; may be left out when there is one.
    key_added
        Stem of the keys written.
    out
        For feature files: folder in which every slide gets a file, as in :func:`embed`.

    Returns
    -------
    None
        Writes ``obsm["X_predicted"]``, log-normalised expression, and ``obsm["X_predicted_deviation"]``, both float32
        ``(n_obs, G)``, and the names of the genes in ``uns["predicted_genes"]``. The deviation is the weighted one
        among the neighbours; for ``"ridge"`` the root mean squared error of each gene on held-out parts of
        ``reference``, the same for all spots (NaN, with a warning, where nothing can be held out); ``"head"`` writes
        none. Rows without a valid patch are NaN. Of feature files, ``out`` gets one ``<slide>.h5`` each: ``features``
        and ``deviation``, float32 ``(n, G)``, the names of the ``genes``, and ``coords``.

    Raises
    ------
    KeyError
        Features, genes or a table that do not exist.
    ValueError
        A reference without spots that have both modalities, or with no section but the predicted one; features of
        another width or encoder.

    Notes
    -----
    :func:`expression_trust` measures on held-out sections which genes can be trusted.

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
    check_choice("method", method, (*METHODS, HEAD))
    if method == HEAD or isinstance(model, ProgramModel):
        if reference is not None:
            head = "a ProgramModel" if isinstance(model, ProgramModel) else 'method="head"'
            raise ValueError(f"reference=: {head} predicts from the image alone; leave reference= out.")
        predict_by_head(samples, model, genes, use_rep, key_added=key_added, table_key=table_key, out=out)
        return
    if reference is None:
        raise ValueError(
            f'reference=None: method={method!r} predicts from samples with expression; only "head" needs none.'
        )
    settings = PredictionSettings.of(
        method=method,
        model=model,
        use_rep=use_rep,
        k=k,
        temperature=temperature,
        mix=mix,
        alpha=alpha,
        scaling=scaling,
        layer=layer,
        normalized=normalized,
        patches_key=patches_key,
    )
    written = {_keys.predicted(key_added), _keys.predicted_deviation(key_added)}
    if replaced := sorted(written & set(settings.keys)):
        raise ValueError(f"key_added={key_added!r} would replace obsm[{replaced[0]!r}], which the prediction reads.")
    reference = as_list(reference, "reference")  # held, so that no two objects ever have one id
    listed, folder = listed_for(samples, out, key_added, table_key)
    known = read_reference(reference, settings, genes, table_key)
    _check_features(listed, known, settings, table_key)
    predictors = _Predictors(settings, known)
    if folder is not None:
        _write_files(listed, folder, predictors)
        return
    facts = _facts(known, settings)
    for sample in tqdm(
        iter_samples(listed, table_key=table_key, writes=True), total=len(listed), desc="predicting", unit="sample"
    ):
        mean, deviation, penalty = _predict_sample(sample, predictors)
        _write(sample, mean, deviation, known.panel.names, key_added, facts | {"alpha": penalty})


def _write_files(listed: Sequence[Item], folder: Path, predictors: _Predictors) -> None:
    """Write one file per slide, one slide in memory at a time."""
    known, settings = predictors.reference, predictors.settings
    genes, sections = np.array(known.panel.names), list(dict.fromkeys(known.section.tolist()))
    facts = _facts(known, settings) | {
        "alpha": settings.alpha if settings.searched_model is None else None,
        "reference": shorten(sections),
        "genes_id": digest("\n".join(genes)),
    }
    output = FeatureOutput(folder, facts)
    pending = output.pending(listed)
    for sample in tqdm(iter_samples(pending) if pending else (), total=len(pending), desc="predicting", unit="slide"):
        mean, deviation, _ = _predict_sample(sample, predictors)
        output.write(sample, mean, {GENES: genes, DEVIATION: deviation})


def _check_features(
    listed: Sequence[Item], known: Reference, settings: PredictionSettings, table_key: str | None
) -> None:
    """Raise unless all samples can be predicted, before any is written."""
    for sample in iter_samples(listed, table_key=table_key):
        if settings.searched_model is not None:
            read_model_features(sample, settings.keys[0], settings.searched_model)
            continue
        for key, own in zip(settings.keys, settings.keys_in(sample), strict=True):
            known.origins.check(sample, own, key)
        width = sum(read_features(sample, key).shape[1] for key in settings.keys_in(sample))
        if width != known.image.shape[1]:
            raise ValueError(
                f"{sample.name}: use_rep={settings.use_rep!r} has {width} features, but {known.image.shape[1]} in "
                "reference. Encode all of them alike."
            )


class _Predictors:
    """Predictors from all of a reference but one section, each fitted when it is first needed."""

    def __init__(self, settings: PredictionSettings, reference: Reference) -> None:
        self.settings, self.reference = settings, reference
        self._fitted: dict[str, Predictor] = {}

    def origin_of(self, sample: Sample, section: Section) -> str:
        """Return the origin of a section or, where the reference holds a copy or a part of it, that of the copy."""
        own = sample.origin(section)
        like = [marks for marks in self.reference.marks if marks.is_named(sample, section)]
        if not like or sample.file is not None or own in {marks.origin for marks in like}:
            return own
        (mine,) = section_marks(sample, self.settings.source, self.reference.panel, [section])
        return next((marks.origin for marks in like if mine.is_copy(marks)), own)

    def without(self, section: Section, origin: str) -> Predictor:
        """Return what predicts a section: a predictor from the rows of all others."""
        excluded = origin if (self.reference.origin == origin).any() else ""
        if excluded not in self._fitted:
            rows = np.flatnonzero(self.reference.origin != origin)
            if not len(rows):
                raise ValueError(
                    f"reference: holds no section but {section.name} itself, which would be predicted from its own "
                    "expression. Add other sections, or pass the parts of a section as objects of their own."
                )
            predictor = fit_predictor(self.settings, self.reference, rows)
            if isinstance(predictor, RidgePredictor) and np.isnan(predictor.residual).any():
                warn(
                    "reference: has one section without patches, of which nothing can be held out, so "
                    f"{_keys.predicted_deviation('…')} is NaN."
                )
            self._fitted[excluded] = predictor
        return self._fitted[excluded]


def _predict_sample(
    sample: Sample, predictors: _Predictors
) -> tuple[NDArray[np.float32], NDArray[np.float32], float | None]:
    """Predict section by section, each from the rows of other sections; return mean, deviation and penalty."""
    image, rows = predictors.settings.read_image(sample)
    mean = np.full((sample.table.n_obs, len(predictors.reference.panel)), np.nan, dtype=np.float32)
    deviation = np.full_like(mean, np.nan)
    alpha = None
    for section in sample.sections:
        predictor = predictors.without(section, predictors.origin_of(sample, section))
        in_section = np.isin(rows, section.rows)
        if in_section.any():
            mean[rows[in_section]], deviation[rows[in_section]] = predictor.predict(image[in_section])
        if isinstance(predictor, RidgePredictor):
            alpha = predictor.alpha
    if not len(rows):
        warn(f"{sample.name}: no spot has image features; all predictions are NaN.")
    return mean, deviation, alpha


def _facts(known: Reference, settings: PredictionSettings) -> dict[str, object]:
    """Return what the record of a prediction says of its settings and its reference."""
    facts: dict[str, object] = {
        "function": "tl.predict_expression",
        **known.panel.reading(),
        "method": settings.method,
        "use_rep": None if settings.use_rep is None else " + ".join(settings.keys),
        "n_reference": known.y.shape[0],
        "reference": ", ".join(dict.fromkeys(known.section.tolist())),
        "reference_id": known.id,
    }
    if settings.searched_model is None:
        return facts | {"scaling": settings.scaling}
    model_id = settings.searched_model.id
    return facts | {"model_id": model_id, "k": settings.k, "temperature": settings.temperature, "mix": settings.mix}


def _write(
    sample: Sample,
    mean: NDArray[np.float32],
    deviation: NDArray[np.float32],
    genes: Sequence[str],
    key_added: str,
    facts: dict[str, object],
) -> None:
    """Write prediction and deviation ``(n_obs, G)``, the names of the genes and the record."""
    key = _keys.predicted(key_added)
    sample.table.obsm[key] = mean
    sample.table.obsm[_keys.predicted_deviation(key_added)] = deviation
    sample.table.uns[_keys.predicted_genes(key_added)] = np.array(genes)
    _keys.write_provenance(sample.table.uns, key, genes_id=digest("\n".join(genes)), **facts)
    _keys.write_parts(sample.table.uns, key, _keys.predicted_deviation(key_added))
    sample.save()
    wrote(sample.name, f"obsm[{key!r}]", detail=size(mean))
