"""Fine-tuning on several processes gives the model of one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.seal import cohort, outputs, pictures, seal

from spade.models import SealModel, _seal_processes, _seal_worker

SCRIPT = """
import os, pathlib, sys
sys.path.insert(0, sys.argv[1])
from helpers.seal import cohort, pictures, seal, tuned_by
rank, out, weights = int(os.environ["RANK"]), pathlib.Path(sys.argv[2]), sys.argv[3]

def attempt(what, run, samples, **options):
    try:
        model = run(samples, **options)
        model.save(out / f"{what} {rank}")
    except Exception as error:
        (out / f"{what} {rank}.txt").write_text(f"{type(error).__name__}: {error}")

tune = tuned_by(weights)
still = {"dropout": 0.0, "flips": False, "rotations": False, "stain_jitter": 0.0}
attempt("features", seal, cohort(), checkpoint_dir=out / "state", dropout=0.0)
attempt("again", seal, cohort(), checkpoint_dir=out / "state", dropout=0.0)
attempt("pixels", tune, pictures(), cache_dir=out / "cache", **still)
attempt("other", seal, cohort()[rank:])
attempt("many", seal, cohort(), devices=2)
attempt("not a number", seal, cohort(), lr=1e30, n_epochs=30)
"""


@pytest.mark.slow
def test_torchrun_trains_one_model_on_all_ranks(tmp_path, weights, tune):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    arguments = [str(Path(__file__).parents[2]), str(tmp_path), str(weights)]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for what, whole in (("features", seal(cohort(), dropout=0.0)), ("pixels", tune(pictures(), **STILL))):
        one, other = (SealModel.load(tmp_path / f"{what} {rank}", weights=weights) for rank in (0, 1))
        assert one.id == other.id
        assert len(one.history) == len(whole.history)
        np.testing.assert_allclose(one.history["train_loss"], whole.history["train_loss"], rtol=1e-3)
        for found, expected in zip(
            *(outputs(model, cohort() if what == "features" else pictures()) for model in (one, whole)), strict=True
        ):
            np.testing.assert_allclose(found, expected, rtol=0.02, atol=0.02)
    first = SealModel.load(tmp_path / "features 0").id
    assert {SealModel.load(tmp_path / f"again {rank}").id for rank in (0, 1)} == {first}
    assert len(list((tmp_path / "cache").iterdir())) == 1
    for rank, other in ((0, 1), (1, 0)):
        said = {what: (tmp_path / f"{what} {rank}.txt").read_text() for what in ("other", "many", "not a number")}
        assert f"ValueError: rank {rank} and rank {other} differ in expression, images, rows, samples" in said["other"]
        assert "devices=2 under torchrun" in said["many"]
        assert "NonFiniteLossError: the loss became" in said["not a number"]


STILL = {"dropout": 0.0, "flips": False, "rotations": False, "stain_jitter": 0.0}
CRITIC = {"adversary": 0.5, "negatives": "section", "balance_sections": True, "gene_warmup": 1, "kl": 0.1}


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """A folder for temporary files of its own, empty again when the test ends."""
    path = tmp_path / "temporary"
    path.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(path))
    yield path
    assert list(path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["critic", "cached pixels"])
def test_devices_train_the_model_of_one(kind, tmp_path, temporary, tune):
    """Plain features and pixels are trained by two ranks above."""
    run, make = tune, pictures
    if kind == "critic":
        run, make, options = seal, cohort, {"dropout": 0.0} | CRITIC
    else:
        options = STILL | {"cache_dir": tmp_path / "cache", "micro_batch_size": 3}
    one, many = (run(make(), devices=n, **options) for n in (1, 2))
    assert many.config == one.config
    assert many.facts == one.facts
    assert many.history.drop(columns="train_loss").equals(one.history.drop(columns="train_loss"))
    np.testing.assert_allclose(many.history["train_loss"], one.history["train_loss"], rtol=1e-4)
    for found, expected in zip(*(outputs(model, make()) for model in (many, one)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0.02, atol=0.02)


@pytest.mark.slow
def test_a_killed_process_is_an_error_and_the_same_call_goes_on(tmp_path, temporary, monkeypatch):
    """The second process is killed from outside after 30 of 60 steps."""
    settings = {"devices": 2, "n_epochs": 12, "checkpoint_dir": tmp_path / "state"}
    whole = seal(cohort(), **settings | {"checkpoint_dir": None})
    started: list[subprocess.Popen[str]] = []
    popen, run_workers = subprocess.Popen, _seal_processes.run_workers

    def noting(*args, **options):
        started.append(popen(*args, **options))
        return started[-1]

    def killing(module, folder, orders, tell):
        def kill(message):
            tell(message)
            if message["step"][0] == 30:
                started[1].kill()

        run_workers(module, folder, orders, kill)

    with monkeypatch.context() as patch:
        patch.setattr("spade.core.distributed.workers.subprocess.Popen", noting)
        patch.setattr(_seal_processes, "run_workers", killing)
        with pytest.raises(RuntimeError, match=r"process on cpu ended with code .*repeat the call to continue"):
            seal(cohort(), **settings)
    assert len(started) == 2
    assert all(process.poll() is not None for process in started)
    steps = []
    with monkeypatch.context() as patch:
        patch.setattr(
            _seal_processes,
            "run_workers",
            lambda *given: run_workers(*given[:3], lambda message: steps.append(message["step"][0])),
        )
        model = seal(cohort(), **settings)
    assert 5 < steps[0] <= 61 - len(steps)
    assert model.id == whole.id
    assert model.history.equals(whole.history)
    monkeypatch.setattr(_seal_processes, "run_workers", lambda *_: pytest.fail("started again"))
    assert seal(cohort(), **settings).id == whole.id


@pytest.mark.slow
def test_a_loss_that_is_no_number_on_devices(temporary):
    with pytest.raises(FloatingPointError, match=r"the loss became (nan|inf) in step \d+, on spots of a, b.*Lower lr="):
        seal(cohort(), devices=2, lr=1e30, n_epochs=30)


@pytest.mark.slow
def test_a_process_that_cannot_work(temporary, monkeypatch):
    monkeypatch.setattr(_seal_worker, "__name__", "spade.models.none_such")
    with pytest.raises(
        RuntimeError, match=r"(?s)process on cpu ended with code 1.*No module named spade.models.none_such"
    ):
        seal(cohort(), devices=2)


def test_more_devices_than_spots_in_a_batch(temporary, monkeypatch):
    monkeypatch.setattr(_seal_processes, "run_workers", lambda *_: pytest.fail("started"))
    with pytest.raises(ValueError, match="72 training spots in batches of 2 leave some of 3 processes without images"):
        seal(cohort(), devices=3, batch_size=2)
