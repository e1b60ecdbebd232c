"""One fine-tuning on several processes of this machine, each with a share of every batch."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from safetensors.torch import save_file

from spade.core.distributed.machine import Machine
from spade.core.distributed.workers import places, run_workers
from spade.core.files import CSR_PARTS
from spade.core.patches.sources import LivePatches, MappedPatches, write_patches
from spade.core.seal.network import SealNet
from spade.core.seal.pairs import Pairs
from spade.core.seal.state import Record, has_ended
from spade.core.seal.train import Progress, check_shares, train_seal_net
from spade.core.training_state import StateFolder
from spade.core.vision.towers import PixelTower
from spade.models import _seal_worker
from spade.models._config import SealConfig
from spade.models._seal_worker import NETWORK, PATCHES, TASK
from spade.models._towers import base_state


def train_seal_in_processes(
    net: SealNet,
    pairs: Pairs,
    config: SealConfig,
    *,
    machine: Machine,
    n_workers: int,
    folder: StateFolder | None,
    progress: Progress,
) -> Record:
    """Train on ``machine.devices`` processes, which read data and network from the machine's temporary folder.

    They leave their state in ``folder``, or in the temporary folder if there is none.
    """
    check_shares(pairs, config, machine.devices)
    finish = partial(train_seal_net, net, pairs, config, seed=config.seed, device=machine.device)
    if folder is not None and has_ended(folder):
        return finish(folder=folder)
    with TemporaryDirectory(prefix="spade-") as name:
        task = Path(name)
        state = folder or StateFolder(task / "state", None)
        write_task(task, net, pairs, config)
        orders: list[dict[str, Any]] = [
            {
                "state": str(state.folder),
                "device": device,
                "rank": rank,
                "world": machine.devices,
                "n_workers": n_workers,
            }
            for rank, device in enumerate(places(machine.device, machine.devices))
        ]
        run_workers(_seal_worker.__name__, task, orders, lambda message: progress(*message["step"]))
        return finish(folder=state)  # takes no step, but puts the weights that were kept in place


def write_task(folder: Path, net: SealNet, pairs: Pairs, config: SealConfig) -> None:
    """Write all that a process needs; patches that are read live go into a file that all share."""
    arrays = {name: getattr(pairs, name) for name in ("section", "role")}
    arrays |= {name: getattr(pairs.expression, name) for name in CSR_PARTS}
    patches = None
    if isinstance(pairs.images, MappedPatches):
        patches = str(pairs.images.path)
    elif isinstance(pairs.images, LivePatches):
        patches = str(write_patches(folder / PATCHES, pairs.images).path)
    else:
        arrays["images"] = np.asarray(pairs.images)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
    tensors = {f"own.{name}": value for name, value in net.own_state().items()}
    if isinstance(net.vision, PixelTower):
        tensors |= {f"base.{name}": value for name, value in base_state(net.vision.model.state_dict()).items()}
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / NETWORK)
    facts = {
        "config": asdict(config),
        "names": list(pairs.names),
        "n_genes": pairs.expression.shape[1],
        "patches": patches,
        "critic": net.critic is not None,
    }
    (folder / TASK).write_text(json.dumps(facts))
