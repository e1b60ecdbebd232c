"""Weights of SEAL as its authors published them: one file of the image side, one of the expression side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path

import numpy as np
from torch import Tensor

from spade import encoders
from spade.core.checks import check_path, check_positive
from spade.core.seal.gene_vae import N_FLOWS
from spade.core.seal.network import COUNT, SealNet
from spade.core.vision.lora import adapters, blocks_of
from spade.core.vision.towers import PixelTower
from spade.encoders import EncoderSpec
from spade.encoders._spec import spec_of
from spade.io._state_dict import check_finite, keys_fitting, read_state
from spade.models._config import SealConfig
from spade.models._genes import GenePanel
from spade.models._seal import SealModel
from spade.models._towers import adapt_tower, base_state

#: Side of the patches it was trained on, in µm: 224 px at 0.5 µm/px.
PATCH_UM = 112.0
ENCODER, DOWN = "encoder.base_model.model.", ".lora_A.default.weight"
#: Names of layers in the files and in this package. Numbers differ where dropout counts as a layer.
HEAD = {"decoder.decoder.0": "image_to_gene.0", "decoder.decoder.3": "image_to_gene.2"}
OMICS = {
    "encoder.0": "gene.encoder.0",
    "encoder.1": "gene.encoder.1",
    "encoder.4": "gene.encoder.3",
    "encoder.5": "gene.encoder.4",
    "fc_mu": "gene.fc_mu",
    "fc_logvar": "gene.fc_logvar",
    **{f"flows.{i}": f"gene.flows.{i}" for i in range(N_FLOWS)},
    "decoder.0": "gene.decoder.0",
    "decoder.2": "gene.decoder.2",
    "decoder.5": "gene.decoder.4",
}


def read_published_seal(
    vision_file: str | PathLike[str],
    omics_file: str | PathLike[str],
    *,
    encoder: str = "uni2_h",
    genes: GenePanel | Sequence[str] | None,
    alpha: float = 8.0,
    device: str = "auto",
) -> SealModel:
    """Read a SEAL model from the files that its authors published.

    Parameters
    ----------
    vision_file
        ``seal_{backbone}_vision.pth``: a state dict, bare or under ``"model"`` or ``"state_dict"``, with the encoder
        and its adapters (``encoder.base_model.model.…``) and the head that predicts expression (``decoder.decoder.…``).
        It holds the frozen weights too, so no others are needed.
    omics_file
        ``seal_{backbone}_omics.pth`` of the same backbone: the variational autoencoder of expression.
    encoder
        Encoder that was tuned, as in :func:`spade.encoders.get`.
    genes
        Gene panel or list of names, in the order of the expression tower's input. No panel was published, so you must
        pass one.
    alpha
        Scale α of the adapters, which the files do not hold. The paper has 8.
    device
        ``"auto"``, ``"cpu"`` or ``"cuda"``.

    Returns
    -------
    SealModel
        It reads patches of 112 µm (224 px at 0.5 µm/px). The adapted blocks and layers, and the rank of the adapters,
        are those in the file. Mean and deviation of the genes in training are not known, so they are 0 and 1:
        :func:`spade.tl.embed` sets genes that a sample lacks to 0. ``model.save(path, merge=True)`` saves all that is
        needed to load the model again; without ``merge``, :meth:`SealModel.load` needs the same frozen weights from
        elsewhere.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If ``genes`` is missing or not as long as the input of the expression tower, a file holds anything but finite
        tensors (nothing in it is ever executed), keys or shapes do not fit, or other blocks than the
        last ones have adapters.

    Examples
    --------
    >>> model = sp.models.read_published_seal(
    ...     "seal_uni2_h_vision.pth", "seal_uni2_h_omics.pth", genes=names
    ... )  # doctest: +SKIP
    """
    check_positive("alpha", alpha)
    vision, omics = check_path("vision_file", vision_file), check_path("omics_file", omics_file)
    spec = spec_of(encoder)
    if not spec.architecture:
        raise ValueError(
            f"encoder={encoder!r} names no architecture, so the file cannot be read; give a timm architecture or one "
            f"of {', '.join(repr(name) for name, known in encoders.available().items() if known.architecture)}."
        )
    config = SealConfig(alpha=alpha, encoder=spec.name, weights=vision.name, patch_um=PATCH_UM)
    expression = _read(omics, next(iter(OMICS)))
    panel = _panel(genes, expression, omics)
    image = _read(vision, next(iter(HEAD)))
    head = {name: value for name, value in image.items() if not name.startswith(ENCODER)}
    image = {name.removeprefix(ENCODER): value for name, value in image.items() if name.startswith(ENCODER)}
    tower, config, input_px = _tower(vision, image, spec, config)
    net = SealNet(tower, config.dim, np.zeros(len(panel)), np.ones(len(panel)))
    net.load_own(net.own_state() | _renamed(vision, head, HEAD, net) | _renamed(omics, expression, OMICS, net))
    facts = {
        "weights": f"read from the published files {vision.name} and {omics.name}",
        "training_data": "not in the files; losses and optimiser are not either, and are given here as in the paper",
        "mean_of_the_genes": "not known: 0, with deviation 1, so genes that a sample lacks are set to 0",
        "licence_of_the_encoder": spec.licence,
        "trained_weights_of_the_encoder": sum(value.numel() for _, value in adapters(tower)),
    }
    return SealModel(net, config=config, genes=panel, spec=spec, input_px=input_px, facts=facts, device=device)


def _read(path: Path, first: str) -> dict[str, Tensor]:
    """Read finite floating-point arrays by name, without the prefix of a wrapped module before the ``first`` layer."""
    state, _ = keys_fitting(read_state(path), [f"{first}.weight"], str(path))
    odd = [name for name, value in state.items() if not (value.is_floating_point() or name.endswith(COUNT))]
    if odd:
        raise ValueError(f"{path}: {len(odd)} arrays do not hold floating-point numbers, such as {_some(odd)}.")
    check_finite(state, str(path))
    return state


def _panel(genes: GenePanel | Sequence[str] | None, expression: Mapping[str, Tensor], path: Path) -> GenePanel:
    """Return the panel, which must be as long as the input of the expression tower is wide."""
    first = expression.get("encoder.0.weight")
    if first is None or first.ndim != 2:
        raise ValueError(
            f"{path} has no matrix 'encoder.0.weight', the first layer of an expression tower, but {len(expression)} "
            f"arrays such as {_some(expression)}."
        )
    n_genes = first.shape[1]
    if genes is None:
        raise ValueError(
            f"genes=None: no gene panel was published with these weights, and {path} reads {n_genes} genes. Pass their "
            f"{n_genes} names, in the order of its input."
        )
    panel = GenePanel.of(genes)
    if len(panel) != n_genes:
        raise ValueError(f"genes: got {len(panel)} names, but {path} reads {n_genes} genes; pass one name for each.")
    return panel


def _tower(
    path: Path, state: dict[str, Tensor], spec: EncoderSpec, config: SealConfig
) -> tuple[PixelTower, SealConfig, int]:
    """Return the encoder with the adapters of the file, the settings that say which, and the side of its input."""
    from spade.encoders._layouts import CONCH_OTHERS
    from spade.encoders._timm import TimmEncoder, fit_strict

    state = {name: value for name, value in state.items() if not name.startswith(CONCH_OTHERS)}
    layers = {name.removesuffix(DOWN) for name in state if name.endswith(DOWN)}
    if not layers:
        raise ValueError(
            f"{path} has no adapters, whose keys are like '{ENCODER}blocks.0.attn.qkv{DOWN}'; it has {len(state)} keys "
            f"of the encoder, {_some(state)}."
        )
    ranks = {state[f"{layer}{DOWN}"].shape[0] if state[f"{layer}{DOWN}"].ndim == 2 else 0 for layer in layers}
    if len(ranks) > 1 or 0 in ranks:
        raise ValueError(
            f"{path}: expected adapters of one rank, matrices (rank, width), but found ranks {sorted(ranks)}."
        )
    try:
        encoder = TimmEncoder(spec, weights=base_state(state), device="cpu")
        known = [name for name, _ in encoder.model.named_modules() if name in layers]
        config = replace(
            config,
            n_blocks=_n_blocks(known, [name for name, _ in blocks_of(encoder.model)]),
            targets=tuple(dict.fromkeys(name.rpartition(".")[2] for name in known)),
            rank=ranks.pop(),
            dim=encoder.dim,
            encoder_id=encoder.id,
            patch_px=encoder.input_px,
        )
        tower = encoder.tower()
        adapt_tower(tower, encoder.input_px, config)
        fit_strict(tower.model, state, "the encoder", spec.name)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return tower, config, encoder.input_px


def _n_blocks(layers: Sequence[str], blocks: Sequence[str]) -> int:
    """Return how many blocks have adapters, or raise if these are not the last ones."""
    adapted = [block for block in blocks if any(layer.startswith(f"{block}.") for layer in layers)]
    outside = [layer for layer in layers if not any(layer.startswith(f"{block}.") for block in blocks)]
    if outside or not adapted or adapted != blocks[-len(adapted) :]:
        raise ValueError(
            f"adapters are in {', '.join(adapted + outside) or 'no block'}; only adapters in the last of the "
            f"{len(blocks)} blocks can be read."
        )
    return len(adapted)


def _renamed(path: Path, state: Mapping[str, Tensor], layers: Mapping[str, str], net: SealNet) -> dict[str, Tensor]:
    """Return the weights of some layers under this package's names; every name and shape must fit."""
    own = net.state_dict()
    names = {
        f"{theirs}{name.removeprefix(ours)}": name
        for theirs, ours in layers.items()
        for name in own
        if name.startswith(f"{ours}.")
    }
    weights = [name for name in names if not name.endswith(COUNT)]
    missing, extra = [name for name in weights if name not in state], [name for name in state if name not in names]
    # the three vectors of a flow are stored as vectors or as rows
    read = {
        name: state[name].flatten() if name.startswith("flows.") else state[name] for name in weights if name in state
    }
    shapes = [
        f"{name} {tuple(value.shape)} for {tuple(own[names[name]].shape)}"
        for name, value in read.items()
        if value.shape != own[names[name]].shape
    ]
    if missing or extra or shapes:
        raise ValueError(
            f"{path} does not fit: {len(missing)} keys missing {_some(missing)}, {len(extra)} keys too many "
            f"{_some(extra)}, {len(shapes)} of other shape {_some(shapes)}, for {net.gene.dim} features of the encoder "
            f"and {net.gene.n_genes} genes. Are both files of this encoder?"
        )
    return {names[name]: value for name, value in read.items()}


def _some(names: Iterable[str]) -> list[str]:
    return list(names)[:3]
