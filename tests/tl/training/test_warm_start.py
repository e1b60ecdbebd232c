"""Training beyond the paper: a warm start, spots of other clusters, other spaces to cluster in, many devices."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.sections import cohort, train
from scipy.sparse import csr_matrix

import spade as sp
from spade.core.distributed.machine import Machine
from spade.core.experts.checkpoints import Checkpoints
from spade.core.roles import TRAIN, VAL
from spade.models import SpadeConfig
from spade.tl._training.data import TrainingData
from spade.tl._training.expert_of_spot import cluster_training
from spade.tl._training.initial_experts import warm_start_experts

TESTS = str(Path(__file__).parents[2])


# --- warm start


def data(n=60, seed=0):
    """Images of two looks and expression of two kinds, which have nothing to do with each other."""
    rng = np.random.default_rng(seed)
    look, kind = np.arange(n) % 2, np.arange(n) // 2 % 2
    features = rng.normal(size=(n, 6)).astype(np.float32) + 8 * look[:, None].astype(np.float32)
    expression = rng.uniform(0, 0.1, size=(n, 12)).astype(np.float32)
    expression[:, :6] += 5 * kind[:, None].astype(np.float32)
    role = np.where(np.arange(n) % 10 == 9, VAL, TRAIN)
    return (
        TrainingData(features, str, csr_matrix(expression), role, np.zeros(n, "U1"), np.full(n, "a"), ["a"]),
        look,
        kind,
    )


def test_after_a_warm_start_all_experts_begin_alike_and_trained():
    some, *_ = data()
    config = SpadeConfig(dim=8, batch_size=16, lr=1e-2, warm_start=30, n_epochs=1)
    mean, deviation = np.zeros(6), np.ones(6)
    experts = warm_start_experts(some, config, 3, (mean, deviation), machine=Machine(), checkpoints=None)
    for value in experts.state_dict().values():
        assert torch.equal(value[0], value[1])
        assert torch.equal(value[0], value[2])
    cold, warm = (train(cohort(), n_epochs=1, warm_start=n) for n in (0, 30))
    assert warm.config.warm_start == 30
    assert (warm.history["train_loss"] < cold.history["train_loss"]).all()


def test_a_warm_start_that_was_interrupted_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("spade.core.experts.checkpoints.SECONDS", 0.0)
    whole = train(cohort(), warm_start=3)
    save, folders = Checkpoints.save, []

    def save_or_stop(self, run, flat, row):
        save(self, run, flat, row)
        folders.append(self.folder.name)
        if run.step == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_or_stop)
        for _ in range(2):  # in the warm start, and in the first expert
            with pytest.raises(KeyboardInterrupt):
                train(cohort(), warm_start=3, checkpoint_dir=tmp_path / "state")
    assert {"warm_start", "state"} == set(folders)
    assert train(cohort(), warm_start=3, checkpoint_dir=tmp_path / "state").id == whole.id
    with pytest.raises(ValueError, match=r"warm_start: 3 there, 2 now"):
        train(cohort(), warm_start=2, checkpoint_dir=tmp_path / "state")


# --- what is clustered


def test_clusters_of_expression_are_those_of_expression():
    some, look, kind = data()
    rows = some.role == TRAIN
    settings = {"use_rep": "X_f", "n_prototypes": 2, "n_experts": 2}
    found = {
        space: cluster_training(some, SpadeConfig(cluster_space=space, **settings), "cpu")
        for space in ("image", "expression")
    }
    for space, truth in (("image", look), ("expression", kind)):
        routing, expert = found[space]
        assert set(zip(expert, truth, strict=True)) in ({(0, 0), (1, 1)}, {(0, 1), (1, 0)}), space
        scaled = (some.images - routing.mean) / routing.scale
        for k, e in enumerate(routing.assignment):
            np.testing.assert_allclose(routing.centroids[k], scaled[rows & (expert == e)].mean(0), atol=1e-6)
    joint, expert = cluster_training(
        some, SpadeConfig(cluster_space="joint", **settings | {"n_prototypes": 4, "n_experts": 4}), "cpu"
    )
    assert len(set(zip(expert, look, kind, strict=True))) == 4  # both sides count
    assert joint.n_experts == 4


def test_both_sides_count_whatever_the_units_of_the_images():
    some, look, kind = data()
    settings = {
        "use_rep": "X_f",
        "n_prototypes": 4,
        "n_experts": 4,
        "cluster_space": "joint",
        "feature_scaling": "none",
    }
    for units in (1e-3, 1.0, 1e3):
        scaled = replace(some, images=some.images * np.float32(units))
        _, expert = cluster_training(scaled, SpadeConfig(**settings), "cpu")
        assert len(set(zip(expert, look, kind, strict=True))) == 4, units


@pytest.mark.parametrize("space", ["expression", "joint"])
@pytest.mark.parametrize("scaling", ["standard", "none"])
def test_models_of_other_spaces_route_images(space, scaling, tmp_path):
    samples = cohort()
    model = train(samples, cluster_space=space, feature_scaling=scaling)
    model.save(tmp_path / "model")
    again = sp.models.SpadeModel.load(tmp_path / "model")
    assert (again.id, again.config.cluster_space) == (model.id, space)
    sp.tl.embed(samples, again)
    np.testing.assert_allclose(samples[0]["table"].obsm["spade_expert_weights"].sum(1), 1, atol=1e-6)


def test_spots_of_other_clusters_change_what_an_expert_learns():
    one, other = (train(cohort(), out_of_cluster=share) for share in (0.0, 0.5))
    assert other.config.out_of_cluster == 0.5
    assert one.id != other.id
    assert other.history["n_spots"].equals(one.history["n_spots"])


# --- similarities mixed over experts


@pytest.fixture(scope="module")
def model():
    return train(cohort(), n_epochs=10, routing_temperature=1.0)


def test_logits_are_the_weighted_cosines_of_the_experts(model):
    table = cohort()[0]["table"]
    features = table.obsm["X_f"].astype(np.float64)
    x = np.log1p(np.asarray(table.X.todense() if hasattr(table.X, "todense") else table.X, np.float64))[:, :20]
    mixed = model.encode_image(features, mix="logits") @ model.encode_expression(x, np.ones((36, 2)), mix="logits").T
    wanted = np.zeros((36, 36))
    for e in range(2):
        alone = np.tile(np.eye(2)[e], (36, 1))
        image, expression = model.encode_image(features, alone), model.encode_expression(x, alone)
        cosines = (image / np.linalg.norm(image, axis=1, keepdims=True)) @ (
            expression / np.linalg.norm(expression, axis=1, keepdims=True)
        ).T
        wanted += model.route(features)[:, [e]] * cosines
    np.testing.assert_allclose(mixed, wanted, atol=1e-5)
    assert model.encode_image(features[:0], mix="logits").shape == (0, 16)
    with pytest.raises(ValueError, match="mix='x': expected one of 'mean', 'concat', 'logits'"):
        model.encode_image(features, mix="x")


def test_retrieval_ranks_by_mixed_logits(model):
    samples = cohort()
    rows = {mix: sp.tl.retrieval_metrics(samples, model, mix=mix) for mix in ("concat", "logits", "mean")}
    assert all(table["n"].tolist() == [72] * 8 for table in rows.values())
    assert not rows["logits"]["median_rank"].equals(rows["concat"]["median_rank"])
    one = train(cohort(), n_experts=1)  # with a single expert the three are the same
    alone = [sp.tl.retrieval_metrics(samples, one, mix=mix) for mix in ("concat", "logits", "mean")]
    for table in alone[1:]:
        pd.testing.assert_frame_equal(table, alone[0], atol=1.0)
    with pytest.raises(ValueError, match="mix='x': expected"):
        sp.tl.retrieval_metrics(samples, model, mix="x")


# --- many devices


@pytest.mark.slow
def test_two_processes_train_the_model_of_one(tmp_path, monkeypatch):
    """Also from features on disk, of which nothing is left."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    options = {"n_experts": 3, "warm_start": 1, "out_of_cluster": 0.1}
    assert train(cohort(), devices=2, on_disk=True, **options).id == train(cohort(), **options).id
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"devices": 0}, r"devices=0: expected a whole number of at least 1"),
        ({"devices": True}, r"devices=True: expected a whole number"),
        ({"devices": 2, "device": "cpu:0"}, r"devices=2, but device='cpu:0' is a single one"),
        ({"warm_start": -1}, r"warm_start=-1: expected a whole number of at least 0"),
        ({"warm_start": 1.5}, r"warm_start=1.5: expected a whole number"),
        ({"out_of_cluster": 1.0}, r"out_of_cluster=1.0: expected a number from 0 to below 1"),
        ({"cluster_space": "genes"}, r"cluster_space='genes': expected one of 'image', 'expression', 'joint'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        train(cohort(), **options)


def test_genes_of_a_model_to_begin_with_may_be_named_in_any_form(model):
    begun = train(cohort(), init=model, genes=pd.Index(model.genes.names))
    assert begun.genes.names == model.genes.names
    with pytest.raises(ValueError, match="genes"):
        train(cohort(), init=model, genes=[])


def test_a_model_to_begin_with_has_no_warm_start(model):
    with pytest.raises(ValueError, match=r"warm_start=2 and init= both make the experts .*: choose one"):
        train(cohort(), init=model, warm_start=2)


def test_more_gpus_than_there_are_is_an_error(monkeypatch):
    from spade.core.device import check_devices, resolve_device

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [resolve_device("auto", i) for i in (None, 0, 1, 2)] == ["cuda", "cuda:0", "cuda:1", "cuda:0"]
    assert resolve_device("cuda:1", 0) == "cuda:1"
    check_devices(2, "cuda", alone=True)
    with pytest.raises(ValueError, match="devices=3, but the number of CUDA devices is 2"):
        check_devices(3, "cuda", alone=True)
    with pytest.raises(ValueError, match="devices=2 under torchrun"):
        check_devices(2, "cuda", alone=False)


SCRIPT = """
import os, pathlib, sys
sys.path.insert(0, sys.argv[1])
from helpers.sections import cohort, GENES, featured, train
import spade as sp
rank, out = int(os.environ["RANK"]), pathlib.Path(sys.argv[2])

def say(what, result):
    (out / f"{what} {rank}").write_text(result)

def cohort(seed=0):
    return [featured(name="a"), featured(name="b", seed=1 + seed)]

def attempt(what, samples, **options):
    try:
        say(what, train(samples, n_experts=3, warm_start=1, **options).id)
    except Exception as error:
        say(what, f"{type(error).__name__}: {error}")

state = out / "state"
attempt("trained", cohort(), checkpoint_dir=state)
attempt("read", cohort(), checkpoint_dir=state)
attempt("other data", cohort(rank))
split = cohort()
for sample in split:
    sample["table"].obs["part"] = (["train", "val"] * 18)[rank:] + ["train"] * rank
attempt("other split", split, split_key="part")
routing = sp.tl.cluster_experts(cohort(), use_rep="X_f", n_prototypes=6, n_experts=3, rng=rank)
attempt("other routing", cohort(), routing=routing)
attempt("folder of one", cohort(), checkpoint_dir=out / "one" if rank == 0 else None)
attempt("no folder", cohort(), checkpoint_dir=sys.argv[0])
attempt("other folder", cohort(), checkpoint_dir=sys.argv[1])
os.environ["LOCAL_RANK"] = "0"  # two machines that share a folder
attempt("shared folder", cohort(), checkpoint_dir=out / "shared")
"""


@pytest.mark.slow
def test_torchrun_trains_one_model_on_all_ranks(tmp_path):
    """One script makes many calls: some train, some are refused on all ranks for one reason, none spoils the next."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    done = subprocess.run([*command, TESTS, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    whole = train(cohort(), n_experts=3, warm_start=1)
    for rank, other in ((0, 1), (1, 0)):

        def said(what, rank=rank):
            return (tmp_path / f"{what} {rank}").read_text()

        for what in ("trained", "read", "shared folder"):
            assert said(what) == whole.id
        differing = {"other data": "expression, features", "other split": "split", "other routing": "routing"}
        for what, name in {**differing, "folder of one": "checkpoint_dir"}.items():
            assert f"ValueError: rank {rank} and rank {other} differ in {name}: give all processes" in said(what)
        assert f"checkpoint_dir={TESTS!r} holds" in said("other folder")
        assert "script.py" in said("no folder")
