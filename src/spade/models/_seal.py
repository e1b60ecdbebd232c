"""A pathology encoder that was fine-tuned against expression."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, fields
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, issparse
from torch import Tensor, nn

from spade.core.arrays import Floats
from spade.core.device import resolve_device
from spade.core.seal.network import SealNet
from spade.core.vision.lora import AdaptedStage, merged
from spade.core.vision.towers import FeatureTower, PixelTower, to_unit
from spade.encoders import EncoderSpec
from spade.models._card import model_card, optimiser
from spade.models._config import SealConfig
from spade.models._files import CONFIG, GENES, read_folder, read_history, write_folder
from spade.models._genes import GenePanel
from spade.models._towers import base_state, feature_tower, tuned_tower

#: Patches, and rows of features or expression, that are encoded at a time.
PATCHES, ROWS = 64, 4_096
BASE = "base."


class SealModel:
    """A fine-tuned image encoder, an expression encoder in the same space, and a head that predicts expression.

    Made by :func:`spade.tl.train_seal` or :meth:`load`; arrays in, arrays out. One that was trained on pixels is an
    :class:`spade.encoders.Encoder` as well: ``sp.pp.encode_patches(samples, encoder=model)``.

    Parameters
    ----------
    net
        Both towers.
    config
        Settings it was trained with.
    genes
        Gene panel, in the order of the expression tower's input.
    spec
        What is known of the encoder that was tuned; None for a model on features.
    input_px
        Side of the patches it reads, in pixels; 0 for a model on features.
    history
        Losses per stage and epoch.
    facts
        What the card says of the training data: flat, JSON-able.
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
        input_px: int = 0,
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
        self.history = pd.DataFrame() if history is None else history
        self.facts = facts or {}

    def __repr__(self) -> str:
        reads = f"{self.n_features} features ({self.config.use_rep})"
        if self.reads_pixels:
            reads = f"patches of {self.input_px} px"
        return (
            f"SealModel: {reads} of {self.config.encoder or 'an unnamed encoder'}, {self.n_genes} genes -> {self.dim}"
        )

    @property
    def reads_pixels(self) -> bool:
        """Whether images are pixels, not features of a frozen encoder."""
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
        """Width of the image features it reads: those of the frozen encoder, or of its own."""
        return len(self.net.vision.mean) if isinstance(self.net.vision, FeatureTower) else self.dim

    @property
    def name(self) -> str:
        """Name that features of the tuned encoder go by."""
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
        digest = hashlib.sha256()
        for name, array in sorted(self._arrays().items()):
            digest.update(f"{name}{array.shape}{array.dtype}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        digest.update(json.dumps([asdict(self.config), self.genes.facts()]).encode())
        return digest.hexdigest()[:12]

    def to(self, device: str) -> SealModel:
        """Move the model to a device, and return it."""
        self.device = resolve_device(device)
        self.net.to(self.device)
        return self

    def encode(self, patches: NDArray[np.uint8], mpp: float) -> NDArray[np.float32]:
        """Encode patches as an :class:`spade.encoders.Encoder` does; ``mpp`` does not change the input of a network."""
        if not self.reads_pixels:
            raise ValueError(
                f"encoder={self!r}: this model reads features, not patches. Embed samples by it with sp.tl.embed(samples, model)."
            )
        return self.encode_image(patches)

    def encode_image(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Embed images.

        Parameters
        ----------
        x
            Of a model on features: features ``(n, D)`` of the frozen encoder. Of a model on pixels: patches ``(n, px, px, 3)``, uint8; what
            it has encoded already, ``(n, d)``, is returned as it is.

        Returns
        -------
        ``(n, d)``; rows with NaN stay NaN.
        """
        x = np.asarray(x)
        if not self.reads_pixels:
            return self._run(self.net.vision, self._check(x, self.n_features, "x"), self.dim)
        if x.ndim == 2 and np.issubdtype(x.dtype, np.floating):
            return self._check(x, self.dim, "x").astype(np.float32)
        if x.dtype != np.uint8 or x.shape[1:] != (self.input_px, self.input_px, 3):
            raise ValueError(
                f"x is {x.dtype} of shape {x.shape}; this model reads uint8 RGB values from 0 to 255, (n, {self.input_px}, "
                f"{self.input_px}, 3). {self!r}"
            )
        return self._run(lambda part: self.net.vision(to_unit(part)), x, self.dim, PATCHES)

    def encode_expression(self, x: Floats | csr_matrix) -> NDArray[np.float32]:
        """Embed log-normalised expression ``(n, G)`` in panel order, dense or CSR, as ``(n, d)``: the flows of the posterior's mean."""
        return self._run(lambda part: self.net.gene(part).z, self._check(x, self.n_genes, "x"), self.dim)

    def predict_expression(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Predict log-normalised expression ``(n, G)`` of images, as :meth:`encode_image` takes them, by the image-to-gene head."""
        self.check_head()
        return self._run(self.net.image_to_gene, self.encode_image(x), self.n_genes)

    def check_head(self) -> None:
        """Raise if the model was trained without a head that predicts expression."""
        if not self.config.image_to_gene:
            raise ValueError("image_to_gene=0: this model was trained without a head that predicts expression.")

    def as_timm(self) -> nn.Module:
        """Return the tuned encoder as a plain timm module on the CPU, in evaluation mode, for other pipelines.

        Its linear layers hold their corrections; that of a CNN stays a module of its own. It wants the same normalised input as the
        encoder that was tuned, and is pooled like it.
        """
        if not isinstance(self.net.vision, PixelTower):
            raise ValueError("this model reads features, so there is no encoder to hand out; train one with encoder=.")
        return merged(self.net.vision.model).cpu()

    def save(self, path: str | PathLike[str], *, merge: bool = False) -> None:
        """Write the model into the directory ``path``; a model that is there is replaced in one step.

        Parameters
        ----------
        path
            Directory: ``config.json``, ``model.safetensors``, ``genes.json`` and ``README.md``, the card.
        merge
            Whether the frozen weights of the encoder are saved as well, so that :meth:`load` needs no others. The file is then as large as
            the encoder, and bound to the encoder's licence. Otherwise it holds what training changed.

        Examples
        --------
        >>> model.save("mob_seal")  # doctest: +SKIP
        """
        description = {
            "id": self.id,
            "config": asdict(self.config),
            "dim": self.dim,
            "merged": bool(merge and self.reads_pixels),
            "facts": self.facts,
            "history": self.history.astype(object).where(self.history.notna(), None).to_dict(orient="split"),
        }
        arrays = self._arrays()
        if merge and isinstance(self.net.vision, PixelTower):
            arrays |= {
                f"{BASE}{name}": value.cpu().numpy()
                for name, value in base_state(self.net.vision.model.state_dict()).items()
            }
        write_folder(Path(path), "SealModel", description, arrays, self.genes, self._card())

    def _card(self) -> str:
        """Say what the model is and how it was trained."""
        config = self.config
        if self.reads_pixels:
            reads = f"patches of {self.input_px} px{f' ({config.patch_um:g} µm)' if config.patch_um else ''}"
            cnn = any(isinstance(part, AdaptedStage) for part in self.net.vision.modules())
            adapted = "last stage" if cnn else f"last {config.n_blocks} block(s), {', '.join(config.targets)}"
            trained = f"{adapted}: rank {config.rank}, alpha {config.alpha:g}"
            example = "sp.pp.encode_patches(samples, encoder=model)"
        else:
            reads = f"`{config.use_rep}`: {self.n_features} features"
            trained = f"a head ({config.head}) on frozen features"
            example = "sp.tl.embed(samples, model)"
        losses = (f"{name.replace('_', ' ')} {weight:g}" for name, weight in config.loss_weights().items())
        rows = {
            "id": f"`{self.id}`",
            "encoder": f"{config.encoder or 'not recorded'} (weights {config.encoder_id or 'not recorded'})",
            "reads": reads,
            "trained": trained,
            "gene panel": f"{self.n_genes} genes",
            "losses": ", ".join(losses),
            "optimiser": optimiser(config),
        }
        summary = f"Images and expression of tissue in one space of {self.dim} dimensions (SEAL, arXiv 2602.14177)"
        return model_card("SEAL model", summary, rows, self.facts, example)

    @classmethod
    def load(
        cls, path: str | PathLike[str], *, weights: str | PathLike[str] | None = None, device: str = "auto"
    ) -> SealModel:
        """Read a model written by :meth:`save`; anything missing, unknown or of the wrong shape is an error.

        Parameters
        ----------
        path
            The directory.
        weights
            Weights of the encoder that was tuned, where they are not in the directory: None, the published ones; a path to a file. They
            must be those it was tuned from.
        device
            ``"auto"``, ``"cpu"`` or ``"cuda"``.

        Examples
        --------
        >>> model = sp.models.SealModel.load("mob_seal")  # doctest: +SKIP
        """
        description, arrays, genes = read_folder(Path(path), "SealModel")
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        base = {name.removeprefix(BASE): value for name, value in tensors.items() if name.startswith(BASE)}
        own = {name: value for name, value in tensors.items() if not name.startswith(BASE)}
        try:
            config = _config(description["config"])
            if genes is None:
                raise ValueError(f"{GENES} is missing")
            if base and not description["merged"]:
                raise ValueError(
                    f"weights of the encoder are there, {sorted(base)[:3]}, but {CONFIG} says that they are not"
                )
            n_genes = int(own["mean"].shape[0])
            if len(genes) != n_genes:
                raise ValueError(f"{GENES} lists {len(genes)} genes, but the weights are for {n_genes}")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise _damaged(path, error) from error
        spec, input_px = None, 0
        vision: PixelTower | FeatureTower | None = None
        if not config.on_features:
            vision, spec, input_px = tuned_tower(config, base if description["merged"] else weights)
        try:
            if vision is None:
                vision = feature_tower(config, own["vision.mean"].numpy(), own["vision.deviation"].numpy())
            net = SealNet(vision, int(description["dim"]), np.zeros(n_genes), np.ones(n_genes))
            net.load_own(own)
            model = cls(
                net,
                config=config,
                genes=genes,
                spec=spec,
                input_px=input_px,
                history=read_history(description["history"]),
                facts=description["facts"],
                device=device,
            )
            if model.id != description["id"]:
                raise ValueError(
                    f"arrays, genes and settings have id {model.id}, but {CONFIG} says {description['id']}"
                )
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise _damaged(path, error) from error
        return model

    def _arrays(self) -> dict[str, NDArray[Any]]:
        return {name: value.detach().cpu().numpy() for name, value in self.net.own_state().items()}

    def _check(self, values: Any, width: int, name: str) -> Any:
        values = csr_matrix(values) if issparse(values) else np.asarray(values)
        if values.ndim != 2 or values.shape[1] != width:
            raise ValueError(f"{name} has shape {values.shape}; this model was trained on width {width}. {self!r}")
        return values

    @torch.inference_mode()
    def _run(self, call: Any, x: Any, width: int, size: int = ROWS) -> NDArray[np.float32]:
        """Apply a module to rows, some at a time."""
        out = np.empty((x.shape[0], width), dtype=np.float32)
        for start, part in _parts(x, size):
            out[start : start + size] = call(part.to(self.device)).float().cpu().numpy()
        return out


def _parts(x: Any, size: int) -> Iterator[tuple[int, Tensor]]:
    """Rows as dense tensors, ``size`` at a time, and the number of the first."""
    for start in range(0, x.shape[0], size):
        part = x[start : start + size]
        dense = np.ascontiguousarray(part.toarray() if issparse(part) else part)
        yield start, torch.from_numpy(dense if dense.dtype == np.uint8 else dense.astype(np.float32))


def _config(stored: dict[str, Any]) -> SealConfig:
    known = {field.name for field in fields(SealConfig)}
    if odd := sorted(set(stored) ^ known):
        raise ValueError(f"the settings {odd} in {CONFIG} are unknown or missing")
    return SealConfig(**stored)


def _damaged(path: str | PathLike[str], error: Exception) -> ValueError:
    what = " ".join(str(error).split())
    return ValueError(
        f"{path} cannot be read as a model ({type(error).__name__}: {what}). Its files were changed, or are not of one model."
    )
