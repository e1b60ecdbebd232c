"""The network of SEAL: its losses, its critic and its state."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.networks import LORA, disturb, normal, vit

from spade.core.seal.config import WEIGHTS, SealTraining
from spade.core.seal.network import SealNet
from spade.core.vision.lora import adapters, add_lora
from spade.core.vision.towers import FeatureTower, PixelTower


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
        (lambda s: s.pop("mean"), r"1 missing \['mean'\], 0 too many"),
        (lambda s: s.update(extra=torch.zeros(1)), r"0 missing \[\], 1 too many \['extra'\]"),
        (lambda s: s.update(mean=torch.zeros(8)), r"1 of other shape \['mean'\]"),
    ):
        wrong = dict(state)
        change(wrong)
        with pytest.raises(ValueError, match=said):
            net.load_own(wrong)
