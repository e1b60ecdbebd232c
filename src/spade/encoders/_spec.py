"""What is known of each image encoder, in one place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from spade.core.checks import check_text

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class EncoderSpec:
    """Facts of one encoder.

    Attributes
    ----------
    name
        Name in the registry.
    model
        timm architecture or ``hf-hub:`` id of the published weights; None for the built-in encoder.
    architecture
        timm architecture, so that a local weights file needs no network; None if only the hub knows it.
    dim
        Width of the features; None: that of the model.
    input_px
        Side of the input in pixels; None: that of the model.
    mpp
        µm/px it was trained on; None if not stated.
    mean, std
        Normalisation of the input; None: the architecture's own.
    licence
        Terms of the weights.
    gated
        Whether access must be requested from the owner.
    kwargs
        Arguments of ``timm.create_model``.
    pool
        ``"model"``: what the architecture returns. ``"cls+mean"``: class token beside the mean of the patch tokens.
    """

    name: str
    model: str | None
    architecture: str | None
    dim: int | None = None
    input_px: int | None = None
    mpp: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    licence: str = "not stated"
    gated: bool = False
    kwargs: Callable[[], dict[str, Any]] = field(default=dict)
    pool: str = "model"


class Encoder(Protocol):
    """An encoder that is ready to run."""

    @property
    def name(self) -> str:
        """Name, from which the key of its features is made."""

    @property
    def id(self) -> str:
        """Identity of its weights."""

    @property
    def dim(self) -> int:
        """Width of its features."""

    @property
    def input_px(self) -> int | None:
        """Side of its input in pixels; None: any."""

    @property
    def mpp(self) -> float | None:
        """µm/px it was trained on; None if not stated."""

    def encode(self, patches: NDArray[np.uint8], mpp: float) -> NDArray[np.float32]:
        """Encode ``(n, px, px, 3)`` patches at ``mpp`` µm/px to ``(n, dim)``."""


def _swiglu() -> dict[str, Any]:
    import timm.layers
    import torch

    return {"mlp_layer": timm.layers.SwiGLUPacked, "act_layer": torch.nn.SiLU}


def _uni() -> dict[str, Any]:
    return {"init_values": 1e-5, "dynamic_img_size": True}


def _uni2_h() -> dict[str, Any]:
    return {
        "img_size": 224,
        "patch_size": 14,
        "depth": 24,
        "num_heads": 24,
        "init_values": 1e-5,
        "embed_dim": 1536,
        "mlp_ratio": 2.66667 * 2,
        "no_embed_class": True,
        "reg_tokens": 8,
        "dynamic_img_size": True,
        **_swiglu(),
    }


def _virchow() -> dict[str, Any]:
    return {"img_size": 224, "init_values": 1e-5, "mlp_ratio": 5.3375, "dynamic_img_size": True, **_swiglu()}


def _virchow2() -> dict[str, Any]:
    return {**_virchow(), "reg_tokens": 4}


def _h_optimus() -> dict[str, Any]:
    return {"img_size": 224, "init_values": 1e-5, "dynamic_img_size": False}


def _gigapath() -> dict[str, Any]:
    return {"img_size": 224, "patch_size": 16, "init_values": 1e-5}


_OPTIMUS: dict[str, Any] = {"mean": (0.707223, 0.578729, 0.703617), "std": (0.211883, 0.230117, 0.177517)}
_IMAGENET: dict[str, Any] = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
_NC = "CC BY-NC-ND 4.0"
_APACHE = "Apache-2.0"


def _hub(name: str, hub: str, architecture: str, dim: int, licence: str, **facts: Any) -> EncoderSpec:
    return EncoderSpec(name, f"hf-hub:{hub}", architecture, dim, 224, mpp=0.5, licence=licence, **facts)


_KNOWN = (
    EncoderSpec("texture", None, None, 184, licence="BSD-3-Clause"),
    _hub("uni", "MahmoodLab/UNI", "vit_large_patch16_224", 1024, _NC, gated=True, kwargs=_uni, **_IMAGENET),
    _hub("uni2_h", "MahmoodLab/UNI2-h", "vit_giant_patch14_224", 1536, _NC, gated=True, kwargs=_uni2_h, **_IMAGENET),
    _hub(
        "virchow",
        "paige-ai/Virchow",
        "vit_huge_patch14_224",
        2560,
        _APACHE,
        gated=True,
        kwargs=_virchow,
        pool="cls+mean",
        **_IMAGENET,
    ),
    _hub(
        "virchow2",
        "paige-ai/Virchow2",
        "vit_huge_patch14_224",
        2560,
        _NC,
        gated=True,
        kwargs=_virchow2,
        pool="cls+mean",
        **_IMAGENET,
    ),
    _hub(
        "h_optimus_0",
        "bioptimus/H-optimus-0",
        "vit_giant_patch14_reg4_dinov2",
        1536,
        _APACHE,
        kwargs=_h_optimus,
        **_OPTIMUS,
    ),
    _hub(
        "h_optimus_1",
        "bioptimus/H-optimus-1",
        "vit_giant_patch14_reg4_dinov2",
        1536,
        _NC,
        gated=True,
        kwargs=_h_optimus,
        **_OPTIMUS,
    ),
    _hub(
        "gigapath",
        "prov-gigapath/prov-gigapath",
        "vit_giant_patch14_dinov2",
        1536,
        _APACHE,
        gated=True,
        kwargs=_gigapath,
        **_IMAGENET,
    ),
)
SPECS: dict[str, EncoderSpec] = {spec.name: spec for spec in _KNOWN}


def spec_of(encoder: object) -> EncoderSpec:
    """Return what is known of an encoder, or raise with the names that are known."""
    name = check_text("encoder", encoder)
    for spec in SPECS.values():
        if name in (spec.name, spec.model):
            return spec
    import timm

    on_hub = name.startswith("hf-hub:")
    if not on_hub and not timm.is_model(name):
        near = timm.list_models(f"*{name.split('_')[0]}*")[:5]
        raise ValueError(
            f"encoder={name!r} is not known. Choose one of {', '.join(map(repr, SPECS))}, any timm architecture"
            f"{' such as ' + ', '.join(near) if near else ''}, or 'hf-hub:owner/name'."
        )
    return EncoderSpec(name, name, None if on_hub else name)


def licence_of(encoder: str | None) -> str:
    """Return the licence of the weights of an encoder, as far as it is known."""
    return SPECS[encoder].licence if encoder in SPECS else "not recorded"
