"""Train SEAL's network, in one process or on several, each with its share of every batch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from spade.core.arrays import Rows
from spade.core.distributed.join import join_gradients, join_rows
from spade.core.distributed.ranks import ALONE, Ranks
from spade.core.errors import NonFiniteLossError
from spade.core.rng import numpy_stream, seed_torch, torch_stream
from spade.core.roles import TRAIN, VAL
from spade.core.schedule import cosine
from spade.core.seal.augment import augment
from spade.core.seal.config import SealTraining
from spade.core.seal.network import SealNet
from spade.core.seal.pairs import Pairs, epoch_batches, n_batches
from spade.core.seal.state import ENDED, FACTS, GENE, JOINT, Record, read_state, write_state
from spade.core.training_state import SECONDS, StateFolder
from spade.core.vision.towers import FeatureTower, to_unit

#: (steps done in all stages, steps in all, loss of the last one)
Progress = Callable[[int, int, float], None]


def train_seal_net(
    net: SealNet,
    pairs: Pairs,
    config: SealTraining,
    *,
    seed: int = 0,
    device: str = "cpu",
    ranks: Ranks = ALONE,
    n_workers: int = 2,
    folder: StateFolder | None = None,
    progress: Progress | None = None,
) -> Record:
    """Train in place with AdamW and a cosine schedule; the best epoch on validation rows is kept, else the last.

    Every draw depends on the seed, its purpose and the step alone. A training that goes on from a state therefore ends
    as one that was never stopped.

    Parameters
    ----------
    net
        The network. Its frozen weights stay the same, bit for bit.
    pairs
        Training and validation rows.
    config
        Losses and optimiser.
    seed
        Seed of order, augmentation, dropout and noise.
    device
        Torch device.
    ranks
        Processes that each encode a share of every batch. Their embeddings are joined before the losses, so that losses
        and gradients are those of one process on the whole batch.
    n_workers
        Threads that read patches ahead.
    folder
        Keeps the state; training goes on from there.
    progress
        Called after every step.
    """
    run = _Run(
        net.to(device),
        pairs,
        config,
        seed=seed,
        device=device,
        ranks=ranks,
        n_workers=n_workers,
        folder=folder,
        progress=progress,
    )
    cuda = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        return run.all()


def check_shares(pairs: Pairs, config: SealTraining, world: int) -> None:
    """Raise if a batch has fewer spots than there are processes."""
    n_rows = int((pairs.role == TRAIN).sum())
    if n_rows // n_batches(n_rows, config.batch_size) < world:
        raise ValueError(
            f"{n_rows} training spots in batches of {config.batch_size} leave some of {world} processes without "
            "images; use fewer processes or larger batches."
        )


class _Run:
    """One training: its network, optimiser and record."""

    def __init__(
        self,
        net: SealNet,
        pairs: Pairs,
        config: SealTraining,
        *,
        seed: int,
        device: str,
        ranks: Ranks,
        n_workers: int,
        folder: StateFolder | None,
        progress: Progress | None,
    ) -> None:
        self.net, self.pairs, self.config, self.seed, self.device = net, pairs, config, seed, device
        self.ranks, self.n_workers, self.folder, self.progress = ranks, n_workers, folder, progress
        self.train, self.val = (np.flatnonzero(pairs.role == kind) for kind in (TRAIN, VAL))
        self.record = Record(stage=GENE if config.gene_warmup else JOINT)
        check_shares(pairs, config, ranks.world)
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
            lr=self._rate(),
            weight_decay=self.config.weight_decay,
            fused=True,
        )

    def _rate(self) -> float:
        return self.config.rate(warmup=self.record.stage == GENE)

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
                    group["lr"] = self._rate() * cosine(record.step, n_epochs * steps)
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
            yield from self.pairs.read_images(
                [rows[self.ranks.rank :: self.ranks.world] for rows in order], self.n_workers
            )

    def _step(self, rows: Rows, images: Tensor | None, stage: str) -> dict[str, float]:
        self.net.train()
        self.optimiser.zero_grad(set_to_none=True)
        losses, blamed = self._losses(rows, images, stage, self.record.step)
        self._check("loss", losses["loss"], rows, blamed)
        losses["loss"].backward()
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
            losses, blamed = self.net.gene_losses(dense, self.config, noise), [dense]
        else:
            image = join_rows(self._encode(images, step), len(rows), self.ranks)
            section = torch.from_numpy(self.pairs.section[rows]).to(self.device)
            losses, blamed = self.net.losses(image, dense, section, self.config, noise), [image, dense]
        weights = self.config.loss_weights()
        total = torch.stack([weights.get(name, 1.0) * value for name, value in losses.items()]).sum()
        return losses | {"loss": total}, blamed

    def _encode(self, images: Tensor | None, step: int) -> Tensor:
        """Encode this process's share of a batch, in parts if micro_batch_size says so.

        The activations of a part are computed again for its gradient, so that memory holds those of one part.
        """
        if images is None:
            raise RuntimeError("the patch reader ended before its batches did.")
        if not len(images):
            return torch.zeros(0, self.net.gene.dim, device=self.device)
        images = images.to(self.device)
        training = self.net.training
        seed_torch(
            torch_stream(self.seed, "dropout", step * self.ranks.world + self.ranks.rank).initial_seed(), self.device
        )
        kind = torch.device(self.device).type
        with torch.autocast(kind, torch.bfloat16, enabled=self.config.precision != "fp32"):
            if isinstance(self.net.vision, FeatureTower):
                return self.net.vision(images).float()
            x = to_unit(images)
            if training:
                draws = torch_stream(self.seed, "augmentation", step * self.ranks.world + self.ranks.rank)
                x = augment(x, self.config.augment(), draws)
            size = self.config.micro_batch_size
            if not training or not size or size >= len(x):
                parts = [self.net.vision(part) for part in x.split(size or len(x))]
            else:
                parts = [checkpoint(self.net.vision, part, use_reentrant=False) for part in x.split(size)]
        return torch.cat(parts).float()

    def _check(self, name: str, loss: Tensor, rows: Rows, blamed: list[Tensor]) -> None:
        """Stop if the loss is not a number, and say in which sections."""
        if torch.isfinite(loss):
            return
        bad = np.zeros(len(rows), dtype=bool)
        for values in blamed:
            bad |= (~torch.isfinite(values).all(1)).cpu().numpy()
        sections = np.unique(self.pairs.section[rows[bad] if bad.any() else rows])
        names = ", ".join(self.pairs.names[i] for i in sections)
        raise NonFiniteLossError(
            f"the {name} became {float(loss.detach())} in step {self.record.step}, on spots of {names}"
            f"{', whose embeddings are not finite' if bad.any() else ''}. Lower lr={self._rate():g}"
            f"{' of the warm-up (gene_lr=)' if self.record.stage == GENE else ''}, or look at the images, features and "
            "counts of these sections."
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
                losses, blamed = self._losses(rows, next(images, None), stage, 0)
                self._check("validation loss", losses["loss"], rows, blamed)
                for name, value in losses.items():
                    sums[name] = sums.get(name, 0.0) + float(value) * len(rows)
        return {name: value / len(self.val) for name, value in sums.items()}

    def _save(self) -> None:
        self.saved = time.monotonic()
        if self.folder is not None and self.ranks.leads:
            write_state(self.folder, self.net, self.record, self.optimiser, self.names)

    def _restore(self) -> None:
        """Go on from the state in the folder of the first rank, if there is one."""
        state = self.ranks.first(lambda: read_state(self.folder))
        if state is None:
            return
        self.net.load_own(state.arrays["net"])
        for name in FACTS:
            setattr(self.record, name, state.facts[name])
        self.record.best = state.arrays.get("best", {})
        self.optimiser = self._new_optimiser()
        self.optimiser.load_state_dict(self.optimiser.state_dict() | {"state": state.moments(self.names)})
