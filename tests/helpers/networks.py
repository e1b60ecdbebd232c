"""Small networks with random weights, adapters on them, and files of weights."""

from __future__ import annotations

import timm
import torch
from safetensors.torch import save_file

import spade as sp
from helpers.sections import warns_here
from spade.core.vision.lora import adapters

ARCHITECTURE = "test_vit"  # timm's own tiny networks: 160 px, 64 features, 0.4 million parameters
PX = 160


def random(name=ARCHITECTURE, **kwargs):
    with warns_here(f"encoder='{name}' has random weights: its features mean nothing"):
        return sp.encoders.get(name, weights="random", **kwargs)


FILES = {
    "vit.safetensors": lambda state, path: save_file(state, path),
    "bare.pth": torch.save,
    "bare.bin": torch.save,
    "legacy.pt": lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
    "model.pth": lambda state, path: torch.save({"model": state, "epoch": 3}, path),
    "lightning.pt": lambda state, path: torch.save({"state_dict": state}, path),
}


TARGETS = ("qkv", "proj", "fc1", "fc2")
LORA = {"targets": TARGETS, "rank": 4, "alpha": 8.0, "dropout": 0.0}


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def vit(**kwargs):
    torch.manual_seed(3)
    options = {"img_size": 32, "patch_size": 16, "embed_dim": 16, "depth": 3, "num_heads": 2, "num_classes": 0}
    return timm.models.vision_transformer.VisionTransformer(**options | kwargs).eval()


def disturb(model, seed=0):
    """Give adapters something to add."""
    with torch.no_grad():
        for i, (_, value) in enumerate(adapters(model)):
            value.copy_(0.3 * normal(*value.shape, seed=seed + i))
    return model
