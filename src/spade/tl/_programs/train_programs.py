"""Train clusters and programs of expression that can be told from the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from threadpoolctl import threadpool_limits

from spade._checks import check_idle, plural
from spade._said.lines import speaks, told
from spade._samples.features import named_representations
from spade._samples.open import Samples, as_list
from spade.core.checks import brief, check_flag, check_text
from spade.core.rng import as_seed
from spade.core.roles import TRAIN, VAL
from spade.encoders._spec import licence_of
from spade.models import GenePanel, ProgramConfig, ProgramModel
from spade.tl._programs.clusterings import cluster_means, find_clusterings
from spade.tl._programs.factors import centred_expression, find_programs, variable_columns
from spade.tl._programs.fit import fit_clusters, fit_programs
from spade.tl._programs.read import read_rows, training_panel
from spade.tl._programs.report import report
from spade.tl._programs.rows import EXPRESSION, ProgramRows


@speaks
def train_programs(
    samples: Samples,
    *,
    use_rep: str | tuple[str, ...],
    genes: GenePanel | Sequence[str] | None = None,
    layer: str | None = ProgramConfig.layer,
    targets: str = ProgramConfig.targets,
    n_programs: int = ProgramConfig.n_programs,
    n_clusters: Sequence[int] = ProgramConfig.n_clusters,
    split_key: str | None = ProgramConfig.split_key,
    shuffle_pairs: bool = ProgramConfig.shuffle_pairs,
    table_key: str | None = None,
    rng: int | np.random.Generator = 0,
) -> ProgramModel:
    r"""Distil expression into image features, as soft clusters and programs.

    Expression is log-normalised (10,000 counts per spot over all genes), but not smoothed. Its first ten principal
    components, after centring within sections, are clustered by k-means, three times for every number of clusters; and
    non-negative matrix factorisation of it gives programs. A multinomial logistic regression per clustering, all with
    one penalty, and a ridge regression of the programs predict them from features that are scaled to mean 0 and
    deviation 1 within sections. Their outputs, :func:`embed` writes them, are a representation of the image that knows
    what varies in expression. The samples are only read, never written.

    Every clustering minimises :math:`C \sum_i -\log p_{y_i}(x_i) + \|W\|^2 / 2`, :math:`p = \mathrm{softmax}(W x + b)`,
    with C from 0.003 to 100 times 1 / mean ‖x‖², and the ridge regression has a penalty from 1 to 10⁶. Both penalties
    are those that predict held-out training rows best: each section in turn, or halves of a single section with a guard
    band of two pitches between them, which needs :func:`spade.pp.patches`. With validation rows, these choose.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or a list or dict of these, with image features and targets.
    use_rep
        ``obsm`` key of the image features, or a tuple of keys whose features are concatenated, such as
        ``("X_texture", "X_texture_context")``.
    genes
        Genes that every sample has. None: of the genes that all samples have and that occur in a tenth of the training
        spots, the 1,000 that vary most within sections.
    layer
        Layer with raw counts; None: ``X``.
    targets
        ``"expression"``. ``"image"``: clusters of the image features, a control that needs no expression: what it gains
        is not due to expression. Any other name is an ``obs`` column, such as labels of a pathologist, whose classes
        are the only clustering. Without ``"expression"`` there are no programs and no genes.
    n_programs
        Number of programs; 0 turns them off.
    n_clusters
        Numbers of clusters.
    split_key
        ``obs`` column with ``"train"``, ``"val"``, ``"test"``. ``train`` spots are trained on, ``val`` spots choose the
        penalties, all others are never read. None: every spot is trained on.
    shuffle_pairs
        Whether every spot gets the expression of another spot of its section and part of the split, as in
        :func:`train_spade`: a control that a real model must beat.
    table_key
        Table; may be left out when there is one.
    rng
        Seed of clusterings, programs and shuffling.

    Returns
    -------
    ProgramModel
        The model. ``model.history`` has a row per cluster and program: its ``column`` in the representation, the
        ``n_clusters`` of its clustering, its ``name`` (the genes that correlate most with it), ``held_out`` (mean over
        held-out parts of the AUROC of a cluster, or of the correlation of a program with its prediction), whether it is
        ``predictable`` (above 0.65 or 0.25, and three standard errors above chance), ``n_spots`` and ``genes``.

    Raises
    ------
    KeyError
        Features, a layer or a column that do not exist.
    ValueError
        Genes that a sample lacks, features of another width or encoder, counts that are not raw, more clusters than
        spots, or settings that have no effect.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(2, 60)
    >>> sp.pp.patches(samples)
    >>> sp.pp.encode_patches(samples)
    >>> model = sp.tl.train_programs(samples, use_rep="X_texture", n_clusters=(4, 6), n_programs=3)
    >>> sp.tl.embed(samples, model)
    >>> samples[0]["table"].obsm["X_programs"].shape
    (60, 33)
    """
    config = _config(
        use_rep,
        layer=layer,
        targets=check_text("targets", targets),
        n_programs=n_programs,
        n_clusters=n_clusters,
        split_key=split_key,
        shuffle_pairs=check_flag("shuffle_pairs", shuffle_pairs),
        seed=as_seed(rng),
    )
    listed, panel = as_list(samples), None
    if config.targets == EXPRESSION:
        panel = training_panel(listed, genes, table_key)
    else:
        check_idle(
            [("genes", genes, None), ("layer", layer, None), ("shuffle_pairs", shuffle_pairs, False)],
            f"targets={config.targets!r} reads no expression",
        )
        config = replace(config, n_programs=0)
    rows, config = read_rows(listed, config, panel, table_key)
    if panel is not None and genes is None:
        columns = variable_columns(rows)
        rows = replace(rows, expression=rows.expression[:, columns])
        panel = replace(panel, names=tuple(panel.names[i] for i in columns))
    with threadpool_limits(1):  # so that the result does not depend on the number of threads
        model = _fit(rows, config, panel)
    good = model.history[model.history["predictable"]].sort_values("held_out", ascending=False)
    best = "; ".join(good["name"].unique()[:3]) or "none"
    n_spots, n_all = int((rows.role == TRAIN).sum()), len(model.history)
    found = f"{len(good)} of {plural(n_all, 'program')} can be predicted, such as {best}"
    told(f"trained on {plural(n_spots, 'spot')}; {found}")
    return model


def _config(use_rep: object, **settings: object) -> ProgramConfig:
    """Return the settings, checked."""
    if not isinstance(use_rep, (str, tuple)):
        raise ValueError(f"use_rep={brief(use_rep)}: expected an obsm key or a tuple of keys.")
    (keys,) = named_representations(use_rep).values()
    if odd := [key for key in keys if " + " in key or keys.count(key) > 1]:
        raise ValueError(f"use_rep={brief(use_rep)}: {odd[0]!r} occurs twice, or has ' + ' in its name.")
    return ProgramConfig(use_rep=" + ".join(keys), **settings)  # type: ignore[arg-type]


def _fit(rows: ProgramRows, config: ProgramConfig, panel: GenePanel | None) -> ProgramModel:
    """Find what shall be predicted, fit it, and measure how well."""
    folds = rows.folds(config.seed)
    centred, mean = centred_expression(rows)
    found = find_clusterings(rows, config, centred)
    loadings, activity = find_programs(rows, config)
    clusters, programs = fit_clusters(rows, found, folds), fit_programs(rows, activity, folds)
    arrays = {
        "weights": np.concatenate([clusters.weights, programs.weights], axis=1),
        "bias": np.concatenate([clusters.bias, programs.bias]),
    }
    if panel is not None:
        arrays |= {"loadings": loadings, "cluster_means": cluster_means(rows, found, centred), "expression_mean": mean}
    return ProgramModel(
        {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in arrays.items()},
        found.sizes,
        config=replace(config, strength=clusters.penalty, alpha=programs.penalty),
        genes=panel,
        history=report(
            rows, found, activity, (clusters.scores, programs.scores), centred, () if panel is None else panel.names
        ),
        facts={
            "samples": ", ".join(rows.samples),
            "licence_of_the_encoder": licence_of(config.encoder),
            "training_spots": int((rows.role == TRAIN).sum()),
            "validation_spots": int((rows.role == VAL).sum()),
        },
    )
