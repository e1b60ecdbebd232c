"""Low-rank adapters for image encoders: linear layers of the last transformer blocks, or the last stage of a CNN.

The package peft brings its own model classes for a product of two matrices, so the adapters are written here. The names
of the weights are those of peft (``base_layer``, ``lora_A.default``, ``lora_B.default``): state dicts fit both.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ADAPTER = "default"
#: Parts of the names of all weights that adapters add.
NAMES = ("lora_A.", "lora_B.")


class LoraLinear(nn.Module):
    r"""A frozen linear layer with a correction that learns.

    It computes :math:`W x + b + (\alpha/r) B A \, \mathrm{dropout}(x)`, where B is 0 at first (Hu et al. 2022, eq. 3).

    Parameters
    ----------
    base
        The layer.
    rank, alpha, dropout
        Rank r of the correction, its scale α, and the share of the input that is dropped in training.
    generator
        Generator that draws A.
    """

    def __init__(
        self, base: nn.Linear, rank: int, alpha: float, dropout: float, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.base_layer = base.requires_grad_(requires_grad=False)
        self.scale, self.dropout = alpha / rank, dropout
        kind: dict[str, Any] = {"device": base.weight.device, "dtype": base.weight.dtype}
        down, up = (
            nn.Linear(*widths, bias=False, **kind) for widths in ((base.in_features, rank), (rank, base.out_features))
        )
        _initialise(down, up, base.in_features, generator)
        self.lora_A, self.lora_B = nn.ModuleDict({ADAPTER: down}), nn.ModuleDict({ADAPTER: up})

    @property
    def weight(self) -> Tensor:
        """Weight with its correction, for encoders that read the weight and do not call the layer."""
        down, up = (getattr(part, ADAPTER).weight for part in (self.lora_A, self.lora_B))
        return self.base_layer.weight + self.scale * up @ down

    @property
    def bias(self) -> Tensor | None:
        """Bias of the layer."""
        return self.base_layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer and its correction."""
        low = self.lora_A[ADAPTER](F.dropout(x, self.dropout, self.training))
        return self.base_layer(x) + self.scale * self.lora_B[ADAPTER](low)

    def merged(self) -> nn.Linear:
        """Return one linear layer with the same output, without dropout."""
        layer = copy.deepcopy(self.base_layer)
        layer.weight = nn.Parameter(self.weight.detach().clone(), requires_grad=False)
        return layer


