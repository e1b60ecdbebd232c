"""A GPU beside a CPU: the same results at small size, then the speed of pretraining, encoding and fine-tuning.

Needs numpy, scipy, torch, numba and timm. Prints tables, and exits with 1 where GPU and CPU disagree.

``PYTHONPATH=src python benchmarks/gpu.py`` takes at most eight minutes (``--minutes``): what no time is left for is
named. Without a GPU it runs at small size on the CPU, against which it then compares itself.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
import traceback
from datetime import date

import numpy as np
import torch
from _cohort import make
from _gpu_agreement import checks, difference, network, resumed, uninterrupted
from _timing import timed
from torch.utils.flop_counter import FlopCounterMode

from spade.core.experts.batches import DeviceBatches, HostBatches
from spade.core.experts.clustering import two_stage
from spade.core.experts.config import TrainingConfig
from spade.core.experts.routing import feature_scale
from spade.core.experts.train import train_experts
from spade.core.roles import TRAIN
from spade.core.seal.config import SealTraining
from spade.core.vision.towers import to_unit

#: Size of the paper's training, and of a run on a CPU.
PAPER = {"spots": 534_087, "features": 1_024, "genes": 7_986, "organs": 15, "experts": 16, "epochs": 100}
SMALL = {"spots": 1_200, "features": 32, "genes": 200, "organs": 3, "experts": 4, "epochs": 2}
#: Seconds that pretraining at the size of the paper may take on an H200.
GOAL = 60


def is_gpu(device):
    return torch.device(device).type == "cuda"


def seconds_of(work, device):
    """Seconds of one run, and its result."""
    seconds, results = timed({"work": work}, 1, device)
    return seconds["work"], results["work"]


def agree(device, encoder):
    """Compare every path on the device with the CPU; return the names of those that differ or fail."""
    print(f"\n| path on {device} | relative difference | at most | |\n| --- | --- | --- | --- |")
    failed = []
    comparisons = [(name, run, reference, "cpu", limit) for name, run, reference, limit in checks(encoder)]
    comparisons.append(("stopped and resumed", resumed, uninterrupted, device, 0.0))
    for name, run, reference, where, limit in comparisons:
        try:
            found = difference(run(device), reference(where))
        except Exception:  # noqa: BLE001 (the other paths are looked at all the same)
            traceback.print_exc()
            found = float("nan")
        fine = found <= limit
        failed += [] if fine else [name]
        print(f"| {name} | {found:.1e} | {limit:.0e} | {'' if fine else '**differs**'} |", flush=True)
    return failed


def product_speed(device, precision):
    """Operations per second of one large product."""
    size, dtype = 8_192 if is_gpu(device) else 512, torch.bfloat16 if precision == "bf16" else torch.float32
    a = torch.randn(size, size, device=device, dtype=dtype)
    return 2 * size**3 / timed({"product": lambda: a @ a}, 5, device)[0]["product"]


def pretrain(size, device, precision):
    """Print the seconds of pretraining, and how they are spent: clustering, feeding, everything else."""
    features, expression = make(size["spots"], size["features"], size["genes"])
    organs = np.char.add("organ ", (np.arange(size["spots"]) % size["organs"]).astype(str))

    def cluster():
        routing = two_stage(features, organs, n_prototypes=16, n_experts=size["experts"], device=device)
        return routing.assignment[routing.assign(features)]

    clustering, expert_of = seconds_of(cluster, device)
    mean, deviation = feature_scale(features, "standard")
    deviation = deviation / np.sqrt(size["features"])
    config = TrainingConfig(n_epochs=size["epochs"], precision=precision)

    def train():
        role, scaling = np.full(size["spots"], TRAIN), {"mean": mean, "deviation": deviation}
        return train_experts(features, expression, expert_of, role, size["experts"], config, device=device, **scaling)

    training, (_, trained) = seconds_of(train, device)
    source = (DeviceBatches if is_gpu(device) else HostBatches)(features, expression, mean, deviation, device)
    rows = [np.flatnonzero(expert_of == e)[: config.batch_size] for e in range(size["experts"])]
    rows = [of_expert for of_expert in rows if len(of_expert)]
    n_steps = size["epochs"] * max(-(-len(np.flatnonzero(expert_of == e)) // 128) for e in range(size["experts"]))
    feeding = timed({"batch": lambda: source.batch(rows)}, 20, device)[0]["batch"] * n_steps
    # a weight of the first layers takes a multiplication and an addition forward, and the same for its gradient
    operations = 4 * (size["features"] + size["genes"]) * config.dim * size["spots"] * size["epochs"]
    peak = product_speed(device, precision)
    losses = [one.train_loss for one in trained if one.train_loss]
    print(
        f"\npretraining: {size['spots']:,} spots × {size['features']:,} features × {size['genes']:,} genes, "
        f"{size['experts']} experts, {size['epochs']} epochs, {precision}\n"
        "| clustering | training | of it feeding (measured apart) | its products at the speed of one large product "
        "| share of that speed | loss |\n| --- | --- | --- | --- | --- | --- |\n"
        f"| {clustering:.1f} s | {training:.1f} s | {feeding:.1f} s | {operations / peak:.1f} s "
        f"| {operations / training / peak:.2f} | {np.mean([x[0] for x in losses]):.3f} → "
        f"{np.mean([x[-1] for x in losses]):.3f} |",
    )
    if size is PAPER:
        print(f"{clustering + training:.0f} s in all; the goal is {GOAL} s", flush=True)


def images(name, batch, device, precision):
    """Print images per second of encoding and of a step of fine-tuning, and their share of the speed of one product."""
    net, px = network(name, 2_000)
    net.to(device)
    pixels = torch.randint(0, 255, (batch, px, px, 3), dtype=torch.uint8)
    expression = torch.rand(batch, 2_000, device=device)
    section = torch.zeros(batch, dtype=torch.long, device=device)
    learned = [value for _, value in net.trained()]
    optimiser, settings = torch.optim.AdamW(learned, lr=1e-6), SealTraining()

    def embed():
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16"):
            return net.vision(to_unit(pixels.to(device))).float()

    @torch.inference_mode()
    def encode():
        net.eval()
        return embed().cpu()

    def fine_tune():
        net.train()
        optimiser.zero_grad(set_to_none=True)
        torch.stack(list(net.losses(embed(), expression, section, settings).values())).sum().backward()
        optimiser.step()

    operations = {}
    for way in (encode, fine_tune):  # which also loads kernels
        with FlopCounterMode(display=False) as counter:
            way()
        operations[way] = counter.get_total_flops()
    peak = product_speed(device, precision)
    seconds, _ = timed({"encoding": encode, "a step of SEAL": fine_tune}, 5 if is_gpu(device) else 1, device)
    print(f"\n{name}, batch {batch}, {precision}\n| | images/s | share of the speed of one large product |")
    print("| --- | --- | --- |")
    for (way, value), done in zip(seconds.items(), operations.values(), strict=True):
        print(f"| {way} | {batch / value:,.0f} | {done / value / peak:.2f} |", flush=True)
    if is_gpu(device):
        print(f"GPU memory at most {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")


def main(arguments=None):
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda" if on_gpu else "cpu")
    parser.add_argument("--encoder", default="uni2_h" if on_gpu else "vit_tiny_patch16_224")
    parser.add_argument("--batch", type=int, default=384 if on_gpu else 4)
    parser.add_argument("--precision", default="bf16" if on_gpu else "fp32")
    parser.add_argument("--small", action="store_true", default=not on_gpu, help="pretraining at small size")
    parser.add_argument("--minutes", type=float, default=8.0)
    options = parser.parse_args(arguments)
    start = time.monotonic()
    machine = torch.cuda.get_device_name() if is_gpu(options.device) else platform.processor() or platform.machine()
    print(f"{date.today()}, {machine}, Python {platform.python_version()}, torch {torch.__version__}")
    failed = agree(options.device, options.encoder)
    parts = {
        "images per second": (0.4, lambda: images(options.encoder, options.batch, options.device, options.precision)),
        "pretraining": (0.6, lambda: pretrain(SMALL if options.small else PAPER, options.device, options.precision)),
    }
    for name, (latest, run) in parts.items():
        if time.monotonic() - start > latest * 60 * options.minutes:
            print(f"\nleft out, as {latest * options.minutes:.1f} minutes have passed: {name}")
            continue
        run()
    print(f"\n{time.monotonic() - start:.0f} s in all" + (f"; differ: {', '.join(failed)}" if failed else ""))
    return failed


if __name__ == "__main__":
    sys.exit(bool(main()))
