"""Fine-tune an image encoder against expression."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike

import numpy as np

from spade import _keys
from spade._checks import plural
from spade._said.lines import speaks, told
from spade._samples.open import Samples, as_list
from spade.core.checks import check_count
from spade.core.distributed.machine import Machine
from spade.core.distributed.ranks import torchrun_ranks
from spade.core.recipes import given_settings
from spade.core.rng import as_seed
from spade.models import GenePanel, SealConfig, SealModel
from spade.tl._training.data import FeatureReader, ImageReader, read_training_data
from spade.tl._training.panel import resolve_panel
from spade.tl._training.patch_source import PatchReader
from spade.tl._training.seal_setup import N_WORKERS, base_encoder, check_source_of_images, check_used, set_by_spots
from spade.tl._training.seal_steps import adapt_network, assemble_seal, fit_network, seal_identity


@speaks
def train_seal(
    samples: Samples,
    *,
    encoder: str | None = None,
    weights: str | PathLike[str] | None = None,
    on_features: str | None = None,
    genes: GenePanel | Sequence[str] | None = None,
    layer: str | None = SealConfig.layer,
    normalized: bool = SealConfig.normalized,
    n_blocks: int = SealConfig.n_blocks,
    targets: Sequence[str] = SealConfig.targets,
    rank: int = SealConfig.rank,
    alpha: float = SealConfig.alpha,
    dropout: float = SealConfig.dropout,
    dim: int | None = None,
    hidden: int = SealConfig.hidden,
    head: str = SealConfig.head,
    contrastive: float = SealConfig.contrastive,
    gene_reconstruction: float = SealConfig.gene_reconstruction,
    image_to_gene: float = SealConfig.image_to_gene,
    kl: float = SealConfig.kl,
    temperature: float = SealConfig.temperature,
    negatives: str = SealConfig.negatives,
    balance_sections: bool = SealConfig.balance_sections,
    adversary: float = SealConfig.adversary,
    gene_warmup: int = SealConfig.gene_warmup,
    gene_lr: float | None = SealConfig.gene_lr,
    flips: bool = SealConfig.flips,
    rotations: bool = SealConfig.rotations,
    stain_jitter: float = SealConfig.stain_jitter,
    n_epochs: int | None = None,
    batch_size: int | None = None,
    micro_batch_size: int | None = None,
    lr: float | None = None,
    weight_decay: float = SealConfig.weight_decay,
    shuffle_pairs: bool = SealConfig.shuffle_pairs,
    split_key: str | None = SealConfig.split_key,
    preset: str | None = None,
    patches_key: str = _keys.PATCHES,
    cache_dir: str | PathLike[str] | None = None,
    n_workers: int = N_WORKERS,
    device: str = "auto",
    devices: int = 1,
    precision: str | None = None,
    checkpoint_dir: str | PathLike[str] | None = None,
    table_key: str | None = None,
    rng: int | np.random.Generator = 0,
) -> SealModel:
    r"""Fine-tune a pathology encoder against expression with low-rank adapters (SEAL, arXiv 2602.14177).

    The loss is :math:`\lambda_c \, \mathrm{InfoNCE}(z_\mathrm{image}, z_\mathrm{gene}) + \lambda_g R(\hat
    g_\mathrm{gene}, g) + \lambda_i R(\hat g_\mathrm{image}, g)`. Its first term contrasts the L2-normalised embeddings
    of a spot with those of the other spots of the batch. In the second, a variational autoencoder with three planar
    flows reconstructs expression. In the third, a head predicts expression from the image. :math:`R = 0.1 (0.05 \sum_g
    (1 - \rho_g)^2 + 5 \, \mathrm{MSE})`, with the correlation ρ of every gene over the batch and the squared error of
    standardised values. The encoder stays frozen, bit for bit; some of its linear layers get a trained correction,
    :math:`W x + (\alpha/r) B A x`. The samples are only read, never written.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or a list or dict of these, with patches (or features) and
        expression.
    encoder
        Encoder to tune, as in :func:`spade.encoders.get`: a vision transformer, or a CNN, of which the last stage is
        adapted. ``"texture"`` is not a network and cannot be tuned.
    weights
        Its weights, as in :func:`spade.pp.encode_patches`.
    on_features
        ``obsm`` key of frozen features, instead of ``encoder``: trains a small head on them with the same losses, in
        minutes on a CPU.
    genes
        Gene panel or list of names. None: the genes that :func:`spade.pp.select_genes` marked (``method="seal"`` for
        the paper's).
    layer
        Layer with raw counts, or with what :func:`spade.pp.smooth_expression` made of them; None: ``X``. They are
        scaled to 10,000 per spot over all genes, then ``log1p``.
    normalized
        Whether the values are normalised already and used as they are. Whole numbers above 20 are counts, and an error.
    n_blocks
        Transformers only: how many of the last blocks are adapted.
    targets
        Transformers only: which of their linear layers are adapted.
    rank
        Rank r of the adapters.
    alpha
        Scale α of the adapters.
    dropout
        Share of the input of the adapters that is dropped in training; in a head on features, of its hidden layer.
    dim
        Heads on features only: width of the output; None: 256. The joint space of a tuned encoder is as wide as its
        features.
    hidden
        Heads on features only: width of the hidden layer.
    head
        Heads on features only: ``"mlp"`` or ``"linear"``.
    contrastive, gene_reconstruction, image_to_gene
        Weights of the three losses; 0 turns a loss off.
    kl
        Weight of the divergence between the posterior after the flows and N(0, I), divided by the width. 0, as in the
        paper, turns it off.
    temperature
        τ of the contrastive loss.
    negatives
        Negatives of a spot: ``"all"`` other spots of the batch, or those of its own ``"section"``, so that stain and
        batch effects do not help.
    balance_sections
        Whether every batch holds equally many spots of every section.
    adversary
        Weight of a critic that predicts the section from the embeddings of both sides, and against which they are
        trained; 0 turns it off. The critic is left out of the validation loss, whose sections it may not know.
    gene_warmup
        Epochs in which the autoencoder is trained alone, before all else.
    gene_lr
        Learning rate of that warm-up; None: ``lr``. The authors' rate is not part of what they published.
    flips
        Whether patches are mirrored at random in training.
    rotations
        Whether patches are turned by multiples of 90 degrees at random in training.
    stain_jitter
        How much the haematoxylin and eosin stains of a patch vary in training; 0: not at all.
    n_epochs
        Passes over the training spots. None: 10, or as many as 2,000 steps of a head on features need, 200 of a tuned
        encoder, of which one step may take seconds on a CPU. The log says what was chosen, and warns of fewer than 100
        steps.
    batch_size
        Spots per step (approximately, as all batches of an epoch have one size). The negatives are those of the whole
        batch. None: 384, or the power of two at or below half the training spots.
    micro_batch_size
        Patches that are in the encoder at a time; None: the whole batch. A smaller number needs less memory, but
        encodes every patch twice. The gradient is the same.
    lr
        Learning rate of AdamW, which falls to 0 along a cosine. None: 1e-3 up to 1,000 training spots, 1e-3 · √(1,000 /
        spots) up to 100,000, then 1e-4.
    weight_decay
        Weight decay of AdamW.
    shuffle_pairs
        Whether every spot gets the expression of another spot of its section and part of the split: a control that a
        real model must beat.
    split_key
        ``obs`` column with ``"train"``, ``"val"``, ``"test"``. ``train`` spots are trained on; ``val`` spots, of
        sections or patients of their own (see :func:`spade.pp.split`), select the epoch; all others are never read.
        None: every spot is trained on and the last epoch is kept.
    preset
        ``"paper"``: what is left None takes the values of the paper, whatever the number of spots: 10 epochs, batches
        of 384, lr 1e-4. None: as above.
    patches_key
        ``shapes`` key of the patches that :func:`spade.pp.patches` wrote. Their colours are not normalised;
        ``stain_jitter`` makes the model robust to stains.
    cache_dir
        Folder in which the patches are kept as one memory-mapped file (150 KB per patch of 224 px), which is written
        once. Every call reads all patches from the images and from the file once, to make sure that the file is of
        these images and as it was written. None: patches are read from the images in every epoch.
    n_workers
        Threads that read patches ahead; 0 turns reading ahead off.
    device
        ``"auto"``, ``"cpu"`` or ``"cuda"``.
    devices
        GPUs of this machine (or processes on its CPU) that share every batch. Their embeddings are joined before the
        losses, so that the result is that of one device, apart from rounding and the draws of augmentation and dropout.
        Without ``cache_dir`` all patches are first written into the machine's temporary folder. For several machines,
        start the script with ``torchrun`` and leave this 1.
    precision
        ``"fp32"`` (None) or ``"bf16"``, in which the encoder runs.
    checkpoint_dir
        Folder for the state, which is saved every minute and after every epoch. The same call on the same data goes on
        from there, and ends in the same model (on a CPU, bit for bit); once it has finished, it returns its model. A
        folder of another training, or of one that is running, is an error. All patches are read once more, to tell
        whether they are those of the state.
    table_key
        Table; may be left out when there is one.
    rng
        Seed of initialisation, order, augmentation, dropout and noise. Batches follow the order of the rows: the same
        spots in another order give another model. The same seed, machine and number of threads
        (``torch.set_num_threads``) give the same bytes; with another number, sums are rounded in another order.

    Returns
    -------
    SealModel
        The model; ``model.history`` holds every loss per stage and epoch.

    Raises
    ------
    KeyError
        Patches, features or a table that are not there.
    TypeError
        An encoder that is not given by name.
    ValueError
        An encoder with nothing to adapt, targets that it lacks, or weights that do not fit; panel genes that a sample
        lacks; counts that are not raw; patches of several sizes; a section of one spot with ``negatives="section"``;
        settings that are unknown or have no use here.
    FloatingPointError
        The loss became NaN or infinite; the message names the sections.
    RuntimeError
        Published weights could not be downloaded, or one of several processes ended early.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(2, 60)
    >>> sp.pp.patches(samples)
    >>> sp.pp.encode_patches(samples)
    >>> genes = sp.pp.select_genes(samples)
    >>> model = sp.tl.train_seal(samples, on_features="X_texture", genes=genes, dim=32, n_epochs=2)
    >>> sp.tl.embed(samples, model)
    >>> samples[0]["table"].obsm["X_seal"].shape
    (60, 32)
    """
    reading = {"weights": weights, "cache_dir": cache_dir, "patches_key": patches_key, "n_workers": n_workers}
    check_count("n_workers", n_workers, 0)
    check_source_of_images(encoder, on_features, dim, reading)
    given = given_settings(preset, {"n_epochs": n_epochs, "batch_size": batch_size, "lr": lr})
    config = SealConfig(
        n_blocks=n_blocks,
        targets=tuple(targets) if not isinstance(targets, str) else (targets,),
        rank=rank,
        alpha=alpha,
        dropout=dropout,
        dim=SealConfig.dim if dim is None else dim,
        hidden=hidden,
        head=head,
        contrastive=contrastive,
        gene_reconstruction=gene_reconstruction,
        image_to_gene=image_to_gene,
        kl=kl,
        adversary=adversary,
        temperature=temperature,
        negatives=negatives,
        balance_sections=balance_sections,
        gene_warmup=gene_warmup,
        gene_lr=gene_lr,
        flips=flips,
        rotations=rotations,
        stain_jitter=stain_jitter,
        micro_batch_size=micro_batch_size,
        weight_decay=weight_decay,
        precision=SealConfig.precision if precision is None else precision,
        encoder=encoder,
        use_rep=on_features,
        layer=layer,
        normalized=normalized,
        shuffle_pairs=shuffle_pairs,
        split_key=split_key,
        seed=as_seed(rng),
        **given,
    )
    check_used(config)
    listed = as_list(samples)
    panel = resolve_panel(listed, genes, table_key)
    with torchrun_ranks() as ranks:
        machine = Machine.of(device, devices, ranks)
        base, config = base_encoder(config, weights)
        images: ImageReader = FeatureReader()
        if base is not None:
            images = PatchReader(patches_key, base, cache_dir=cache_dir, ranks=ranks)
        data, config = read_training_data(listed, config, panel, images=images, table_key=table_key, keep_unused=False)
        if preset is None:
            config = set_by_spots(data, config, given)
        ranks.alike(lambda: seal_identity(data, config, machine) | {"checkpoint_dir": checkpoint_dir is not None})
        tuning = adapt_network(data, config, base, machine)
        record = fit_network(tuning, machine, n_workers=n_workers, checkpoint_dir=checkpoint_dir)
    model = assemble_seal(tuning, record, panel, machine)
    told(f"trained on {plural(model.facts['training_spots'], 'spot')} of {plural(len(data.samples), 'sample')}")
    return model
