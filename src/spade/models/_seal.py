"""A pathology encoder that was fine-tuned against expression."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from os import PathLike
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import Tensor, nn

from spade._checks import plural
from spade.core.arrays import Floats
from spade.core.checks import brief, check_flag, check_path
from spade.core.device import resolve_device
from spade.core.expression.covariation import Covariation
from spade.core.seal.network import SealNet
from spade.core.vision.lora import AdaptedStage, merged
from spade.core.vision.towers import FeatureTower, PixelTower, to_unit
from spade.encoders import EncoderSpec
from spade.models._card import Card, optimiser
from spade.models._config import SealConfig, stored_settings
from spade.models._files import (
    CONFIG,
    DAMAGED,
    GENES,
    SealDescription,
    check_id,
    check_panel,
    damaged,
    history_json,
    model_id,
    read_config,
    read_folder,
    read_history,
    write_folder,
)
from spade.models._genes import GenePanel
from spade.models._rows import Matrix, blocks, check_output, check_rows
from spade.models._sharing.shared import SharedModel
from spade.models._towers import base_state, feature_tower, tuned_tower

#: Patches, and rows of features or expression, that are encoded at a time.
PATCHES, ROWS = 64, 4_096
#: Prefix of the arrays of the frozen encoder in the file of a model.
BASE = "base."


class SealModel(SharedModel):
    """A fine-tuned image encoder, an expression encoder in the same space, and a head that predicts expression.

    Made by :func:`spade.tl.train_seal` or :meth:`load`; arrays in, arrays out. A model that was trained on pixels is
    also an :class:`spade.encoders.Encoder`: ``sp.pp.encode_patches(samples, encoder=model)``.

    Parameters
    ----------
    net
        Both towers.
    config
        Settings of the training.
    genes
        Gene panel, in the order of the expression tower's input.
    spec
        What is known of the encoder that was tuned; None for a model on features.
    input_px
        Side of the patches it reads, in pixels; None for a model on features.
    covariation
        Which genes changed together in training, for search by a gene signature; None if not known.
    history
        Losses per stage and epoch.
    facts
        What the card says about the training data: flat, JSON-able.
    device
        Where it runs: ``"auto"``, ``"cpu"`` or ``"cuda"``.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(1, 60)
    >>> sp.pp.patches(samples)
    >>> sp.pp.encode_patches(samples)
    >>> genes = sp.pp.select_genes(samples)
    >>> model = sp.tl.train_seal(samples, on_features="X_texture", genes=genes, dim=32, n_epochs=2)
    >>> model.encode_image(samples[0]["table"].obsm["X_texture"]).shape
    (60, 32)
    """

    def __init__(
        self,
        net: SealNet,
        *,
        config: SealConfig,
        genes: GenePanel,
        spec: EncoderSpec | None = None,
        input_px: int | None = None,
        covariation: Covariation | None = None,
        history: pd.DataFrame | None = None,
        facts: dict[str, Any] | None = None,
        device: str = "auto",
    ) -> None:
        self.device = resolve_device(device)
        self.net = net.to(self.device).eval()
        self.net.critic = None
        self.config = config
        self.genes = genes
        self.spec = spec
        self.input_px = input_px
        self.covariation = covariation
        self.history = pd.DataFrame() if history is None else history
        self.facts = facts or {}

    def __repr__(self) -> str:
        reads = f"{plural(self.n_features, 'feature')} ({self.config.use_rep})"
        if self.reads_pixels:
            reads = f"patches of {self.input_px} px"
        encoder = self.config.encoder or "an unnamed encoder"
        return f"SealModel: {reads} of {encoder}, {plural(self.n_genes, 'gene')} -> {self.dim}"

    @property
    def reads_pixels(self) -> bool:
        """Whether the model reads pixels, not features of a frozen encoder."""
        return isinstance(self.net.vision, PixelTower)

    @property
    def dim(self) -> int:
        """Width of the joint space."""
        return self.net.gene.dim

    @property
    def n_genes(self) -> int:
        """Width G of the expression input."""
        return self.net.gene.n_genes

    @property
    def n_features(self) -> int:
        """Width of the image features it reads, those of the frozen encoder or those of the tuned one."""
        return len(self.net.vision.mean) if isinstance(self.net.vision, FeatureTower) else self.dim

    @property
    def name(self) -> str:
        """Name of the tuned encoder, from which the key of its features is made."""
        return f"{self.config.encoder or 'features'}_seal"

    @property
    def mpp(self) -> float | None:
        """µm/px of the patches it was trained on."""
        if self.config.patch_um and self.config.patch_px:
            return self.config.patch_um / self.config.patch_px
        return None

    @property
    def expression_mean(self) -> Floats:
        """Mean training expression ``(G,)``, which stands in for genes that a sample lacks."""
        return self.net.mean.double().cpu().numpy()

    @cached_property
    def id(self) -> str:
        """First 12 hex digits of the SHA-256 of all arrays that training changed, the gene panel and the settings."""
        return model_id(self._arrays(), [stored_settings(self.config), self.genes.facts()])

    def to(self, device: str) -> SealModel:
        """Move the model to a device, and return it."""
        self.device = resolve_device(device)
        self.net.to(self.device)
        return self

    def encode(self, patches: NDArray[np.uint8], mpp: float) -> NDArray[np.float32]:
        """Encode patches as an :class:`spade.encoders.Encoder` does; ``mpp`` does not change the input of a network."""
        if not self.reads_pixels:
            raise ValueError(
                f"encoder={brief(self)}: this model reads features, not patches. Embed samples with "
                "sp.tl.embed(samples, model)."
            )
        return self.encode_image(patches)

    def encode_image(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Embed images.

        Parameters
        ----------
        x
            Models on features: features ``(n, D)`` of the frozen encoder. Models on pixels: uint8 patches
            ``(n, px, px, 3)``; patches that are encoded already, ``(n, d)``, are returned as they are.

        Returns
        -------
        ``(n, d)``; rows with NaN stay NaN.
        """
        x = np.asarray(x)
        if not self.reads_pixels:
            return self._run(self.net.vision, check_rows(x, self.n_features, "x", self), self.dim)
        if x.ndim == 2 and np.issubdtype(x.dtype, np.floating):
            return check_rows(x, self.dim, "x", self).astype(np.float32)
        if x.dtype != np.uint8 or x.shape[1:] != (self.input_px, self.input_px, 3):
            raise ValueError(
                f"x is {x.dtype} of shape {x.shape}; this model reads uint8 RGB values from 0 to 255 of shape "
                f"(n, {self.input_px}, {self.input_px}, 3). {self!r}"
            )
        return self._run(lambda part: self.net.vision(to_unit(part)), x, self.dim, PATCHES)

    def encode_expression(self, x: Floats | csr_matrix) -> NDArray[np.float32]:
        """Embed log-normalised expression ``(n, G)`` in panel order, dense or CSR, as ``(n, d)``.

        The embedding is the mean of the posterior after the flows.
        """
        return self._run(lambda part: self.net.gene(part).z, check_rows(x, self.n_genes, "x", self), self.dim)

    def predict_expression(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Predict log-normalised expression ``(n, G)`` from images with the image-to-gene head.

        Images are given as to :meth:`encode_image`.
        """
        self.check_head()
        return self._run(self.net.image_to_gene, self.encode_image(x), self.n_genes)

    def check_head(self) -> None:
        """Raise if the model was trained without a head that predicts expression."""
        if not self.config.image_to_gene:
            raise ValueError("image_to_gene=0: this model was trained without a head that predicts expression.")

    def as_timm(self) -> nn.Module:
        """Return the tuned encoder as a plain timm module on the CPU, in evaluation mode, for other pipelines.

        The adapters of linear layers are merged into their weights; the adapter of a CNN stays a module of its own.
        Input is normalised, and output pooled, as in the encoder that was tuned.
        """
        if not isinstance(self.net.vision, PixelTower):
            raise ValueError("this model reads features, so it has no encoder to return; train one with encoder=.")
        return merged(self.net.vision.model).cpu()

    def save(self, path: str | PathLike[str], *, merge: bool = False) -> None:
        """Write the model into the directory ``path``; an earlier model there is replaced in one step.

        Parameters
        ----------
        path
            Directory. Files: ``config.json``, ``model.safetensors``, ``genes.json``, the card, ``README.md``, and
            ``checksums.json``, their hashes.
        merge
            Whether the frozen weights of the encoder are saved as well, so that :meth:`load` needs no others. The file
            is then as large as the encoder, and falls under the encoder's licence. Otherwise it holds only what
            training changed.

        Examples
        --------
        >>> model.save("mob_seal")  # doctest: +SKIP
        """
        merge = check_flag("merge", merge)
        description: SealDescription = {
            "id": self.id,
            "config": stored_settings(self.config),
            "dim": self.dim,
            "merged": merge and self.reads_pixels,
            "facts": self.facts,
            "history": history_json(self.history),
        }
        arrays = self._arrays()
        if merge and isinstance(self.net.vision, PixelTower):
            arrays |= {
                f"{BASE}{name}": value.cpu().numpy()
                for name, value in base_state(self.net.vision.model.state_dict()).items()
            }
        write_folder(check_path("path", path), "SealModel", description, arrays, self.genes, self._card().markdown())

    def _card(self) -> Card:
        """Return the card: what the model is and how it was trained."""
        config = self.config
        if self.reads_pixels:
            reads = f"patches of {self.input_px} px{f' ({config.patch_um:g} µm)' if config.patch_um else ''}"
            cnn = any(isinstance(part, AdaptedStage) for part in self.net.vision.modules())
            last = "last block" if config.n_blocks == 1 else f"last {config.n_blocks} blocks"
            adapted = "last stage" if cnn else f"{last}, {', '.join(config.targets)}"
            trained = f"{adapted}: rank {config.rank}, alpha {config.alpha:g}"
            example = "sp.pp.encode_patches(samples, encoder=model)"
        else:
            reads = f"`{config.use_rep}`: {plural(self.n_features, 'feature')}"
            trained = f"a head ({config.head}) on frozen features"
            example = "sp.tl.embed(samples, model)"
        losses = (f"{name.replace('_', ' ')} {weight:g}" for name, weight in config.loss_weights().items())
        rows = {
            "id": f"`{self.id}`",
            "encoder": f"{config.encoder or 'not recorded'} (weights {config.encoder_id or 'not recorded'})",
            "reads": reads,
            "trained": trained,
            "gene panel": plural(self.n_genes, "gene"),
            "losses": ", ".join(losses),
            "optimiser": optimiser(config),
        }
        space = f"one space of {plural(self.dim, 'dimension')}"
        summary = f"Images and expression of tissue in {space} (SEAL, arXiv 2602.14177)"
        return Card("SEAL model", summary, rows, self.facts, example)

    @classmethod
    def load(
        cls, path: str | PathLike[str], *, weights: str | PathLike[str] | None = None, device: str = "auto"
    ) -> SealModel:
        """Read a model written by :meth:`save`; anything missing, unknown or of the wrong shape is an error.

        A changed file is an error as well; only the card, ``README.md``, may be edited or removed.

        Parameters
        ----------
        path
            The directory.
        weights
            Weights of the encoder that was tuned, where they are not in the directory. None: the published ones; else
            a path to a file. They must be the weights that the tuning started from.
        device
            ``"auto"``, ``"cpu"`` or ``"cuda"``.

        Examples
        --------
        >>> model = sp.models.SealModel.load("mob_seal")  # doctest: +SKIP
        """
        description, arrays, genes = read_folder(check_path("path", path), "SealModel")
        try:
            n_genes = int(arrays["mean"].shape[0])
            covariation = Covariation.take(arrays, n_genes)
            tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
            base = {name.removeprefix(BASE): value for name, value in tensors.items() if name.startswith(BASE)}
            own = {name: value for name, value in tensors.items() if not name.startswith(BASE)}
            config = read_config(SealConfig, description["config"])
            if genes is None:
                raise ValueError(f"{GENES} is missing")
            if base and not description["merged"]:
                raise ValueError(
                    f"it has weights of the encoder, {sorted(base)[:3]}, but {CONFIG} says that it has none"
                )
            check_panel(genes, n_genes)
        except DAMAGED as error:
            raise damaged(path, error) from error
        # missing or other weights of the encoder do not mean that this directory is damaged
        tuned = None if config.on_features else tuned_tower(config, base if description["merged"] else weights)
        try:
            vision: PixelTower | FeatureTower
            if tuned is None:
                vision = feature_tower(config, own["vision.mean"].numpy(), own["vision.deviation"].numpy())
            else:
                vision = tuned.tower
            net = SealNet(vision, int(description["dim"]), np.zeros(n_genes), np.ones(n_genes))
            net.load_own(own)
            model = cls(
                net,
                config=config,
                genes=genes,
                spec=tuned and tuned.spec,
                input_px=tuned and tuned.input_px,
                covariation=covariation,
                history=read_history(description["history"]),
                facts=description["facts"],
                device=device,
            )
            check_id(description["id"], model.id)
        except DAMAGED as error:
            raise damaged(path, error) from error
        return model

    def _arrays(self) -> dict[str, NDArray[Any]]:
        arrays = {name: value.detach().cpu().numpy() for name, value in self.net.own_state().items()}
        return arrays if self.covariation is None else arrays | self.covariation.stored()

    @torch.inference_mode()
    def _run(
        self, call: Callable[[Tensor], Tensor], x: Matrix | NDArray[np.uint8], width: int, size: int = ROWS
    ) -> NDArray[np.float32]:
        """Apply a module to rows, some at a time."""
        out = np.empty((x.shape[0], width), dtype=np.float32)
        for rows, block in blocks(x, size):
            made = call(torch.from_numpy(block).to(self.device)).float().cpu().numpy()
            out[rows] = check_output(made, self, block)
        return out
