"""The ablation of the loss terms: all variants are trained and measured on the same splits."""

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
from spade._checks import check_counts
from spade._said.lines import speaks
from spade._samples.open import Samples, as_list
from spade.core.checks import brief, check_count, check_flag, check_text
from spade.core.device import resolve_device
from spade.core.errors import NonFiniteLossError, warn
from spade.core.rng import as_seed
from spade.models import GenePanel
from spade.tl._switchboard.folds import Fold, deal_folds
from spade.tl._switchboard.score import Row, score
from spade.tl._switchboard.shared_spots import SharedSpots, read_shared_spots
from spade.tl._switchboard.variants import (
    PixelSource,
    Variant,
    VariantOutputs,
    resolve_variants,
    run_variant,
    train_variant,
)
from spade.tl._training.panel import resolve_panel

logger = logging.getLogger("spade")


@speaks
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
    """Ablate the loss terms: train a projection, experts and SEAL with each loss on and off, beside frozen features.

    Everything is learned from the groups that are not held out: models, scaling, the penalty of the ridge regression.
    All variants have the same spots, folds, seeds and draws of labels. The samples are only read, never written.

    In every fold one of the training sections, that of median size, is kept from all trainings and chooses the penalty
    of the ridge regression, which is then fitted to all training sections. Chosen on spots that a model was trained on,
    the penalty would be too small for this model, and right for the frozen features. Where a fold has a single training
    section, a third of it, at one end, chooses the penalty; between this end and the rest lies a guard band.

    The variants:

    - ``"frozen"``: the features as they are; always included;
    - ``"projection"``: a linear layer on the features, with the contrastive loss alone;
    - ``"spade"``: experts on the features, :func:`train_spade`;
    - ``"seal"``: :func:`train_seal` with its three losses;
    - ``"seal_no_contrastive"``, ``"seal_no_gene_reconstruction"``, ``"seal_no_image_to_gene"``: one of
      the losses is switched off;
    - ``"contrastive_only"``: both others are switched off;
    - ``"seal_shuffled"``: trained on pairs that are shuffled within sections. Its gain over the frozen features does
      not come from knowing the pairs.

    On every held-out section three tasks are measured, with a ``"probe"`` that is the same for all variants:

    - expression: Pearson correlation within the section, mean over genes, of a ridge regression from the image
      representation, as in the sound protocol of :func:`expression_benchmark`;
    - retrieval among the spots of the section: the same prediction is compared with measured expression by their
      correlation over genes, each gene standardised by the training spots. This needs no joint space, so variants
      without one are measured like all others;
    - few-shot classes: logistic regression on labelled spots of the training groups, with the scaling and penalty of
      :func:`few_shot`.

    Where the ``"model"`` was trained for a task, its own output is measured too: expression by the image-to-gene head,
    retrieval by cosines in the joint space of models with a contrastive loss (for experts, their concatenated
    embeddings, each modality routed by itself).

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or a list or dict of these, with expression and features or patches.
    use_rep
        ``obsm`` key of frozen features, which all variants read.
    encoder
        In place of ``use_rep``: an encoder, as in :func:`train_seal`. SEAL then fine-tunes it on pixels; the frozen
        control, the projection and the experts read its frozen features of the same patches, which are computed here
        and kept in memory.
    weights
        Weights of ``encoder``, as in :func:`train_seal`.
    genes
        Gene panel or list of names; None: what :func:`spade.pp.select_genes` marked.
    layer
        Layer with the expression that models are trained on, as in :func:`train_spade`.
    normalized
        Whether these values are normalised already, as in :func:`train_spade`.
    measured_layer
        Layer that everything is measured on, and that the probe learns; None: ``layer``. Train on ``layer="smoothed"``
        and measure on ``measured_layer="X"``, which is ``X`` itself: smoothed counts are easier to predict, since
        neighbours share them.
    groupby
        ``obs`` column, one value per section, whose groups are held out whole; None: the section.
    n_folds
        Parts that the groups are dealt into; None: each group by itself.
    variants
        Names, as above; None: all. Or a dict of names and settings: those of a variant above are changed, ``"spade"``
        by settings of :func:`train_spade`; any other name defines a variant with settings of :func:`train_seal`. With
        ``encoder``, ``on_features=True`` among them puts a head on the frozen features.
    control
        Train ``"seal_shuffled"`` as well.
    spade_settings
        Settings of all trainings of :func:`train_spade`, such as ``{"n_epochs": 50}``.
    seal_settings
        Settings of all trainings of :func:`train_seal`. With ``encoder``, settings that only a tuned encoder or only a
        head on features has go to these variants alone.
    n_seeds
        Trainings of every variant, with seeds from ``rng`` on; the frozen control does not depend on the seed and is
        measured once.
    k
        Rank of recall@k.
    label_key
        ``obs`` column of classes for the few-shot task; None: no such task.
    shots
        Labelled spots per class.
    n_repeats
        Draws of the labelled spots, over which results are averaged.
    patches_key
        What :func:`spade.pp.patches` wrote. It is read with ``encoder``, and to choose the penalty where a fold has a
        single training section.
    device
        ``"auto"``, ``"cpu"`` or ``"cuda"``.
    table_key
        Table; may be left out when there is one.
    rng
        Seed of folds, draws and the first training.

    Returns
    -------
    DataFrame
        One row per ``variant``, ``fold``, ``seed``, ``unit`` (held-out section), its ``group``, ``task``, ``metric``,
        ``by`` (``"probe"`` or ``"model"``), ``direction`` (of retrieval: ``"image_to_expression"`` or
        ``"expression_to_image"``, else ``""``) and ``shots`` (of few-shot, else 0): ``value`` beside ``chance``. Tasks
        and metrics: ``"expression"`` has ``"pearson"``; ``"retrieval"`` has ``"recall@10"`` and ``"median_rank"``, of
        which lower is better; ``"few_shot"`` has ``"balanced_accuracy"`` and ``"macro_auroc"``. NaN: no gene varies in
        the section, or AUROC with a single class. :func:`switchboard_summary` computes means, intervals and paired
        differences.

    Raises
    ------
    KeyError
        Missing features, patches, columns or genes.
    ValueError
        Fewer than two groups, a group that varies within a section, a sample without expression, unknown variants or
        settings, too few labelled spots.
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
    >>> options = {"variants": ["seal"], "control": False, "seal_settings": fast}
    >>> table = sp.tl.switchboard(samples, use_rep="X_texture", genes=genes, **options)
    >>> table.groupby("variant")["unit"].nunique().to_dict()
    {'frozen': 2, 'seal': 2}
    """
    for name, value in (("k", k), ("n_repeats", n_repeats), ("n_seeds", n_seeds)):
        check_count(name, value)
    if n_folds is not None:
        check_count("n_folds", n_folds, 2)
    for name, flag in (("normalized", normalized), ("control", control)):
        check_flag(name, flag)
    for name, column in (("use_rep", use_rep), ("label_key", label_key), ("groupby", groupby)):
        if column is not None:
            check_text(name, column)
    shots_drawn = check_counts("shots", shots)
    _check_features(use_rep, encoder, weights, n_seeds)
    compared = resolve_variants(
        variants,
        control=control,
        spade_settings=spade_settings,
        seal_settings=seal_settings,
        tunes_encoder=encoder is not None,
    )
    seed = as_seed(rng)
    resolve_device(device)
    if measured_layer is not None:
        check_text("measured_layer", measured_layer)
    items = as_list(samples)
    shared = read_shared_spots(
        items,
        resolve_panel(items, genes, table_key),
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
    folds = deal_folds(shared, groupby, n_folds, shots_drawn, n_repeats, seed)
    pixels = PixelSource(encoder, weights, patches_key)
    rows: list[Row] = []
    with tqdm(total=len(folds) * (1 + n_seeds * (len(compared) - 1)), desc="switchboard", unit="variant") as bar:
        for fold in folds:
            for variant in compared:
                for training_seed in range(seed, seed + (n_seeds if variant.train else 1)):
                    bar.set_postfix_str(f"{variant.name}, {fold.name} held out", refresh=False)
                    outputs = _train_and_run(variant, shared, fold, pixels, seed=training_seed, device=device)
                    facts: Row = {"variant": variant.name, "fold": fold.name, "seed": training_seed}
                    rows += [facts | row for row in score(outputs, shared, fold, k, shots_drawn, seed)]
                    bar.update()
    logger.info("measured %d variants on %d folds of %d spots", len(compared), len(folds), len(shared.x))
    return pd.DataFrame(rows)


def _train_and_run(
    variant: Variant, shared: SharedSpots, fold: Fold, pixels: PixelSource, *, seed: int, device: str
) -> VariantOutputs:
    """Train a variant and apply it to the shared spots; warnings of the training are given with its name."""
    if variant.train is None:
        return VariantOutputs(shared.x, from_encoder=True)
    title = f"{variant.name}, {fold.name} held out"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model = train_variant(variant, shared, fold, pixels, seed=seed, device=device)
        except NonFiniteLossError as error:
            raise NonFiniteLossError(f"{title}: {error}") from error
    messages = [str(one.message) for one in caught if issubclass(one.category, (UserWarning, RuntimeWarning))]
    for message in dict.fromkeys(messages):
        warn(f"{title}: {message}")
    return run_variant(model, shared, fold, pixels.patches_key)


def _check_features(
    use_rep: str | None, encoder: str | None, weights: str | PathLike[str] | None, n_seeds: int
) -> None:
    """Raise unless there are either frozen features or an encoder that can be tuned."""
    if (use_rep is None) == (encoder is None):
        raise ValueError(
            f"use_rep={brief(use_rep)}, encoder={brief(encoder)}: give one of them, the key of frozen features "
            "or an encoder to tune."
        )
    if weights is not None and encoder is None:
        raise ValueError(
            f"weights={brief(weights)}: use_rep= reads features that were already computed; leave weights= out."
        )
    if encoder == "texture":
        raise ValueError(
            'encoder="texture" is not a network, so it cannot be tuned. Name a timm model, or compare heads on its '
            'features with use_rep="X_texture".'
        )
    if weights == "random" and n_seeds > 1:
        raise ValueError(
            f'weights="random" is another encoder for every seed, so n_seeds={n_seeds} trainings have no common frozen '
            "control; save the "
            "weights to a file and pass its path."
        )
