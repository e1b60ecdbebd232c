"""Train the mixture of data experts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from os import PathLike

import numpy as np

from spade._checks import plural
from spade._said.lines import speaks, told
from spade._samples.model_features import check_spade
from spade._samples.open import Samples
from spade.core.checks import brief
from spade.core.distributed.machine import Machine
from spade.core.distributed.ranks import torchrun_ranks
from spade.core.experts.routing import Routing
from spade.core.recipes import given_settings
from spade.core.rng import as_seed
from spade.encoders import Encoder
from spade.models import GenePanel, SpadeConfig, SpadeModel
from spade.tl._training.data import FeatureReader, read_training_data
from spade.tl._training.initial_experts import check_init
from spade.tl._training.panel import resolve_panel
from spade.tl._training.prepare import features_key, prepared
from spade.tl._training.spade_steps import (
    assemble_spade,
    assign_experts,
    fit_experts,
    set_by_spots,
    spade_identity,
)


@speaks
def train_spade(
    samples: Samples,
    *,
    use_rep: str | None = None,
    encoder: str | Encoder | None = None,
    layer: str | None = SpadeConfig.layer,
    normalized: bool = SpadeConfig.normalized,
    genes: GenePanel | Sequence[str] | None = None,
    routing: Routing | str | None = None,
    init: SpadeModel | None = None,
    groupby: str | None = SpadeConfig.groupby,
    n_prototypes: int | None = None,
    n_experts: int | None = None,
    feature_scaling: str = SpadeConfig.feature_scaling,
    cluster_space: str = SpadeConfig.cluster_space,
    loss: str = SpadeConfig.loss,
    temperature: float = SpadeConfig.temperature,
    learn_temperature: bool = SpadeConfig.learn_temperature,
    routing_temperature: float = SpadeConfig.routing_temperature,
    n_epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    weight_decay: float = SpadeConfig.weight_decay,
    dim: int = SpadeConfig.dim,
    dropout: float = SpadeConfig.dropout,
    warm_start: int | None = None,
    out_of_cluster: float = SpadeConfig.out_of_cluster,
    shuffle_pairs: bool = SpadeConfig.shuffle_pairs,
    split_key: str | None = SpadeConfig.split_key,
    preset: str | None = None,
    device: str = "auto",
    devices: int = 1,
    precision: str | None = None,
    checkpoint_dir: str | PathLike[str] | None = None,
    on_disk: bool = False,
    table_key: str | None = None,
    rng: int | np.random.Generator = 0,
) -> SpadeModel:
    r"""Train one contrastive expert per cluster of image features (SPADE, arXiv 2506.21857).

    Every expert has two heads, one for the image features x and one for the log-normalised expression g of its own
    spots: :math:`h = W_1 x + b_1`, :math:`y = \mathrm{LayerNorm}(\mathrm{Dropout}(W_2\,\mathrm{GELU}(h) + b_2) + h)`.
    They are trained with AdamW and a cosine schedule. Without ``encoder``, the samples are only read, never written.

    The number of training spots decides what is left None, and the log says how:

    ================  ==========================================================================================
    ``n_experts``     one per 1,000 spots, from 1 to 16
    ``n_prototypes``  16 per group, or as many as make two for every expert; at most half the spots of a group
    ``batch_size``    128, or the power of two at or below half the spots of an expert
    ``n_epochs``      100, or as many as 2,000 steps of an expert need
    ``lr``            1e-3 up to 1,000 spots, 1e-3 · √(1,000 / spots) up to 100,000, then 1e-4
    ``warm_start``    for several experts as many epochs as 1,000 steps need, at least 20 and at most n_epochs / 2;
                      0 for one expert, with ``init``, and from 100,000 spots on
    ================  ==========================================================================================

    Few spots do not carry many experts: with the recipe of the paper, which is for hundreds of thousands of spots, a
    model of one section stays at chance. ``model.config`` holds the values.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or a list or dict of these, with expression and image features.
    use_rep
        ``obsm`` key of the image features; with ``encoder`` None stands for ``"X_"`` and its name.
    encoder
        Trains from slides in one call, such as those of :func:`spade.io.hest_cohort`: a name or object as in
        :func:`spade.pp.encode_patches`. Where a sample lacks ``obsm[use_rep]``, it gets patches of 112 µm and their
        features; where one lacks a panel and ``genes`` is None, :func:`spade.pp.select_genes` chooses it. All are
        saved in the samples, one after another, so that an interrupted call goes on and the next finds them. None: all
        of this is there.
    layer
        Layer with raw counts; None: ``X``. They are scaled to 10,000 per spot over all genes, then ``log1p``.
    normalized
        Whether the values are normalised already and used as they are. Whole numbers above 20 are counts, and an error.
    genes
        Gene panel or list of names. None: the genes that :func:`spade.pp.select_genes` marked.
    routing
        Prototypes and experts from :func:`cluster_experts`. None: the training spots are clustered here, with the
        settings ``groupby`` to ``feature_scaling`` below; a given routing overrides these. ``"learned"``: experts are
        clusters of expression (or of both, with ``cluster_space="joint"``), centred within sections, and a multinomial
        logistic regression on the image features says which expert an image belongs to: its probabilities are the
        routing weights, and :func:`embed` writes its logits as well. Its penalty is chosen on validation spots, or on
        each section in turn.
    init
        Model whose experts training begins with, instead of random ones: one of your own, to go on with more data or
        more epochs, or published weights. Its routing and gene panel are used unless ``routing`` and ``genes`` are
        given; the genes must be those of its input, in order and scale, ``normalized`` must be as in its training, and
        the features of its encoder, even if ``routing`` is of others. This is for sections with few spots of a tissue
        that the model has seen much of. The model itself does not change.
    groupby
        ``obs`` column of the groups that are clustered by themselves, as in :func:`cluster_experts`; None: one group.
    n_prototypes
        Prototypes per group, as in :func:`cluster_experts`. None: by the number of spots, as above.
    n_experts
        Number of experts, as in :func:`cluster_experts`. None: by the number of spots, as above.
    routing_temperature
        As in :func:`cluster_experts`.
    feature_scaling
        As in :func:`cluster_experts`. With ``"standard"`` the image heads also train on standardised features. The
        scale is then folded into their first layer, so that a trained model reads features as they are.
    cluster_space
        What is clustered: ``"image"`` features; ``"expression"``, its first 50 principal components; or ``"joint"``,
        both with the same total variance. With the last two, a prototype is the mean image of its cluster, so that any
        image can be routed, but the images of a cluster need not lie close together.
    loss
        ``"soft_clip"``, the paper's loss with soft targets, or ``"clip"``, InfoNCE on L2-normalised embeddings.
    temperature
        τ of the loss.
    learn_temperature
        Whether τ is trained (``"clip"`` only).
    n_epochs
        Passes of each expert over its spots. None: by the number of spots, as above.
    batch_size
        Spots per step. Every spot of a batch is compared with every other. None: by the number of spots, as above.
    lr
        Learning rate of AdamW, which falls to 0 along a cosine. None: by the number of spots, as above.
    weight_decay
        Weight decay of AdamW.
    dim
        Width of the joint space; with ``init`` it is that of the model.
    dropout
        Share of the correction W₂ that is dropped in training.
    warm_start
        Epochs in which one model is trained on all spots, before every expert goes on from it on its own; 0 turns it
        off. All experts then begin in one joint space. None: by the number of spots, as above.
    out_of_cluster
        Share of the spots of an expert's epoch that are drawn from other clusters, at random.
    shuffle_pairs
        Whether every spot gets the expression of another spot of its section and part of the split. The model then
        knows what image and expression share in a section as a whole, but nothing about single spots: a control that a
        real model must beat.
    split_key
        ``obs`` column with ``"train"``, ``"val"``, ``"test"``. ``train`` spots are trained on, ``val`` spots select the
        epoch, all others are never read. None: every spot is trained on and the last epoch is kept.
    preset
        ``"paper"``: what is left None takes the values of the paper, whatever the number of spots: 16 experts, 16
        prototypes per group, 100 epochs, batches of 128, lr 1e-4, no warm start. None: as above.
    device
        ``"auto"``, ``"cpu"`` or ``"cuda"``. A GPU trains all experts at once, a CPU one per thread.
    devices
        GPUs of this machine (or processes on its CPU) that whole experts are dealt to, the largest first. They share
        the data through the machine's temporary folder. For several machines, start the script with ``torchrun`` and
        leave this 1: every process trains its experts and returns the whole model. The result is the same for any
        number.
    precision
        ``"fp32"`` (None) or ``"bf16"``, in which the products of the first layers, nearly all of the work, are
        computed. bf16 is faster on GPUs and on processors with bf16 units, and slower on others.
    checkpoint_dir
        Folder for the state of every expert, which is saved every minute and at the end. The same call on the same data
        goes on from there, after a kill or Ctrl-C as well, and ends in the same model (on a CPU, bit for bit); once it
        has finished, it returns its model. A folder of another training, or of one that is running, is an error.
    on_disk
        Whether the joined features lie in a file in the machine's temporary folder (``TMPDIR``) and are mapped from
        there, for cohorts whose features do not fit into memory: a million spots of 1,536 features take 6 GB. The file
        has no name and goes with the process, also when it is killed. The expression stays in memory, at 8 bytes per
        value above zero. The model is the same, on a disk slower to train.
    table_key
        Table; may be left out when there is one.
    rng
        Seed of clustering, initialisation, shuffling and dropout; each expert has its own streams. Starts of clusters
        and batches follow the order of the rows: the same spots in another order give another model.

    Returns
    -------
    SpadeModel
        The model; ``model.history`` holds the losses per expert and epoch.

    Raises
    ------
    ValueError
        Panel genes that a sample lacks, features of another width or encoder, counts that are not raw, unknown
        settings, or nothing to train on.
    FloatingPointError
        The loss became NaN or infinite.
    RuntimeError
        One of several processes ended early; ``checkpoint_dir`` keeps its state.

    Warns
    -----
    UserWarning
        If an expert has no training spots or fewer than 20, or a split leaves it none to choose its epoch by.

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
    given = given_settings(
        preset,
        {
            "n_prototypes": n_prototypes,
            "n_experts": n_experts,
            "n_epochs": n_epochs,
            "batch_size": batch_size,
            "lr": lr,
            "warm_start": warm_start,
        },
    )
    config = SpadeConfig(
        loss=loss,
        temperature=temperature,
        learn_temperature=learn_temperature,
        weight_decay=weight_decay,
        dim=dim,
        dropout=dropout,
        precision=SpadeConfig.precision if precision is None else precision,
        use_rep=features_key(encoder, use_rep),
        layer=layer,
        normalized=normalized,
        groupby=groupby,
        feature_scaling=feature_scaling,
        cluster_space=cluster_space,
        routing_temperature=routing_temperature,
        out_of_cluster=out_of_cluster,
        shuffle_pairs=shuffle_pairs,
        split_key=split_key,
        seed=as_seed(rng),
        **given,
    )
    if isinstance(routing, str):
        config, routing = _with_gate(config, routing, init), None
    if init is not None:
        check_spade(init, "init")
        routing = init.routing if routing is None else routing
        genes = init.genes if genes is None else genes
        config = replace(config, init=init.id, dim=init.dim)
    if routing is not None:
        config = _with_routing(config, routing)
    images = FeatureReader(on_disk=on_disk, init=None if init is None else init.config)
    listed = prepared(samples, encoder, config, choose=genes is None, table_key=table_key, on=(device, devices))
    panel = resolve_panel(listed, genes, table_key)
    if init is not None:
        check_init(init, panel, routing, config)
    with torchrun_ranks() as ranks:
        machine = Machine.of(device, devices, ranks)
        data, config = read_training_data(listed, config, panel, images=images, table_key=table_key)
        if preset is None:
            config = set_by_spots(data, config, given, routing)
        ranks.alike(lambda: spade_identity(data, config, machine) | {"checkpoint_dir": checkpoint_dir is not None})
        training = assign_experts(data, config, routing, machine)
        experts, trained = fit_experts(training, init, machine, checkpoint_dir)
    model = assemble_spade(experts, trained, training, panel)
    told(f"trained on {plural(training.sizes.sum(), 'spot')} of {plural(len(data.samples), 'sample')}")
    return model


def _with_gate(config: SpadeConfig, routing: str, init: SpadeModel | None) -> SpadeConfig:
    """Return the settings of a training whose experts are clusters of expression, to which a classifier routes."""
    if init is not None:
        raise ValueError(f"routing={routing!r}: init= has a routing of its own; leave routing= out.")
    space = "expression" if config.cluster_space == "image" else config.cluster_space
    return replace(config, gate=routing, cluster_space=space)


def _with_routing(config: SpadeConfig, routing: object) -> SpadeConfig:
    """Return the settings of a training whose experts are those of a routing that is given."""
    if not isinstance(routing, Routing):
        raise TypeError(f"routing={brief(routing)}: expected a Routing, as sp.tl.cluster_experts returns it.")
    return replace(config, **routing.settings, n_experts=routing.n_experts, routing_temperature=routing.temperature)
