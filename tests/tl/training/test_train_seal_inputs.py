"""What a fine-tuning reads and refuses: parts of a split, its own states, caches of patches, and bad input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.seal import FAST, PX, UM, cohort, pictured, pictures, seal
from helpers.sections import (
    GENES,
    circles,
    featured,
    square_lattice,
    tiny,
    warns_here,
)
from safetensors.torch import save_file
from scipy.sparse import csr_matrix

import spade as sp
from spade.core.errors import NonFiniteLossError

# --- splits, states, caches


def split(samples, parts=("train", "val", "test")):
    for sample in samples:
        n = len(sample["table"])
        sample["table"].obs["part"] = [parts[i % len(parts)] for i in range(n)]
    return samples


@pytest.mark.parametrize("kind", ["features", "pixels"])
def test_test_spots_are_never_read(kind, tune):
    run, make = (seal, cohort) if kind == "features" else (tune, pictures)
    samples = split(make())
    model = run(samples, split_key="part")
    n = len(samples[0]["table"])
    assert (model.facts["training_spots"], model.facts["validation_spots"]) == (2 * n // 3, 2 * n // 3)
    assert model.history["val_loss"].notna().all()
    least = model.history[model.history["term"] == "loss"].reset_index()["val_loss"].idxmin()
    assert model.facts["best_epoch"] == least
    other = split(make())
    for sample in other:
        test = (sample["table"].obs["part"] == "test").to_numpy()
        counts = sample["table"].X.toarray()
        counts[test] = counts[test][:, ::-1] * 7
        sample["table"].X = type(sample["table"].X)(counts)
        if kind == "features":
            sample["table"].obsm["X_f"][test] *= -3
    assert run(other, split_key="part").id == model.id
    assert run(split(make(), ("train", "test")), split_key="part").id != model.id
    with pytest.raises(ValueError, match=r"no spot is left to train on among \d+ usable ones \(split_key='part'\)"):
        run(split(make(), ("test",)), split_key="part")
    with pytest.raises(KeyError, match=r"split_key='none' is not in obs"):
        run(make(), split_key="none")


class Stop(Exception):
    pass


def test_an_interrupted_training_goes_on(tmp_path, monkeypatch, tune):
    from spade.core.training_state import StateFolder

    monkeypatch.setattr("spade.core.seal.train.SECONDS", 0.0)
    write = StateFolder.write
    for name, run, make in (("features", seal, cohort), ("pixels", tune, pictures)):
        whole = run(make(), gene_warmup=1)
        calls = []

        def write_or_stop(self, *args, calls=calls):
            write(self, *args)
            calls.append(1)
            if len(calls) in (2, 5, 9):
                raise Stop

        with monkeypatch.context() as patch:
            patch.setattr(StateFolder, "write", write_or_stop)
            for _ in range(3):
                with pytest.raises(Stop):
                    run(make(), gene_warmup=1, checkpoint_dir=tmp_path / name)
            model = run(make(), gene_warmup=1, checkpoint_dir=tmp_path / name)
        assert model.id == whole.id
        pd.testing.assert_frame_equal(model.history, whole.history)
        with monkeypatch.context() as patch:  # a finished training takes no step
            patch.setattr("spade.core.seal.train._Run._step", lambda *_: pytest.fail("trained again"))
            again = run(make(), gene_warmup=1, checkpoint_dir=tmp_path / name)
        assert (again.id, again.facts) == (whole.id, whole.facts)
        for options, said in (
            ({"lr": 0.5}, r"lr: 0\.001 there, 0\.5 now"),
            ({"rng": 5}, r"seed: 0 there, 5 now"),
            ({"genes": GENES[:19]}, r"of another training"),
        ):
            with pytest.raises(ValueError, match=said):
                run(make(), **{"gene_warmup": 1, "checkpoint_dir": tmp_path / name, **options})
        other = make()
        other[1] = other[1] if name == "none" else make()[0]
        other[1].attrs["spade"] = {**other[1].attrs["spade"], "sample": "b"}
        with pytest.raises(ValueError, match=r"of another training \(.*(expression|images)"):
            run(other, gene_warmup=1, checkpoint_dir=tmp_path / name)
    with pytest.raises(ValueError, match=r"holds .* but no training\.json"):
        seal(cohort(), checkpoint_dir=Path(__file__).parent)


def test_patches_are_cached_once(tmp_path, tune, monkeypatch):
    from spade.core.patches import sources as pixels

    live = tune(pictures())
    cached = tune(pictures(), cache_dir=tmp_path / "cache" / "deep")
    (path,) = (tmp_path / "cache" / "deep").iterdir()
    assert path.stat().st_size == pytest.approx(24 * PX * PX * 3, abs=200)
    assert cached.id == live.id
    written = path.stat().st_mtime_ns
    with monkeypatch.context() as patch:
        patch.setattr(pixels, "write_patches", lambda *_: pytest.fail("made again"))
        patch.setattr("spade.tl._training.patch_source.write_patches", lambda *_: pytest.fail("made again"))
        assert tune(pictures(), cache_dir=tmp_path / "cache" / "deep").id == live.id
    assert path.stat().st_mtime_ns == written
    other = tune([pictured(seed=7), pictured("b", 1)], cache_dir=tmp_path / "cache" / "deep")
    assert other.id != live.id
    assert len(list((tmp_path / "cache" / "deep").iterdir())) == 2


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-1000])


def of_fewer(path):
    np.save(path, np.load(path)[:-3])


def of_another_size(path):
    np.save(path, np.load(path)[:, :32, :32])


@pytest.mark.parametrize("damage", [cut_off, of_fewer, of_another_size, lambda path: path.write_bytes(b"")])
def test_a_damaged_cache_is_an_error(damage, tmp_path, tune):
    tune(pictures(), cache_dir=tmp_path, n_epochs=1)
    (path,) = tmp_path.iterdir()
    damage(path)
    with pytest.raises(ValueError, match=rf"{path.name}.*Delete it"):
        tune(pictures(), cache_dir=tmp_path, n_epochs=1)


def test_test_spots_are_not_cached(tmp_path, tune):
    tune(split(pictures()), split_key="part", cache_dir=tmp_path, n_epochs=1)
    (path,) = tmp_path.iterdir()
    assert len(np.load(path)) == 16


def test_threads_that_read_change_nothing(tune):
    assert tune(pictures(), n_workers=0).id == tune(pictures(), n_workers=3).id == tune(pictures()).id


def test_several_sections_in_one_object_whose_rows_are_mixed(tune):
    """The order in which patches are read is not that of the table."""
    from helpers.sections import picture, pixels, table

    centres = square_lattice(8)
    first, second = circles(centres, ids=[f"s{i}" for i in range(8)]), circles(centres, ids=[f"s{i}" for i in range(8)])
    ids, region = [f"s{i // 2}" for i in range(16)], ["one", "two"] * 8
    from spatialdata import SpatialData

    from spade.io._scale import record_scale

    sdata = SpatialData(
        images={"one_image": picture(pixels(0)), "two_image": picture(pixels(1))},
        shapes={"one": first, "two": second},
        tables={"table": table(ids, region=region)},
    )
    record_scale(sdata, sample="mixed", mpp={"one_image": 1.0, "two_image": 1.0})
    sp.pp.patches(sdata, size_um=UM, size_px=64, image_key={"one": "one_image", "two": "two_image"})
    seen = {}

    def keep(net, pairs, *args, **kwargs):
        seen["pairs"] = pairs
        raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spade.tl._training.train_seal.train_seal_net", keep)
        with pytest.raises(Stop):
            tune(sdata)
    pairs = seen["pairs"]
    patches = pairs.images.take(np.arange(16))
    g = pairs.expression.toarray()
    counts = sdata["table"].X.toarray()
    expected = np.log1p(1e4 * counts / counts.sum(1, keepdims=True))[:, :20]
    images = {"one": pixels(0), "two": pixels(1)}
    for row in range(16):
        (match,) = np.flatnonzero(np.isclose(g, expected[row], atol=1e-5).all(1))
        name = region[row]
        assert pairs.names[pairs.section[match]] == f"mixed/{name}"
        x, y = centres[int(ids[row][1:])]
        box = images[name][:, int(y) - 30 : int(y) + 30, int(x) - 30 : int(x) + 30].mean((1, 2))
        np.testing.assert_allclose(patches[match].mean((0, 1)), box, atol=3)


# --- what is refused


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"on_features": None}, ValueError, r"encoder=None, on_features=None: give one of them"),
        ({"encoder": "test_vit"}, ValueError, r"encoder='test_vit', on_features='X_f': give one of them"),
        ({"weights": "random"}, ValueError, r"weights='random': on_features= reads features that are there"),
        ({"on_features": "X_none"}, KeyError, r"a: use_rep='X_none' is not in obsm; there is 'X_f'"),
        ({"genes": ["G01", "none"]}, ValueError, r"genes: training needs every gene .* a lacks 1 of 2"),
        ({"genes": None}, ValueError, r"genes=None, and no sample has var\['spade_gene'\]"),
        ({"batch_size": 1}, ValueError, r"batch_size=1: expected a whole number of at least 2"),
        ({"micro_batch_size": 0}, ValueError, r"micro_batch_size=0: expected a whole number of at least 1"),
        ({"micro_batch_size": -1}, ValueError, r"micro_batch_size=-1: expected a whole number of at least 1"),
        ({"n_workers": -1}, ValueError, r"n_workers=-1: expected a whole number of at least 0"),
        ({"n_workers": 1.5}, ValueError, r"n_workers=1\.5: expected a whole number of at least 0"),
        ({"targets": "qkv", "head": "deep"}, ValueError, r"head='deep'"),
        ({"device": "gpu"}, ValueError, r"device='gpu' is not a torch device"),
        ({"devices": 0}, ValueError, r"devices=0: expected a whole number of at least 1"),
        ({"precision": "fp16"}, ValueError, r"precision='fp16': expected one of"),
        ({"rng": -1}, TypeError, r"rng=-1: expected a non-negative int"),
        ({"table_key": "none"}, KeyError, r"table_key='none' is not there"),
        ({"layer": "none"}, KeyError, r"layer='none' is not there"),
        (
            {"cache_dir": "somewhere"},
            ValueError,
            r"cache_dir='somewhere': on_features= reads features.*leave cache_dir= out",
        ),
        (
            {"patches_key": "squares"},
            ValueError,
            r"patches_key='squares': on_features= reads features.*leave patches_key= out",
        ),
        ({"n_workers": 0}, ValueError, r"n_workers=0: on_features= reads features.*leave n_workers= out"),
    ],
)
def test_bad_input_on_features(options, error, said):
    with pytest.raises(error, match=said):
        seal(cohort(), **options)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        (
            {"encoder": "texture", "weights": None},
            ValueError,
            r'encoder="texture" is no network.*on_features="X_texture"',
        ),
        ({"dim": 8}, ValueError, r"dim=8: the joint space of a tuned encoder is as wide as its features"),
        ({"encoder": "UNI"}, ValueError, r"encoder='UNI' is not known"),
        ({"encoder": ""}, ValueError, r"encoder='' is not known"),
        ({"encoder": 3}, (TypeError, ValueError), r"encoder=3"),
        ({"weights": "none.pth"}, FileNotFoundError, r"there is no such file"),
        ({"patches_key": "tiles"}, KeyError, r"patches_key='tiles' is not there; patches: 'patches'"),
        (
            {"targets": ("qkv", "up")},
            ValueError,
            r"blocks\.\d+ has no linear layer 'up'; there are fc1, fc2, proj, qkv",
        ),
        ({"n_blocks": 99}, ValueError, r"n_blocks=99, but the encoder has \d+ blocks"),
    ],
)
def test_bad_input_on_pixels(options, error, said, tune):
    with pytest.raises(error, match=said):
        tune(pictures(), **options)


@pytest.mark.parametrize("options", [{"n_blocks": 2}, {"targets": ("qkv",)}])
def test_settings_of_blocks_on_a_cnn(options):
    said = (
        f"{next(iter(options))}=.*: encoder 'test_resnet' has no transformer blocks.*leave {next(iter(options))}= out"
    )
    with warns_here("random weights"), pytest.raises(ValueError, match=said):
        sp.tl.train_seal(pictures(), encoder="test_resnet", weights="random", **FAST, **options)


def test_no_patches(tune):
    with pytest.raises(KeyError, match=r"a: patches_key='patches' is not there; patches: none\. Make them"):
        tune([tiny(12, name="a")])


def test_patches_of_several_sizes(tune):
    with pytest.raises(ValueError, match=r"b: patches of 80 µm, but those of samples before it are of 60 µm"):
        tune([pictured(), pictured("b", 1, size_um=80.0)])


def test_samples_of_one_name():
    with pytest.raises(ValueError, match=r"two samples are named 'a'"):
        seal([featured(name="a"), featured(name="a", seed=1)])


def only(sample, rows):
    """Let some rows train."""
    part = np.full(len(sample["table"]), "test", dtype=object)
    part[list(rows)] = "train"
    sample["table"].obs["part"] = part
    return sample


def test_too_few_spots_to_compare():
    a, b = cohort()
    with pytest.raises(ValueError, match="a single spot is left to train on, and the loss compares spots"):
        seal([only(a, [3]), only(b, [])], split_key="part")
    assert seal([only(a, [3]), only(b, [5])], split_key="part").facts["training_spots"] == 2
    with pytest.raises(ValueError, match=r'negatives="section": a has a single training spot.*negatives="all"'):
        seal([only(a, [3]), only(b, [5, 6])], split_key="part", negatives="section")
    for samples in ([a], [only(a, [3, 4]), only(b, [])]):
        with pytest.raises(ValueError, match=r"adversary=0\.5: there is one section to train on"):
            seal(samples, adversary=0.5, split_key="part")
    seal([only(a, range(9)), only(b, range(2))], split_key="part", balance_sections=True, negatives="section")


def test_a_loss_that_is_no_number_names_the_samples():
    with pytest.raises(NonFiniteLossError, match=r"the loss became (nan|inf) in step \d+, on spots of a, b.*Lower lr="):
        seal(cohort(), lr=1e30, n_epochs=30)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.update(extra=torch.zeros(1)), r"1 keys too many \['extra'\]"),
        (lambda s: s.pop("norm.weight"), r"1 keys missing \['norm\.weight'\]"),
    ],
)
def test_weights_must_fit(change, said, network, tmp_path, tune):
    state = dict(network.state_dict())
    change(state)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=rf"does not fit encoder='test_vit'.*{said}"):
        tune(pictures(), weights=tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"rank": 4, "stain_jitter": 0.2},
            r"rank=4, stain_jitter=0\.2: of use only where an encoder is trained; leave rank=",
        ),
        ({"targets": "qkv"}, r"targets=\('qkv',\): of use only where an encoder"),
        ({"micro_batch_size": 4}, r"micro_batch_size=4: of use only where an encoder"),
    ],
)
def test_settings_of_pixels_on_features(options, said):
    with pytest.raises(ValueError, match=said):
        seal(cohort(), **options)


@pytest.mark.parametrize("options", [{"hidden": 16}, {"head": "linear"}])
def test_settings_of_a_head_on_pixels(options, tune):
    with pytest.raises(ValueError, match=f"{next(iter(options))}=.*: of use only where a head on features is trained"):
        tune(pictures(), **options)


def test_few_steps_are_told(caplog):
    seal(cohort(), n_epochs=19)
    assert "steps in all: 95 (n_epochs=19 of 5 each, of 72 training spots)" in caplog.text
    assert "batch_size=16" in caplog.text
    caplog.clear()
    seal(cohort(), n_epochs=20)
    assert "steps" not in caplog.text


def test_a_state_is_of_the_sections_it_was_trained_with():
    """Which spots are one section decides what ``negatives="section"`` compares."""
    from dataclasses import replace

    from spade.models import SealConfig
    from spade.tl._training.data import TrainingData
    from spade.tl._training.seal_setup import describe

    section = np.repeat(["a", "b"], 3)
    data = TrainingData(
        np.ones((6, 2), np.float32), csr_matrix(np.eye(6)), np.zeros(6, int), np.zeros(6, "U1"), section, ["a"]
    )
    one, other = (
        describe(replace(data, section=names), SealConfig(), "cpu", None) for names in (section, section[::-1])
    )
    assert {name for name in one if one[name] != other[name]} == {"rows"}
