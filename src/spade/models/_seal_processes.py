"""One fine-tuning on several processes of this machine, each with its share of every batch."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from scipy.sparse import csr_matrix

from spade.core.distributed.ranks import JOIN_TIMEOUT, Ranks
from spade.core.distributed.workers import Say, places, run_workers
from spade.core.files import CSR_PARTS
from spade.core.patches.sources import LivePatches, MappedPatches, write_patches
from spade.core.seal.network import SealNet
from spade.core.seal.pairs import Pairs
from spade.core.seal.train import Progress, Record, check_shares, has_ended, train_seal_net
from spade.core.training_state import StateFolder
from spade.core.vision.towers import FeatureTower, PixelTower
from spade.encoders._spec import spec_of
from spade.models._config import SealConfig
from spade.models._towers import adapt_tower, base_state, feature_tower

WORKER = "spade.models._seal_worker"
ARRAYS = ("section", "role")


def train_seal_in_processes(
    net: SealNet,
    pairs: Pairs,
    config: SealConfig,
    device: str,
    n: int,
    n_workers: int,
    folder: StateFolder | None,
    progress: Progress,
) -> Record:
    """Train on ``n`` processes, which find data and network in the temporary folder of the machine, and leave their state among the rest."""
    check_shares(pairs, config, n)
    end = partial(train_seal_net, net, pairs, config, seed=config.seed, device=device)
    if folder is not None and has_ended(folder):
        return end(folder=folder)
    with TemporaryDirectory(prefix="spade-") as name:
        place = Path(name)
        state = folder or StateFolder(place / "state", None)
        _save(place, net, pairs, config)
        orders: list[dict[str, Any]] = [
            {"state": str(state.folder), "device": where, "rank": rank, "world": n, "n_workers": n_workers}
            for rank, where in enumerate(places(device, n))
        ]
        run_workers(WORKER, place, orders, lambda message: progress(*message["step"]))
        return end(folder=state)  # which takes no step, and puts the weights that were kept in place


def work(wanted: dict[str, Any], say: Say) -> None:
    """Train with the other processes, as the orders say; the first leaves the state."""
    place, rank, world = Path(wanted["task"]), wanted["rank"], wanted["world"]
    dist.init_process_group(
        "gloo", init_method=f"file://{place}/meeting", rank=rank, world_size=world, timeout=JOIN_TIMEOUT
    )
    net, pairs, config = _load(place)
    tell: Callable[..., None] | None = None if rank else lambda *facts: say({"step": facts})
    train_seal_net(
        net,
        pairs,
        config,
        seed=config.seed,
        device=wanted["device"],
        ranks=Ranks(rank, world, rank, dist.group.WORLD),
        n_workers=wanted["n_workers"],
        folder=StateFolder(Path(wanted["state"]), None),
        progress=tell,
    )
    dist.destroy_process_group()


def _save(place: Path, net: SealNet, pairs: Pairs, config: SealConfig) -> None:
    """Write all that a process needs; patches that are read live are put into a file that all share."""
    arrays = {name: getattr(pairs, name) for name in ARRAYS}
    arrays |= {name: getattr(pairs.expression, name) for name in CSR_PARTS}
    patches = ""
    if isinstance(pairs.images, MappedPatches):
        patches = str(pairs.images.path)
    elif isinstance(pairs.images, LivePatches):
        patches = str(write_patches(place / "patches.npy", pairs.images).path)
    else:
        arrays["images"] = np.asarray(pairs.images)
    for name, array in arrays.items():
        np.save(place / f"{name}.npy", array, allow_pickle=False)
    tensors = {f"own.{name}": value for name, value in net.own_state().items()}
    if isinstance(net.vision, PixelTower):
        tensors |= {f"base.{name}": value for name, value in base_state(net.vision.model.state_dict()).items()}
    save_file({name: value.contiguous() for name, value in tensors.items()}, place / "net.safetensors")
    facts = {
        "config": asdict(config),
        "names": list(pairs.names),
        "n_genes": pairs.expression.shape[1],
        "patches": patches,
    }
    (place / "task.json").write_text(json.dumps(facts | {"critic": net.critic is not None}))


def _load(place: Path) -> tuple[SealNet, Pairs, SealConfig]:
    """Read what :func:`_save` wrote."""
    from spade.encoders._timm import TimmEncoder

    facts = json.loads((place / "task.json").read_text())
    config = SealConfig(**facts["config"])
    arrays = {
        path.stem: np.load(path, mmap_mode="r", allow_pickle=False)
        for path in place.glob("*.npy")
        if path.stem != "patches"
    }
    tensors: dict[str, dict[str, torch.Tensor]] = {"own": {}, "base": {}}
    for name, value in load_file(place / "net.safetensors").items():
        kind, _, rest = name.partition(".")
        tensors[kind][rest] = value
    own = tensors["own"]
    tower: PixelTower | FeatureTower
    if config.on_features:
        tower = feature_tower(config, own["vision.mean"].numpy(), own["vision.deviation"].numpy())
    else:
        base = TimmEncoder(spec_of(config.encoder or ""), weights=tensors["base"], device="cpu")
        tower = base.tower()
        adapt_tower(tower, base.input_px, config)
    n_genes = facts["n_genes"]
    net = SealNet(tower, config.dim, np.zeros(n_genes), np.ones(n_genes), len(facts["names"]) if facts["critic"] else 0)
    net.load_own(own)
    expression = csr_matrix((len(arrays["role"]), n_genes), dtype=np.float32)
    expression.indptr, expression.indices, expression.data = (arrays[name] for name in CSR_PARTS)
    images: Any = MappedPatches(Path(facts["patches"])) if facts["patches"] else arrays["images"]
    return net, Pairs(images, expression, arrays["section"], arrays["role"], facts["names"]), config
