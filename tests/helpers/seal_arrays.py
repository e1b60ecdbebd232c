"""Short trainings of SEAL on arrays."""

from __future__ import annotations

import numpy as np
import timm
import torch
from scipy.sparse import csr_matrix

from spade.core.distributed.ranks import ALONE
from spade.core.patches.sources import GivenPatches
from spade.core.roles import NOT_USED, TRAIN, VAL
from spade.core.seal.config import SealTraining
from spade.core.seal.network import SealNet
from spade.core.seal.pairs import Pairs
from spade.core.seal.train import JOINT, _Run, train_seal_net
from spade.core.vision.lora import adapters, add_lora
from spade.core.vision.towers import FeatureTower, PixelTower

N, WIDTH, N_GENES, PX = 41, 6, 9, 32
FAST = {"n_epochs": 3, "batch_size": 16, "lr": 1e-3}
STILL = {"dropout": 0.0, "flips": False, "rotations": False, "stain_jitter": 0.0}


def arrays(n=N, seed=0):
    """Features and expression that have something in common."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(n, 3))
    x = (common @ rng.normal(size=(3, WIDTH)) + 0.1 * rng.normal(size=(n, WIDTH))).astype(np.float32)
    g = np.log1p(rng.poisson(np.exp(common @ rng.normal(size=(3, N_GENES)) * 0.5 + 1))).astype(np.float32)
    return x, g


def pairs_of(kind="features", n=N, seed=0, validation=True):
    x, g = arrays(n, seed)
    role = np.full(n, TRAIN)
    if validation:
        role[::7], role[3::7] = VAL, NOT_USED
    images = x
    if kind == "pixels":
        rng = np.random.default_rng(seed)
        patches = np.clip(rng.normal(150, 40, (n, PX, PX, 3)) + 30 * x[:, None, None, :3], 0, 255)
        images = GivenPatches(patches.astype(np.uint8))
    return Pairs(images, csr_matrix(g), np.arange(n) % 2, role, ["one", "other"])


def net_of(kind="features", dropout=0.0, n_sections=0):
    torch.manual_seed(0)
    if kind == "features":
        tower, dim = FeatureTower(np.zeros(WIDTH), np.ones(WIDTH), 8, hidden=16, dropout=dropout), 8
    else:
        options = {"img_size": PX, "patch_size": 16, "embed_dim": 8, "depth": 2, "num_heads": 2, "num_classes": 0}
        model, dim = timm.models.vision_transformer.VisionTransformer(**options).eval(), 8
        targets = ("qkv", "proj", "fc1", "fc2")
        add_lora(model, n_blocks=1, targets=targets, rank=2, alpha=4.0, dropout=dropout)
        with torch.no_grad():  # so that the gradient of every adapter is there from the first step on
            for name, value in adapters(model):
                if "lora_B" in name:
                    value.normal_(std=0.1)
        tower = PixelTower(model, (0.5,) * 3, (0.25,) * 3)
    _, g = arrays()
    return SealNet(tower, dim, g.mean(0), g.std(0), n_sections)


def train(
    kind="features", *, pairs=None, net=None, seed=0, n_workers=0, ranks=ALONE, folder=None, progress=None, **options
):
    config = SealTraining(**FAST | options)
    net = net_of(kind, config.dropout, 2 if config.adversary else 0) if net is None else net
    pairs = pairs_of(kind) if pairs is None else pairs
    record = train_seal_net(
        net, pairs, config, seed=seed, n_workers=n_workers, ranks=ranks, folder=folder, progress=progress
    )
    return net, record


def state(net):
    return {name: value.clone() for name, value in net.own_state().items()}


def differing(one, other):
    assert set(one) == set(other)
    return {name for name in one if not torch.equal(one[name], other[name])}


#: Weights before a batch norm that takes them away again: their gradient is rounding, which AdamW makes large.
OF_NO_EFFECT = {f"gene.encoder.{name}" for name in ("0.bias", "1.running_mean", "3.bias", "4.running_mean")}


def assert_close(one, other):
    assert set(one) == set(other)
    for name in set(one) - OF_NO_EFFECT:
        far = ~torch.isclose(one[name], other[name], rtol=1e-3, atol=2e-5)
        assert far.float().mean() < 1e-4, name  # a unit may be switched on by rounding


def first_step(kind, rows, options, ranks=ALONE):
    """Losses and gradients of one step."""
    config = SealTraining(**FAST | STILL | options)
    net = net_of(kind, n_sections=2 if config.adversary else 0)
    run = _Run(
        net,
        pairs_of(kind),
        config,
        seed=0,
        device="cpu",
        ranks=ranks,
        n_workers=0,
        folder=None,
        progress=None,
    )
    run.optimiser.step = lambda: None
    losses = run._step(rows, next(run._images([rows], JOINT)), JOINT)
    return losses, {name: value.grad for name, value in net.trained() if value.grad is not None}


class Stop(Exception):
    pass


def stop_after(n):
    """Stop at a step of this call."""
    calls = []

    def progress(*_):
        calls.append(1)
        if len(calls) == n:
            raise Stop

    return progress
