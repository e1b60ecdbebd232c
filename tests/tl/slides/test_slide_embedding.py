"""One vector per slide: means, attention and compositions, against what numpy gives."""

from __future__ import annotations

import tracemalloc

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from helpers.sections import GENES, spoil, train
from helpers.slides import FAST, slide, write_cohort, write_h5

import spade as sp
from spade.io._feature_files import read_feature_file

NAMES = [f"s{i:02d}" for i in range(12)]


def means(samples, key="X_f"):
    return np.stack([np.nanmean(one["table"].obsm[key].astype(np.float64), 0) for one in samples])


# --- mean


def test_the_mean_of_every_slide_has_its_name(twelve):
    found = sp.tl.slide_embedding(twelve, use_rep="X_f")
    assert found.index.tolist() == NAMES
    assert found.index.name == "slide"
    assert list(found.columns) == [f"X_f_{j}" for j in range(8)]
    np.testing.assert_allclose(found, means(twelve), rtol=1e-6)
    _, predictions = sp.tl.slide_task(
        twelve, label_key="kind", use_rep="X_f", n_folds=2, return_predictions=True
    )  # the same slides
    assert sorted(predictions["slide"]) == found.index.tolist()


def test_patches_without_features_are_left_out_and_counted(twelve, caplog):
    caplog.set_level("INFO", "spade")
    spoil(twelve[2], "X_f", [3, 4])
    spoil(twelve[5], "X_noise", [0])
    found, counts = sp.tl.slide_embedding(twelve, use_rep=("X_noise", "X_f"), return_counts=True)
    assert list(found.columns) == [f"X_noise_{j}" for j in range(4)] + [f"X_f_{j}" for j in range(8)]
    rows = np.delete(np.arange(36), [3, 4])
    x = twelve[2]["table"].obsm
    expected = np.concatenate([x["X_noise"][rows].mean(0), x["X_f"][rows].mean(0)])
    np.testing.assert_allclose(found.loc["s02"], expected, rtol=1e-4, atol=1e-6)
    assert counts["n_left_out"].tolist() == [0, 0, 2, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    assert (counts.sum(1) == 36).all()
    assert "3 patches without X_noise + X_f left out, of slides 's02', 's05'" in caplog.text
    spoil(twelve[7], "X_f", range(36))
    with pytest.raises(ValueError, match="slide 's07': none of its 36 patches has every representation"):
        sp.tl.slide_embedding(twelve, use_rep="X_f")


def test_a_column_names_the_slides_of_a_store(twelve, tmp_path):
    for sample in twelve[:2]:
        sample["table"].obs["block"] = [f"{sample.attrs['spade']['sample']}-{'ab'[i % 2]}" for i in range(36)]
        sp.io.write(sample, tmp_path / f"{sample.attrs['spade']['sample']}.zarr")
    paths = [tmp_path / "s00.zarr", tmp_path / "s01.zarr"]
    found = sp.tl.slide_embedding(iter(paths), use_rep="X_f", slide_key="block")
    assert found.index.tolist() == ["s00-a", "s00-b", "s01-a", "s01-b"]
    x = twelve[1]["table"].obsm["X_f"]
    np.testing.assert_allclose(found.loc["s01-b"], x[1::2].mean(0), rtol=1e-4, atol=1e-6)
    pd.testing.assert_frame_equal(sp.tl.slide_embedding(twelve[:2], use_rep="X_f", slide_key="block"), found)


def test_feature_files_give_what_samples_give(files, twelve, tmp_path):
    folder, _ = files
    found = sp.tl.slide_embedding(folder)
    assert list(found.columns) == [f"features_{j}" for j in range(8)]
    assert found.index.tolist() == NAMES
    np.testing.assert_allclose(found, means(twelve), rtol=1e-6)
    x = read_feature_file(folder / "s03.h5")
    x[[1, 2]] = np.nan
    write_h5(folder / "s03.h5", x)
    other = tmp_path / "pt"
    other.mkdir()
    for path in folder.iterdir():
        torch.save(torch.from_numpy(read_feature_file(path)[:, :3]), other / f"{path.stem}.pt")
    both, counts = sp.tl.slide_embedding({"uni": folder, "half": other}, return_counts=True)
    assert list(both.columns) == [f"uni_{j}" for j in range(8)] + [f"half_{j}" for j in range(3)]
    np.testing.assert_allclose(both.loc["s03", "uni_0":"uni_7"], np.nanmean(x.astype(np.float64), 0), rtol=1e-6)
    assert counts.loc["s03"].tolist() == [34, 2, 34, 0]
    assert counts.columns[1] == "n_left_out_uni"


def test_memory_is_that_of_one_slide(tmp_path):
    for i in range(8):
        write_h5(tmp_path / f"s{i}.h5", np.full((4000, 256), i, dtype=np.float32))
    one = 4000 * 256 * 4
    sp.tl.slide_embedding([tmp_path / "s0.h5"])
    tracemalloc.start()
    found = sp.tl.slide_embedding(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.iloc[:, 0].tolist() == list(range(8))
    assert one < peak < 3 * one


# --- attention


def test_attention_pools_by_what_was_written(twelve):
    spoil(twelve[2], "X_f", [3])
    sp.tl.attention(twelve, label_key="kind", use_rep="X_f", **FAST)
    found, counts = sp.tl.slide_embedding(
        twelve, use_rep="X_f", pool="attention", weights_key="kind_attention", return_counts=True
    )
    for name, sample in zip(NAMES, twelve, strict=True):
        weights = sample["table"].obs["kind_attention"].to_numpy(np.float64)
        expected = np.nansum(weights[:, None] * sample["table"].obsm["X_f"], 0)
        np.testing.assert_allclose(found.loc[name], expected, rtol=1e-4, atol=1e-5)
    assert counts.loc["s02"].tolist() == [35, 1]
    uniform = sp.tl.slide_embedding(twelve, use_rep="X_f")
    planted = [f"s{i:02d}" for i in range(1, 12, 2)]
    assert found.loc[planted, "X_f_0"].mean() > uniform.loc[planted, "X_f_0"].mean()


def test_attention_in_files_pools_the_files_it_was_written_of(tmp_path):
    labels = write_cohort(tmp_path / "f", n=8)
    with h5py.File(tmp_path / "f" / "s03.h5", "r+") as file:
        file["features"][2] = np.nan
    sp.tl.attention(tmp_path / "f", labels=labels, label_key="kind", out=tmp_path / "a", **FAST)
    options = {"pool": "attention", "weights_key": tmp_path / "a"}
    found, counts = sp.tl.slide_embedding(tmp_path / "f", return_counts=True, **options)
    for name in found.index:
        with h5py.File(tmp_path / "f" / f"{name}.h5") as one, h5py.File(tmp_path / "a" / f"{name}.h5") as other:
            x, weights = one["features"][...].astype(float), other["features"][...].astype(float)
        np.testing.assert_allclose(found.loc[name], np.nansum(weights * x, 0) / np.nansum(weights), rtol=1e-5)
    assert counts.loc["s03"].tolist() == [5, 1]
    mean = sp.tl.slide_embedding(tmp_path / "f")
    assert (found - mean).abs().to_numpy().max() > 1e-2  # the files above tell this apart
    pd.testing.assert_frame_equal(
        sp.tl.slide_embedding([tmp_path / "f" / "s05.h5", tmp_path / "f" / "s03.h5"], **options),
        found.loc[["s03", "s05"]],
    )
    with pytest.raises(FileNotFoundError, match=r"weights_key='w' is no folder; .*sp\.tl\.attention\(samples, out=…\)"):
        sp.tl.slide_embedding(tmp_path / "f", **options | {"weights_key": "w"})
    with pytest.raises(ValueError, match=r"'s00\.h5' is not what sp\.tl\.attention wrote of"):
        sp.tl.slide_embedding(tmp_path / "f", **options | {"weights_key": tmp_path / "f"})
    write_h5(tmp_path / "f" / "s01.h5", np.ones((6, 6), np.float32))
    with pytest.raises(ValueError, match=r"'s01\.h5' is not what sp\.tl\.attention wrote of"):
        sp.tl.slide_embedding(tmp_path / "f", **options)
    (tmp_path / "a" / "s01.h5").unlink()
    with pytest.raises(KeyError, match=r"has no file of slide 's01'; there are 's00', 's02'"):
        sp.tl.slide_embedding(tmp_path / "f", **options)


def test_any_weights_are_scaled_within_the_slide(twelve):
    samples = twelve[:2]
    for sample in samples:
        sample["table"].obs["w"] = [3.0, 1.0] + [0.0] * 33 + [np.nan]
    found, counts = sp.tl.slide_embedding(samples, use_rep="X_f", pool="attention", weights_key="w", return_counts=True)
    x = samples[1]["table"].obsm["X_f"].astype(np.float64)
    np.testing.assert_allclose(found.loc["s01"], (3 * x[0] + x[1]) / 4, rtol=1e-6)
    assert counts["n_left_out"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        (np.full(36, np.nan), "slide 's01': its weights in weights_key='w' are all NaN"),
        (np.zeros(36), "range from 0 to 0"),
        (np.linspace(-1, 1, 36), "range from -1 to 1"),
        (np.full(36, np.inf), "range from inf to inf"),
    ],
)
def test_weights_that_weigh_nothing(twelve, weights, said):
    twelve[0]["table"].obs["w"] = 1.0
    twelve[1]["table"].obs["w"] = weights
    with pytest.raises(ValueError, match=said):
        sp.tl.slide_embedding(twelve[:2], use_rep="X_f", pool="attention", weights_key="w")


def test_attention_of_other_slides_is_an_error(twelve):
    sp.tl.attention(twelve, label_key="kind", use_rep="X_f", **FAST | {"n_epochs": 1})
    twelve[0]["table"].obs["block"] = [*"ab"] * 18
    options = {"use_rep": "X_f", "pool": "attention", "weights_key": "kind_attention"}
    with pytest.raises(ValueError, match="computed with slide_key=None, but slides are named by slide_key='block'"):
        sp.tl.slide_embedding(twelve[0], slide_key="block", **options)
    twelve[0]["table"].obs["text"] = "high"
    with pytest.raises(TypeError, match=r"weights_key='text' is of type .*; expected numbers"):
        sp.tl.slide_embedding(twelve[0], **options | {"weights_key": "text"})


# --- composition


@pytest.fixture(scope="module")
def embedded():
    """Three slides with experts and programs; not to be changed."""
    samples = [slide(i) for i in range(3)]
    sp.tl.embed(samples, train(samples, n_experts=3))
    options = {"use_rep": "X_f", "genes": list(GENES[:20]), "n_clusters": (3,)}
    sp.tl.embed(samples, sp.tl.train_programs(samples, n_programs=2, **options))
    return samples


def test_the_composition_is_the_mean_weight_of_experts_and_the_share_of_programs(embedded):
    found = sp.tl.slide_embedding(embedded, pool="composition")
    assert list(found.columns) == ["expert_0", "expert_1", "expert_2", "program_0", "program_1"]
    np.testing.assert_allclose(found.iloc[:, :3].sum(1), 1, atol=1e-12)
    np.testing.assert_allclose(found.iloc[:, 3:].sum(1), 1, atol=1e-12)
    for i, sample in enumerate(embedded):
        obsm = sample["table"].obsm
        np.testing.assert_allclose(found.iloc[i, :3], obsm["spade_expert_weights"].mean(0), atol=1e-6)
        first = obsm["X_programs"][:, -2] > obsm["X_programs"][:, -1]
        assert found["program_0"].iloc[i] == pytest.approx(first.mean())
    turned = sp.tl.slide_embedding(embedded, pool="composition", use_rep=("X_programs", "spade_expert_weights"))
    pd.testing.assert_frame_equal(turned[found.columns], found)
    alone = sp.tl.slide_embedding(embedded, pool="composition", use_rep="spade_expert_weights")
    assert list(alone.columns) == ["expert_0", "expert_1", "expert_2"]


def test_the_mean_of_programs_is_the_same_for_all_sections(embedded):
    """The reason why a composition takes shares of them."""
    found = sp.tl.slide_embedding(embedded, use_rep="X_programs")
    np.testing.assert_allclose(found - found.mean(), 0, atol=1e-5)
    assert sp.tl.slide_embedding(embedded, pool="composition")["program_0"].nunique() > 1


def test_compositions_that_there_are_not(embedded, twelve, files):
    with pytest.raises(KeyError, match="s00: use_rep=None: obsm has neither 'spade_expert_weights' nor 'X_programs'"):
        sp.tl.slide_embedding(twelve, pool="composition")
    with pytest.raises(KeyError, match="s00: use_rep='other_expert_weights' is not in obsm"):
        sp.tl.slide_embedding(embedded, pool="composition", use_rep="other_expert_weights")
    with pytest.raises(ValueError, match="use_rep='X_f' holds neither weights of experts"):
        sp.tl.slide_embedding(embedded, pool="composition", use_rep="X_f")
    with pytest.raises(KeyError, match=r"obsm has neither .*; there is 'features'"):
        sp.tl.slide_embedding(files[0], pool="composition")


def test_compositions_of_different_models_are_not_mixed(embedded, twelve):
    samples = twelve[:2]
    for seed, sample in enumerate(samples):
        sp.tl.embed(sample, train(samples, rng=seed))
    with pytest.raises(ValueError, match="s00 and s01 were embedded by different models"):
        sp.tl.slide_embedding(samples, pool="composition")
    sp.tl.embed(samples, train(samples), key_added="other")
    both = ("spade_expert_weights", "other_expert_weights")
    with pytest.raises(ValueError, match="one key of expert weights and one of programs at most"):
        sp.tl.slide_embedding(samples[0], pool="composition", use_rep=both)
    spoil(samples[0], "other_expert_weights", [0], value=0.7)
    with pytest.raises(ValueError, match="slide 's00': use_rep='other_expert_weights' holds no weights of experts"):
        sp.tl.slide_embedding(samples, pool="composition", use_rep="other_expert_weights")


# --- arguments


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"use_rep": None}, ValueError, "use_rep=None: samples need"),
        ({"use_rep": ["X_f", "X_noise"]}, TypeError, "expected one representation, a key or a tuple"),
        ({"use_rep": ("X_f", "X_f")}, ValueError, "each of them once"),
        ({"pool": "max"}, ValueError, "pool='max': expected one of 'mean', 'attention', 'composition'"),
        ({"pool": "attention"}, ValueError, "weights_key=None: expected a name"),
        ({"weights_key": "kind"}, ValueError, 'only pool="attention" weighs patches'),
        ({"pool": "attention", "weights_key": "w"}, KeyError, "s00: weights_key='w' is not in obs"),
    ],
)
def test_arguments_that_do_not_fit(twelve, options, error, said):
    with pytest.raises(error, match=said):
        sp.tl.slide_embedding(twelve, **{"use_rep": "X_f", **options})
