"""Low-rank adapters of encoders."""

from __future__ import annotations

import math

import numpy as np
import pytest
import timm
import torch
from helpers.networks import LORA, TARGETS, disturb, normal, vit
from torch import nn

from spade.core.seal.config import SealTraining
from spade.core.seal.network import SealNet
from spade.core.vision.lora import AdaptedStage, LoraLinear, adapt, adapters, add_lora, blocks_of, merged
from spade.core.vision.towers import PixelTower
from spade.encoders._spec import SPECS


def swin():
    torch.manual_seed(3)
    options = {"img_size": 32, "patch_size": 4, "window_size": 4, "embed_dim": 8, "depths": (2, 1), "num_heads": (1, 2)}
    return timm.models.swin_transformer.SwinTransformer(**options, num_classes=0).eval()


@pytest.mark.parametrize(
    ("name", "kwargs", "rank", "n_blocks", "expected"),
    [
        ("uni2_h", None, 8, 1, 196_608),
        ("vit_tiny_patch16_224", {}, 8, 1, 8 * 16 * 192),
        ("vit_small_patch16_224", {}, 8, 1, 8 * 16 * 384),
        ("vit_small_patch16_224", {}, 4, 3, 3 * 4 * 16 * 384),
        ("vit_base_patch16_224", {}, 16, 12, 12 * 16 * 16 * 768),
    ],
)
def test_adapters_have_as_many_weights_as_their_formula(name, kwargs, rank, n_blocks, expected):
    spec = SPECS.get(name)
    architecture, kwargs = (name, kwargs) if spec is None else (spec.architecture, spec.kwargs())
    with torch.device("meta"):  # shapes without memory
        model = timm.create_model(architecture, pretrained=False, num_classes=0, **kwargs)
    changed = add_lora(model, n_blocks=n_blocks, targets=TARGETS, rank=rank, alpha=8, dropout=0.15)
    assert len(changed) == 4 * n_blocks
    assert sum(value.numel() for _, value in adapters(model)) == expected
    assert sum(value.numel() for value in model.parameters() if value.requires_grad) == expected


def test_adapters_change_nothing_at_first_and_then_as_their_formula_says():
    base = nn.Linear(6, 5)
    layer = LoraLinear(base, 2, 8.0, 0.0, torch.Generator().manual_seed(0))
    x = normal(7, 6)
    assert torch.equal(layer(x), base(x))
    assert torch.equal(layer.weight, base.weight)
    assert layer.lora_A["default"].weight.abs().max() <= 1 / math.sqrt(6)
    assert layer.lora_A["default"].weight.std() > 0.1
    disturb(layer)
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    torch.testing.assert_close(layer(x), base(x) + 4.0 * x @ down.T @ up.T)
    torch.testing.assert_close(nn.functional.linear(x, layer.weight, layer.bias), layer(x))
    torch.testing.assert_close(layer.merged()(x), layer(x))
    assert LoraLinear(nn.Linear(6, 5, bias=False), 2, 8.0, 0.0).bias is None


