"""Training of SEAL on arrays: several processes are one, a kill changes nothing, and what is asked for is what is trained."""

from __future__ import annotations

import math
import multiprocessing
import threading
import traceback

import numpy as np
import pytest
import timm
import torch
import torch.distributed as dist
from scipy.sparse import csr_matrix

from spade.core.distributed.ranks import Ranks
from spade.core.errors import NonFiniteLossError
from spade.core.patches.sources import GivenPatches
from spade.core.roles import NOT_USED, TRAIN, VAL
from spade.core.seal import train as seal_training
from spade.core.seal.config import WEIGHTS, SealTraining
from spade.core.seal.network import SealNet
from spade.core.seal.pairs import Pairs
from spade.core.seal.train import JOINT, _Run, train_seal_net
from spade.core.training_state import StateFolder
from spade.core.vision.lora import adapters, add_lora
from spade.core.vision.towers import FeatureTower, PixelTower

N, WIDTH, N_GENES, PX = 41, 6, 9, 32
FAST = {"n_epochs": 3, "batch_size": 16, "lr": 1e-3}
STILL = {"dropout": 0.0, "flips": False, "rotations": False, "stain_jitter": 0.0}


def arrays(n=N, seed=0):
    """Features and expression that have something in common."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(n, 3))
    x = (common @ rng.normal(size=(3, WIDTH)) + 0.1 * rng.normal(size=(n, WIDTH))).astype(np.float32)
    g = np.log1p(rng.poisson(np.exp(common @ rng.normal(size=(3, N_GENES)) * 0.5 + 1))).astype(np.float32)
    return x, g


def pairs_of(kind="features", n=N, seed=0, validation=True):
    x, g = arrays(n, seed)
    role = np.full(n, TRAIN)
    if validation:
        role[::7], role[3::7] = VAL, NOT_USED
    images = x
    if kind == "pixels":
        rng = np.random.default_rng(seed)
        patches = np.clip(rng.normal(150, 40, (n, PX, PX, 3)) + 30 * x[:, None, None, :3], 0, 255)
        images = GivenPatches(patches.astype(np.uint8))
    return Pairs(images, csr_matrix(g), np.arange(n) % 2, role, ["one", "other"])


def net_of(kind="features", dropout=0.0, n_sections=0):
    torch.manual_seed(0)
    if kind == "features":
        tower, dim = FeatureTower(np.zeros(WIDTH), np.ones(WIDTH), 8, hidden=16, dropout=dropout), 8
    else:
        options = {"img_size": PX, "patch_size": 16, "embed_dim": 8, "depth": 2, "num_heads": 2, "num_classes": 0}
        model, dim = timm.models.vision_transformer.VisionTransformer(**options).eval(), 8
        targets = ("qkv", "proj", "fc1", "fc2")
        add_lora(model, n_blocks=1, targets=targets, rank=2, alpha=4.0, dropout=dropout)
        with torch.no_grad():  # so that the gradient of every adapter is there from the first step on
            for name, value in adapters(model):
                if "lora_B" in name:
                    value.normal_(std=0.1)
        tower = PixelTower(model, (0.5,) * 3, (0.25,) * 3)
    _, g = arrays()
    return SealNet(tower, dim, g.mean(0), g.std(0), n_sections)


def train(
    kind="features", *, pairs=None, net=None, seed=0, n_workers=0, ranks=None, folder=None, progress=None, **options
):
    config = SealTraining(**FAST | options)
    net = net_of(kind, config.dropout, 2 if config.adversary else 0) if net is None else net
    pairs = pairs_of(kind) if pairs is None else pairs
    record = train_seal_net(
        net, pairs, config, seed=seed, n_workers=n_workers, ranks=ranks, folder=folder, progress=progress
    )
    return net, record


def state(net):
    return {name: value.clone() for name, value in net.own_state().items()}


def differing(one, other):
    assert set(one) == set(other)
    return {name for name in one if not torch.equal(one[name], other[name])}


#: Weights before a batch norm that takes them away again: their gradient is rounding, which AdamW makes large.
OF_NO_EFFECT = {f"gene.encoder.{name}" for name in ("0.bias", "1.running_mean", "3.bias", "4.running_mean")}


def assert_close(one, other):
    assert set(one) == set(other)
    for name in set(one) - OF_NO_EFFECT:
        far = ~torch.isclose(one[name], other[name], rtol=1e-3, atol=2e-5)
        assert far.float().mean() < 1e-4, name  # a unit may be switched on by rounding


# --- several processes


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


def first_step(kind, rows, options, ranks=None):
    """Losses and gradients of one step."""
    config = SealTraining(**FAST | STILL | options)
    net = net_of(kind, n_sections=2 if config.adversary else 0)
    run = _Run(net, pairs_of(kind), config, 0, "cpu", ranks, 0, None, None)
    run.optimiser.step = lambda: None
    losses = run._step(rows, next(run._images([rows], JOINT)), JOINT)
    return losses, {name: value.grad for name, value in net.trained() if value.grad is not None}


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
        assert list(row.values())[3:] == pytest.approx(list(expected.values())[3:], rel=1e-3)


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


# --- interrupted


class Stop(Exception):
    pass


def stop_after(n):
    """Stop at a step of this call."""
    calls = []

    def progress(*_):
        calls.append(1)
        if len(calls) == n:
            raise Stop

    return progress


SETTINGS = {
    "features": ("features", {"dropout": 0.2}),
    "warm-up": ("features", {"gene_warmup": 2, "kl": 0.1}),
    "balanced": ("features", {"balance_sections": True, "adversary": 0.3}),
    "no validation": ("features", {"validation": False}),
    "pixels": ("pixels", {"dropout": 0.2}),
    "micro batches": ("pixels", {"dropout": 0.2, "micro_batch_size": 5, "gene_warmup": 1}),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_training_that_is_killed_at_any_step_ends_as_one_that_was_not(name, tmp_path, monkeypatch):
    monkeypatch.setattr(seal_training, "SECONDS", 0.0)
    kind, options = SETTINGS[name]
    options = dict(options)
    pairs = pairs_of(kind, validation=options.pop("validation", True))
    net, record = train(kind, pairs=pairs, **options)
    stopped = 0
    while True:
        try:  # the second step of every call is lost
            again, found = train(kind, pairs=pairs, folder=StateFolder(tmp_path, {}), progress=stop_after(2), **options)
            break
        except Stop:
            stopped += 1
    assert stopped > 3
    assert not differing(state(net), state(again))
    assert str(found.history) == str(record.history)
    assert found.best_epoch == record.best_epoch


@pytest.mark.parametrize("name", SETTINGS)
def test_a_training_that_is_killed_after_every_save_ends_as_one_that_was_not(name, tmp_path, monkeypatch):
    monkeypatch.setattr(seal_training, "SECONDS", 0.0)
    kind, options = SETTINGS[name]
    options = dict(options)
    pairs = pairs_of(kind, validation=options.pop("validation", True))
    net, record = train(kind, pairs=pairs, **options)
    write = StateFolder.write

    def write_and_stop(self, *args):
        write(self, *args)
        raise Stop

    stopped = 0
    with monkeypatch.context() as patch:
        patch.setattr(StateFolder, "write", write_and_stop)
        while True:
            try:
                again, found = train(kind, pairs=pairs, folder=StateFolder(tmp_path, {}), **options)
                break
            except Stop:
                stopped += 1
    assert stopped > 6
    assert not differing(state(net), state(again))
    assert str(found.history) == str(record.history)
    assert found.best_epoch == record.best_epoch


def test_a_finished_training_is_returned_at_once(tmp_path):
    steps = []
    net, record = train(folder=StateFolder(tmp_path, {}), progress=lambda *step: steps.append(step))
    assert [step[:2] for step in steps] == [(i + 1, len(steps)) for i in range(len(steps))]
    again, found = train(folder=StateFolder(tmp_path, {}), progress=lambda *_: pytest.fail("trained again"))
    assert not differing(state(net), state(again))
    assert str(found.history) == str(record.history)


def test_steps_of_the_warm_up_count():
    steps = []
    train(gene_warmup=2, progress=lambda *step: steps.append(step[:2]))
    assert steps == [(i + 1, len(steps)) for i in range(len(steps))]


def test_a_state_that_was_cut_off_is_an_error(tmp_path):
    train(folder=StateFolder(tmp_path, {}))
    path = tmp_path / seal_training.STATE
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"state\.npz cannot be read .*Delete it to train anew"):
        train(folder=StateFolder(tmp_path, {}))


def test_no_thread_outlives_a_training_that_fails():
    before = set(threading.enumerate())
    for kind in ("features", "pixels"):
        with pytest.raises(Stop) as caught:
            train(kind, n_workers=3, progress=stop_after(2))
        assert set(threading.enumerate()) <= before, caught  # though the error is still held


# --- settings do what they say


@pytest.mark.parametrize("size", [1, 4, 5, 100])
def test_micro_batches_change_no_gradient(size):
    rows = np.arange(15)
    whole, gradients = first_step("pixels", rows, {})
    found, own = first_step("pixels", rows, {"micro_batch_size": size})
    assert found == pytest.approx(whole, rel=1e-5)
    assert set(own) == set(gradients)
    for name, value in own.items():
        torch.testing.assert_close(value, gradients[name], rtol=1e-4, atol=1e-6)


def test_micro_batches_train_the_same_weights():
    whole, parts = (state(train("pixels", **STILL, micro_batch_size=size)[0]) for size in (0, 4))
    assert_close(parts, whole)


def test_micro_batches_encode_few_patches_at_a_time(monkeypatch):
    seen = []
    forward = PixelTower.forward
    monkeypatch.setattr(PixelTower, "forward", lambda self, x: seen.append(len(x)) or forward(self, x))
    train("pixels", micro_batch_size=5)
    assert max(seen) == 5


@pytest.mark.parametrize("kind", ["features", "pixels"])
def test_warm_up_trains_the_expression_tower_alone(kind, monkeypatch):
    net = net_of(kind)
    before, seen = state(net), {}
    frozen = {name: value.clone() for name, value in net.vision.state_dict().items()}
    monkeypatch.setattr(_Run, "_encode", lambda *_: seen.update(state(net)) or pytest.fail("read images"))
    with pytest.raises(pytest.fail.Exception):
        train(kind, net=net, gene_warmup=2)
    changed = differing(before, seen)
    assert changed
    assert all(name.startswith("gene.") for name in changed)
    assert "gene.decoder.0.weight" in changed
    assert all(torch.equal(value, frozen[name]) for name, value in net.vision.state_dict().items())


def test_the_warm_up_is_told_in_the_history():
    _, record = train(gene_warmup=2)
    rows = [(row["stage"], row["term"], row["epoch"]) for row in record.history]
    terms = ["contrastive", "gene_reconstruction", "image_to_gene", "loss"]
    assert rows == [("gene", term, epoch) for epoch in range(2) for term in ("gene_reconstruction", "loss")] + [
        ("joint", term, epoch) for epoch in range(3) for term in terms
    ]
    assert all(np.isfinite([row["train_loss"], row["val_loss"]]).all() for row in record.history)
    warm = [row["train_loss"] for row in record.history if row["stage"] == "gene" and row["term"] == "loss"]
    assert warm[1] < warm[0]


@pytest.mark.parametrize("off", ["contrastive", "gene_reconstruction", "image_to_gene"])
def test_a_loss_that_is_switched_off_trains_nothing(off):
    before = state(net_of())
    net, record = train(**{off: 0.0}, weight_decay=0.5)
    assert {row["term"] for row in record.history} == {*WEIGHTS[:3], "loss"} - {off}
    unchanged = set(before) - differing(before, state(net))
    parts = {
        "gene_reconstruction": "gene.decoder.",
        "image_to_gene": "image_to_gene.",
        "contrastive": "gene.fc_logvar.",
    }
    assert any(name.startswith(parts[off]) for name in unchanged) == (off != "contrastive")
    for one in ("gene_reconstruction", "image_to_gene"):
        assert all((name in unchanged) == (off == one) for name in before if name.startswith(parts[one]))


def test_a_head_alone_leaves_the_expression_tower_as_it_is():
    before = state(net_of())
    net, _ = train(contrastive=0.0, gene_reconstruction=0.0)
    assert not any(name.startswith("gene.") for name in differing(before, state(net)))


def test_the_loss_is_the_weighted_sum_of_its_terms():
    weights = {"contrastive": 0.5, "gene_reconstruction": 2.0, "image_to_gene": 3.0, "kl": 0.1, "adversary": 0.2}
    _, record = train(**weights)
    for epoch in range(3):
        for column in ("train_loss", "val_loss"):
            found = {row["term"]: row[column] for row in record.history if row["epoch"] == epoch}
            if column == "val_loss":  # the critic does not know sections that it was not trained on
                assert math.isnan(found.pop("adversary"))
            assert found.pop("loss") == pytest.approx(sum(weights[name] * value for name, value in found.items()))


def test_training_lowers_its_loss():
    for kind in ("features", "pixels"):
        _, record = train(kind, n_epochs=15, lr=1e-2 if kind == "pixels" else 1e-3)
        losses = [row["train_loss"] for row in record.history if row["term"] == "loss"]
        assert losses[-1] < 0.9 * losses[0]


# --- validation


def test_the_epoch_of_least_validation_loss_is_kept():
    pairs = pairs_of()
    net, states, validate = net_of(), [], _Run._validate
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Run, "_validate", lambda run, stage: states.append(state(run.net)) or validate(run, stage))
        _, record = train(net=net, pairs=pairs, n_epochs=12, lr=3e-2)
    kept = [row["val_loss"] for row in record.history if row["term"] == "loss"]
    assert record.best_epoch == int(np.argmin(kept))
    assert 0 < record.best_epoch < 11  # it is neither the first nor the last
    assert not differing(state(net), states[record.best_epoch])
    assert not net.training


def test_validation_is_the_same_in_every_epoch_and_changes_no_training():
    pairs = pairs_of()
    _, record = train(pairs=pairs, lr=1e-12)
    losses = [row["val_loss"] for row in record.history if row["term"] == "image_to_gene"]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)
    role = np.where(pairs.role == VAL, NOT_USED, pairs.role)
    _, found = train(pairs=Pairs(pairs.images, pairs.expression, pairs.section, role, pairs.names), lr=1e-12)
    assert found.best_epoch == 2
    assert math.isnan(found.history[0]["val_loss"])
    assert [row["train_loss"] for row in found.history] == [row["train_loss"] for row in record.history]


def test_rows_that_are_not_used_change_nothing():
    pairs = pairs_of()
    net, _ = train(pairs=pairs)
    x, g = pairs.images.copy(), pairs.expression.toarray()
    x[pairs.role == NOT_USED], g[pairs.role == NOT_USED] = np.nan, 1e30
    again, _ = train(pairs=Pairs(x, csr_matrix(g), pairs.section, pairs.role, pairs.names))
    assert not differing(state(net), state(again))


# --- losses that are not numbers


def spoiled(kind, role, row=0):
    pairs = pairs_of()
    chosen = np.flatnonzero((pairs.role == role) & (pairs.section == 1))[row]
    if kind == "images":
        pairs.images[chosen] = np.nan
    else:
        pairs.expression[chosen, 0] = np.inf
    return pairs


@pytest.mark.parametrize("kind", ["images", "expression"])
def test_a_loss_that_is_no_number_names_the_section(kind):
    with pytest.raises(
        NonFiniteLossError, match=r"the loss became nan in step \d, on spots of other, whose .*lr=0\.001"
    ):
        train(pairs=spoiled(kind, TRAIN))


def test_so_does_the_warm_up():
    with pytest.raises(NonFiniteLossError, match=r"the loss became nan in step \d, on spots of other"):
        train(pairs=spoiled("expression", TRAIN), gene_warmup=1)


@pytest.mark.parametrize("kind", ["images", "expression"])
@pytest.mark.parametrize("warmup", [0, 1])
def test_a_validation_loss_that_is_no_number_names_the_section(kind, warmup):
    with pytest.raises(NonFiniteLossError, match=r"the validation loss became nan .*on spots of other"):
        train(pairs=spoiled(kind, VAL), gene_warmup=warmup)


def test_a_step_that_is_too_large_is_an_error():
    with pytest.raises(NonFiniteLossError, match=r"the loss became (nan|inf).*on spots of one, other"):
        train(lr=1e30, n_epochs=20)


# --- the same again


@pytest.mark.parametrize("kind", ["features", "pixels"])
def test_the_same_seed_gives_the_same_weights_and_leaves_torch_alone(kind):
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    nets = [net_of(kind, 0.3) for _ in range(3)]
    torch.random.set_rng_state(before)
    for net, seed, n_workers in zip(nets, (0, 0, 1), (0, 2, 0), strict=True):
        train(kind, net=net, seed=seed, n_workers=n_workers, dropout=0.3)
        assert torch.equal(torch.random.get_rng_state(), before)
        torch.rand(3)  # what was drawn before does not matter
        torch.random.set_rng_state(before) if seed else torch.manual_seed(7)
    one, same, other = map(state, nets)
    assert not differing(one, same)
    assert differing(one, other)


def test_draws_do_not_depend_on_torch():
    torch.manual_seed(1)
    one = state(train("pixels", net=net_of("pixels", 0.3), dropout=0.3)[0])
    net = net_of("pixels", 0.3)
    torch.manual_seed(2)
    assert not differing(one, state(train("pixels", net=net, dropout=0.3)[0]))


def test_half_precision_trains_nearly_the_same():
    _, exact = train("pixels", **STILL)
    net, half = train("pixels", **STILL, precision="bf16")
    assert all(value.dtype == torch.float32 for value in state(net).values())
    losses = [[row["train_loss"] for row in record.history] for record in (exact, half)]
    assert losses[0] != losses[1]
    np.testing.assert_allclose(*losses, rtol=0.05)
