"""Embeddings of feature files, as other programs write them: what a table with the same features gets, in new files."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from helpers.sections import GENES, featured, no_warning, said_of, train
from helpers.slides import write_h5, write_trident
from spatialdata import SpatialData

import spade as sp
from spade._samples.open import iter_samples


@pytest.fixture(scope="module")
def model():
    return train([featured(name="m0"), featured(name="m1", seed=1)])


@pytest.fixture
def slides(tmp_path):
    """Features of three slides ``(n, 8)``, the second without one patch, and their files in three forms."""
    folder = tmp_path / "uni"
    folder.mkdir()
    rng = np.random.default_rng(5)
    x = {f"s{i}": rng.normal(size=(20 + i, 8)).astype(np.float32) for i in range(3)}
    x["s1"][3] = np.nan
    coords = {name: rng.integers(0, 4000, (len(values), 2)) for name, values in x.items()}
    write_trident(folder / "s0.h5", x["s0"], coords["s0"])
    write_h5(folder / "s1.h5", x["s1"], coords["s1"], three=True, other=np.arange(3))
    torch.save(torch.from_numpy(x["s2"]), folder / "s2.pt")
    return folder, x, coords


def table_of(x) -> SpatialData:
    """The same features in a table without expression."""
    sample = featured(36, genes=())
    sample["table"]._inplace_subset_obs(np.arange(len(x)))
    sample["table"].obsm["X_f"] = x
    return sample


def read(path):
    with h5py.File(path) as file:
        return {name: item[...] for name, item in file.items()}, dict(file.attrs)


def test_files_have_the_composition_of_tables(slides, model, tmp_path):
    folder, x, _ = slides
    sp.tl.embed(folder, model, out=tmp_path / "embedded")
    found = sp.tl.slide_embedding(tmp_path / "embedded", pool="composition")
    assert list(found.index) == list(x)
    for name, features in x.items():
        sample = table_of(features)
        sp.tl.embed(sample, model)
        np.testing.assert_allclose(
            found.loc[name], np.nanmean(sample["table"].obsm["spade_expert_weights"], axis=0), atol=1e-6
        )


def test_files_get_what_a_table_gets(slides, model, tmp_path):
    folder, x, coords = slides
    sp.tl.embed(folder, model, out=tmp_path / "new" / "embedded")
    assert sorted(path.name for path in (tmp_path / "new" / "embedded").iterdir()) == ["s0.h5", "s1.h5", "s2.h5"]
    for name in x:
        arrays, attributes = read(tmp_path / "new" / "embedded" / f"{name}.h5")
        sample = table_of(x[name])
        sp.tl.embed(sample, model)
        sp.tl.routing_scores(sample, model)
        obsm, obs = sample["table"].obsm, sample["table"].obs
        assert arrays["features"].dtype == np.float32
        np.testing.assert_array_equal(arrays["features"], obsm["X_spade"])
        np.testing.assert_array_equal(arrays["expert_weights"], obsm["spade_expert_weights"])
        np.testing.assert_allclose(arrays["entropy"], obs["spade_entropy"], rtol=1e-5)
        np.testing.assert_allclose(arrays["distance"], obs["spade_distance"], rtol=1e-5)
        assert attributes["spade_model_id"] == model.id
        assert attributes["spade_version"] == sp.__version__
        assert attributes["spade_source"] == ("s2.pt" if name == "s2" else f"{name}.h5")
        if name != "s2":
            np.testing.assert_array_equal(arrays["coords"], coords[name])
    assert "coords" not in read(tmp_path / "new" / "embedded" / "s2.h5")[0]


def test_attributes_of_coordinates_are_kept(slides, model, tmp_path):
    folder, _, _ = slides
    sp.tl.embed(folder / "s0.h5", model, out=tmp_path / "e")
    with h5py.File(folder / "s0.h5") as before, h5py.File(tmp_path / "e" / "s0.h5") as after:
        assert dict(after["coords"].attrs) == dict(before["coords"].attrs)
        assert after["coords"].attrs["patch_size_level0"] == 512
        assert after["features"].attrs["name"] == "s0"


def test_what_was_written_is_read_as_samples_and_as_slides(slides, model, tmp_path):
    folder, x, _ = slides
    sp.tl.embed(folder, model, out=tmp_path / "e")
    sheet = tmp_path / "e" / "s.csv"
    sheet.write_text("path,organ,kind\ns0.h5,lung,a\ns1.h5,skin,b\ns2.h5,lung,a\n")
    first = next(iter_samples(sheet))
    assert first.table.uns["coords"]["level0_magnification"] == 40
    np.testing.assert_array_equal(first.table.obsm["X_spade"], first.table.obsm["features"])
    table = sp.tl.expert_composition(sheet, by="organ", n_boot=10)
    expected = pd.Series(model.route(np.concatenate([x["s0"], x["s2"]])).argmax(1))
    lung = table[table["value"] == "lung"].set_index("expert")["n"]
    assert {int(e): n for e, n in lung.items() if n} == expected.value_counts().to_dict()
    mixed = sp.tl.mixing(tmp_path / "e", n_neighbors=5)
    assert dict(zip(mixed["group"], mixed["n"], strict=True)) == {"s0": 20, "s1": 20, "s2": 22}


def test_slide_tasks_read_them_with_labels_from_a_sheet(model, tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "uni").mkdir()
    names = [f"s{i:02d}" for i in range(8)]
    for i, name in enumerate(names):
        far = 3 * (i % 2) * np.eye(8)[0]
        write_trident(tmp_path / "uni" / f"{name}.h5", rng.normal(size=(30, 8)) + far, np.zeros((30, 2), int))
    sp.tl.embed(tmp_path / "uni", model, out=tmp_path / "e")
    known = pd.DataFrame({"sample": names, "kind": [*"ab"] * 4, "patient": names})
    options = {"label_key": "kind", "n_folds": 2, "head": "mean"}
    labelled = sp.tl.slide_task(tmp_path / "e", labels=known, **options)
    sheet = known.rename(columns={"sample": "name"}).assign(path=[str(tmp_path / "e" / f"{name}.h5") for name in names])
    pd.testing.assert_frame_equal(sp.tl.slide_task(sheet, **options), labelled)
    times = known.assign(time=np.arange(1.0, 9), event=1)
    risks = sp.tl.survival(
        tmp_path / "e", time_key="time", event_key="event", labels=times, n_folds=2, n_bins=2, head="mean"
    )
    assert sorted(risks["patient"]) == names


def test_a_second_call_goes_on_and_other_files_are_left(slides, model, tmp_path):
    folder, _, _ = slides
    out = tmp_path / "e"
    sp.tl.embed([folder / "s0.h5", folder / "s2.pt"], model, out=out)
    stamps = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    sp.tl.embed(folder, model, out=out)
    assert sorted(path.name for path in out.iterdir()) == ["s0.h5", "s1.h5", "s2.h5"]
    assert {name: (out / name).stat().st_mtime_ns for name in stamps} == stamps
    with pytest.raises(ValueError, match=r"'s0\.h5' is there, and was not written by this call: mix is 'mean' instead"):
        sp.tl.embed(folder, model, out=out, mix="concat")
    other = train([featured(name="m0"), featured(name="m1", seed=1)], rng=3)
    with pytest.raises(ValueError, match=rf"model_id is '{model.id}' instead of '{other.id}'\. Choose another folder"):
        sp.tl.embed(folder, other, out=out)
    write_trident(folder / "s0.h5", np.ones((20, 8), np.float32), np.zeros((20, 2), int))
    with pytest.raises(ValueError, match=r"'s0\.h5' is there, .*: source_id is"):
        sp.tl.embed(folder, model, out=out)
    assert {name: (out / name).stat().st_mtime_ns for name in stamps} == stamps


@pytest.mark.parametrize("how", ["foreign", "cut off", "empty"])
def test_a_file_that_is_in_the_way_is_an_error_before_anything_is_written(slides, model, tmp_path, how):
    folder, x, _ = slides
    out = tmp_path / "e"
    sp.tl.embed(folder / "s2.pt", model, out=out)
    if how == "foreign":
        write_h5(out / "s2.h5", x["s2"])
    else:
        (out / "s2.h5").write_bytes(b"" if how == "empty" else (out / "s2.h5").read_bytes()[:-300])
    with pytest.raises(ValueError, match=r"s2\.h5' (is there, and was not|cannot be read)"):
        sp.tl.embed(folder, model, out=out)
    assert [path.name for path in out.iterdir()] == ["s2.h5"]


PROGRAM = """
import os, signal, sys
import h5py, spade as sp
from spade.io._files import features

