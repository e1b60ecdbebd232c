"""Several processes train the weights of one."""

from __future__ import annotations

import multiprocessing
import traceback

import numpy as np
import pytest
import torch
import torch.distributed as dist
from helpers.seal_arrays import (
    OF_NO_EFFECT,
    STILL,
    N,
    Stop,
    assert_close,
    differing,
    first_step,
    pairs_of,
    state,
    stop_after,
    train,
)

from spade.core.distributed.ranks import Ranks
from spade.core.roles import VAL
from spade.core.seal import train as seal_training
from spade.core.training_state import StateFolder


def in_processes(work, folder, world=2):
    """Run ``work(ranks)`` in forked processes that are joined, and return what each gave."""

    def run(rank):
        try:
            torch.set_num_threads(1)
            dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
            torch.save(work(Ranks(rank, world, rank, dist.group.WORLD)), folder / f"{rank}.pt")
        except BaseException:
            (folder / f"{rank}.txt").write_text(traceback.format_exc())
            raise

    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=run, args=(rank,)) for rank in range(world)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    failed = [path.read_text() for path in sorted(folder.glob("*.txt"))]
    assert [process.exitcode for process in processes] == [0] * world, "\n".join(failed)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(world)]


LOSSES = {
    "paper": {},
    "all": {"kl": 0.3, "adversary": 0.5, "negatives": "section"},
    "image alone": {"contrastive": 0.0, "gene_reconstruction": 0.0},
}


@pytest.mark.parametrize("n", [16, 15, 2])
@pytest.mark.parametrize("losses", LOSSES)
@pytest.mark.parametrize("kind", ["features", "pixels"])
def test_two_processes_have_the_gradients_of_one(kind, losses, n, tmp_path):
    options = LOSSES[losses]
    rows = np.random.default_rng(0).permutation(N)[:n]
    whole, gradients = first_step(kind, rows, options)
    assert any(name.startswith("vision.") for name in gradients)
    for found, own in in_processes(lambda ranks: first_step(kind, rows, options, ranks), tmp_path):
        assert found == pytest.approx(whole, rel=1e-4)
        assert set(own) == set(gradients)
        for name, value in own.items():
            if name in OF_NO_EFFECT:  # both are rounding alone, which grows as two rows differ less
                assert value.norm() < 1e-3 * own[name.replace("bias", "weight")].norm()
            else:
                torch.testing.assert_close(value, gradients[name], rtol=1e-3, atol=1e-5, msg=name)


def test_three_processes_have_the_gradients_of_one(tmp_path):
    rows = np.arange(16)
    _, gradients = first_step("pixels", rows, {})
    for _, own in in_processes(lambda ranks: first_step("pixels", rows, {}, ranks), tmp_path, world=3):
        for name, value in own.items():
            torch.testing.assert_close(value, gradients[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"gene_warmup": 2, "micro_batch_size": 3}], ids=["plain", "more"])
@pytest.mark.parametrize("kind", ["features", "pixels"])
def test_two_processes_train_the_weights_of_one(kind, options, tmp_path):
    net, record = train(kind, **STILL, **options)

    def work(ranks):
        own, found = train(kind, ranks=ranks, **STILL, **options)
        return state(own), found.history

    (one, history), (other, _) = in_processes(work, tmp_path)
    assert not differing(one, other)
    assert_close(one, state(net))
    for row, expected in zip(history, record.history, strict=True):
        assert list(row.values())[:3] == list(expected.values())[:3]
        assert list(row.values())[3:] == pytest.approx(list(expected.values())[3:], rel=5e-3)


def test_processes_vary_their_own_patches(tmp_path):
    """With augmentation and dropout the ranks draw for themselves, and end alike all the same."""
    (one, _), (other, _) = in_processes(
        lambda ranks: (state(train("pixels", ranks=ranks, dropout=0.3)[0]), None), tmp_path
    )
    assert not differing(one, other)


def test_a_validation_batch_smaller_than_the_processes(tmp_path):
    pairs = pairs_of("pixels", validation=False)
    pairs.role[5] = VAL

    def work(ranks):
        return train("pixels", pairs=pairs, ranks=ranks, **STILL)[1].history

    one, other = in_processes(work, tmp_path)
    assert one == other
    assert np.isfinite([row["val_loss"] for row in one]).all()


def test_more_processes_than_images_is_an_error():
    with pytest.raises(ValueError, match=r"training spots in batches of 2 leave some of 3 processes without images"):
        train(batch_size=2, ranks=Ranks(0, 3, 0, None))


def test_processes_go_on_from_the_state_of_the_first(tmp_path, monkeypatch):
    monkeypatch.setattr(seal_training, "SECONDS", 0.0)

    def work(ranks, stop=None):
        folder = StateFolder(tmp_path / "state", None)
        try:
            return state(train(folder=folder, ranks=ranks, progress=stop_after(stop), **STILL)[0])
        except Stop:
            return None

    for name in ("whole", "stopped", "gone on", "state"):
        (tmp_path / name).mkdir()
    whole, _ = in_processes(lambda ranks: state(train(ranks=ranks, **STILL)[0]), tmp_path / "whole")
    assert in_processes(lambda ranks: work(ranks, 3), tmp_path / "stopped") == [None, None]
    for found in in_processes(work, tmp_path / "gone on"):
        assert not differing(found, whole)