class AdaptedStage(nn.Module):
    r"""A frozen stage of a CNN with a correction of its output channels y that learns.

    It computes :math:`y + (\alpha/r) B A \, \mathrm{dropout}(y)` at every position.
    """

    def __init__(
        self,
        base: nn.Module,
        channels: int,
        rank: int,
        alpha: float,
        dropout: float,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.base_layer = base.requires_grad_(requires_grad=False)
        self.scale, self.dropout = alpha / rank, dropout
        down, up = nn.Conv2d(channels, rank, 1, bias=False), nn.Conv2d(rank, channels, 1, bias=False)
        _initialise(down, up, channels, generator)
        self.lora_A, self.lora_B = nn.ModuleDict({ADAPTER: down}), nn.ModuleDict({ADAPTER: up})

    def forward(self, x: Tensor) -> Tensor:
        """Apply the stage and its correction."""
        y = self.base_layer(x)
        return y + self.scale * self.lora_B[ADAPTER](self.lora_A[ADAPTER](F.dropout(y, self.dropout, self.training)))


def _initialise(
    down: nn.Linear | nn.Conv2d, up: nn.Linear | nn.Conv2d, fan_in: int, generator: torch.Generator | None
) -> None:
    """Draw A from U(−1/√fan_in, 1/√fan_in), and set B to 0, so that the output does not change at first."""
    with torch.no_grad():
        drawn = torch.empty(down.weight.shape).uniform_(-1, 1, generator=generator)
        down.weight.copy_(drawn / math.sqrt(fan_in))
        up.weight.zero_()


def blocks_of(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the names and modules of an encoder's transformer blocks, in order; empty if it has no attention."""
    blocks = []
    for name, module in model.named_modules():
        if name.rpartition(".")[2] == "blocks" and isinstance(module, (nn.ModuleList, nn.Sequential)):
            blocks += [(f"{name}.{i}", block) for i, block in module.named_children()]
    return [(name, block) for name, block in blocks if any("attn" in part for part, _ in block.named_modules())]


def add_lora(
    model: nn.Module,
    *,
    n_blocks: int,
    targets: Sequence[str],
    rank: int,
    alpha: float,
    dropout: float,
    generator: torch.Generator | None = None,
) -> list[str]:
    """Freeze an encoder in place, and add a low-rank correction to linear layers of its last blocks.

    Parameters
    ----------
    model
        A transformer with blocks, as timm builds them.
    n_blocks
        Number of blocks to adapt, from the end.
    targets
        Last parts of the names of the layers, such as ``qkv``; every block must have them all.
    rank, alpha, dropout, generator
        Parameters of :class:`LoraLinear`.

    Returns
    -------
    Names of the layers that were changed.
    """
    blocks = blocks_of(model)
    if not blocks:
        raise ValueError("encoder: has no transformer blocks to adapt.")
    if n_blocks > len(blocks):
        raise ValueError(f"n_blocks={n_blocks} is more than the number of blocks of the encoder, {len(blocks)}.")
    model.requires_grad_(requires_grad=False)
    changed = []
    for prefix, block in blocks[-n_blocks:]:
        linear = {name: layer for name, layer in block.named_modules() if isinstance(layer, nn.Linear)}
        known = {name.rpartition(".")[2] for name in linear}
        if lacking := [target for target in targets if target not in known]:
            raise ValueError(
                f"targets={tuple(targets)}: {prefix} has no linear layer {', '.join(map(repr, lacking))}; its linear "
                f"layers are {', '.join(sorted(known)) or 'none'}."
            )
        for name, layer in linear.items():
            if name.rpartition(".")[2] in targets:
                replace_module(block, name, LoraLinear(layer, rank, alpha, dropout, generator))
                changed.append(f"{prefix}.{name}")
    return changed


def add_stage_adapter(
    model: nn.Module,
    stage: str,
    channels: int,
    *,
    rank: int,
    alpha: float,
    dropout: float,
    generator: torch.Generator | None = None,
) -> None:
    """Freeze a CNN in place, and add a low-rank correction to the output ``(n, channels, h, w)`` of one stage."""
    model.requires_grad_(requires_grad=False)
    base = model.get_submodule(stage)
    replace_module(model, stage, AdaptedStage(base, channels, rank, alpha, dropout, generator))


def adapt(
    model: nn.Module,
    input_px: int,
    *,
    n_blocks: int,
    targets: Sequence[str],
    rank: int,
    alpha: float,
    dropout: float,
    generator: torch.Generator | None = None,
) -> None:
    """Adapt a transformer by :func:`add_lora`, or the last stage of a CNN by :func:`add_stage_adapter`, in place.

    ``input_px`` is the side of the input. A CNN is an encoder whose last stage, in timm's ``feature_info``, returns
    ``(n, channels, h, w)``.
    """
    if blocks_of(model):
        add_lora(
            model, n_blocks=n_blocks, targets=targets, rank=rank, alpha=alpha, dropout=dropout, generator=generator
        )
        return
    stages: Any = getattr(model, "feature_info", None)
    shapes: list[tuple[int, ...]] = []
    if stages:
        stage, channels = stages[-1]["module"], stages[-1]["num_chs"]
        module = dict(model.named_modules()).get(stage, nn.Identity())
        hook = module.register_forward_hook(lambda _module, _input, output: shapes.append(tuple(output.shape)))
        with torch.no_grad():
            model.eval()(torch.zeros(1, 3, input_px, input_px))
        hook.remove()
    if not shapes or len(shapes[0]) != 4 or shapes[0][1] != channels:
        raise ValueError(
            f"encoder: {type(model).__name__} has neither transformer blocks with attention nor a last stage of a CNN, "
            "so there is nothing to adapt. Choose a vision transformer or a CNN of timm, or train a head on its "
            "features with on_features=."
        )
    add_stage_adapter(model, stage, channels, rank=rank, alpha=alpha, dropout=dropout, generator=generator)


def replace_module(model: nn.Module, name: str, new: nn.Module) -> None:
    """Replace the module of a name such as ``blocks.0.attn.qkv``."""
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, new)


def adapters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the names and values of the weights of all adapters."""
    return ((name, value) for name, value in model.named_parameters() if any(part in name for part in NAMES))


def merged(model: nn.Module) -> nn.Module:
    """Return a copy of an encoder with the corrections merged into its linear layers; that of a CNN stays a module."""
    model = copy.deepcopy(model)
    for name, layer in list(model.named_modules()):
        if isinstance(layer, LoraLinear):
            replace_module(model, name, layer.merged())
    return model.eval()
