"""Losses of SEAL against those written by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers.networks import normal

from spade.core.experts.losses import clip
from spade.core.seal.losses import correlations, info_nce, reconstruction, reverse_gradient


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
