"""Tensors in the form in which the authors of SEAL publish them, and what they compute, by hand."""

from __future__ import annotations

import torch
from torch import nn

from spade.models import read_published_seal

ARCHITECTURE, PX, D = "test_vit", 160, 64
G, RANK = 30, 4  # alpha / rank is 2
NAMES = [f"G{i:02d}" for i in range(G)]
LAYERS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
PREFIX = "encoder.base_model.model."
LAST = f"{PREFIX}blocks.5."


class Flow(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.u, self.w, self.b = (nn.Parameter(torch.randn(n) / 4) for n in (dim, dim, 1))


class Omics(nn.Module):
    """The modules that name the weights of the expression tower."""

    def __init__(self, n_genes=G, dim=D):
        super().__init__()
        self.encoder = nn.Sequential(
            *(nn.Linear(n_genes, 1024), nn.BatchNorm1d(1024), nn.ReLU(), nn.Dropout()),
            *(nn.Linear(1024, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Dropout()),
        )
        self.fc_mu, self.fc_logvar = nn.Linear(512, dim), nn.Linear(512, dim)
        self.flows = nn.ModuleList(Flow(dim) for _ in range(3))
        self.decoder = nn.Sequential(
            nn.Linear(dim, 512), nn.ReLU(), nn.Linear(512, 1024), nn.ReLU(), nn.Dropout(), nn.Linear(1024, n_genes)
        )
        for norm in (self.encoder[1], self.encoder[5]):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)


def vision_of(network, blocks=(5,), rank=RANK):
    """State dict of an encoder with adapters and a head."""
    state = {}
    adapted = {f"blocks.{i}.{layer}" for i in blocks for layer in LAYERS}
    for name, value in network.state_dict().items():
        layer, _, last = name.rpartition(".")
        state[f"{PREFIX}{layer}.base_layer.{last}" if layer in adapted else f"{PREFIX}{name}"] = value
        if layer in adapted and last == "weight":
            for part, shape in (("A", (rank, value.shape[1])), ("B", (value.shape[0], rank))):
                state[f"{PREFIX}{layer}.lora_{part}.default.weight"] = torch.randn(shape) / 8
    head = {"0": nn.Linear(network.num_features, 512), "3": nn.Linear(512, G)}
    return state | {f"decoder.decoder.{i}.{name}": v for i, one in head.items() for name, v in one.state_dict().items()}


def read(files, **options):
    return read_published_seal(*files, **{"encoder": ARCHITECTURE, "genes": NAMES, "device": "cpu", **options})


def image_by_hand(network, vision, patches, scale):
    """The encoder with its adapters put into its weights."""
    merged = dict(network.state_dict())
    for name in merged:
        layer, _, last = name.rpartition(".")
        down, up = (vision.get(f"{PREFIX}{layer}.lora_{part}.default.weight") for part in "AB")
        if last == "weight" and down is not None:
            merged[name] = vision[f"{PREFIX}{layer}.base_layer.weight"] + scale * up @ down
    config = network.pretrained_cfg
    x = torch.from_numpy(patches).permute(0, 3, 1, 2).float() / 255
    x = (x - torch.tensor(config["mean"]).view(3, 1, 1)) / torch.tensor(config["std"]).view(3, 1, 1)
    with torch.no_grad():
        return torch.func.functional_call(network, merged, (x,)).numpy()


def expression_by_hand(s, x):
    h = torch.from_numpy(x)
    for linear, norm in (("0", "1"), ("4", "5")):
        h = h @ s[f"encoder.{linear}.weight"].T + s[f"encoder.{linear}.bias"]
        spread = (s[f"encoder.{norm}.running_var"] + 1e-5).sqrt()
        h = (h - s[f"encoder.{norm}.running_mean"]) / spread * s[f"encoder.{norm}.weight"] + s[f"encoder.{norm}.bias"]
        h = h.clamp(min=0)
    z = h @ s["fc_mu.weight"].T + s["fc_mu.bias"]
    for i in range(3):
        slope = torch.tanh((z * s[f"flows.{i}.w"]).sum(1) + s[f"flows.{i}.b"])
        z = z + slope[:, None] * s[f"flows.{i}.u"]
    return z.numpy()
