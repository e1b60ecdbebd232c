"""Tuning an encoder: splits, trainings that go on, cached patches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.seal import PX, UM, cohort, pictured, pictures, seal
from helpers.sections import GENES, circles, square_lattice

import spade as sp


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
    with pytest.raises(ValueError, match=r"no spot is left to train on among \d+ usable spots \(split_key='part'\)"):
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
            ({"genes": GENES[:19]}, r"to another training"),
        ):
            with pytest.raises(ValueError, match=said):
                run(make(), **{"gene_warmup": 1, "checkpoint_dir": tmp_path / name, **options})
        other = make()
        other[1] = other[1] if name == "none" else make()[0]
        other[1].attrs["spade"] = {**other[1].attrs["spade"], "sample": "b"}
        with pytest.raises(ValueError, match=r"to another training \(.*(expression|images)"):
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

    from spade.io._recorded.scale import record_scale

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
        patch.setattr("spade.tl._training.seal_steps.train_seal_net", keep)
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
