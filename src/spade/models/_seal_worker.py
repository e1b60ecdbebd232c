"""A process of a fine-tuning: ``python -m spade.models._seal_worker ORDERS``, as ``_seal_processes`` starts it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from scipy.sparse import csr_matrix

from spade.core.distributed.ranks import JOIN_TIMEOUT, Ranks
from spade.core.distributed.workers import Say, serve
from spade.core.files import CSR_PARTS
from spade.core.patches.sources import MappedPatches
from spade.core.seal.network import SealNet
from spade.core.seal.pairs import Pairs
from spade.core.seal.train import train_seal_net
from spade.core.training_state import StateFolder
from spade.core.vision.towers import FeatureTower, PixelTower
from spade.encoders._spec import spec_of
from spade.models._config import SealConfig
from spade.models._towers import adapt_tower, feature_tower

#: Files of a task folder.
TASK, NETWORK, PATCHES = "task.json", "net.safetensors", "patches.npy"


def work(orders: dict[str, Any], say: Say) -> None:
    """Train with the other processes, as the orders say; the first process leaves the state."""
    folder, rank, world = Path(orders["task"]), orders["rank"], orders["world"]
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world, timeout=JOIN_TIMEOUT)
    net, pairs, config = read_task(folder)
    tell: Callable[..., None] | None = None if rank else lambda *facts: say({"step": facts})
    train_seal_net(
        net,
        pairs,
        config,
        seed=config.seed,
        device=orders["device"],
        ranks=Ranks(rank, world, rank, dist.group.WORLD),
        n_workers=orders["n_workers"],
        folder=StateFolder(Path(orders["state"]), None),
        progress=tell,
    )
    dist.destroy_process_group()


def read_task(folder: Path) -> tuple[SealNet, Pairs, SealConfig]:
    """Read the network, the pairs and the settings that :func:`~spade.models._seal_processes.write_task` wrote."""
    from spade.encoders._timm import TimmEncoder

    facts = json.loads((folder / TASK).read_text())
    config = SealConfig(**facts["config"])
    files = (path for path in folder.glob("*.npy") if path.name != PATCHES)
    arrays = {path.stem: np.load(path, mmap_mode="r", allow_pickle=False) for path in files}
    tensors: dict[str, dict[str, torch.Tensor]] = {"own": {}, "base": {}}
    for full, value in load_file(folder / NETWORK).items():
        kind, _, name = full.partition(".")
        tensors[kind][name] = value
    own = tensors["own"]
    tower: PixelTower | FeatureTower
    if config.on_features:
        tower = feature_tower(config, own["vision.mean"].numpy(), own["vision.deviation"].numpy())
    else:
        base = TimmEncoder(spec_of(config.encoder or ""), weights=tensors["base"], device="cpu")
        tower = base.tower()
        adapt_tower(tower, base.input_px, config)
    n_genes = facts["n_genes"]
    n_sections = len(facts["names"]) if facts["critic"] else 0
    net = SealNet(tower, config.dim, np.zeros(n_genes), np.ones(n_genes), n_sections)
    net.load_own(own)
    expression = csr_matrix((len(arrays["role"]), n_genes), dtype=np.float32)
    expression.indptr, expression.indices, expression.data = (arrays[name] for name in CSR_PARTS)
    images: Any = MappedPatches(Path(facts["patches"])) if facts["patches"] else arrays["images"]
    return net, Pairs(images, expression, arrays["section"], arrays["role"], facts["names"]), config


if __name__ == "__main__":
    raise SystemExit(serve(sys.argv[1], work))