folder, out, model = sys.argv[1:]
made = features.h5py.File.create_dataset
count = 0

def create(self, name, *args, **kwargs):
    global count
    count += 1
    if count == 7:  # amid the second slide
        self.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    return made(self, name, *args, **kwargs)

h5py.File.create_dataset = create
sp.tl.embed(folder, sp.models.SpadeModel.load(model), out=out)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_what_a_killed_call_leaves_is_whole_and_the_next_goes_on(slides, model, tmp_path):
    folder, _, _ = slides
    out = tmp_path / "e"
    model.save(tmp_path / "model")
    done = subprocess.run([sys.executable, "-c", PROGRAM, folder, out, tmp_path / "model"], timeout=300)
    assert done.returncode == -9
    assert [path.name for path in out.iterdir() if path.name[0] != "."] == ["s0.h5"]
    assert any(path.name.startswith(".s1.h5") for path in out.iterdir())
    assert [sample.name for sample in iter_samples(out)] == ["s0"]
    sp.tl.embed(folder, model, out=out)
    assert sorted(path.name for path in out.iterdir()) == ["s0.h5", "s1.h5", "s2.h5"]
    sp.tl.embed(folder, model, out=tmp_path / "whole")
    for name in ("s0", "s1", "s2"):
        np.testing.assert_array_equal(
            read(out / f"{name}.h5")[0]["features"], read(tmp_path / "whole" / f"{name}.h5")[0]["features"]
        )


