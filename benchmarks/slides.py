"""Gated attention over many slides, forward and backward, against the same model in plain torch.

``PYTHONPATH=src python benchmarks/slides.py``
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from _memory import peak_mib
from _timing import timed
from torch import nn

from spade.core.slides.heads import make_head
from spade.core.slides.train import train_bags


class Plain(nn.Module):
    """Gated attention as in the paper, with three matrices for the attention."""

    def __init__(self, d, hidden, n_out, dropout):
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(d, hidden), nn.ReLU(), nn.Dropout(dropout))
        self.v, self.u = nn.Linear(hidden, hidden // 2), nn.Linear(hidden, hidden // 2)
        self.w, self.out = nn.Linear(hidden // 2, 1), nn.Linear(hidden, n_out)

    def forward(self, x):
        h = self.embed(x)
        a = torch.softmax(self.w(torch.tanh(self.v(h)) * torch.sigmoid(self.u(h))), dim=0)
        return self.out((a * h).sum(0))


def main(arguments=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--slides", type=int, default=200)
    parser.add_argument("--patches", type=int, default=5_000)
    parser.add_argument("--features", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    device, n = options.device, options.slides
    generator = torch.Generator().manual_seed(0)
    held = [torch.randn(options.patches, options.features, generator=generator) for _ in range(8)]
    truth = (torch.arange(n) % 2).to(device)

    def spade():
        head = make_head("abmil", options.features, 2, generator=torch.Generator().manual_seed(0))
        train_bags(
            lambda i: held[i % 8],
            lambda outputs, i: F.cross_entropy(outputs, truth[i]),
            range(n),
            [],
            head,
            n_epochs=1,
            device=device,
        )

    def plain():
        head = Plain(options.features, 256, 2, 0.25).to(device)
        optimiser = torch.optim.AdamW(head.parameters(), lr=2e-4, weight_decay=1e-5)
        for i in torch.randperm(n).tolist():
            optimiser.zero_grad()
            loss = F.cross_entropy(head(held[i % 8].to(device)), truth[i])
            loss.backward()
            optimiser.step()
            loss.item()

    before = peak_mib()
    median, _ = timed({"spade": spade, "plain torch": plain}, options.repeats, device)
    more = peak_mib() - before
    ratio = median["plain torch"] / median["spade"]
    print(
        f"{n} slides of {options.patches:,} x {options.features}, one epoch on {device}, "
        f"{torch.get_num_threads()} threads, median of {options.repeats}"
    )
    for name, value in median.items():
        print(f"{name:>14}: {value:.2f} s, {n / value:,.0f} slides/s")
    print(f"times the speed of plain torch: {ratio:.2f}")
    print(f"memory beyond the bags: {more:.0f} MiB")
    return ratio


if __name__ == "__main__":
    main()
