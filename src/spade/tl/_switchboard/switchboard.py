"""What each term of a training buys, on the same splits."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from spade import _keys, encoders
from spade._samples.open import Samples, as_list
from spade.core.checks import check_count
from spade.core.errors import NonFiniteLossError, warn
from spade.core.rng import as_seed
from spade.models import GenePanel
from spade.tl._switchboard.folds import deal_folds
from spade.tl._switchboard.score import score
from spade.tl._switchboard.shared_spots import Fold, SharedSpots, read_shared_spots
from spade.tl._switchboard.variants import Variant, VariantOutputs, resolve_variants, run_variant, train_variant
from spade.tl._training.panel import resolve_panel

logger = logging.getLogger("spade")


def switchboard(
    samples: Samples,
    *,
    use_rep: str | None = None,
    encoder: str | None = None,
    weights: str | PathLike[str] | None = None,
    genes: GenePanel | Sequence[str] | None = None,
    layer: str | None = None,
    measured_layer: str | None = None,
    normalized: bool = False,
    groupby: str | None = "patient",
    n_folds: int | None = None,
    variants: Sequence[str] | Mapping[str, Mapping[str, Any]] | None = None,
    control: bool = True,
    spade_settings: Mapping[str, Any] | None = None,
    seal_settings: Mapping[str, Any] | None = None,
    n_seeds: int = 1,
    k: int = 10,
    label_key: str | None = None,
    shots: int | Sequence[int] = (1, 4, 16),
    n_repeats: int = 10,
    patches_key: str = _keys.PATCHES,
    device: str = "auto",
    table_key: str | None = None,
    rng: int | np.random.Generator = 0,
) -> pd.DataFrame:
    """Train a projection, experts and SEAL with each of its losses on and off, and measure all beside the frozen features they begin from.

    Everything is learned on the groups that are not held out: models, scaling, the penalty of the ridge regression. All variants have
    the same spots, folds, seeds and draws of labels. The samples are only read, never written.

    The variants:

    - ``"frozen"``: the features as they are; always there;
    - ``"projection"``: a linear layer on the features, by the contrastive loss alone;
    - ``"spade"``: experts on the features, :func:`train_spade`;
    - ``"seal"``: :func:`train_seal` with its three losses;
    - ``"seal without contrastive"``, ``"seal without gene reconstruction"``, ``"seal without image-to-gene"``: one of them switched off;
    - ``"contrastive only"``: both others switched off;
    - ``"seal, shuffled pairs"``: trained on wrong pairs of the same sections. What it gains, it gains without knowing the pairs.

    On every held-out section is measured, by a ``"probe"`` that is the same for all variants:

    - expression: Pearson correlation within the section, mean over genes, of a ridge regression from the image representation, as in
      the sound protocol of :func:`expression_benchmark`;
    - retrieval among the spots of the section, by that same prediction: it is compared with measured expression by their correlation
      over genes, each gene standardised by the training spots. This needs no joint space, so that features without one, and variants
      without a contrastive loss, are measured like all others;
    - few-shot classes: logistic regression on labelled spots of the training groups, features scaled within each section.

    And by the ``"model"`` itself, where it was trained for it: expression by the image-to-gene head, retrieval by cosines in the joint space of
    models with a contrastive loss (of experts, side by side, each modality routed by itself).

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or an iterable of these, with expression and features or patches.
    use_rep
        ``obsm`` key of frozen features, which all variants read.
    encoder, weights
        In place of ``use_rep``: an encoder and its weights, as in :func:`train_seal`. SEAL then tunes it on pixels; the frozen control, the
        projection and the experts read its frozen features of the same patches, which are computed here and kept in memory.
    genes
        Gene panel or list of names; None: what :func:`spade.pp.select_genes` marked.
    layer, normalized
        Where the expression is that models are trained on, as in :func:`train_spade`.
    measured_layer
        Layer that everything is measured on, and that the probe learns; None: ``layer``. Train on ``layer="smoothed"`` and measure on
        ``measured_layer="X"``, which is ``X`` itself: smoothed counts are easier to predict, since neighbours share them.
    groupby
        ``obs`` column, one value per section, whose groups are held out whole; None: the section.
    n_folds
        Parts that the groups are dealt into; None: each group by itself.
    variants
        Names, as above; None: all. Or a dict of names and settings: those of a variant above are changed, ``"spade"`` by settings of
        :func:`train_spade`; any other name is a variant of its own with settings of :func:`train_seal`. With ``encoder``,
        ``on_features=True`` among them puts a head on the frozen features.
    control
        Train ``"seal, shuffled pairs"`` as well.
    spade_settings, seal_settings
        Settings of all trainings of :func:`train_spade`, and of :func:`train_seal`, such as ``{"n_epochs": 50}``. With ``encoder``, those that
        only a tuned encoder or only a head on features has are left to these.
    n_seeds
        Trainings of every variant, with seeds from ``rng`` on; the frozen control does not depend on it and is measured once.
    k
        Of recall@k.
    label_key
        ``obs`` column of classes for the few-shot task; None: no such task.
    shots, n_repeats
        Labelled spots per class, and draws, over which results are averaged.
    patches_key
        What :func:`spade.pp.patches` wrote, read with ``encoder``, and to choose the penalty where a single section is left to train on.
    device
        ``"auto"``, ``"cpu"`` or ``"cuda"``.
    table_key
        Table; may be left out when there is one.
    rng
        Seed of folds, draws and the first training.

    Returns
    -------
    DataFrame
        One row per ``variant``, ``fold``, ``seed``, ``unit`` (held-out section), its ``group``, ``task``, ``metric``, ``by`` (``"probe"`` or ``"model"``), ``direction`` (of
        retrieval, else ``""``) and ``shots`` (of few-shot, else 0): ``value`` beside ``chance``. Metrics: ``"pearson"``; ``"recall@10"`` and ``"median_rank"``, of
        which lower is better; ``"balanced_accuracy"`` and ``"macro_auroc"``. NaN: no gene varies in the section, or AUROC with a single class.
        :func:`switchboard_summary` makes means, intervals and paired differences of it.

    Raises
    ------
    KeyError
        Features, patches, columns or genes that are not there.
    ValueError
        Fewer than two groups, a group that varies within a section, a sample without expression, unknown variants or settings, too
        few labelled spots.
    FloatingPointError
        A loss became NaN or infinite; the message names variant and fold.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(2, 60)
    >>> sp.pp.patches(samples)
    >>> sp.pp.encode_patches(samples)
    >>> genes = sp.pp.select_genes(samples, n_top_genes=50)
    >>> fast = {"n_epochs": 2, "dim": 16}
    >>> table = sp.tl.switchboard(samples, use_rep="X_texture", genes=genes, variants=["seal"], control=False, seal_settings=fast)
    >>> table.groupby("variant")["unit"].nunique().to_dict()
    {'frozen': 2, 'seal': 2}
    """
    _check_features(use_rep, encoder, weights, n_seeds)
    for name, value in (("k", k), ("n_repeats", n_repeats), ("n_seeds", n_seeds)):
        check_count(name, value)
    if n_folds is not None:
        check_count("n_folds", n_folds, 2)
    many = [shots] if isinstance(shots, int) else list(shots)
    wanted = sorted({check_count("shots", one) for one in many})
    if not wanted:
        raise ValueError(f"shots={shots!r}: expected whole numbers of at least 1.")
    compared = resolve_variants(variants, control, spade_settings, seal_settings, encoder is not None)
    seed = as_seed(rng)
    listed = as_list(samples)
    panel = resolve_panel(listed, genes, table_key)
    shared = read_shared_spots(
        listed,
        panel,
        use_rep=use_rep,
        encoder=None if encoder is None else encoders.get(encoder, weights=weights, device=device, rng=seed),
        layer=layer,
        measured_layer=measured_layer,
        normalized=normalized,
        groupby=groupby,
        label_key=label_key,
        patches_key=patches_key,
        table_key=table_key,
    )
    folds = deal_folds(shared, groupby, n_folds, wanted, n_repeats, seed)
    found: list[dict[str, Any]] = []
    with tqdm(total=len(folds) * (1 + n_seeds * (len(compared) - 1)), desc="switchboard", unit="variant") as bar:
        for fold in folds:
            for variant in compared:
                for one in range(seed, seed + (n_seeds if variant.train else 1)):
                    bar.set_postfix_str(f"{variant.name}, {fold.name} held out", refresh=False)
                    outputs = _train_and_run(variant, shared, fold, one, encoder, weights, patches_key, device)
                    facts = {"variant": variant.name, "fold": fold.name, "seed": one}
                    found += [facts | row for row in score(outputs, shared, fold, k, wanted, seed)]
                    bar.update()
    logger.info("measured %d variants on %d folds of %d spots", len(compared), len(folds), len(shared.x))
    return pd.DataFrame(found)


def _train_and_run(
    variant: Variant,
    shared: SharedSpots,
    fold: Fold,
    seed: int,
    encoder: str | None,
    weights: str | PathLike[str] | None,
    patches_key: str,
    device: str,
) -> VariantOutputs:
    """Train a variant and look at the cohort through it; what the training warns of is told with its name."""
    if variant.train is None:
        return VariantOutputs(shared.x)
    where = f"{variant.name}, {fold.name} held out"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            model = train_variant(variant, shared, fold, seed, encoder, weights, patches_key, device)
        except NonFiniteLossError as error:
            raise NonFiniteLossError(f"{where}: {error}") from error
    texts = [str(one.message) for one in said if issubclass(one.category, (UserWarning, RuntimeWarning))]
    for text in dict.fromkeys(texts):
        warn(f"{where}: {text}")
    return run_variant(model, shared, fold, patches_key)


def _check_features(
    use_rep: str | None, encoder: str | None, weights: str | PathLike[str] | None, n_seeds: int
) -> None:
    if (use_rep is None) == (encoder is None):
        raise ValueError(
            f"use_rep={use_rep!r}, encoder={encoder!r}: give one of them, the key of frozen features or an encoder to tune."
        )
    if weights is not None and encoder is None:
        raise ValueError(f"weights={weights!r}: use_rep= reads features that are there; leave weights= out.")
    if encoder == "texture":
        raise ValueError(
            'encoder="texture" is no network, so it cannot be tuned. Name a timm model, or compare heads on its features with '
            'use_rep="X_texture".'
        )
    if weights == "random" and n_seeds > 1:
        raise ValueError(
            f'weights="random" is another encoder for every seed, so there is no one frozen control for n_seeds={n_seeds}; save the '
            "weights to a file and name that."
        )
