"""Train SEAL's network, in one process or on several, each with its share of every batch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from spade.core.distributed.join import join_gradients, join_rows
from spade.core.distributed.ranks import Ranks
from spade.core.errors import NonFiniteLossError
from spade.core.rng import numpy_stream, seed_torch, torch_stream
from spade.core.roles import TRAIN, VAL
from spade.core.schedule import cosine
from spade.core.seal.augment import augment
from spade.core.seal.config import SealTraining
from spade.core.seal.network import SealNet
from spade.core.seal.pairs import Pairs, Rows, epoch_batches, n_batches
from spade.core.training_state import SECONDS, StateFolder
from spade.core.vision.towers import FeatureTower, to_unit

#: (steps done in all stages, steps in all, loss of the last one)
Progress = Callable[[int, int, float], None]
#: Stages; the last has no name.
GENE, JOINT, ENDED = "gene", "joint", ""
STATE = "state.npz"
#: What AdamW knows of a weight.
MOMENTS = ("exp_avg", "exp_avg_sq", "step")
FACTS = ("stage", "step", "sums", "rows", "history", "best_epoch", "best_loss")


@dataclass
class Record:
    """How far a training is, and what it has seen."""

    stage: str = GENE
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    rows: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = -1
    best_loss: float = math.inf
    best: dict[str, Tensor] = field(default_factory=dict)


def train_seal_net(
    net: SealNet,
    pairs: Pairs,
    config: SealTraining,
    *,
    seed: int = 0,
    device: str = "cpu",
    ranks: Ranks | None = None,
    n_workers: int = 2,
    folder: StateFolder | None = None,
    progress: Progress | None = None,
) -> Record:
    """Train with AdamW and a cosine schedule per step, in place; the best epoch on validation rows is kept, else the last.

    Every draw depends on the seed, its purpose and the step alone, so that a training that goes on from a state ends as one that was
    never stopped.

    Parameters
    ----------
    net
        The network; what is frozen in it stays bit for bit the same.
    pairs
        Training and validation rows.
    config
        Losses and optimiser.
    seed
        Seed of order, augmentation, dropout and noise.
    device
        Torch device.
    ranks
        Processes that each encode their share of every batch. Embeddings are joined before the losses, so that losses and gradients are
        those of one process on the whole batch.
    n_workers
        Threads that read patches ahead.
    folder
        Where the state is kept, and taken from.
    progress
        Called after every step.
    """
    run = _Run(net.to(device), pairs, config, seed, device, ranks, n_workers, folder, progress)
    cuda = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        return run.all()


def check_shares(pairs: Pairs, config: SealTraining, world: int) -> None:
    """Raise if some batch has fewer spots than there are processes."""
    n_rows = int((pairs.role == TRAIN).sum())
    if n_rows // n_batches(n_rows, config.batch_size) < world:
        raise ValueError(
            f"{n_rows} training spots in batches of {config.batch_size} leave some of {world} processes without images; "
            "use fewer processes or larger batches."
        )


def has_ended(folder: StateFolder) -> bool:
    """Whether the training whose state the folder keeps took its last step."""
    found = _read(folder)
    return found is not None and found[0]["stage"] == ENDED


def _read(folder: StateFolder | None) -> Any:
    """Facts and arrays of the state in a folder; None if there is none."""
    if folder is None or not (path := folder.folder / STATE).exists():
        return None
    return folder.read(path, None, (), FACTS)


class _Run:
    """One training: its network, optimiser and record."""

    def __init__(
        self,
        net: SealNet,
        pairs: Pairs,
        config: SealTraining,
        seed: int,
        device: str,
        ranks: Ranks | None,
        n_workers: int,
        folder: StateFolder | None,
        progress: Progress | None,
    ) -> None:
        self.net, self.pairs, self.config, self.seed, self.device = net, pairs, config, seed, device
        self.ranks, self.n_workers, self.folder, self.progress = ranks, n_workers, folder, progress
        self.rank, self.world = (0, 1) if ranks is None else (ranks.rank, ranks.world)
        self.train, self.val = (np.flatnonzero(pairs.role == kind) for kind in (TRAIN, VAL))
        self.record = Record(stage=GENE if config.gene_warmup else JOINT)
        check_shares(pairs, config, self.world)
        self.saved, self.trained = time.monotonic(), dict(net.trained())
        self.optimiser = self._new_optimiser()

    def all(self) -> Record:
        """Train from where the record says to the end, and put the kept weights in place."""
        self._restore()
        while self.record.stage in (GENE, JOINT):
            n_epochs = self.config.gene_warmup if self.record.stage == GENE else self.config.n_epochs
            done = {row["epoch"] for row in self.record.history if row["stage"] == self.record.stage}
            for epoch in range(len(done), n_epochs):
                self._epoch(epoch, n_epochs)
            self.record.stage, self.record.step = (JOINT, 0) if self.record.stage == GENE else (ENDED, self.record.step)
            self.optimiser = self._new_optimiser()
            self._save()
        self.net.load_own(self.record.best)
        self.net.eval()
        return self.record

    def _new_optimiser(self) -> torch.optim.AdamW:
        """Of the stage at hand: gene warm-up trains the expression tower alone."""
        prefix = "gene." if self.record.stage == GENE else ""
        self.names = [name for name in self.trained if name.startswith(prefix)]
        return torch.optim.AdamW(
            [self.trained[name] for name in self.names],
            lr=self.config.lr,
            weight_decay=self.config.weight_decay,
            fused=True,
        )

    def _steps(self) -> int:
        return n_batches(len(self.train), self.config.batch_size)

    def _epoch(self, epoch: int, n_epochs: int) -> None:
        record, steps = self.record, self._steps()
        order = epoch_batches(
            self.train,
            self.pairs.section,
            steps,
            balance=self.config.balance_sections,
            generator=self._shuffling(epoch),
        )
        left = order[record.step - epoch * steps :]
        with closing(self._images(left, record.stage)) as images:
            for rows in left:
                for group in self.optimiser.param_groups:
                    group["lr"] = self.config.lr * cosine(record.step, n_epochs * steps)
                losses = self._step(rows, next(images, None), record.stage)
                for name, value in losses.items():
                    record.sums[name] = record.sums.get(name, 0.0) + value * len(rows)
                record.rows += len(rows)
                record.step += 1
                self._tell(losses["loss"])
                if time.monotonic() - self.saved >= SECONDS:
                    self._save()
        train = {name: value / record.rows for name, value in record.sums.items()}
        val = self._validate(record.stage)
        record.sums, record.rows = {}, 0
        record.history += [
            {
                "stage": record.stage,
                "term": name,
                "epoch": epoch,
                "train_loss": value,
                "val_loss": val.get(name, math.nan),
            }
            for name, value in train.items()
        ]
        loss = val.get("loss", -math.inf)  # without validation every epoch is as good as the last
        if record.stage == JOINT and (record.best_epoch < 0 or loss <= record.best_loss):
            record.best_loss, record.best_epoch = loss, epoch
            record.best = {name: value.detach().cpu().clone() for name, value in self.net.own_state().items()}
        self._save()

    def _tell(self, loss: float) -> None:
        if self.progress is None:
            return
        warmup = self.config.gene_warmup * self._steps()
        done = self.record.step + (warmup if self.record.stage == JOINT else 0)
        self.progress(done, warmup + self.config.n_epochs * self._steps(), loss)

    def _shuffling(self, epoch: int) -> np.random.Generator:
        return numpy_stream(self.seed, f"order of {self.record.stage}", epoch)

    def _images(self, order: Sequence[Rows], stage: str) -> Generator[Tensor]:
        """Images of this process's share of every batch; its threads end when it is closed."""
        if stage == JOINT:
            yield from self.pairs.read_images([rows[self.rank :: self.world] for rows in order], self.n_workers)

    def _step(self, rows: Rows, images: Tensor | None, stage: str) -> dict[str, float]:
        self.net.train()
        self.optimiser.zero_grad(set_to_none=True)
        losses, blame = self._losses(rows, images, stage, self.record.step)
        self._check("loss", losses["loss"], rows, blame)
        losses["loss"].backward()
        if self.ranks is not None:
            join_gradients([(name, self.trained[name]) for name in self.names], self.ranks)
        self.optimiser.step()
        return {name: float(value.detach()) for name, value in losses.items()}

    def _losses(
        self, rows: Rows, images: Tensor | None, stage: str, step: int
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Return all losses of a batch and their weighted sum, and the values by which a row can be blamed."""
        dense = torch.from_numpy(self.pairs.expression[rows].toarray()).to(self.device)
        noise = torch_stream(self.seed, f"noise of {stage}", step, torch.device(self.device).type)
        if stage == GENE:
            found, seen = self.net.gene_losses(dense, self.config, noise), [dense]
        else:
            image = self._encode(images, step)
            if self.ranks is not None:
                image = join_rows(image, len(rows), self.ranks)
            section = torch.from_numpy(self.pairs.section[rows]).to(self.device)
            found, seen = self.net.losses(image, dense, section, self.config, noise), [image, dense]
        weights = self.config.loss_weights()
        total = torch.stack([weights.get(name, 1.0) * value for name, value in found.items()]).sum()
        return found | {"loss": total}, seen

    def _encode(self, images: Tensor | None, step: int) -> Tensor:
        """Encode this process's share of a batch; in small parts of it, if asked for, whose activations are made anew for the gradient."""
        if images is None:
            raise RuntimeError("the reader of patches ended before its batches did.")
        if not len(images):
            return torch.zeros(0, self.net.gene.dim, device=self.device)
        images = images.to(self.device)
        training = self.net.training
        seed_torch(torch_stream(self.seed, "dropout", step * self.world + self.rank).initial_seed(), self.device)
        kind = torch.device(self.device).type
        with torch.autocast(kind, torch.bfloat16, enabled=self.config.precision != "fp32"):
            if isinstance(self.net.vision, FeatureTower):
                return self.net.vision(images).float()
            x = to_unit(images)
            if training:
                draws = torch_stream(self.seed, "augmentation", step * self.world + self.rank)
                x = augment(x, self.config.augment(), draws)
            size = self.config.micro_batch_size
            if not training or not size or size >= len(x):
                parts = [self.net.vision(part) for part in x.split(size or len(x))]
            else:
                parts = [checkpoint(self.net.vision, part, use_reentrant=False) for part in x.split(size)]
        return torch.cat(parts).float()

    def _check(self, name: str, loss: Tensor, rows: Rows, seen: list[Tensor]) -> None:
        """Stop if the loss is not a number, and say in which sections."""
        if torch.isfinite(loss):
            return
        bad = np.zeros(len(rows), dtype=bool)
        for values in seen:
            bad |= (~torch.isfinite(values).all(1)).cpu().numpy()
        sections = np.unique(self.pairs.section[rows[bad] if bad.any() else rows])
        raise NonFiniteLossError(
            f"the {name} became {float(loss.detach())} in step {self.record.step}, on spots of {', '.join(self.pairs.names[i] for i in sections)}"
            f"{', whose embeddings are not finite' if bad.any() else ''}. Lower lr={self.config.lr:g}, or look at the images, features "
            "and counts of these sections."
        )

    @torch.no_grad()
    def _validate(self, stage: str) -> dict[str, float]:
        """Mean losses of the validation rows, in batches that are the same in every epoch."""
        if not len(self.val):
            return {}
        order = np.array_split(
            numpy_stream(self.seed, "order of validation").permutation(self.val),
            n_batches(len(self.val), self.config.batch_size),
        )
        self.net.eval()
        sums: dict[str, float] = {}
        with closing(self._images(order, stage)) as images:
            for rows in order:
                losses, blame = self._losses(rows, next(images, None), stage, 0)
                self._check("validation loss", losses["loss"], rows, blame)
                for name, value in losses.items():
                    sums[name] = sums.get(name, 0.0) + float(value) * len(rows)
        return {name: value / len(self.val) for name, value in sums.items()}

    def _save(self) -> None:
        self.saved = time.monotonic()
        if self.folder is None or self.rank:
            return
        arrays = {f"net.{name}": value for name, value in self.net.own_state().items()}
        arrays |= {f"best.{name}": value for name, value in self.record.best.items()}
        for i, state in self.optimiser.state_dict()["state"].items():
            arrays |= {f"{part}.{self.names[i]}": state[part] for part in MOMENTS}
        facts = {name: getattr(self.record, name) for name in FACTS}
        self.folder.write(self.folder.folder / STATE, facts, arrays)

    def _restore(self) -> None:
        """Go on from the state in the folder of the first rank, if there is one."""
        found = _read(self.folder) if self.ranks is None else self.ranks.first(lambda: _read(self.folder))
        if found is None:
            return
        facts, arrays = found
        tensors = {name: torch.from_numpy(np.asarray(array)) for name, array in arrays.items()}
        part: dict[str, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            kind, _, rest = name.partition(".")
            part.setdefault(kind, {})[rest] = value
        self.net.load_own(part["net"])
        for name in FACTS:
            setattr(self.record, name, facts[name])
        self.record.best = part.get("best", {})
        self.optimiser = self._new_optimiser()
        state = {
            i: {kind: part[kind][name] for kind in MOMENTS}
            for i, name in enumerate(self.names)
            if name in part.get(MOMENTS[0], {})
        }
        self.optimiser.load_state_dict(self.optimiser.state_dict() | {"state": state})
