"""Everything of ``spade.core`` that can run on a GPU, at small size: the same computation on two devices."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from _cohort import make

from spade.core.experts import checkpoints, one_process
from spade.core.experts.batches import DeviceBatches, HostBatches
from spade.core.experts.clustering import kmeans
from spade.core.experts.config import TrainingConfig
from spade.core.experts.heads import Experts, mix_experts
from spade.core.experts.job import rows_of
from spade.core.experts.parameters import ExpertParameters
from spade.core.experts.train import train_experts
from spade.core.rng import torch_stream
from spade.core.roles import TRAIN, VAL
from spade.core.seal.config import SealTraining
from spade.core.seal.network import SealNet
from spade.core.vision.lora import adapt
from spade.core.vision.towers import PixelTower, to_unit
from spade.encoders._spec import SPECS

SPOTS, WIDTH, GENES, EXPERTS = 900, 48, 300, 4
#: Largest relative difference (Frobenius norm) of float32 and of bf16 results.
FLOAT, BF16 = 2e-3, 5e-2


def cohort():
    """Features, expression, the expert and the role of every spot; experts have different numbers of spots."""
    features, expression = make(SPOTS, WIDTH, GENES)
    expert_of = np.minimum(np.arange(SPOTS) % 7, EXPERTS - 1)
    role = np.where(np.arange(SPOTS) % 10 == 0, VAL, TRAIN)
    return features, expression, expert_of, role


def trained(device, *, precision="fp32", together=None, **kept):
    """Parameters of experts after three epochs without dropout, whose random streams differ between devices."""
    config = TrainingConfig(n_epochs=3, batch_size=64, lr=1e-3, dropout=kept.pop("dropout", 0.0), precision=precision)
    experts, _ = train_experts(
        *cohort(), EXPERTS, config, device=device, n_side_by_side=together or EXPERTS, **kept
    )  # fmt: skip
    return rows_of(experts)


def one_at_a_time(device):
    return trained(device, together=1)


def streamed(device):
    """Trained with data that are sent batch by batch, as if they did not fit into the memory of the GPU."""
    share, one_process.RESIDENT_SHARE = one_process.RESIDENT_SHARE, 0.0
    try:
        return trained(device)
    finally:
        one_process.RESIDENT_SHARE = share


def bf16(device):
    return trained(device, precision="bf16")


def batches(source):
    """Return a function from a device to batches of several experts, gathered by one of two ways."""

    def run(device):
        features, expression, expert_of, _ = cohort()
        rows = [np.flatnonzero(expert_of == e)[: 40 + e] for e in range(EXPERTS)]
        found = source(features, expression, features.mean(0), features.std(0), device).batch(rows)
        return np.concatenate([part.float().cpu().numpy().ravel() for part in found])

    return run


def adamw(update):
    """Return a function from a device to parameters after five steps, each row with its own rate and step."""

    def run(device):
        stream = torch_stream(0, "gradients")
        rows = ExpertParameters(EXPERTS, WIDTH, GENES, 16, device, training=True)
        rows.values.copy_(torch.randn(rows.values.shape, generator=stream))
        for step in range(5):
            rows.gradients.copy_(torch.randn(rows.values.shape, generator=stream))
            steps, rates = [step + e for e in range(EXPERTS)], [1e-3 * (e + 1) for e in range(EXPERTS)]
            getattr(rows, update)(steps, rates, 0.01)
        return rows.values.detach().cpu().numpy()

    return run


def clusters(device):
    """Centroids of k-means from given starts."""
    features = cohort()[0]
    return kmeans(features, 12, rng=np.random.default_rng(0), device=device, starts=features[:12])[0]


def embedded(device):
    """All three mixtures of the embeddings of experts."""
    features, _, expert_of, _ = cohort()
    experts = Experts(EXPERTS, WIDTH, GENES, 32)
    experts.initialise([torch_stream(0, "initialisation", e) for e in range(EXPERTS)])
    weights = torch.nn.functional.one_hot(torch.from_numpy(expert_of), EXPERTS).float() * 0.7 + 0.075
    head = experts.to(device).image_projection
    x, weights = torch.from_numpy(features).to(device), weights.to(device)
    return np.concatenate(
        [mix_experts(head, x, weights, mix).cpu().numpy().ravel() for mix in ("mean", "concat", "logits")]
    )


def resumed(device):
    """Trained with dropout, stopped after the first epochs, and continued from the states on disk."""
    seconds, checkpoints.SECONDS = checkpoints.SECONDS, 0.0

    def stop(_expert, epoch, *_):
        if epoch == 1:
            raise KeyboardInterrupt

    with tempfile.TemporaryDirectory() as folder:
        state = checkpoints.Checkpoints(Path(folder) / "state", {"of": "this benchmark"})
        try:
            trained(device, dropout=0.1, checkpoints=state, progress=stop)
        except KeyboardInterrupt:
            pass
        finally:
            checkpoints.SECONDS = seconds
        return trained(device, dropout=0.1, checkpoints=state)


def uninterrupted(device):
    return trained(device, dropout=0.1)


def network(name, genes):
    """A network of SEAL around an encoder of the registry, or any timm model, with random weights; its input in px."""
    import timm

    spec = SPECS.get(name)
    kwargs = spec.kwargs() if spec else {}
    torch.manual_seed(0)
    model = timm.create_model(spec.architecture if spec else name, num_classes=0, **kwargs).eval()
    px = int(spec.input_px if spec else model.pretrained_cfg["input_size"][-1])
    settings = SealTraining()
    adapt(
        model, px, n_blocks=settings.n_blocks, targets=settings.targets, rank=settings.rank, alpha=settings.alpha,
        dropout=settings.dropout,
    )  # fmt: skip
    tower = PixelTower(model, (0.5,) * 3, (0.5,) * 3)
    return SealNet(tower, model.num_features, np.zeros(genes), np.ones(genes)), px


def seal_gradients(name):
    """Return a function from a device to the losses of SEAL on one batch and the gradients of all that learns."""

    def run(device):
        net, px = network(name, GENES)
        net.to(device).eval()
        pixels = np.random.default_rng(0).integers(0, 255, (6, px, px, 3), dtype=np.uint8)
        expression = torch.from_numpy(cohort()[1][:6].toarray()).to(device)
        image = net.vision(to_unit(torch.from_numpy(pixels).to(device)))
        losses = net.losses(image, expression, torch.arange(6, device=device) % 2, SealTraining())
        torch.stack(list(losses.values())).sum().backward()
        found = [*losses.values(), *(value.grad for _, value in net.trained() if value.grad is not None)]
        return np.concatenate([value.detach().float().cpu().numpy().ravel() for value in found])

    return run


def checks(encoder):
    """Name, computation on the device, its reference on the CPU, and the largest difference, of every comparison."""
    return [
        ("batches gathered on the device", batches(DeviceBatches), batches(HostBatches), 1e-6),
        ("AdamW by rows", torch.no_grad()(adamw("_update_rows")), adamw("update"), 1e-5),
        ("k-means", clusters, clusters, FLOAT),
        ("experts side by side", trained, one_at_a_time, FLOAT),
        ("experts, data streamed", streamed, one_at_a_time, FLOAT),
        ("experts in bf16", bf16, one_at_a_time, BF16),
        ("embedding", embedded, embedded, FLOAT),
        (f"losses and gradients of SEAL, {encoder}", *[seal_gradients(encoder)] * 2, FLOAT),
    ]


def difference(found, wanted):
    """Relative difference of two arrays, by Frobenius norm; infinite if one is not finite."""
    if found.shape != wanted.shape or not np.isfinite(found).all():
        return float("inf")
    return float(np.linalg.norm(found.astype(float) - wanted) / np.linalg.norm(wanted.astype(float)))
