"""Heads, losses and routing against an independent float64 numpy implementation of the equations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import erf

from spade.core.experts.heads import Experts, mix_experts
from spade.core.experts.losses import clip, soft_clip
from spade.core.experts.routing import Routing, feature_scale, routing_entropy
from spade.core.rng import torch_stream

E, B, D, G, WIDTH = 3, 7, 11, 13, 16


def head_reference(x, w1, b1, w2, b2, gain, shift):
    h = x @ w1.T + b1
    y = (h * 0.5 * (1 + erf(h / np.sqrt(2)))) @ w2.T + b2 + h
    centred = y - y.mean(1, keepdims=True)
    return gain * centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5) + shift


def log_softmax_rows(a):
    a = a - a.max(1, keepdims=True)
    return a - np.log(np.exp(a).sum(1, keepdims=True))


def soft_clip_reference(image, spot, tau):
    n = len(image)
    logits = np.array([[spot[i] @ image[j] / tau for j in range(n)] for i in range(n)])
    similarity = np.array([[(image[i] @ image[j] + spot[i] @ spot[j]) / 2 * tau for j in range(n)] for i in range(n)])
    target = np.exp(log_softmax_rows(similarity))
    by_row, by_column = log_softmax_rows(logits), log_softmax_rows(logits.T)
    loss = 0.0
    for i in range(n):
        loss += -sum(target[i, j] * by_row[i, j] for j in range(n)) / 2
        loss += -sum(target[j, i] * by_column[i, j] for j in range(n)) / 2
    return loss / n


def clip_reference(image, spot, tau):
    image = image / np.linalg.norm(image, axis=1, keepdims=True)
    spot = spot / np.linalg.norm(spot, axis=1, keepdims=True)
    logits = spot @ image.T / tau
    return -(np.diag(log_softmax_rows(logits)).mean() + np.diag(log_softmax_rows(logits.T)).mean()) / 2


@pytest.fixture
def experts():
    module = Experts(E, D, G, WIDTH)
    module.initialise([torch_stream(0, "test", e) for e in range(E)])
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for head in (module.image_projection, module.spot_projection):
            head.layer_norm.weight.normal_(generator=generator)
            head.layer_norm.bias.normal_(generator=generator)
    return module.double().eval()


def parameters(head, e):
    layers = (head.projection, head.fc, head.layer_norm)
    return [p[e].detach().numpy() for layer in layers for p in (layer.weight, layer.bias)]


def test_heads_follow_the_equation(experts):
    x = np.random.default_rng(0).normal(size=(E, B, D))
    found = experts.image_projection(torch.from_numpy(x)).detach().numpy()
    for e in range(E):
        np.testing.assert_allclose(
            found[e], head_reference(x[e], *parameters(experts.image_projection, e)), rtol=0, atol=1e-6
        )


def test_float32_heads_stay_within_1e6_of_float64(experts):
    x = np.random.default_rng(0).normal(size=(E, B, G))
    wanted = experts.spot_projection(torch.from_numpy(x)).detach()
    found = experts.float().spot_projection(torch.from_numpy(x).float()).detach().double()
    assert (wanted - found).abs().max() < 5e-6


def test_initialisation_is_that_of_torch_linear(experts):
    weight = experts.image_projection.projection.weight.detach()
    bound = 1 / np.sqrt(D)
    assert weight.abs().max() <= bound
    assert weight.abs().max() > 0.95 * bound
    assert abs(float(weight.std()) - bound / np.sqrt(3)) < 0.05 * bound


def test_each_expert_starts_alike_whatever_its_neighbours():
    several, alone = Experts(4, D, G), Experts(1, D, G)
    several.initialise([torch_stream(5, "initialisation", e) for e in range(4)])
    alone.initialise([torch_stream(5, "initialisation", 2)])
    for key, value in alone.state_dict().items():
        assert torch.equal(value[0], several.state_dict()[key][2])


@pytest.mark.parametrize("tau", [0.3, 1.0, 2.0])
@pytest.mark.parametrize(("loss", "reference"), [(soft_clip, soft_clip_reference), (clip, clip_reference)])
def test_losses_follow_the_equations(loss, reference, tau):
    rng = np.random.default_rng(3)
    image, spot = rng.normal(size=(2, E, B, WIDTH))
    found = loss(torch.from_numpy(image), torch.from_numpy(spot), tau).numpy()
    assert found.shape == (E,)
    np.testing.assert_allclose(found, [reference(i, s, tau) for i, s in zip(image, spot, strict=True)], atol=1e-6)


@pytest.mark.parametrize(("loss", "reference"), [(soft_clip, soft_clip_reference), (clip, clip_reference)])
def test_gradients_match_finite_differences(loss, reference):
    rng = np.random.default_rng(4)
    image, spot = rng.normal(size=(2, 4, 5))
    tensors = [torch.from_numpy(a.copy()).requires_grad_() for a in (image, spot)]
    loss(*tensors, 0.7).backward()
    step = 1e-6
    for which, array in enumerate((image, spot)):
        for i, j in np.ndindex(array.shape):
            shifted = [image.copy(), spot.copy()]
            shifted[which][i, j] += step
            up = reference(*shifted, 0.7)
            shifted[which][i, j] -= 2 * step
            assert float(tensors[which].grad[i, j]) == pytest.approx(
                (up - reference(*shifted, 0.7)) / (2 * step), abs=1e-6
            )


def test_the_gradient_of_soft_clip_flows_through_its_targets():
    image, spot = torch.randn(2, 6, 8, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    image.requires_grad_()
    (full,) = torch.autograd.grad(soft_clip(image, spot), image)
    target = torch.softmax((image @ image.T + spot @ spot.T).detach() / 2, dim=-1)
    logits = spot @ image.T
    frozen = -(target * logits.log_softmax(-1) + target.T * logits.T.log_softmax(-1)).sum(-1).mean() / 2
    (partial,) = torch.autograd.grad(frozen, image)
    assert (full - partial).abs().max() > 1e-3


def test_learnable_temperature_gets_a_gradient():
    image, spot = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))
    log_temperature = torch.tensor(0.0, requires_grad=True)
    clip(image, spot, log_temperature.exp()).backward()
    assert log_temperature.grad is not None
    assert float(log_temperature.grad) != 0


def routing(temperature=0.1, scaling="standard"):
    rng = np.random.default_rng(5)
    x = rng.normal(3, 2, size=(50, D))
    mean, scale = feature_scale(x, scaling)
    centroids = (x[:6] - mean) / scale
    return x, Routing(centroids, np.array([0, 1, 1, 2, 0, 2]), mean, scale, temperature)


@pytest.mark.parametrize("scaling", ["standard", "none"])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_routing_follows_the_equation(scaling, temperature):
    x, found = routing(temperature, scaling)
    mean, deviation = (x.mean(0), x.std(0) * np.sqrt(D)) if scaling == "standard" else (0, 1)
    weights = np.zeros((len(x), 3))
    for i, row in enumerate((x - mean) / deviation):
        distance = np.array([np.sqrt(((row - c) ** 2).sum()) for c in found.centroids])
        soft = np.exp(-(distance - distance.min()) / temperature)
        for k, w in enumerate(soft / soft.sum()):
            weights[i, found.assignment[k]] += w
        assert found.assign(x[i : i + 1])[0] == np.argmin(distance)
    np.testing.assert_allclose(found.weights(x), weights, atol=1e-6)


def test_routing_passes_over_inactive_experts_and_keeps_nan():
    from dataclasses import replace

    x, full = routing()
    x[3] = np.nan
    weights = replace(full, active=np.array([True, False, True])).weights(x)
    assert np.isnan(weights[3]).all()
    assert (weights[:3, 1] == 0).all()
    np.testing.assert_allclose(weights[:3].sum(1), 1)
    assert full.assign(x)[3] == -1


def test_routing_entropy_has_its_bounds():
    entropy = routing_entropy(np.array([[1.0, 0, 0], [1 / 3] * 3, [np.nan] * 3]))
    np.testing.assert_allclose(entropy, [0, np.log(3), np.nan])


def test_standard_scaling_makes_distances_independent_of_width():
    rng = np.random.default_rng(6)
    medians = []
    for width in (20, 500):
        x = rng.normal(5, 3, size=(400, width))
        mean, scale = feature_scale(x, "standard")
        z = (x - mean) / scale
        medians.append(np.median(np.linalg.norm(z[:200] - z[200:], axis=1)))
    assert medians[0] == pytest.approx(medians[1], rel=0.05)


def test_constant_features_do_not_divide_by_zero():
    x = np.full((10, 3), 1e6, dtype=np.float32)
    mean, scale = feature_scale(x, "standard")
    assert np.isfinite((x - mean) / scale).all()


def test_mixtures_follow_the_equation(experts):
    rng = np.random.default_rng(7)
    x, weights = rng.normal(size=(B, D)), rng.dirichlet(np.ones(E), size=B)
    outputs = [head_reference(x, *parameters(experts.image_projection, e)) for e in range(E)]
    mean = mix_experts(experts.image_projection, torch.from_numpy(x), torch.from_numpy(weights)).numpy()
    np.testing.assert_allclose(mean, sum(weights[:, [e]] * outputs[e] for e in range(E)), atol=1e-6)
    concat = mix_experts(experts.image_projection, torch.from_numpy(x), torch.from_numpy(weights), "concat").numpy()
    np.testing.assert_allclose(concat, np.hstack([weights[:, [e]] * outputs[e] for e in range(E)]), atol=1e-6)