def test_dropout_of_an_adapter_is_of_its_input_alone():
    layer = disturb(LoraLinear(nn.Linear(50, 40), 4, 4.0, 0.5))
    x = normal(9, 50)
    torch.manual_seed(0)
    found = layer(x)
    torch.manual_seed(0)
    kept = nn.functional.dropout(x, 0.5)
    low = kept @ layer.lora_A["default"].weight.T
    torch.testing.assert_close(found, layer.base_layer(x) + low @ layer.lora_B["default"].weight.T)
    assert not torch.allclose(found, layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


def test_names_are_those_of_peft():
    model = vit()
    before = dict(model.state_dict())
    changed = add_lora(model, n_blocks=1, **LORA)
    assert changed == [f"blocks.2.{name}" for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")]
    expected = {name for name in before if not any(name.startswith(f"{one}.") for one in changed)}
    for one in changed:
        expected |= {f"{one}.base_layer.{part}" for part in ("weight", "bias")}
        expected |= {f"{one}.{side}.default.weight" for side in ("lora_A", "lora_B")}
    assert set(model.state_dict()) == expected
    for name, value in before.items():
        now = model.state_dict().get(name, model.state_dict().get(name.replace(".weight", ".base_layer.weight")))
        assert now is None or torch.equal(now, value)


@pytest.mark.parametrize("n_blocks", [1, 2, 3])
@pytest.mark.parametrize("make", [vit, swin])
def test_a_merged_encoder_gives_what_the_adapted_one_gives(make, n_blocks):
    model, plain = make(), make()
    changed = add_lora(model, n_blocks=n_blocks, **LORA)
    assert len(changed) == 4 * n_blocks
    x = normal(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model(x), plain(x), rtol=0, atol=1e-6)
        disturb(model)
        whole = merged(model)
        torch.testing.assert_close(whole(x), model(x), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(model(x), plain(x), atol=1e-3)
    assert list(whole.state_dict()) == list(plain.state_dict())
    assert not any(isinstance(part, (LoraLinear, AdaptedStage)) for part in whole.modules())
    assert any(isinstance(part, LoraLinear) for part in model.modules())  # it is a copy


def test_the_last_blocks_of_a_swin_are_those_of_its_last_layer():
    assert [name for name, _ in blocks_of(swin())] == ["layers.0.blocks.0", "layers.0.blocks.1", "layers.1.blocks.0"]
    assert {name.rpartition(".blocks.")[0] for name in add_lora(swin(), n_blocks=1, **LORA)} == {"layers.1"}
    two = add_lora(swin(), n_blocks=2, **LORA | {"targets": ("qkv",)})
    assert two == ["layers.0.blocks.1.attn.qkv", "layers.1.blocks.0.attn.qkv"]


def test_an_encoder_that_reads_weights_itself_sees_the_merged_ones():
    """As BEiT does, whose bias is put together in the forward pass."""
    torch.manual_seed(3)
    options = {"img_size": 32, "patch_size": 16, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 0}
    model = timm.models.beit.Beit(**options).eval()
    x = normal(2, 3, 32, 32)
    add_lora(model, n_blocks=2, **LORA)
    with torch.no_grad():
        before = model(x)
        disturb(model)
        torch.testing.assert_close(merged(model)(x), model(x), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(model(x), before, atol=1e-3)
    (model(x) * normal(2, 16)).sum().backward()
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for _, value in adapters(model))


def resnet():
    torch.manual_seed(3)
    return timm.create_model("test_resnet", num_classes=0).eval()


def test_a_cnn_is_adapted_after_its_last_stage():
    model, plain = resnet(), resnet()
    channels = plain.feature_info[-1]["num_chs"]
    adapt(model, 64, n_blocks=1, **LORA)
    assert {name for name, _ in adapters(model)} == {f"layer4.lora_{side}.default.weight" for side in "AB"}
    assert sum(value.numel() for _, value in adapters(model)) == 2 * 4 * channels
    x = normal(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(x), plain(x))
        disturb(model)
        stage = model.layer4
        y = stage.base_layer(normal(2, *stage_input(plain, x).shape[1:]))
        correction = torch.einsum(
            "oi,nihw->nohw",
            2.0 * stage.lora_B["default"].weight[..., 0, 0] @ stage.lora_A["default"].weight[..., 0, 0],
            y,
        )
        torch.testing.assert_close(stage(normal(2, *stage_input(plain, x).shape[1:])), y + correction)
        torch.testing.assert_close(merged(model)(x), model(x))


def stage_input(model, x):
    seen = []
    hook = model.layer4.register_forward_hook(lambda _module, given, _output: seen.append(given[0]))
    model(x)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize(("make", "px"), [(vit, 32), (swin, 32), (resnet, 64)])
def test_only_adapters_learn_and_all_else_stays_bit_for_bit(make, px):
    model = make()
    adapt(model, px, n_blocks=1, **LORA | {"dropout": 0.2})
    dim = model(torch.zeros(1, 3, px, px)).shape[1]
    net = SealNet(PixelTower(model, (0.5,) * 3, (0.5,) * 3), dim, np.zeros(7), np.ones(7)).train()
    own = {name for name, _ in adapters(net.vision)}
    before = {name: value.clone() for name, value in net.vision.state_dict().items()}
    optimiser = torch.optim.AdamW([value for _, value in net.trained()], lr=0.1, weight_decay=0.5)
    for step in range(3):
        losses = net.losses(net.vision(torch.rand(6, 3, px, px)), normal(6, 7), torch.zeros(6).long(), SealTraining())
        optimiser.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        if step:  # B is 0 at first, and so is the gradient of A
            assert all(value.grad.abs().sum() > 0 for _, value in adapters(net.vision))
        assert {name for name, value in net.vision.named_parameters() if value.grad is not None} == own
        optimiser.step()
    for name, value in net.vision.state_dict().items():
        assert torch.equal(value, before[name]) == (name not in own), name
    modes = {type(part).__name__ for part in net.vision.modules() if part.training}
    assert modes <= {"LoraLinear", "AdaptedStage"}
    assert modes
    assert net.gene.training
    net.eval()
    assert not any(part.training for part in net.modules())


class Odd(nn.Module):
    """Neither a transformer nor a CNN of stages."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        return self.layer(x.mean((2, 3)))


def mixer():
    options = {"img_size": 32, "patch_size": 16, "embed_dim": 16, "num_blocks": 2, "num_classes": 0}
    return timm.models.mlp_mixer.MlpMixer(**options)


@pytest.mark.parametrize(("make", "name"), [(mixer, "MlpMixer"), (Odd, "Odd")])
def test_an_encoder_with_nothing_to_adapt_is_refused(make, name):
    with pytest.raises(
        ValueError, match=rf"{name} has neither transformer blocks with attention nor .*a CNN of timm.*on_features="
    ):
        adapt(make(), 32, n_blocks=1, **LORA)
    with pytest.raises(ValueError, match="has no transformer blocks"):
        add_lora(make(), n_blocks=1, **LORA)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"targets": ("qkv", "up", "w1")},
            r"targets=\('qkv', 'up', 'w1'\): blocks\.2 has no linear layer 'up', 'w1'; its linear layers are fc1, fc2",
        ),
        ({"n_blocks": 4}, r"n_blocks=4 is more than the number of blocks of the encoder, 3"),
    ],
)
def test_layers_and_blocks_that_are_not_there(options, said):
    model = vit()
    before = list(model.state_dict())
    with pytest.raises(ValueError, match=said):
        add_lora(model, **{"n_blocks": 1, **LORA, **options})
    assert list(model.state_dict()) == before


def test_adapters_begin_as_their_generator_draws():
    def begun(seed):
        model = vit()
        add_lora(model, n_blocks=2, generator=torch.Generator().manual_seed(seed), **LORA)
        return torch.cat([value.flatten() for _, value in adapters(model)])

    torch.manual_seed(1)
    one = begun(0)
    assert torch.equal(one, begun(0))
    assert not torch.equal(one, begun(1))
