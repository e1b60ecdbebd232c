"""SEAL on arrays: losses, the autoencoder of genes, adapters, how batches are dealt, and what settings are refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import timm
import torch
from torch import nn

from spade.core.experts.losses import clip
from spade.core.seal.config import WEIGHTS, SealTraining
from spade.core.seal.gene_vae import GeneVAE, PlanarFlow
from spade.core.seal.losses import correlations, info_nce, reconstruction, reverse_gradient
from spade.core.seal.network import SealNet
from spade.core.seal.pairs import epoch_batches, n_batches
from spade.core.vision.lora import AdaptedStage, LoraLinear, adapt, adapters, add_lora, blocks_of, merged
from spade.core.vision.towers import FeatureTower, PixelTower
from spade.encoders._spec import SPECS

TARGETS = ("qkv", "proj", "fc1", "fc2")
LORA = {"targets": TARGETS, "rank": 4, "alpha": 8.0, "dropout": 0.0}


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- losses


def info_nce_by_hand(image, gene, temperature, group):
    """Cosines in a double loop, and the softmax written out."""
    n, found = len(image), 0.0
    for one, other in ((image, gene), (gene, image)):
        for i in range(n):
            cosines = {
                j: float(one[i] @ other[j] / one[i].norm() / other[j].norm()) / temperature
                for j in range(n)
                if group is None or group[i] == group[j]
            }
            found -= cosines[i] - math.log(sum(math.exp(value) for value in cosines.values()))
    return found / (2 * n)


@pytest.mark.parametrize("group", [None, [0, 1, 0, 2, 1, 0, 0], [0] * 7, list(range(7))])
def test_info_nce_is_the_one_written_by_hand(group):
    image, gene = normal(7, 5).double(), 3 * normal(7, 5, seed=1).double()
    found = info_nce(image, gene, 0.3, None if group is None else torch.tensor(group))
    assert float(found) == pytest.approx(info_nce_by_hand(image, gene, 0.3, group), abs=1e-12)
    if group is not None and len(set(group)) == 7:
        assert float(found) == 0  # nothing to be told from


def test_info_nce_is_that_of_the_experts():
    image, gene = normal(9, 4), normal(9, 4, seed=1)
    torch.testing.assert_close(info_nce(image, gene, 0.05), clip(image, gene, 0.05))


def test_rows_of_other_groups_have_no_gradient():
    image, gene = normal(6, 4).requires_grad_(), normal(6, 4, seed=1)
    group = torch.tensor([0, 0, 1, 1, 2, 2])
    info_nce(image, gene, 0.05, group).backward()
    whole = image.grad.clone()
    image.grad = None
    changed = gene.clone()
    changed[4:] += 1
    info_nce(image, changed, 0.05, group).backward()
    torch.testing.assert_close(image.grad[:4], whole[:4])
    assert not torch.allclose(image.grad[4:], whole[4:])


def numpy_reconstruction(predicted, truth, mean, deviation):
    varying = np.flatnonzero(np.ptp(truth, axis=0))
    rho = [0.0 if not np.ptp(predicted[:, g]) else np.corrcoef(predicted[:, g], truth[:, g])[0, 1] for g in varying]
    squared = np.mean(((predicted - mean) / deviation - (truth - mean) / deviation) ** 2)
    return 0.1 * (0.05 * np.sum((1 - np.array(rho)) ** 2) + 5 * squared)


@pytest.mark.parametrize("constant", [(), ("truth",), ("predicted",), ("truth", "predicted")])
def test_reconstruction_is_that_of_numpy(constant):
    arrays = {"predicted": normal(30, 6).double().numpy(), "truth": normal(30, 6, seed=1).double().numpy()}
    arrays["truth"] += arrays["predicted"]
    for place, name in enumerate(constant):
        arrays[name][:, place : place + 2] = 0.7
    mean, deviation = np.linspace(-1, 1, 6), np.linspace(0.5, 3, 6)
    found = reconstruction(*(torch.from_numpy(a) for a in (*arrays.values(), mean, deviation)))
    assert float(found) == pytest.approx(numpy_reconstruction(*arrays.values(), mean, deviation), rel=1e-6)


def test_the_gradient_of_a_constant_prediction_is_finite():
    truth = normal(12, 3)
    truth[:, 0] = 2.0
    for value in (0.0, 5.0):
        predicted = torch.full((12, 3), value, requires_grad=True)
        rho, varies = correlations(predicted, truth)
        assert rho.tolist() == [0, 0, 0]
        assert varies.tolist() == [False, True, True]
        reconstruction(predicted, truth, torch.zeros(3), torch.ones(3)).backward()
        assert torch.isfinite(predicted.grad).all()
    one = torch.zeros(1, 3, requires_grad=True)  # a batch of one row has no correlation
    reconstruction(one, truth[:1], torch.zeros(3), torch.ones(3)).backward()
    assert torch.isfinite(one.grad).all()


def test_the_gradient_is_turned_round():
    x = normal(4, 3).requires_grad_()
    y = reverse_gradient(x)
    assert torch.equal(y, x)
    (y * normal(4, 3, seed=1)).sum().backward()
    torch.testing.assert_close(x.grad, -normal(4, 3, seed=1))


# --- the autoencoder


def test_the_determinant_of_a_flow_is_that_of_its_jacobian():
    flow = PlanarFlow(5).double()
    with torch.no_grad():
        flow.u.copy_(normal(5)), flow.w.copy_(normal(5, seed=1)), flow.b.fill_(0.3)
    z = normal(8, 5, seed=2).double()
    moved, log_det = flow(z)
    for row, after, value in zip(z, moved.detach(), log_det.detach(), strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda one: flow(one[None])[0][0], row)
        assert float(value) == pytest.approx(float(torch.linalg.slogdet(jacobian)[1]), abs=1e-6)
        torch.testing.assert_close(after, row + flow.u * torch.tanh(flow.w @ row + flow.b))


def test_the_divergence_without_flows_is_that_of_two_gaussians():
    torch.manual_seed(0)
    vae = GeneVAE(6, 4, hidden=(8, 7), n_flows=0)
    encoded = vae(normal(10, 6), torch.Generator().manual_seed(0))
    posterior = torch.distributions.Normal(encoded.mean, (0.5 * encoded.log_variance).exp())
    expected = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).sum(1).mean()
    torch.testing.assert_close(encoded.kl(), expected)


def test_flows_change_the_divergence_by_their_determinants():
    torch.manual_seed(0)
    vae = GeneVAE(6, 4, hidden=(8, 7))
    encoded = vae(normal(10, 6), torch.Generator().manual_seed(0))
    z, total = encoded.mean + (0.5 * encoded.log_variance).exp() * normal(10, 4), torch.zeros(10)
    for flow in vae.flows:
        z, change = flow(z)
        total += change
    torch.testing.assert_close(encoded.z, z)
    torch.testing.assert_close(encoded.log_det, total)
    gaussian = 0.5 * (encoded.log_variance.exp() + encoded.mean**2 - 1 - encoded.log_variance).sum(1)
    torch.testing.assert_close(encoded.kl(), (gaussian - total).mean())


def test_the_autoencoder_is_noisy_in_training_only():
    torch.manual_seed(0)
    vae = GeneVAE(11, 4)
    x = normal(9, 11)
    widths = [layer.out_features for layer in vae.modules() if isinstance(layer, nn.Linear)]
    assert widths == [1024, 512, 4, 4, 512, 1024, 11]
    assert len(vae.flows) == 3
    one, same, other = (vae(x, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert one.z.shape == one.mean.shape == one.log_variance.shape == (9, 4)
    assert (one.y.shape, one.log_det.shape) == ((9, 11), (9,))
    assert torch.equal(one.z, same.z)
    assert not torch.equal(one.z, other.z)
    assert torch.equal(one.mean, other.mean)
    vae.eval()
    assert torch.equal(vae(x, torch.Generator().manual_seed(1)).z, vae(x).z)
    torch.testing.assert_close(vae(x[:3]).z, vae(x).z[:3])  # rows do not depend on each other


# --- adapters


def vit(**kwargs):
    torch.manual_seed(3)
    options = {"img_size": 32, "patch_size": 16, "embed_dim": 16, "depth": 3, "num_heads": 2, "num_classes": 0}
    return timm.models.vision_transformer.VisionTransformer(**options | kwargs).eval()


def swin():
    torch.manual_seed(3)
    options = {"img_size": 32, "patch_size": 4, "window_size": 4, "embed_dim": 8, "depths": (2, 1), "num_heads": (1, 2)}
    return timm.models.swin_transformer.SwinTransformer(**options, num_classes=0).eval()


def disturb(model, seed=0):
    """Give adapters something to add."""
    with torch.no_grad():
        for i, (_, value) in enumerate(adapters(model)):
            value.copy_(0.3 * normal(*value.shape, seed=seed + i))
    return model


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
            r"targets=\('qkv', 'up', 'w1'\): blocks\.2 has no linear layer 'up', 'w1'; there are fc1, fc2, proj, qkv\.",
        ),
        ({"n_blocks": 4}, r"n_blocks=4, but the encoder has 3 blocks"),
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


# --- the network


def feature_net(width=5, n_genes=7, dim=4, **kwargs):
    torch.manual_seed(0)
    return SealNet(
        FeatureTower(np.zeros(width), np.ones(width), dim), dim, np.zeros(n_genes), np.ones(n_genes), **kwargs
    )


@pytest.mark.parametrize("only", WEIGHTS)
def test_every_loss_is_made_only_if_it_is_switched_on(only):
    net = feature_net(n_sections=2)
    weights = dict.fromkeys(WEIGHTS, 0.0) | {"image_to_gene": 1.0, only: 2.0}
    found = net.losses(normal(6, 4), normal(6, 7), torch.tensor([0, 1] * 3), SealTraining(**weights))
    assert set(found) == {"image_to_gene", only}
    assert SealTraining(**weights).loss_weights()[only] == 2


def test_the_critic_learns_sections_and_the_towers_forget_them():
    net = feature_net(n_sections=2)
    image, section = normal(8, 4).requires_grad_(), torch.tensor([0, 1] * 4)
    config = SealTraining(contrastive=0, gene_reconstruction=0, adversary=1.0)

    def adversary():
        return net.losses(image, normal(8, 7), section, config, torch.Generator().manual_seed(0))["adversary"]

    before = adversary()
    before.backward()
    with torch.no_grad():
        worse = image + 0.1 * -image.grad / image.grad.norm()  # a step down its gradient, as an optimiser takes
        better = [value - 0.1 * value.grad for value in net.critic.parameters()]
    with torch.no_grad():
        kept, image = image, worse
        assert adversary() > before
        image = kept
        for value, new in zip(net.critic.parameters(), better, strict=True):
            value.copy_(new)
        assert adversary() < before


def test_own_state_leaves_the_frozen_encoder_out_and_fits_key_by_key():
    model = vit()
    add_lora(model, n_blocks=1, **LORA)
    net = SealNet(PixelTower(model, (0.5,) * 3, (0.5,) * 3), 16, np.zeros(7), np.ones(7))
    state = {name: value.clone() for name, value in net.own_state().items()}
    assert {name for name in state if name.startswith("vision.")} == {
        f"vision.{name}" for name, _ in adapters(net.vision)
    }
    assert {"mean", "deviation"} < set(state)
    disturb(net.vision)
    net.load_own(state)
    assert all(torch.equal(value, state[name]) for name, value in net.own_state().items())
    for change, said in (
        (lambda s: s.pop("mean"), r"1 weights are missing \['mean'\], 0 too many"),
        (lambda s: s.update(extra=torch.zeros(1)), r"0 weights are missing \[\], 1 too many \['extra'\]"),
        (lambda s: s.update(mean=torch.zeros(8)), r"1 of other shape \['mean'\]"),
    ):
        wrong = dict(state)
        change(wrong)
        with pytest.raises(ValueError, match=said):
            net.load_own(wrong)


# --- batches


@pytest.mark.parametrize("n", [*range(1, 24), 100, 385, 769])
@pytest.mark.parametrize("size", [2, 3, 7, 384])
def test_every_row_is_in_one_batch_of_an_epoch(n, size):
    rows = 3 * np.arange(n)
    count = n_batches(n, size)
    dealt = epoch_batches(rows, np.zeros(3 * n, int), count, False, np.random.default_rng(0))
    sizes = [len(batch) for batch in dealt]
    assert len(dealt) == count
    assert sorted(np.concatenate(dealt)) == rows.tolist()
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 2 or n == 1
    assert max(sizes) <= size or (size == 2 and n % 2 and max(sizes) == 3)


def test_order_changes_with_its_generator_alone():
    rows, section = np.arange(40), np.arange(40) % 3
    for balance in (False, True):
        one, same, other = (
            np.concatenate(epoch_batches(rows, section, 5, balance, np.random.default_rng(seed))) for seed in (0, 0, 1)
        )
        assert one.tolist() == same.tolist() != other.tolist()


@pytest.mark.parametrize("sizes", [(40, 40), (100, 5, 17), (1, 60), (3, 3, 3, 90)])
@pytest.mark.parametrize("batch", [2, 6, 9, 64])
def test_balanced_batches_have_as_many_rows_of_every_section(sizes, batch):
    section = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    rows = np.flatnonzero(section >= 0)
    n = n_batches(len(rows), batch)
    dealt = epoch_batches(rows, section, n, True, np.random.default_rng(0))
    counts = np.array([np.bincount(section[one], minlength=len(sizes)) for one in dealt])
    assert len(dealt) == n
    assert (counts.sum(1) == len(rows) // n).all()
    assert (np.ptp(counts, axis=1) <= 1).all()
    assert np.ptp(counts.sum(0)) <= 1 + n // len(sizes)
    for one, count in zip(dealt, counts, strict=True):  # a pair that is its own negative cannot be told apart
        for name, size in enumerate(sizes):
            assert len(np.unique(one[section[one] == name])) == min(count[name], size)
    for name, size in enumerate(sizes):  # a section is used up before a row of it comes again
        seen = np.bincount(np.concatenate(dealt)[section[np.concatenate(dealt)] == name], minlength=len(rows))
        own = seen[section == name]
        assert np.ptp(own) <= 1, size


# --- settings


@pytest.mark.parametrize(
    ("options", "said"),
    [
        *[
            ({name: 0}, rf"{name}=0: expected a whole number of at least 1")
            for name in ("n_blocks", "rank", "dim", "hidden", "n_epochs")
        ],
        ({"batch_size": 1}, "batch_size=1: expected a whole number of at least 2"),
        ({"gene_warmup": -1}, "gene_warmup=-1: expected a whole number of at least 0"),
        ({"micro_batch_size": -1}, "micro_batch_size=-1: expected a whole number of at least 0"),
        *[
            ({name: value}, rf"{name}={value!r}: expected a whole number")
            for name, value in (("rank", 1.5), ("batch_size", True), ("n_epochs", "3"), ("gene_warmup", None))
        ],
        *[
            ({name: value}, rf"{name}={value!r}: expected a positive number")
            for name in ("alpha", "temperature", "lr")
            for value in (0.0, -1.0, math.inf, math.nan)
        ],
        *[
            ({name: value}, rf"{name}={value!r}: expected a number of at least 0")
            for name in (*WEIGHTS, "weight_decay")
            for value in (-0.1, math.nan, math.inf)
        ],
        *[
            ({name: value}, rf"{name}={value!r}: expected a number in \[0, 1\)")
            for name in ("dropout", "stain_jitter")
            for value in (-0.1, 1.0, math.nan)
        ],
        ({"lr": "1e-3"}, "lr='1e-3': expected a number"),
        *[({name: 1}, rf"{name}=1: expected True or False") for name in ("flips", "rotations", "balance_sections")],
        ({"negatives": "sections"}, "negatives='sections': expected one of 'all', 'section'"),
        ({"precision": "fp16"}, "precision='fp16': expected one of 'fp32', 'bf16'"),
        ({"head": "deep"}, "head='deep': expected one of 'mlp', 'linear'"),
        ({"targets": ()}, r"targets=\(\): expected names of layers, such as \('qkv', 'proj'\)"),
        ({"targets": ("qkv", 3)}, r"targets=\('qkv', 3\): expected names of layers"),
        ({"targets": ("",)}, r"targets=\('',\): expected names of layers"),
        ({"contrastive": 0, "image_to_gene": 0}, "nothing would train the image side"),
        ({"gene_warmup": 2, "gene_reconstruction": 0}, "gene_warmup=2 needs gene_reconstruction above 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        SealTraining(**options)


def test_numbers_of_numpy_and_lists_become_plain():
    config = SealTraining(rank=np.int64(4), lr=np.float32(0.5), flips=np.bool_(False), targets=["qkv"])
    assert (config.rank, config.lr, config.flips, config.targets) == (4, 0.5, False, ("qkv",))
    assert [type(value) for value in (config.rank, config.lr, config.flips)] == [int, float, bool]
    assert SealTraining(targets="qkv").targets == ("qkv",)
