"""Expression predicted from images: right on unseen patients, never from itself, honest about what cannot be known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from _sections import read_tumour
from conftest import fresh
from helpers.expression import RIDGE, cohort, predicted, truth_of
from helpers.sections import GENES, empty_rows, featured, no_warning, said_of, spoil, train, warns_here
from helpers.sections import table as spots_table
from scipy.special import softmax
from scipy.stats import pearsonr
from spatialdata import SpatialData, read_zarr

import spade as sp
from spade._samples.open import iter_samples
from spade._samples.predicted import read_predicted
from spade.core.expression.correlation import pearson_per_gene
from spade.tl._embedding.modalities import Source, encode, read_modality

# --- what is written


def test_neighbours_are_those_of_the_joint_space(model):
    samples = cohort()
    sp.tl.predict_expression(samples[0], model, reference=samples[1:], k=5, temperature=0.2)
    found = predicted(samples[0])
    assert list(found.columns) == list(GENES)
    assert found.to_numpy().dtype == np.float32
    query, gallery, y = None, [], []
    for sample in iter_samples(samples):
        g, _ = read_modality(sample, model, "expression", Source("X_f", None, normalized=False))
        if sample.name == "a":
            query = encode(model, "image", sample.table.obsm["X_f"], "concat", gallery=False)
        else:
            gallery.append(encode(model, "expression", g, "concat", gallery=True))
            y.append(truth_of(sample.sdata, GENES))
    scores = query @ np.concatenate(gallery).T
    best = np.argsort(-scores, axis=1)[:, :5]
    weights = softmax(np.take_along_axis(scores, best, 1).astype(float) / 0.2, axis=1)
    values = np.concatenate(y)[best]
    mean = (weights[..., None] * values).sum(1)
    np.testing.assert_allclose(found, mean, atol=1e-4)
    deviation = np.sqrt((weights[..., None] * (values - mean[:, None]) ** 2).sum(1))
    np.testing.assert_allclose(samples[0]["table"].obsm["X_predicted_deviation"], deviation, atol=1e-3)


def test_ridge_from_any_representation(model):
    samples = cohort()
    sp.tl.predict_expression(samples[0], reference=samples[1:], genes=GENES[:7], alpha=3.0, key_added="mine", **RIDGE)
    table = samples[0]["table"]
    assert table.obsm["X_mine"].shape == (36, 7)
    assert table.uns["mine_genes"].tolist() == list(GENES[:7])
    x = np.concatenate([one["table"].obsm["X_f"] for one in samples[1:]]).astype(float)
    y = np.concatenate([truth_of(one, GENES[:7]) for one in samples[1:]])
    mean, deviation = x.mean(0), x.std(0)
    scaled = (x - mean) / deviation
    own = y - y.mean(0)
    weights = np.linalg.solve(scaled.T @ scaled + 3.0 * np.eye(8), scaled.T @ own)
    np.testing.assert_allclose(
        table.obsm["X_mine"], ((table.obsm["X_f"] - mean) / deviation) @ weights + y.mean(0), atol=1e-4
    )
    spread = table.obsm["X_mine_deviation"]
    assert (spread == spread[0]).all()
    assert (spread > 0).all()
    record = table.uns["spade"]["X_mine"]
    assert (record["alpha"], record["reference"], record["n_reference"]) == (3.0, "b, c", 72)
    sp.tl.predict_expression(samples[0], reference=samples[1:], method="ridge", use_rep=("X_f", "X_f"))
    assert record["alpha"] != table.uns["spade"]["X_predicted"]["alpha"]


def test_a_section_never_predicts_itself(model):
    """In or out of the reference: the same prediction."""
    for settings in ({"model": model}, RIDGE):
        samples, others = cohort(), cohort()
        sp.tl.predict_expression(samples, reference=samples, **settings)
        for i in range(3):
            sp.tl.predict_expression(others[i], reference=[others[j] for j in range(3) if j != i], **settings)
            np.testing.assert_allclose(predicted(samples[i]), predicted(others[i]), atol=1e-5)
        with pytest.raises(ValueError, match="holds no section but a itself"):
            sp.tl.predict_expression(samples[0], reference=samples[0], **settings)


def test_a_section_is_not_predicted_from_a_copy_or_a_part_of_itself(model):
    for settings in ({"model": model}, RIDGE):
        samples, reference = cohort(), cohort()
        part = reference[0]["table"][:20].copy()
        part.X = part.X.copy()
        reference[0].tables["table"] = part
        sp.tl.predict_expression(samples[0], reference=reference, **settings)
        found = predicted(samples[0]).copy()
        sp.tl.predict_expression(samples[0], reference=reference[1:], **settings)
        np.testing.assert_allclose(found, predicted(samples[0]), atol=1e-5)


def test_sections_of_one_object_predict_each_other():
    parts = cohort()[:2]
    pairs = [(s["table"].obsm["X_f"], s["table"].X.toarray()) for s in parts]
    x, counts = (np.concatenate(values) for values in zip(*pairs, strict=True))
    both = spots_table([*range(36), *range(36)], region=["a"] * 36 + ["b"] * 36, counts=counts)
    both.obsm["X_f"] = x
    one = SpatialData(tables={"table": both})
    sp.tl.predict_expression(one, reference=one, alpha=1.0, **RIDGE)
    for own, other in ((parts[0], parts[1]), (parts[1], parts[0])):
        sp.tl.predict_expression(own, reference=other, alpha=1.0, **RIDGE)
    apart = np.concatenate([part["table"].obsm["X_predicted"] for part in parts])
    np.testing.assert_allclose(both.obsm["X_predicted"], apart, atol=1e-5)


def test_scaling_each_section_takes_stain_away():
    samples, stained = cohort(), cohort()
    stained[0]["table"].obsm["X_f"] = 3 * stained[0]["table"].obsm["X_f"] + 7
    for scaling, same in (("section", True), ("reference", False)):
        for one in (samples, stained):
            sp.tl.predict_expression(one[0], reference=one[1:], scaling=scaling, alpha=1.0, **RIDGE)
        assert np.allclose(predicted(samples[0]), predicted(stained[0]), atol=1e-4) == same


def test_a_store_is_recognised_as_itself(tmp_path):
    samples = cohort()
    for sample in samples[:2]:
        sp.io.write(sample, tmp_path / f"{sample.attrs['spade']['sample']}.zarr")
    paths = [tmp_path / "a.zarr", tmp_path / "b.zarr"]
    sp.tl.predict_expression(paths[0], reference=paths, alpha=1.0, **RIDGE)
    sp.tl.predict_expression(samples[0], reference=samples[:2], alpha=1.0, **RIDGE)
    np.testing.assert_allclose(read_zarr(paths[0])["table"].obsm["X_predicted"], predicted(samples[0]), atol=1e-6)
    with pytest.raises(ValueError, match="no section but a itself"):
        sp.tl.predict_expression(read_zarr(paths[0]), reference=paths[0], alpha=1.0, **RIDGE)


def test_everything_survives_writing_and_reading(model, tmp_path):
    samples = cohort()
    sp.tl.predict_expression(samples[0], model, reference=samples[1:])
    sp.io.write(samples[0], tmp_path / "one.zarr")
    again = read_zarr(tmp_path / "one.zarr")
    for deviation in (False, True):
        before, after = (
            read_predicted(next(iter_samples(sample)), "predicted", deviation=deviation)
            for sample in (samples[0], again)
        )
        pd.testing.assert_frame_equal(before, after)
    assert again["table"].uns["spade"] == samples[0]["table"].uns["spade"]


def test_spots_without_image_are_nan_and_samples_need_no_expression(model):
    samples = cohort()
    spoil(samples[0], "X_f", [3, 5])
    table = samples[0]["table"]
    bare = featured(name="bare")
    bare["table"].obsm["X_f"] = table.obsm["X_f"]
    empty = table[:, :0].copy()
    bare.tables["table"] = empty
    for sample in (samples[0], bare):
        sp.tl.predict_expression(sample, model, reference=samples[1:])
        missing = np.isnan(predicted(sample).to_numpy())
        assert np.flatnonzero(missing.all(1)).tolist() == [3, 5]
        assert missing.any(1).sum() == 2
    np.testing.assert_array_equal(predicted(samples[0]), predicted(bare))


def test_reference_spots_without_counts_or_image_are_named(model):
    samples = cohort()
    empty_rows(samples[1], [0, 1])
    spoil(samples[2], "X_f", [4])
    with warns_here("3 spots without image features or counts are left out of the reference"):
        sp.tl.predict_expression(samples[0], model, reference=samples[1:])
    assert samples[0]["table"].uns["spade"]["X_predicted"]["n_reference"] == 69


def test_one_reference_section_is_cut_into_halves():
    samples = cohort()
    with pytest.raises(ValueError, match=r'alpha="cv": reference has one section \(b\) and no patches'):
        sp.tl.predict_expression(samples[0], reference=samples[1], **RIDGE)
    with warns_here("has one section without patches, of which nothing can be held out"):
        sp.tl.predict_expression(samples[0], reference=samples[1], alpha=1.0, **RIDGE)
    assert np.isnan(samples[0]["table"].obsm["X_predicted_deviation"]).all()
    sp.pp.patches(samples[1], size_um=40)
    with no_warning():
        sp.tl.predict_expression(samples[0], reference=samples[1], **RIDGE)
    assert np.isfinite(samples[0]["table"].obsm["X_predicted_deviation"]).all()


def test_genes_without_variance_are_predicted_as_they_are():
    samples = cohort()
    for sample in samples:
        counts = sample["table"].X.tolil()
        counts[:, 0] = 0
        sample["table"].X = counts.tocsr()
    sp.tl.predict_expression(samples[0], reference=samples[1:], **RIDGE)
    found = predicted(samples[0])[GENES[0]]
    assert np.abs(found).max() < 1e-6
    table = sp.tl.expression_trust(samples, **RIDGE).set_index("gene")
    assert np.isnan(table.loc[GENES[0], ["pearson", "low", "high", "skill"]].astype(float)).all()
    assert table.loc[GENES[0], "n_sections"] == 0
    assert table.index[-1] == GENES[0]


# --- bad input


def test_what_is_asked_for_is_checked(model):
    samples = cohort()
    rest = {"reference": samples[1:]}
    for message, options in (
        ("method='knn': expected one of 'neighbours', 'ridge'", {"method": "knn"}),
        ('model=None: method="neighbours" searches in the joint space', {}),
        ("k=0: expected a whole number", {"model": model, "k": 0}),
        ("temperature=0: expected a positive number", {"model": model, "temperature": 0}),
        ("a model reads one obsm key", {"model": model, "use_rep": ("X_f", "X_f")}),
        ('method="ridge" uses no model', {"model": model, **RIDGE}),
        ("mix='sum': expected one of", {"model": model, "mix": "sum"}),
        ('use_rep=None: method="ridge" needs', {"method": "ridge"}),
        ("expected one obsm key, or a tuple", {"method": "ridge", "use_rep": ["X_f", "X_g"]}),
        ("alpha=-1: expected a positive number", {**RIDGE, "alpha": -1}),
        ("alpha='best': expected a positive number or \"cv\"", {**RIDGE, "alpha": "best"}),
        ("scaling='no': expected one of", {**RIDGE, "scaling": "no"}),
        ("would replace obsm\\['X_f'\\]", {**RIDGE, "key_added": "f"}),
        ("key_added='a b' cannot be stored", {**RIDGE, "key_added": "a b"}),
    ):
        with pytest.raises(ValueError, match=message):
            sp.tl.predict_expression(samples[0], **rest, **options)
    with pytest.raises(TypeError, match="model='m': expected a SpadeModel"):
        sp.tl.predict_expression(samples[0], "m", **rest)
    with pytest.raises(KeyError, match=r"use_rep='X_g' is not in obsm"):
        sp.tl.predict_expression(samples[0], method="ridge", use_rep="X_g", **rest)
    assert "X_predicted" not in samples[0]["table"].obsm


def test_genes_that_do_not_match(model):
    samples = cohort()
    with pytest.raises(KeyError, match=r"b: genes: 'g00', 'Actb' are not in the table. Names are matched exactly"):
        sp.tl.predict_expression(samples[0], model, reference=samples[1:], genes=["G00", "g00", "Actb"])
    other = featured(name="other", genes=tuple(gene.lower() for gene in GENES))
    with pytest.raises(ValueError, match="only 0 gene names in common"):
        sp.tl.predict_expression(samples[0], reference=[samples[1], other], **RIDGE)
    bare = featured(name="bare")
    bare.tables["table"] = bare["table"][:, :0].copy()
    with pytest.raises(ValueError, match="bare: has no expression"):
        sp.tl.predict_expression(samples[0], reference=bare, **RIDGE)


def test_features_that_do_not_match(model):
    samples = cohort()
    with pytest.raises(ValueError, match="5 features"):
        sp.tl.predict_expression(featured(name="narrow", width=5), model, reference=samples[1:])
    with pytest.raises(ValueError, match="narrow: use_rep='X_f' has 5 features, but 8 in reference"):
        sp.tl.predict_expression(featured(name="narrow", width=5), reference=samples[1:], **RIDGE)
    with pytest.raises(ValueError, match=r"use_rep='X_f' differs in width between samples \(b: 8, n: 5\)"):
        sp.tl.predict_expression(samples[0], reference=[samples[1], featured(name="n", width=5)], **RIDGE)
    twins = [featured(name="b"), featured(name="b", seed=1)]
    with pytest.raises(ValueError, match="two sections are named 'b'"):
        sp.tl.predict_expression(samples[0], reference=twins, **RIDGE)
    samples[1]["table"].X = samples[1]["table"].X * 0.5
    with pytest.raises(ValueError, match="not whole numbers"):
        sp.tl.predict_expression(samples[0], reference=samples[1:], **RIDGE)
    sp.tl.predict_expression(samples[0], reference=samples[1:], normalized=True, **RIDGE)


def test_a_model_and_features_of_different_encoders(model):
    samples = cohort()
    trained = cohort()
    for sample in trained:
        said_of(sample, encoder="one", encoder_id="1")
    known = train(trained)
    said_of(samples[0], encoder="two", encoder_id="2")
    with pytest.raises(ValueError, match=r"a: .* comes from encoder 'two'"):
        sp.tl.predict_expression(samples[0], known, reference=samples[1:])


def test_predictions_are_read_or_missed_clearly():
    samples = cohort()
    sample = next(iter_samples(samples[0]))
    with pytest.raises(KeyError, match="predictions: none"):
        read_predicted(sample, "predicted")
    sp.tl.predict_expression(samples[0], reference=samples[1:], key_added="mine", **RIDGE)
    with pytest.raises(KeyError, match="predictions: 'mine'"):
        read_predicted(sample, "predicted")
    samples[0]["table"].uns["mine_genes"] = np.array(GENES[:3])
    with pytest.raises(ValueError, match="names 3 genes"):
        read_predicted(sample, "mine")


# --- what is known of the answer


@pytest.mark.slow
def test_unseen_patients_are_predicted_better_than_by_the_mean(toy, record_property):
    """Genes, experts and reference are of three patients, the fourth is unseen; shuffled pairs know nothing."""
    samples = [fresh(one) for one in toy]
    known, unseen = samples[:3], samples[3]
    genes = sp.pp.select_genes(known, n_top_genes=30)
    settings = {"use_rep": "X_texture", "genes": genes, "n_prototypes": 8, "n_experts": 2}
    settings |= {"n_epochs": 40, "lr": 1e-3, "batch_size": 64}
    model = sp.tl.train_spade(known, **settings)
    control = sp.tl.train_spade(known, shuffle_pairs=True, **settings)
    truth = truth_of(unseen, genes.names)
    expected = np.concatenate([truth_of(one, genes.names) for one in known]).mean(0)
    scores = {}
    for name, way in (
        ("spade", {"model": model}),
        ("ridge", {"method": "ridge", "use_rep": "X_texture"}),
        ("shuffled", {"model": control}),
    ):
        sp.tl.predict_expression(unseen, reference=known, genes=genes, **way)
        found = predicted(unseen).to_numpy()
        error = np.square(truth - found).mean() / np.square(truth - expected).mean()
        scores[name] = float(np.nanmean(pearson_per_gene(truth, found))), float(error)
    print("\n", scores)
    record_property("scores", str(scores))
    for name in ("spade", "ridge"):
        assert scores[name][0] > 0.35
        assert scores[name][1] < 0.95  # of the error of the mean expression
    assert scores["shuffled"][0] < 0.15
    assert scores["shuffled"][1] > 0.97


@pytest.mark.realdata
@pytest.mark.slow
def test_one_breast_cancer_section_predicts_another(data_dir):
    """Two sections of one patient, by ridge on the built-in features."""
    samples = [read_tumour(data_dir / "her2st", name) for name in ("C2", "C3")]
    sp.pp.patches(samples)
    sp.pp.encode_patches(samples)
    genes = sp.pp.select_genes(samples[0], n_top_genes=50)
    sp.tl.predict_expression(samples[1], reference=samples[0], genes=genes, method="ridge", use_rep="X_texture")
    found = predicted(samples[1])
    truth = truth_of(samples[1], genes.names)
    each = pearson_per_gene(truth, found.to_numpy())
    varies = np.flatnonzero(~np.isnan(each))
    assert len(varies) > 40
    for g in varies[:5]:
        told = found.to_numpy()[:, g]
        assert each[g] == pytest.approx(pearsonr(truth[:, g].astype(float), told.astype(float))[0], abs=1e-4)
    assert np.nanmean(each) > 0.05
    trust = sp.tl.expression_trust(samples, genes=genes, method="ridge", use_rep="X_texture", normalized=False)
    assert trust["pearson"].iloc[0] > 0.3
    table = sp.tl.expression_benchmark(samples, use_rep="X_texture", groupby=None)
    assert set(table["protocol"]) == {"hest", "sound"}
    path = SpatialData(tables={"table": samples[1]["table"]}, attrs=dict(samples[1].attrs))
    assert predicted(path).shape == found.shape