def test_out_belongs_to_feature_files_alone(slides, model, tmp_path):
    folder, _, _ = slides
    with pytest.raises(ValueError, match=r"out=None: .*s0\.h5' is a feature file, which is never changed; name a"):
        sp.tl.embed(folder, model)
    with pytest.raises(ValueError, match=r"out='e' is the folder for results of feature files; those of a SpatialData"):
        sp.tl.embed(featured(), model, out="e")
    with pytest.raises(ValueError, match="is the folder of the feature files; choose another"):
        sp.tl.embed(folder, model, out=folder)
    (tmp_path / "file").write_text("")
    for out in ("e.h5", "e.zarr", tmp_path / "file"):
        with pytest.raises(ValueError, match="expected a folder, in which every slide gets a file"):
            sp.tl.embed(folder, model, out=out)
    for name, value in {"key_added": "x", "layer": "x", "genes": ["a"], "table_key": "t", "min_overlap": 0.1}.items():
        with pytest.raises(ValueError, match=f"{name}=.*feature files have no table"):
            sp.tl.embed(folder, model, out=tmp_path / "e", **{name: value})
    with pytest.raises(ValueError, match="use_rep='X_other': a feature file holds one representation"):
        sp.tl.embed(folder, model, out=tmp_path / "e", use_rep="X_other")
    with pytest.raises(ValueError, match="the name 'a/b' cannot be that of a file"):
        sp.tl.embed({"a/b": folder / "s0.h5"}, model, out=tmp_path / "e")
    assert not (tmp_path / "e").exists()


def test_other_encoders_are_refused_by_width_and_by_name(slides, tmp_path):
    folder, x, _ = slides
    write_h5(folder / "s3.h5", np.ones((4, 5), np.float32))
    samples = [featured(name="m0"), featured(name="m1", seed=1)]
    for sample in samples:
        said_of(sample, encoder="uni", encoder_id="1")
    model = train(samples)
    with pytest.raises(ValueError, match=r"s3: .*s3\.h5' has 5 features, but the model reads 8 of encoder 'uni'"):
        sp.tl.embed(folder, model, out=tmp_path / "e")
    assert not list((tmp_path / "e").iterdir())
    (folder / "s3.h5").unlink()
    with pytest.warns(UserWarning, match=r"do not say their encoder: that .* from 'uni', as .*, is taken on trust"):
        sp.tl.embed(folder, model, out=tmp_path / "e")  # uni_v1 is uni
    for encoder in ("uni_v2", "phikon_v2"):
        write_trident(folder / "s0.h5", x["s0"], np.zeros((20, 2), int), encoder=encoder)
        with pytest.raises(ValueError, match=f"s0: .* holds features of encoder '{encoder}', but the model's features"):
            sp.tl.embed(folder / "s0.h5", model, out=tmp_path / encoder)
    write_trident(folder / "s0.h5", x["s0"], np.zeros((20, 2), int), encoder="my own")
    with pytest.warns(UserWarning, match="'my own' is no encoder known here: .* is taken on trust"):
        sp.tl.embed(folder / "s0.h5", model, out=tmp_path / "own")
    with pytest.raises(ValueError, match=r"s0: .*s0\.h5' holds what sp\.tl\.embed wrote, not 'X_f'\. Pass the feature"):
        sp.tl.embed(tmp_path / "own", model, out=tmp_path / "again")


