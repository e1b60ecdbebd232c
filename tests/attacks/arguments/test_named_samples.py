"""A dict of samples gives each its name; sets, tables and models are no lists of samples."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from helpers.sections import featured, train

import spade as sp


@pytest.fixture
def pair():
    return {"left": featured(name="x", seed=1), "right": featured(name="y", seed=2)}


def test_keys_are_names(pair):
    table = sp.tl.mixing(pair, use_rep="X_f")
    assert {"left", "right"} <= set(table.astype(str).to_numpy().ravel())


def test_keys_name_stores(pair, tmp_path):
    stores = {}
    for name, sdata in pair.items():
        (tmp_path / name).mkdir()
        sp.io.write(sdata, tmp_path / name / "s.zarr")
        stores[f"patient {name}"] = str(tmp_path / name / "s.zarr")
    table = sp.tl.few_shot(stores, label_key="organ", use_rep="X_f", shots=(1,), n_repeats=1)
    assert set(table["unit"]) == {"patient left", "patient right"}


def test_names_of_a_dict_settle_equal_names():
    twins = [featured(name="same", seed=1), featured(name="same", seed=2)]
    with pytest.raises(ValueError, match="two samples are named 'same'"):
        sp.pp.select_genes(twins, min_genes=5, n_top_genes=5)
    panel = sp.pp.select_genes(dict(zip("ab", twins, strict=True)), min_genes=5, n_top_genes=5)
    assert panel.names == sp.pp.select_genes([twins[0], featured(name="z", seed=2)], min_genes=5, n_top_genes=5).names


def test_results_equal_those_of_a_list(pair):
    one, other = train(pair), train(list(pair.values()))
    assert one.id == other.id
    sp.tl.embed(pair, one)
    again = [featured(name="x", seed=1), featured(name="y", seed=2)]
    sp.tl.embed(again, one)
    for named, listed in zip(pair.values(), again, strict=True):
        np.testing.assert_array_equal(named["table"].obsm["X_spade"], listed["table"].obsm["X_spade"])


def test_a_dict_of_samples_is_a_query_and_a_bag(pair):
    model = train(pair)
    found = sp.tl.retrieve(pair, pair, model, k=1)
    assert set(found["query_sample"]) == {"left", "right"}
    labels = pd.DataFrame({"sample": ["left", "right"], "site": ["u", "v"]})
    with pytest.raises(ValueError, match="fold") as error:
        sp.tl.slide_task(pair, label_key="site", use_rep="X_f", labels=labels, groupby=None)
    assert "feature file" not in str(error.value)


def test_a_query_of_one_gene_is_told_how(pair):
    with pytest.raises(ValueError, match=r"query='G00' is not the path of a store.*\['G00'\]"):
        sp.tl.retrieve("G00", pair, train(pair))


@pytest.mark.parametrize("samples", [{}, {"": None}, {3: None}, {"a": 3}, {"a": {"b": 3}}])
def test_odd_dicts_are_named(samples):
    with pytest.raises((TypeError, ValueError), match="samples"):
        sp.pp.select_genes(samples)


@pytest.mark.parametrize("make", [np.array, pd.Series, tuple, iter])
def test_any_row_of_paths_is_a_list(pair, make, tmp_path):
    sp.io.write(pair["left"], tmp_path / "one.zarr")
    panel = sp.pp.select_genes(make([str(tmp_path / "one.zarr")]), min_genes=5, n_top_genes=5)
    assert panel.names == sp.pp.select_genes(pair["left"], min_genes=5, n_top_genes=5).names


def test_an_object_twice_is_seen_in_a_dict(pair):
    with pytest.raises(ValueError, match="more than once"):
        sp.pp.select_genes({"a": pair["left"], "b": pair["left"]})


@pytest.mark.parametrize("make", [set, frozenset])
def test_sets_are_refused(pair, make, tmp_path):
    with pytest.raises(TypeError, match="samples: a set has no order"):
        sp.pp.select_genes(make([str(tmp_path)]))
    with pytest.raises(TypeError, match="genes: a set has no order"):
        train(pair, genes=make(["G00", "G01"]))
    with pytest.raises(TypeError, match="genes: a set has no order"):
        sp.models.GenePanel(make(["G00", "G01"]))
    with pytest.raises(TypeError, match="use_rep: a set has no order"):
        sp.tl.few_shot(pair, label_key="organ", use_rep=make(["X_f"]))
    with pytest.raises(TypeError, match="query: a set has no order"):
        sp.tl.retrieve(make(["G00"]), pair, train(pair))
    with pytest.raises(TypeError, match="spots: a set has no order"):
        sp.tl.retrieve(pair, pair, train(pair), spots=make(["s00"]))
    labels = pd.DataFrame({"sample": ["left"], "a": ["1"], "b": ["2"]})
    with pytest.raises(TypeError, match="columns: a set has no order"):
        sp.pp.label_patches(pair, labels, columns=make(["a", "b"]))


@pytest.mark.parametrize("genes", ["CD3E", {"G00": 1}, 3, [3], [None], pd.DataFrame({"G00": [1]})])
def test_genes_that_are_no_list_of_names(pair, genes):
    with pytest.raises(TypeError, match="genes"):
        train(pair, genes=genes)


def test_no_panel_of_letters():
    with pytest.raises(TypeError, match=r"for one gene pass \['CD3E'\]"):
        sp.models.GenePanel("CD3E")


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (ad.AnnData(np.ones((2, 2))), "AnnData; .*SpatialData\\(tables="),
        ([ad.AnnData(np.ones((2, 2)))], "item 0 is AnnData; .*SpatialData\\(tables="),
        (sp.models.SpadeModel, "the class SpadeModel"),
    ],
    ids=["AnnData", "item", "class"],
)
def test_other_things_are_no_samples(samples, words):
    with pytest.raises(TypeError, match=f"samples: (got )?{words}"):
        sp.pp.select_genes(samples)


def test_model_and_samples_in_the_wrong_order(pair):
    model = train(pair)
    samples = list(pair.values())
    for call in (
        lambda: sp.tl.embed(model, samples),
        lambda: sp.tl.routing_scores(model, samples),
        lambda: sp.tl.retrieval_metrics(model, samples[0]),
        lambda: sp.tl.predict_expression(model, samples, reference=samples),
        lambda: sp.tl.retrieve(samples, model, samples),
    ):
        with pytest.raises(TypeError, match="samples come first, then the model") as error:
            call()
        assert len(str(error.value)) < 250
    with pytest.raises(TypeError, match=r"samples: got SpadeModel; .*A model is passed as model=, after the samples"):
        sp.pp.encode_patches(model)


@pytest.mark.parametrize("model", [sp.models.SpadeModel, sp.models.SealModel, "model", None, pd.DataFrame({"a": [1]})])
def test_models_that_are_none(pair, model):
    with pytest.raises(TypeError, match=r"model=.*expected a .*load") as error:
        sp.tl.embed(pair, model)
    assert len(str(error.value)) < 250


def test_messages_stay_short(pair):
    big = list(range(100_000))
    for call in (
        lambda: sp.tl.few_shot(pair, label_key=pair["left"], use_rep="X_f"),
        lambda: sp.tl.few_shot(pair, label_key="organ", use_rep=pair["left"]),
        lambda: sp.pp.split(pair, groupby=pair["left"]),
        lambda: sp.pp.select_genes(pair, n_top_genes=big),
        lambda: sp.pp.patches(pair, size_um=big),
        lambda: sp.pp.split(pair, rng=big),
    ):
        with pytest.raises((TypeError, ValueError, KeyError)) as error:
            call()
        assert len(str(error.value)) < 400, str(error.value)[:300]
