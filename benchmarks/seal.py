"""Cost of a fine-tuning step, against only the forward and backward pass of the same encoder on the same batch; memory.

Patches and expression are random; the encoder has random weights. ``train_seal_net`` reads ``steps`` batches from a
file of patches, augments and encodes them and updates the weights. The reference has the same adapted encoder, the
batches in memory, and the mean of its output as loss. Memory is the peak of a process that takes two steps with
low-rank adapters, or with all weights of the encoder trained by AdamW.

``python benchmarks/seal.py`` on a CPU; ``--encoder uni2_h --batch 384 --device cuda --precision bf16`` on a GPU.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from _cohort import make
from _memory import peak_mib
from _timing import timed
from torch.utils.flop_counter import FlopCounterMode

from spade import encoders
from spade.core.patches.sources import MappedPatches
from spade.core.roles import TRAIN
from spade.core.seal.config import SealTraining
from spade.core.seal.network import SealNet
from spade.core.seal.pairs import Pairs
from spade.core.seal.train import train_seal_net
from spade.core.vision.towers import to_unit
from spade.models import SealConfig
from spade.models._towers import adapt_tower


def network(options, *, full=False):
    """A network with an adapted encoder, or with ``full`` a trainable one, and the side of its input in pixels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        encoder = encoders.get(options.encoder, weights="random", device="cpu")
    tower = encoder.tower()
    if full:
        tower.requires_grad_()
    else:
        adapt_tower(tower, encoder.input_px, SealConfig(encoder=options.encoder))
    net = SealNet(tower, encoder.dim, np.zeros(options.genes), np.ones(options.genes))
    return net.to(options.device), encoder.input_px


def plain_step(net, pixels, options):
    """Only the forward and backward pass of the encoder."""
    net.train()
    net.zero_grad(set_to_none=True)
    with torch.autocast(options.device, torch.bfloat16, enabled=options.precision == "bf16"):
        out = net.vision(to_unit(pixels.to(options.device)))
    out.float().square().mean().backward()


def step_time(options, folder):
    """Median seconds of a step with and without the rest of fine-tuning; floating-point operations per image."""
    net, px = network(options)
    n = options.steps * options.batch
    patches = np.random.default_rng(0).integers(0, 255, (n, px, px, 3), dtype=np.uint8)
    np.save(folder / "patches.npy", patches)
    _, expression = make(n, 4, options.genes)
    section = np.arange(n) % 4
    pairs = Pairs(MappedPatches(folder / "patches.npy"), expression, section, np.full(n, TRAIN), ["a", "b", "c", "d"])
    config = SealTraining(n_epochs=1, batch_size=options.batch, precision=options.precision, lr=1e-6)
    held = torch.from_numpy(patches).split(options.batch)

    def fine_tune():
        train_seal_net(net, pairs, config, device=options.device)

    def plain():
        for part in held:
            plain_step(net, part, options)

    plain_step(net, held[0], options)
    seconds, _ = timed({"fine-tuning": fine_tune, "forward and backward": plain}, options.repeats, options.device)
    with FlopCounterMode(display=False) as counter:
        plain_step(net, held[0][:2], options)
    return {name: value / options.steps for name, value in seconds.items()}, counter.get_total_flops() / 2


def matmul_speed(options, size=4_096):
    """Operations per second of one large product in the same precision."""
    kind = torch.bfloat16 if options.precision == "bf16" else torch.float32
    a = torch.randn(size, size, device=options.device, dtype=kind)
    seconds, _ = timed({"product": lambda: a @ a}, 5, options.device)
    return 2 * size**3 / seconds["product"]


def peak_memory(options, *, full):
    """Peak memory of this process in bytes after two steps, and the number of trained encoder weights."""
    net, px = network(options, full=full)
    trained = [p for p in net.vision.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad])
    pixels = torch.zeros(options.batch, px, px, 3, dtype=torch.uint8)
    for _ in range(2):
        plain_step(net, pixels, options)
        optimiser.step()
    if options.device.startswith("cuda"):
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = int(peak_mib() * 2**20)
    return peak, sum(p.numel() for p in trained)


def main(arguments=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--encoder", default="vit_small_patch16_224")
    parser.add_argument("--genes", type=int, default=2_000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--memory", choices=("adapters", "full", "none"))
    options = parser.parse_args(arguments)
    if options.memory:
        full = options.memory == "full"
        peak, trained = (0, 0) if options.memory == "none" else peak_memory(options, full=full)
        print(peak or int(peak_mib() * 2**20), trained)
        return None

    with tempfile.TemporaryDirectory() as folder:
        seconds, operations = step_time(options, Path(folder))
    speed = options.batch / seconds["fine-tuning"]
    overhead = seconds["fine-tuning"] / seconds["forward and backward"]
    print(
        f"{options.encoder}, {options.precision}, batch {options.batch}, {options.genes} genes, {options.device}: "
        f"{speed:,.1f} images/s, a step takes {overhead:.3f} × forward and backward (medians of {options.repeats})"
    )
    peak = matmul_speed(options)
    print(f"{operations / 1e9:.1f} Gflop per image; {speed * operations / peak:.2f} of the speed of one large product")
    found = {}
    base = 0
    for name in ("none", "adapters", "full"):
        command = [sys.executable, __file__, "--memory", name]
        for key in ("encoder", "genes", "batch", "device", "precision"):
            command += [f"--{key}", str(getattr(options, key))]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        found[name], trained = int(said[-2]), int(said[-1])
        if name == "none":
            base = 0 if options.device.startswith("cuda") else found[name]
            continue
        print(f"{name}: {trained:,} weights of the encoder trained, {(found[name] - base) / 2**20:,.0f} MiB at most")
    factor = (found["full"] - base) / (found["adapters"] - base)
    print(f"all weights / adapters: {factor:.2f} × the memory")
    return overhead, factor


if __name__ == "__main__":
    main()