def test_features_that_another_program_made_are_compared_by_the_name_of_the_encoder():
    samples = [featured(name="m0"), featured(name="m1", seed=1)]
    for sample in samples:
        said_of(sample, encoder="ctranspath", encoder_id="1")
    model = train(samples)
    taken = featured(name="s0", seed=3)
    said_of(taken, function="io.from_lazyslide", encoder="phikon")
    with pytest.raises(
        ValueError, match=r"s0: obsm\['X_f'\] holds features of encoder 'phikon', but .* of 'ctranspath'"
    ):
        sp.tl.embed(taken, model)
    said_of(taken, function="io.from_lazyslide", encoder="ctranspath")
    with no_warning():
        sp.tl.embed(taken, model)


@pytest.mark.parametrize(
    ("px", "magnification", "outcome"),
    [(256, 20, None), (224, 20, None), (288, 20, "warning"), (512, 20, "error"), (512, 5, "error"), (256, 40, "error")],
)
def test_patches_of_another_size_are_noticed(slides, tmp_path, px, magnification, outcome):
    """At 20 × a pixel has about half a µm: 256 px are 128 µm, 288 px are 144 µm, 1.29 times the 112 µm of training."""
    folder, x, coords = slides
    trained = featured(name="m0")
    said_of(trained, encoder="uni", encoder_id="1", size_um=112.0, input_px=224)
    model = train([trained])
    path = folder / "s0.h5"
    write_trident(path, x["s0"], coords["s0"], patch_size=px, target_magnification=magnification)
    about = f"{px * 10 / magnification:.0f}"
    said = rf"s0: .*s0\.h5' holds patches of about {about} µm .*, but the model's features are of 112 µm"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if outcome is None:
            sp.tl.embed(path, model, out=tmp_path / "e")
        else:
            with pytest.raises(UserWarning if outcome == "warning" else ValueError, match=said):
                sp.tl.embed(path, model, out=tmp_path / "e")


def test_other_models_embed_files_too(slides, tmp_path):
    folder, x, _ = slides
    pair = [featured(name="m0"), featured(name="m1", seed=1)]
    seal = sp.tl.train_seal(pair, on_features="X_f", genes=list(GENES[:10]), dim=8, hidden=8, n_epochs=1, batch_size=16)
    programs = sp.tl.train_programs(pair, use_rep="X_f", n_clusters=(3,), n_programs=2)
    for model, key in ((seal, "X_seal"), (programs, "X_programs")):
        sp.tl.embed(folder, model, out=tmp_path / key)
        sample = table_of(x["s0"])
        sp.tl.embed(sample, model)
        arrays, attributes = read(tmp_path / key / "s0.h5")
        np.testing.assert_allclose(arrays["features"], sample["table"].obsm[key], rtol=1e-5, atol=1e-6)
        assert attributes["spade_model"] == type(model).__name__
        assert key in next(iter_samples(tmp_path / key)).table.obsm


def test_functions_that_write_into_samples_refuse_files(slides, model):
    folder, _, _ = slides
    said = r"s0\.h5' is a feature file, and this function writes into its samples, but feature files are only read"
    for call in (
        lambda: sp.tl.routing_scores(folder, model),
        lambda: sp.tl.annotate(folder, label_key="a", use_rep="features"),
        lambda: sp.pp.split(folder),
        lambda: sp.pp.encode_patches(folder),
        lambda: sp.pp.patches(folder),
        lambda: sp.pp.tissue(folder),
        lambda: sp.tl.cluster_experts(folder, use_rep="features"),
    ):
        with pytest.raises(ValueError, match=said):
            call()
    with pytest.raises(ValueError, match=r"s0\.h5' is a feature file, which has no image"):
        sp.pl.tiles(folder)


def test_queries_and_galleries_may_be_files(slides, model):
    folder, x, _ = slides
    pair = [featured(name="g0", seed=2), featured(name="g1", seed=3)]
    found = sp.tl.retrieve(folder / "s0.h5", pair, model, k=2)
    expected = sp.tl.retrieve(table_of(x["s0"]), pair, model, k=2)
    np.testing.assert_allclose(found["score"], expected["score"])
    assert found["spot"].tolist() == expected["spot"].tolist()
    assert set(found["query"]) == {str(i) for i in range(20)}
    hits = sp.tl.retrieve(list(GENES[:3]), str(folder / "*"), model, k=None)
    assert hits.groupby("sample").size().to_dict() == {"s0": 20, "s1": 20, "s2": 22}
    alike = sp.tl.retrieve(folder, folder, model, gallery_by="image", k=1, same_section=False)
    assert (alike["query_sample"] != alike["sample"]).all()
    assert Path(folder).is_dir()
