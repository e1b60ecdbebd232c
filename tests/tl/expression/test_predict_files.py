"""Expression predicted from feature files: what a table with the same features gets, in new files."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from helpers.sections import GENES, featured, train
from helpers.slides import write_trident

import spade as sp
from spade._samples.open import iter_samples
from spade._samples.predicted import read_predicted


@pytest.fixture(scope="module")
def reference():
    return [featured(name="r0"), featured(name="r1", seed=1)]


@pytest.fixture(scope="module")
def model(reference):
    return train(reference)


@pytest.fixture
def slide(tmp_path):
    """One slide as a file in a folder, and as a table without expression."""
    sample = featured(name="s0", genes=(), seed=5)
    (tmp_path / "uni").mkdir()
    coords = np.random.default_rng(0).integers(0, 4000, (36, 2))
    write_trident(tmp_path / "uni" / "s0.h5", sample["table"].obsm["X_f"], coords)
    return tmp_path / "uni", sample, coords


WAYS = {
    "neighbours": lambda model: {"model": model, "k": 3},
    "ridge": lambda model: {"method": "ridge", "use_rep": "X_f", "alpha": 10.0},
}


@pytest.mark.parametrize("way", WAYS)
def test_files_get_what_a_table_gets(slide, reference, model, tmp_path, way):
    folder, sample, coords = slide
    options = {"reference": reference, "genes": list(GENES[:7]), **WAYS[way](model)}
    sp.tl.predict_expression(folder, **options, out=tmp_path / "p")
    sp.tl.predict_expression(sample, **options)
    expected = sample["table"].obsm
    with h5py.File(tmp_path / "p" / "s0.h5") as file:
        np.testing.assert_allclose(file["features"][...], expected["X_predicted"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(file["deviation"][...], expected["X_predicted_deviation"], rtol=1e-5, atol=1e-6)
        assert [name.decode() for name in file["genes"]] == list(GENES[:7])
        np.testing.assert_array_equal(file["coords"], coords)
        assert file["coords"].attrs["patch_size"] == 256
        assert file.attrs["spade_method"] == way
    predicted = read_predicted(next(iter_samples(tmp_path / "p")), "predicted")
    assert list(predicted.columns) == list(GENES[:7])
    np.testing.assert_allclose(predicted, expected["X_predicted"], rtol=1e-5, atol=1e-6)


def test_a_second_call_skips_what_is_done_and_refuses_other_settings(slide, reference, model, tmp_path):
    folder, _, _ = slide
    options = {"reference": reference, "model": model, "k": 3, "out": tmp_path / "p"}
    sp.tl.predict_expression(folder, **options)
    before = (tmp_path / "p" / "s0.h5").stat().st_mtime_ns
    sp.tl.predict_expression(folder, **options)
    assert (tmp_path / "p" / "s0.h5").stat().st_mtime_ns == before
    for other, said in (
        ({"k": 4}, "k is 3 instead of 4"),
        ({"genes": list(GENES[:5])}, "genes_id is"),
        ({"reference": reference[:1]}, "n_reference is 72 instead of 36"),
    ):
        with pytest.raises(ValueError, match=f"s0.h5' is there, and was not written by this call: {said}"):
            sp.tl.predict_expression(folder, **options | other)


def test_other_expression_of_the_same_reference_is_another_prediction(slide, tmp_path):
    folder, sample, _ = slide
    reference = [featured(name="r0"), featured(name="r1", seed=1)]
    for one in reference:
        one["table"].layers["other"] = one["table"].X[:, ::-1].copy()
    options = {"reference": reference, "method": "ridge", "use_rep": "X_f", "alpha": 10.0}
    sp.tl.predict_expression(folder, **options, out=tmp_path / "p")
    said = r"s0.h5' is there, and was not written by this call: reference_id is"
    for other in ({"layer": "other"}, {"normalized": True}):
        with pytest.raises(ValueError, match=said):
            sp.tl.predict_expression(folder, **options, **other, out=tmp_path / "p")
    sp.tl.predict_expression(sample, **options)
    sp.tl.pathway_scores(sample, {"set": list(GENES[:9])}, predicted="predicted")
    sp.tl.predict_expression(sample, **options)
    sp.tl.slide_embedding(sample, use_rep="pathways", slide_key=None)
    sp.tl.predict_expression(sample, **options, layer="other")
    with pytest.raises(ValueError, match=r"'pathways' was made from 'X_predicted', which .* has written anew since"):
        sp.tl.slide_embedding(sample, use_rep="pathways", slide_key=None)
    for one in reference:
        one["table"].X = one["table"].layers["other"]
    with pytest.raises(ValueError, match=said):
        sp.tl.predict_expression(folder, **options, out=tmp_path / "p")


def test_heads_and_programs_predict_from_files(slide, reference, tmp_path):
    folder, sample, _ = slide
    seal = sp.tl.train_seal(
        reference, on_features="X_f", genes=list(GENES[:10]), dim=8, hidden=8, n_epochs=1, batch_size=16
    )
    sp.tl.predict_expression(folder, seal, method="head", out=tmp_path / "head")
    sp.tl.predict_expression(sample, seal, method="head")
    with h5py.File(tmp_path / "head" / "s0.h5") as file:
        np.testing.assert_allclose(file["features"][...], sample["table"].obsm["X_predicted"], rtol=1e-5, atol=1e-6)
        assert "deviation" not in file
    programs = sp.tl.train_programs(reference, use_rep="X_f", n_clusters=(3,), n_programs=2)
    sp.tl.predict_expression(folder, programs, out=tmp_path / "programs")
    sp.tl.predict_expression(sample, programs)
    with h5py.File(tmp_path / "programs" / "s0.h5") as file:
        np.testing.assert_allclose(file["features"][...], sample["table"].obsm["X_predicted"], rtol=1e-5, atol=1e-6)


def test_out_belongs_to_feature_files_alone(slide, reference, model, tmp_path):
    folder, sample, _ = slide
    with pytest.raises(ValueError, match=r"out=None: .* is a feature file, which is never changed"):
        sp.tl.predict_expression(folder, model, reference=reference)
    with pytest.raises(ValueError, match="is the folder for results of feature files"):
        sp.tl.predict_expression(sample, model, reference=reference, out=tmp_path / "p")
    with pytest.raises(ValueError, match="key_added='x': feature files have no table"):
        sp.tl.predict_expression(folder, model, reference=reference, out=tmp_path / "p", key_added="x")
    with pytest.raises(ValueError, match=r"s0: has no expression"):
        sp.tl.predict_expression(folder, model, reference=folder, out=tmp_path / "p")
    assert not (tmp_path / "p").exists()


def test_genes_that_do_not_fit_the_file_are_refused(slide, reference, model, tmp_path):
    folder, _, _ = slide
    sp.tl.predict_expression(folder, model, reference=reference, k=3, out=tmp_path / "p")
    with h5py.File(tmp_path / "p" / "s0.h5", "a") as file:
        del file["genes"]
        file["genes"] = np.array([b"a", b"b"])
    with pytest.raises(ValueError, match=r"s0\.h5': 'genes' does not fit features of shape \(36, 60\)"):
        next(iter_samples(tmp_path / "p"))
