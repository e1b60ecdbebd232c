"""State dicts as other programs write them, under the names that the networks have here.

Published weights of one architecture come in several layouts. Each is told by a key that no other has, and renamed;
nothing is guessed: what does not fit afterwards is refused as any other file.
"""

from __future__ import annotations

import math
import re
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spade.encoders._architectures import Conch, MuskImage

State: TypeAlias = dict[str, Tensor]
#: Names of the transformers library (ViT and DINOv2) and of DINOv2's authors, and those of timm.
DINO = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^(embeddings\.)?register_tokens$", "reg_token"),
    (r"^(embeddings\.)?mask_token$", ""),  # used in training alone
    (r"^encoder\.layer\.", "blocks."),
    (r"^blocks\.\d+\.(?=\d+\.)", "blocks."),  # blocks in chunks
    (r"\.attention\.attention\.", ".attn."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.mlp\.(w12|weights_in)\.", ".mlp.fc1."),
    (r"\.mlp\.(w3|weights_out)\.", ".mlp.fc2."),
    (r"^layernorm\.", "norm."),
)
#: What the image side of CONCH has beside the tower that is used.
CONCH_OTHERS = ("proj_contrast", "attn_pool_caption.", "ln_caption.")
#: Before the keys of the encoder in a file of SEAL, and the scale of its adapters, which the file does not hold.
SEAL, SEAL_ALPHA = "encoder.base_model.model.", 8.0
DOWN, UP = ".lora_A.default.weight", ".lora_B.default.weight"


def as_built(state: State, model: nn.Module) -> State:
    """Return a state dict under the names of ``model``, which is one of timm or of the registry."""
    if any(SEAL in key for key in state):
        state = _merged({key.partition(SEAL)[2]: value for key, value in state.items() if SEAL in key})
    if isinstance(model, MuskImage):
        return {f"network.{key}": value for key, value in state.items()}
    if isinstance(model, Conch):
        return _conch(state, model)
    if {"embeddings.cls_token", "mask_token", "register_tokens"} & set(state):
        return _dino(state, model)
    if "layers.0.downsample.reduction.weight" in state:
        return _old_swin(state)
    return state


def _merged(state: State) -> State:
    """Return the weights of an encoder with the low-rank adapters of SEAL merged into its layers."""
    merged = {key.replace(".base_layer.", "."): value for key, value in state.items() if ".lora_" not in key}
    for key, down in state.items():
        if key.endswith(DOWN):
            layer = key.removesuffix(DOWN)
            merged[f"{layer}.weight"] = merged[f"{layer}.weight"] + SEAL_ALPHA / len(down) * state[layer + UP] @ down
    return merged


def _conch(state: State, model: Conch) -> State:
    """Return the image side of CONCH without its captions and its projection; positions as DINO resizes them."""
    if any(key.startswith("visual.") for key in state):
        state = {key.removeprefix("visual."): value for key, value in state.items() if key.startswith("visual.")}
    state = {key: value for key, value in state.items() if not key.startswith(CONCH_OTHERS)}
    return _resized(state, "trunk.pos_embed", model.trunk, offset=0.1)


def _dino(state: State, model: Any) -> State:
    """Return a vision transformer of the transformers library, or of the authors of DINOv2, as timm has it."""
    antialias = "embeddings.register_tokens" in state
    of_transformers = "embeddings.cls_token" in state
    renamed: State = {}
    for key, value in state.items():
        for pattern, name in DINO:
            key = re.sub(pattern, name, key)
        renamed[key] = value
    renamed.pop("", None)
    for key in [key for key in renamed if ".attn.query." in key]:
        parts = [key.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
        if set(parts) <= set(renamed):
            renamed[key.replace(".query.", ".qkv.")] = torch.cat([renamed.pop(part) for part in parts])
    if of_transformers:
        renamed = _resized(renamed, "pos_embed", model, antialias=antialias)
    if getattr(model, "no_embed_class", False) and {"cls_token", "pos_embed"} <= set(renamed):
        renamed["cls_token"] = renamed["cls_token"] + renamed["pos_embed"][:, :1]
        renamed["pos_embed"] = renamed["pos_embed"][:, 1:]
    return renamed


def _old_swin(state: State) -> State:
    """Return a Swin transformer of earlier versions of timm, whose stages end where the next now begin."""
    kept = {key: value for key, value in state.items() if not key.endswith(("attn_mask", "relative_position_index"))}
    return {re.sub(r"^layers\.(\d)\.downsample", _next_stage, key): value for key, value in kept.items()}


def _next_stage(found: re.Match[str]) -> str:
    return f"layers.{int(found[1]) + 1}.downsample"


def _resized(state: State, key: str, model: Any, *, offset: float = 0.0, antialias: bool = False) -> State:
    """Return the state with positions for the grid of the model, bicubic, as the authors' program resizes them."""
    if key not in state or state[key].ndim != 3:
        return state
    first, grid = state[key][:, :1], state[key][:, 1:]
    old, new = math.isqrt(grid.shape[1]), model.patch_embed.grid_size[0]
    if old == new or old**2 != grid.shape[1]:
        return state
    square = grid.unflatten(1, (old, old)).permute(0, 3, 1, 2).float()
    how: dict[str, Any] = {"scale_factor": (new + offset) / old} if offset else {"size": (new, new)}
    square = F.interpolate(square, mode="bicubic", antialias=antialias, **how)
    return state | {key: torch.cat([first, square.flatten(2).mT.to(grid.dtype)], dim=1)}
