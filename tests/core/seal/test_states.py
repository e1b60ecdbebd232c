"""A training of SEAL that is killed at any step ends as one that was not."""

from __future__ import annotations

import threading

import pytest
from helpers.seal_arrays import Stop, differing, pairs_of, state, stop_after, train

from spade.core.seal import train as seal_training
from spade.core.seal.state import STATE
from spade.core.training_state import StateFolder

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
    path = tmp_path / STATE
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"state\.npz cannot be read .*Delete it to train from the start"):
        train(folder=StateFolder(tmp_path, {}))


def test_no_thread_outlives_a_training_that_fails():
    before = set(threading.enumerate())
    for kind in ("features", "pixels"):
        with pytest.raises(Stop) as caught:
            train(kind, n_workers=3, progress=stop_after(2))
        assert set(threading.enumerate()) <= before, caught  # though the error is still held
