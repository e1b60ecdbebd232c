"""Training on a CPU: spade against the published training loop and against only the matrix products.

The published loop was written anew: one ``.npy`` per spot and modality, read by a DataLoader with two workers, dense
expression, one expert after another, torch's layers and plain AdamW. All figures are for marginal epochs: the time of
all epochs minus that of a training with one epoch, so that set-up does not count.

Needs numpy, scipy, torch and numba: ``PYTHONPATH=src python benchmarks/training.py``.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from _cohort import make
from torch import nn
from torch.utils.data import DataLoader, Dataset

from spade.core.experts.config import TrainingConfig
from spade.core.experts.train import train_experts
from spade.core.roles import TRAIN

BATCH, WIDTH = 128, 256


class PerSpot(Dataset):
    """One file per spot and modality."""

    def __init__(self, folder, rows):
        self.folder, self.rows = folder, rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        row = self.rows[i]
        return tuple(torch.from_numpy(np.load(self.folder / f"{kind}_{row}.npy")) for kind in ("image", "spot"))


class Head(nn.Module):
    """The published projection head, made of torch's layers."""

    def __init__(self, width):
        super().__init__()
        self.projection, self.fc = nn.Linear(width, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.dropout, self.layer_norm = nn.Dropout(0.1), nn.LayerNorm(WIDTH)

    def forward(self, x):
        h = self.projection(x)
        return self.layer_norm(self.dropout(self.fc(F.gelu(h))) + h)


def published(folder, expert_of, widths, epochs):
    """Train the experts one after another; return the mean last loss."""
    last = []
    for e in np.unique(expert_of):
        torch.manual_seed(int(e))
        rows = np.flatnonzero(expert_of == e)
        loader = DataLoader(PerSpot(folder, rows), BATCH, shuffle=True, num_workers=2, persistent_workers=True)
        image_head, spot_head = (Head(width) for width in widths)
        parameters = [*image_head.parameters(), *spot_head.parameters()]
        optimiser = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * len(loader))
        for _ in range(epochs):
            total = 0.0
            for image, spot in loader:
                i, s = image_head(image), spot_head(spot)
                logits, target = s @ i.T, F.softmax((i @ i.T + s @ s.T) / 2, dim=-1)
                rows_loss = -(target * F.log_softmax(logits, dim=-1)).sum(1)
                columns_loss = -(target.T * F.log_softmax(logits.T, dim=-1)).sum(1)
                loss = (rows_loss + columns_loss).mean() / 2
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
                total += float(loss.detach()) * len(i)
        last.append(total / len(rows))
    return float(np.mean(last))


def ours(features, expression, expert_of, epochs, precision):
    """Train all experts; return the mean last loss."""
    config = TrainingConfig(n_epochs=epochs, batch_size=BATCH, dim=WIDTH, precision=precision)
    role = np.full(len(features), TRAIN)
    _, trained = train_experts(features, expression, expert_of, role, expert_of.max() + 1, config)
    return float(np.mean([one.train_loss[-1] for one in trained]))


def bare(sizes, widths, epochs, dtype=torch.float32):
    """Compute only the matrix products of these epochs, on batches that were made before and are not cached."""
    d, g = widths
    pool = [(torch.randn(BATCH, d).to(dtype), torch.randn(BATCH, g).to(dtype)) for _ in range(32)]
    gradient, square, step = torch.randn(BATCH, WIDTH).to(dtype), torch.randn(BATCH, BATCH).to(dtype), 0
    for size in sizes:
        first = [torch.randn(WIDTH, width).to(dtype) for width in widths]
        second = [torch.randn(WIDTH, WIDTH).to(dtype) for _ in widths]
        for _ in range(epochs * -(-size // BATCH)):
            batch = pool[step % len(pool)]
            step += 1
            hidden = [x @ w.T for x, w in zip(batch, first, strict=True)]
            i, s = (h @ w.T for h, w in zip(hidden, second, strict=True))
            s @ i.T, i @ i.T, s @ s.T
            for x in (i, s, i, s):  # gradients of the logits to both sides, of the similarities to each
                square @ x
            for x, h, w in zip(batch, hidden, second, strict=True):
                gradient.T @ h, gradient @ w, gradient.T @ x


def marginal(train, epochs):
    """Seconds that ``epochs`` epochs take beyond a single one, and the result of the longer training."""
    start = time.perf_counter()
    train(1)
    middle = time.perf_counter()
    result = train(epochs)
    return time.perf_counter() - middle - (middle - start), result


def main(arguments=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--spots", type=int, default=8_192)
    parser.add_argument("--features", type=int, default=1_024)
    parser.add_argument("--genes", type=int, default=7_986)
    parser.add_argument("--experts", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    widths = options.features, options.genes
    features, expression = make(options.spots, *widths)
    expert_of = np.arange(options.spots) % options.experts
    sizes = np.bincount(expert_of)
    ways = {
        "published loop": lambda epochs: published(folder, expert_of, widths, epochs),
        "spade fp32": lambda epochs: ours(features, expression, expert_of, epochs, "fp32"),
        "spade bf16": lambda epochs: ours(features, expression, expert_of, epochs, "bf16"),
        "bare products fp32": lambda epochs: bare(sizes, widths, epochs),
        "bare products bf16": lambda epochs: bare(sizes, widths, epochs, torch.bfloat16),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for row in range(options.spots):
            np.save(folder / f"image_{row}.npy", features[row])
            np.save(folder / f"spot_{row}.npy", expression[row].toarray()[0])
        found = {way: [] for way in ways}
        for train in ways.values():  # reads files into the page cache, compiles the kernels
            train(1)
        for _ in range(options.repeats):
            for way, train in ways.items():
                found[way].append(marginal(train, options.epochs))
    work = options.spots * (options.epochs - 1)
    speed = {way: work / statistics.median(seconds for seconds, _ in runs) for way, runs in found.items()}
    print(
        f"{options.spots} spots x {options.features} features x {options.genes} genes at 15 %, "
        f"{options.experts} experts, batch {BATCH}, {torch.get_num_threads()} threads, median of {options.repeats}"
    )
    print(
        "| way | spots/s | of the published loop | of the bare fp32 products | last loss |\n"
        "| --- | --- | --- | --- | --- |"
    )
    for way, runs in found.items():
        loss = "" if runs[0][1] is None else f"{runs[0][1]:.4f}"
        ratios = [speed[way] / speed[other] for other in ("published loop", "bare products fp32")]
        print(f"| {way} | {speed[way]:,.0f} | {ratios[0]:.2f} | {ratios[1]:.2f} | {loss} |")
    return speed


if __name__ == "__main__":
    main()
