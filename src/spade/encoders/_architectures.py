"""Networks of the registry that timm does not have, and how any network is built."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.layers import to_2tuple
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from spade.core.rng import seed_torch
from spade.encoders._spec import EncoderSpec


def created(spec: EncoderSpec, *, seed: int = 0, pretrained: bool = False) -> nn.Module:
    """Build the network of an encoder; its initial weights come from the seed, not from torch's own state."""
    build = None if pretrained else OWN.get(spec.architecture or "")
    name = (spec.model or spec.name) if pretrained else (spec.architecture or spec.name)
    with torch.random.fork_rng(devices=[]):
        seed_torch(seed)
        model: nn.Module = build(spec) if build else timm.create_model(name, pretrained=pretrained, **_options(spec))
        return model.eval()


def _options(spec: EncoderSpec) -> dict[str, Any]:
    return {"num_classes": 0, **spec.kwargs()}


class ConvStem(nn.Module):
    """Patches of CTransPath: three convolutions instead of one, to channels last."""

    def __init__(self, img_size: Any, patch_size: int, embed_dim: int, norm_layer: Any = None, **_: Any) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 3
        for out in (embed_dim // 8, embed_dim // 4):
            layers += [nn.Conv2d(width, out, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
            width = out
        self.proj = nn.Sequential(*layers, nn.Conv2d(width, embed_dim, 1))
        self.norm = norm_layer(embed_dim) if norm_layer else nn.Identity()
        self.patch_size = (patch_size, patch_size)
        self.grid_size = tuple(side // patch_size for side in to_2tuple(img_size))

    def forward(self, x: Tensor) -> Tensor:
        """Turn ``(n, 3, h, w)`` into ``(n, h / 4, w / 4, d)``."""
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class QueryPool(nn.Module):
    """Attention of one learned query to the tokens of CONCH, by an ``nn.MultiheadAttention``."""

    def __init__(self, dim: int, width: int, heads: int = 8) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, dim))
        self.attn = nn.MultiheadAttention(dim, heads, kdim=width, vdim=width, batch_first=True)
        self.ln_q, self.ln_k = nn.LayerNorm(dim), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Pool tokens ``(n, t, width)`` to ``(n, dim)``."""
        x = self.ln_k(x)
        query = self.ln_q(self.query).expand(len(x), -1, -1)
        return self.attn(query, x, x, need_weights=False)[0][:, 0]


class PlainQueryPool(nn.Module):
    """The same for CONCH 1.5: projections without bias, keys and values from one matrix."""

    def __init__(self, dim: int, width: int, heads: int = 8) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.randn(1, dim))
        self.ln_q, self.ln_k = nn.LayerNorm(dim), nn.LayerNorm(width)
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_kv = nn.Linear(width, 2 * dim, bias=False)
        self.to_out = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Pool tokens ``(n, t, width)`` to ``(n, dim)``."""
        query = self.to_q(self.ln_q(self.query)).expand(len(x), -1, -1)
        key, value = self.to_kv(self.ln_k(x)).chunk(2, dim=-1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (query, key, value))
        return self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))[:, 0]


class Conch(nn.Module):
    """Image side of CONCH: a vision transformer, and its contrastive query before the projection."""

    def __init__(self, dim: int, pool: type[QueryPool] | type[PlainQueryPool], **trunk: Any) -> None:
        super().__init__()
        self.trunk = VisionTransformer(patch_size=16, num_classes=0, **trunk)
        self.attn_pool_contrast = pool(dim, self.trunk.embed_dim)
        self.ln_contrast = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Encode normalised ``(n, 3, h, w)`` as ``(n, dim)``."""
        return self.ln_contrast(self.attn_pool_contrast(self.trunk.forward_features(x)))


class MuskImage(nn.Module):
    """Image side of MUSK: its class token at one scale, neither projected nor normalised."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Encode normalised ``(n, 3, h, w)`` as ``(n, 1024)``."""
        return self.network(image=x, with_head=False, out_norm=False, ms_aug=False, return_global=True)[0]


def _ctranspath(spec: EncoderSpec) -> nn.Module:
    return timm.create_model("swin_tiny_patch4_window7_224", embed_layer=ConvStem, num_classes=0)


def _conch(spec: EncoderSpec) -> nn.Module:
    return Conch(512, QueryPool, img_size=448, embed_dim=768, depth=12, num_heads=12)


def _conch_v1_5(spec: EncoderSpec) -> nn.Module:
    return Conch(768, PlainQueryPool, img_size=448, embed_dim=1024, depth=24, num_heads=16, init_values=1.0)


def _musk(spec: EncoderSpec) -> nn.Module:
    try:
        import_module(spec.requires or "")  # registers the architecture with timm
    except ImportError as error:
        raise ImportError(f"encoder={spec.name!r} needs a package of its authors ({error}): {spec.install}") from error
    return MuskImage(timm.create_model(spec.architecture or spec.name))


#: Architectures that are built here.
OWN = {"ctranspath": _ctranspath, "conch": _conch, "conch_v1_5": _conch_v1_5, "musk_large_patch16_384": _musk}
