"""The autoencoder of genes: flows, divergence and noise."""

from __future__ import annotations

import pytest
import torch
from helpers.networks import normal
from torch import nn

from spade.core.seal.gene_vae import GeneVAE, PlanarFlow


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
