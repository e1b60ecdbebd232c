"""Train the mixture of data experts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from os import PathLike

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from spade._samples.model_features import check_spade
from spade._samples.open import Samples, as_list
from spade.core.arrays import Floats, scale_of
from spade.core.device import check_devices, resolve_device
from spade.core.distributed.dealing import deal
from spade.core.distributed.ranks import ranks
from spade.core.errors import warn
from spade.core.experts.routing import Routing, feature_scale
from spade.core.experts.train import fold_scaling, train_experts
from spade.core.expression.normalise import group_sums
from spade.core.files import digest
from spade.core.rng import as_seed
from spade.core.roles import TRAIN, VAL
from spade.encoders._spec import licence_of
from spade.models import GenePanel, SpadeConfig, SpadeModel
from spade.tl._training.checkpoints import open_checkpoints, training_identity
from spade.tl._training.data import TrainingData, load_training, resolve_panel
from spade.tl._training.expert_of_spot import cluster_training
from spade.tl._training.history import history_of, kept_losses
from spade.tl._training.initial_experts import check_init, on_scaled_features, warm_start_experts

logger = logging.getLogger("spade")


def train_spade(
    samples: Samples,
    *,
    use_rep: str,
    layer: str | None = SpadeConfig.layer,
    normalized: bool = SpadeConfig.normalized,
    genes: GenePanel | Sequence[str] | None = None,
    routing: Routing | None = None,
    init: SpadeModel | None = None,
    groupby: str | None = SpadeConfig.groupby,
    n_prototypes: int = SpadeConfig.n_prototypes,
    n_experts: int = SpadeConfig.n_experts,
    feature_scaling: str = SpadeConfig.feature_scaling,
    cluster_space: str = SpadeConfig.cluster_space,
    loss: str = SpadeConfig.loss,
    temperature: float = SpadeConfig.temperature,
    learn_temperature: bool = SpadeConfig.learn_temperature,
    routing_temperature: float = SpadeConfig.routing_temperature,
    n_epochs: int = SpadeConfig.n_epochs,
    batch_size: int = SpadeConfig.batch_size,
    lr: float = SpadeConfig.lr,
    weight_decay: float = SpadeConfig.weight_decay,
    dim: int = SpadeConfig.dim,
    dropout: float = SpadeConfig.dropout,
    warm_start: int = SpadeConfig.warm_start,
    out_of_cluster: float = SpadeConfig.out_of_cluster,
    shuffle_pairs: bool = SpadeConfig.shuffle_pairs,
    split_key: str | None = SpadeConfig.split_key,
    device: str = "auto",
    devices: int = 1,
    precision: str | None = None,
    checkpoint_dir: str | PathLike[str] | None = None,
    table_key: str | None = None,
    rng: int | np.random.Generator = 0,
) -> SpadeModel:
    r"""Train one contrastive expert per cluster of image features (SPADE, arXiv 2506.21857).

    Every expert has two heads, for image features x and log-normalised expression g of its own spots:
    :math:`h = W_1 x + b_1`, :math:`y = \mathrm{LayerNorm}(\mathrm{Dropout}(W_2\,\mathrm{GELU}(h) + b_2) + h)`, trained with
    AdamW and a cosine schedule. The samples are only read, never written.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or an iterable of these, with expression and image features.
    use_rep
        ``obsm`` key of the image features.
    layer
        Layer with raw counts; None: ``X``. They are scaled to 10,000 per spot over all genes, then ``log1p``.
    normalized
        Take the values as they are.
    genes
        Gene panel or list of names; None: what :func:`spade.pp.select_genes` marked.
    routing
        Prototypes and experts from :func:`cluster_experts`; None: cluster the training spots here, with the settings
        ``groupby`` to ``feature_scaling`` below, which a given routing overrides.
    init
        Model whose experts training begins with, in place of random ones: one of your own, to go on with more data or for more
        epochs, or published weights. Its routing and gene panel are used unless ``routing`` and ``genes`` are given; the genes
        must be those of its input, in order. Made for sections with few spots, of tissue that the model has seen much of. The
        model itself is not changed.
    groupby, n_prototypes, n_experts, routing_temperature
        As in :func:`cluster_experts`.
    feature_scaling
        As in :func:`cluster_experts`. With ``"standard"`` the image heads also train on standardised features; this is
        folded into their first layer, so that a trained model reads features as they are.
    cluster_space
        What is clustered: ``"image"`` features; ``"expression"``, its first 50 principal components; ``"joint"``, both, with the
        same total variance. Other than ``"image"``, a prototype is the mean image of its cluster, so that any image can be routed, but
        the images of a cluster need not lie close together.
    loss
        ``"soft_clip"``, the paper's loss with soft targets, or ``"clip"``, InfoNCE on L2-normalised embeddings.
    temperature
        τ of the loss.
    learn_temperature
        Train τ (only ``"clip"``).
    n_epochs, batch_size
        Passes of each expert over its spots, and spots per step; every spot of a batch is compared with every other.
    lr, weight_decay
        Of AdamW; the learning rate falls to 0 along a cosine.
    dim
        Width of the joint space; with ``init`` it is that of the model.
    dropout
        Share of the correction W₂ that is dropped at random in training.
    warm_start
        Epochs that one model is trained on all spots before every expert goes on from it on its own; 0: none. The experts then begin
        in one joint space.
    out_of_cluster
        Share of the spots of an expert's epoch that are drawn at random from other clusters.
    shuffle_pairs
        Give every spot the expression of another one of its section and part of the split. The model then knows what image and
        expression have in common in the section as a whole, and nothing of the spots: the control that a real one must beat.
    split_key
        ``obs`` column with ``"train"``, ``"val"``, ``"test"``: ``train`` trains, ``val`` selects the epoch,
        anything else is never read. None: every spot trains and the last epoch is kept.
    device
        ``"auto"``, ``"cpu"`` or ``"cuda"``. On a GPU all experts are trained at once, on a CPU one per thread.
    devices
        GPUs of this machine (or processes on its CPU) that whole experts are dealt to, the largest first; they write the data to
        the temporary folder of the machine and share it from there. For several machines start the script by ``torchrun`` and leave
        this 1: every process trains its part and returns the whole model. The result is the same for any number.
    precision
        ``"fp32"`` (None) or ``"bf16"``, in which the products of the first layers, nearly all of the work, are done. Faster on GPUs
        and on processors with bf16 units; slower on others.
    checkpoint_dir
        Folder for the state of every expert, saved every minute and at its end. The same call on the same data goes on from
        there, after a kill or Ctrl-C too, and ends in the same model (on a CPU, bit for bit); once finished, it returns its model.
        A folder of another training is an error.
    table_key
        Table; may be left out when there is one.
    rng
        Seed of clustering, initialisation, shuffling and dropout; each expert has its own streams.

    Returns
    -------
    SpadeModel
        The model; ``model.history`` holds the losses per expert and epoch.

    Raises
    ------
    ValueError
        Panel genes that a sample lacks, features of other width or encoder, counts that are not raw, unknown
        settings, nothing to train on.
    FloatingPointError
        The loss became NaN or infinite.
    RuntimeError
        One of several processes ended early; what is in ``checkpoint_dir`` is kept.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(2, 60)
    >>> sp.pp.patches(samples)
    >>> sp.pp.encode_patches(samples)
    >>> panel = sp.pp.select_genes(samples)
    >>> model = sp.tl.train_spade(
    ...     samples, use_rep="X_texture", genes=panel, n_prototypes=4, n_experts=2, n_epochs=3
    ... )
    >>> model.history.columns.tolist()
    ['expert', 'epoch', 'n_spots', 'train_loss', 'val_loss']
    """
    config = SpadeConfig(
        loss=loss,
        temperature=temperature,
        learn_temperature=learn_temperature,
        n_epochs=n_epochs,
        batch_size=batch_size,
        lr=lr,
        weight_decay=weight_decay,
        dim=dim,
        dropout=dropout,
        precision=precision or SpadeConfig.precision,
        use_rep=use_rep,
        layer=layer,
        normalized=normalized,
        groupby=groupby,
        n_prototypes=n_prototypes,
        n_experts=n_experts,
        feature_scaling=feature_scaling,
        cluster_space=cluster_space,
        routing_temperature=routing_temperature,
        warm_start=warm_start,
        out_of_cluster=out_of_cluster,
        shuffle_pairs=shuffle_pairs,
        split_key=split_key,
        seed=as_seed(rng),
    )
    if init is not None:
        check_spade(init, "init")
        routing = init.routing if routing is None else routing
        genes = init.genes if genes is None else genes
        config = replace(config, init=init.id, dim=init.dim)
    if routing is not None:
        config = replace(
            config, **routing.settings, n_experts=routing.n_experts, routing_temperature=routing.temperature
        )
    listed = as_list(samples)
    panel = resolve_panel(listed, genes, table_key)
    if init is not None:
        check_init(init, panel, routing, config)
    with ranks() as group:
        where = resolve_device(device, None if group is None else group.local)
        check_devices(devices, where, alone=group is None)
        data, config = load_training(listed, config, panel, table_key)
        settings = training_identity(data, config, where) if checkpoint_dir is not None or group is not None else {}
        if group is not None:
            group.alike(settings | {"checkpoint_dir": checkpoint_dir is not None})
        train = data.role == TRAIN
        if routing is not None:
            _check_width(routing, data, use_rep)
            expert_of = routing.assignment[routing.assign(data.features)]
        elif group is None:
            routing, expert_of = cluster_training(data, config, where)
        else:
            routing, expert_of = group.first(lambda: cluster_training(data, config, where))
        if group is not None:
            group.alike({"routing": digest(routing.centroids, routing.assignment), "split": digest(data.role)})
        sizes = np.bincount(expert_of[train], minlength=routing.n_experts)
        _warn_of_gaps(sizes, np.bincount(expert_of[data.role == VAL], minlength=routing.n_experts), split_key)
        routing = replace(routing, active=sizes > 0, settings=config.of_routing())
        mean, deviation = feature_scale(data.trained_on(), config.feature_scaling)
        if config.feature_scaling == "standard":
            deviation = deviation / np.sqrt(len(deviation))
        checkpoints = open_checkpoints(checkpoint_dir, settings | {"rows": digest(expert_of, data.role)}, group)
        start = None if init is None else on_scaled_features(init, mean, deviation)
        if config.warm_start:
            start = warm_start_experts(data, config, routing.n_experts, mean, deviation, where, checkpoints, group)
        mine = list(range(routing.n_experts)) if group is None else deal(sizes, group.world)[group.rank]
        with tqdm(
            total=config.n_epochs * int((sizes[mine] > 0).sum()),
            initial=0 if checkpoints is None else checkpoints.epochs(mine),
            desc="training experts",
            unit="epoch",
            **({"disable": True} if group is not None and group.rank else {}),
        ) as bar:

            def progress(expert: int, epoch: int, train_loss: float, val_loss: float) -> None:
                bar.set_postfix_str(f"expert {expert}, loss {train_loss:.3f}", refresh=False)
                bar.update()

            experts, trained = train_experts(
                data.features,
                data.expression,
                expert_of,
                data.role,
                routing.n_experts,
                config,
                mean=mean,
                deviation=deviation,
                init=start,
                seed=config.seed,
                device=where,
                devices=devices,
                ranks=group,
                checkpoints=checkpoints,
                progress=progress,
            )
    fold_scaling(experts, mean, deviation)
    expression_mean, expression_routing = _expression_routing(data, expert_of, sizes, config)
    model = SpadeModel(
        experts,
        routing,
        config=config,
        genes=panel,
        expression_routing=expression_routing,
        expression_mean=expression_mean,
        history=history_of(trained, sizes),
        facts={
            "samples": ", ".join(data.samples),
            "licence_of_the_encoder": licence_of(config.encoder),
            "training_spots": int(train.sum()),
            "validation_spots": int((data.role == VAL).sum()),
            "spots_per_expert": ", ".join(map(str, sizes)),
            "best_epochs": ", ".join(str(one.best_epoch) for one in trained),
            "loss_of_the_best_epochs": kept_losses(trained),
        },
    )
    logger.info("trained %r on %d spots of %d samples", model, int(train.sum()), len(data.samples))
    return model


def _check_width(routing: Routing, data: TrainingData, use_rep: str) -> None:
    if routing.n_features != data.features.shape[1]:
        raise ValueError(
            f"routing was made on features of width {routing.n_features}, but obsm[{use_rep!r}] has width "
            f"{data.features.shape[1]}. Cluster these features with sp.tl.cluster_experts."
        )


def _warn_of_gaps(sizes: NDArray[np.int64], validation: NDArray[np.int64], split_key: str | None) -> None:
    empty = np.flatnonzero(sizes == 0)
    if len(empty):
        warn(f"experts {empty.tolist()} have no training spots: they stay untrained and routing passes them over.")
    blind = np.flatnonzero((validation == 0) & (sizes > 0))
    if split_key is not None and validation.any() and len(blind):
        warn(f"experts {blind.tolist()} have no validation spots: their last epoch is kept.")


def _expression_routing(
    data: TrainingData, expert_of: NDArray[np.integer], sizes: NDArray[np.int64], config: SpadeConfig
) -> tuple[Floats, Routing]:
    """Mean training expression, and a routing with each expert's mean as its prototype."""
    sums, squares = group_sums(data.expression, np.flatnonzero(data.role == TRAIN), expert_of, len(sizes))
    mean = sums.sum(0) / sizes.sum()
    if config.feature_scaling == "standard":
        variance = squares.sum(0) / sizes.sum() - mean**2
        centre, scale = mean, scale_of(mean, variance) * np.sqrt(len(mean))
    else:
        centre, scale = np.zeros_like(mean), np.ones_like(mean)
    means = np.where(sizes[:, None] > 0, sums / np.maximum(sizes, 1)[:, None], mean)
    centroids = (means - centre) / scale
    routing = Routing(centroids, np.arange(len(sizes)), centre, scale, config.routing_temperature, active=sizes > 0)
    return mean, routing
