"""Scores of gene sets: by hand, as decoupler gives them, and on layers whose markers are known."""

from __future__ import annotations

import sys

import anndata as ad
import decoupler as dc
import numpy as np
import pandas as pd
import pytest
from helpers.expression import RIDGE, cohort, truth_of
from helpers.sections import GENES, assert_same, empty_rows, featured
from scipy.sparse import csr_matrix
from spatialdata import read_zarr

import spade as sp
from spade._samples.features import holds_expression
from spade._samples.open import iter_samples
from spade.tl._expression import pathway_scores as scoring

#: Two sets that share genes, one of them signed.
NET = {
    "plain": list(GENES[:9]),
    "signed": dict.fromkeys(GENES[6:12], 2.0) | dict.fromkeys(GENES[12:20], -0.5),
}


def scores(sample, key="pathways"):
    table = sample["table"]
    return pd.DataFrame(table.obsm[key], table.obs_names, table.uns[f"{key}_names"])


def with_values(values, genes):
    """A section whose spots have the given expression."""
    sample = featured(len(values), genes=genes)
    sample["table"].X = csr_matrix(np.array(values, dtype=np.float32))
    return sample


# --- values


@pytest.mark.slow
def test_the_t_value_is_the_one_computed_by_hand():
    """Slope 2 with standard error √½, and slope 1.5 with standard error √⅛."""
    sample = with_values([[1, 2, 3, 4], [4, 3, 2, 1]], list("abcd"))
    net = pd.DataFrame({"source": ["set", "set", "signed", "signed"], "target": [*"cdad"], "weight": [1, 1, -1, 1]})
    sp.tl.pathway_scores(sample, net, normalized=True, min_genes=2)
    expected = [[8**0.5, 18**0.5], [-(8**0.5), -(18**0.5)]]
    np.testing.assert_allclose(scores(sample)[["set", "signed"]], expected, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ulm", "mlm", "aucell"])
def test_scores_are_those_of_decoupler(method, monkeypatch):
    net = {"one": list(GENES[:9]), "two": list(GENES[6:20])} if method == "aucell" else NET
    samples = cohort()[:2]
    report = sp.tl.pathway_scores(samples, net, method=method)
    long = pd.DataFrame(
        [
            (name, gene, 1.0 if isinstance(genes, list) else genes[gene])
            for name, genes in net.items()
            for gene in genes
        ],
        columns=["source", "target", "weight"],
    )
    for sample in samples:
        table = ad.AnnData(truth_of(sample, GENES), var=pd.DataFrame(index=list(GENES)))
        getattr(dc.mt, method)(table, long)
        found = scores(sample)
        assert list(found.columns) == list(net)
        np.testing.assert_allclose(found, table.obsm[f"score_{method}"][list(net)], rtol=1e-4, atol=1e-5)
    assert report[["n_genes", "n_found"]].values.tolist() == [[9, 9], [14, 14]] * 2
    assert report["scored"].all()
    again = cohort()[0]
    monkeypatch.setattr(scoring, "MOST_VALUES", 7 * len(GENES))
    sp.tl.pathway_scores(again, net, method=method)
    np.testing.assert_allclose(scores(again), scores(samples[0]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["ulm", "aucell"])
def test_the_order_of_genes_and_genes_without_counts_do_not_matter(method):
    sample, turned = featured(), featured()
    net = {"one": list(GENES[:9])}
    turned.tables["table"] = turned["table"][:, ::-1].copy()
    for one in (sample, turned):
        sp.tl.pathway_scores(one, net, method=method)
    np.testing.assert_allclose(scores(turned), scores(sample), rtol=1e-4, atol=1e-5)
    part = featured()
    part.tables["table"] = part["table"][:5].copy()  # in these, other genes have no counts
    sp.tl.pathway_scores(part, net, method=method)
    np.testing.assert_allclose(scores(part), scores(sample).iloc[:5], rtol=1e-4, atol=1e-5)


def test_spots_without_counts_are_nan_and_everything_is_kept_in_a_store(tmp_path):
    sample, path = featured(), tmp_path / "a.zarr"
    empty_rows(sample, [3, 5])
    sp.io.write(sample, path)
    sp.tl.pathway_scores(sample, NET)
    sp.tl.pathway_scores(path, NET)
    found = scores(sample)
    assert np.flatnonzero(found.isna().all(axis=1)).tolist() == [3, 5]
    assert found.drop(index=found.index[[3, 5]]).notna().all(axis=None)
    assert sample["table"].obsm["pathways"].dtype == np.float32
    assert_same(read_zarr(path), sample)
    record = sample["table"].uns["spade"]["pathways"]
    assert record["function"] == "tl.pathway_scores"
    assert record["n_pathways"] == 2


@pytest.mark.realdata
def test_markers_of_granule_and_mitral_cells_tell_the_layers(data_dir):
    """Markers as single cells of the bulb show them (Tepe et al., Cell Reports 2018); they were not fitted here."""
    from _sections import read_bulb

    bulb = read_bulb(data_dir / "mob", "11")
    granule, mitral = (
        ["Penk", "Meis2", "Pcp4", "Synpr", "Camk4"],
        ["Cdhr1", "Reln", "Slc17a7", "Tbr1", "Eomes", "Uchl1"],
    )
    net = {"granule or mitral": dict.fromkeys(granule, 1.0) | dict.fromkeys(mitral, -1.0)}
    report = sp.tl.pathway_scores(bulb, net)
    assert report["n_found"].tolist() == [11]
    by_layer = scores(bulb)["granule or mitral"].groupby(bulb["table"].obs["label"], observed=True).median()
    assert by_layer.idxmax() == "Granular Cell Layer"
    assert by_layer["Granular Cell Layer"] > 0 > by_layer["Mitral Cell Layer"]
    with pytest.raises(ValueError, match=r"such as PENK, .*Are net and samples of different species"):
        sp.tl.pathway_scores(bulb, {"human": [name.upper() for name in granule]})


# --- predicted expression


def test_a_prediction_is_scored_against_its_own_panel():
    samples = cohort()
    panel = list(GENES[:30])
    sp.tl.predict_expression(samples[2], reference=samples[:2], genes=panel, **RIDGE)
    sp.tl.pathway_scores(samples[2], NET, predicted="predicted", key_added="of_prediction")
    table = ad.AnnData(samples[2]["table"].obsm["X_predicted"], var=pd.DataFrame(index=panel))
    dc.mt.ulm(table, pd.DataFrame({"source": "plain", "target": NET["plain"], "weight": 1.0}))
    found = scores(samples[2], "of_prediction")
    np.testing.assert_allclose(found["plain"], table.obsm["score_ulm"]["plain"], rtol=1e-3, atol=1e-4)
    sp.tl.pathway_scores(samples[2], NET)
    (opened,) = iter_samples(samples[2])
    assert holds_expression(opened, "pathways")
    assert not holds_expression(opened, "of_prediction")
    sp.tl.predict_expression(samples[2], reference=samples[:2], genes=panel[:25], **RIDGE)
    with pytest.raises(ValueError, match=r"'of_prediction' was made from 'X_predicted', which .* has written anew"):
        opened.check_current("of_prediction")


# --- gene sets


def test_sets_of_all_kinds_are_the_same(tmp_path):
    path = tmp_path / "sets.gmt"
    path.write_text("plain\thttp://x\t" + "\t".join(GENES[:9]) + "\t\r\n\nother\t\t" + "\t".join(GENES[9:16]) + "\n")
    as_dict = {"plain": set(GENES[:9]), "other": tuple(GENES[9:16])}
    frame = pd.DataFrame(
        [(name, gene) for name, genes in as_dict.items() for gene in genes], columns=["source", "target"]
    )
    found = {}
    for name, net in {"gmt": path, "text": str(path), "dict": as_dict, "frame": frame}.items():
        sample = featured()
        sp.tl.pathway_scores(sample, net)
        found[name] = scores(sample), sample["table"].uns["spade"]["pathways"]["net"]
    for values, digest in found.values():
        pd.testing.assert_frame_equal(values, found["gmt"][0])
        assert digest == found["gmt"][1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no gene sets"),
        ("a\tb\n", "line 1 is not the name of a set, a description and genes"),
        ("a\tb\tG01\nx,y,G01\n", "line 2 is not the name"),
        ("a\tb\tG01\t\tG02\n", "line 1 is not the name"),
        ("\tb\tG01\n", "line 1 is not the name"),
        ("a\tb\tG01\na\tb\tG02\n", "line 2: there is a set 'a' before it"),
        ("a\tb\tG01\tG01\n", "line 1: set 'a' names 'G01' more than once"),
        (b"a\tb\t\xff\xfe\n", "not a UTF-8 text file"),
    ],
)
def test_damaged_files_are_refused(tmp_path, text, said):
    path = tmp_path / "sets.gmt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=said):
        sp.tl.pathway_scores(featured(), path)


def test_files_that_are_none(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="net: there is no file"):
        sp.tl.pathway_scores(featured(), tmp_path / "no.gmt")
    with pytest.raises(ValueError, match=r"net='hallmark': expected a file that ends in \.gmt; nothing is downloaded"):
        sp.tl.pathway_scores(featured(), "hallmark")
    (tmp_path / "large.gmt").write_text("a\tb\tG01\n")
    monkeypatch.setattr("spade.io._files.gene_sets.MAX_GMT", 5)
    with pytest.raises(ValueError, match="has 8 bytes, but files of gene sets have at most 5"):
        sp.tl.pathway_scores(featured(), tmp_path / "large.gmt")


@pytest.mark.parametrize(
    ("net", "error", "said"),
    [
        ({}, ValueError, "net is empty"),
        ({"a": "G01"}, TypeError, r"net\['a'\]='G01': expected a list of genes"),
        ({"G01": 1.0}, TypeError, r"For a single pathway pass \{'name': \{'G01': 1.0\}\}"),
        ({"a": ["G01", None]}, ValueError, "1 of 2 rows have no text as 'target', such as row 1: (None|nan)"),
        ({"": ["G01"]}, ValueError, "have no text as 'source'"),
        ({"a": ["G01", "G01"]}, ValueError, "occur more than once: 'a/G01'"),
        ({"a": {"G01": 0}}, ValueError, "not finite numbers other than 0, such as 0 of 'G01' in 'a'"),
        ({"a": {"G01": float("nan")}}, ValueError, "not finite numbers other than 0"),
        (pd.DataFrame({"geneset": ["a"], "target": ["G01"]}), KeyError, "has no column 'source'; columns: 'geneset'"),
        (["G01"], TypeError, "expected a DataFrame with the columns"),
    ],
)
def test_sets_that_say_nothing(net, error, said):
    with pytest.raises(error, match=said):
        sp.tl.pathway_scores(featured(), net)


# --- which pathways are scored


def test_pathways_with_few_genes_are_left_out_of_all_samples():
    one, other = featured(name="a"), featured(name="b")
    other.tables["table"] = other["table"][:, 5:].copy()
    net = {"short": [*GENES[10:13], "none"], "early": list(GENES[:9]), "late": list(GENES[20:30])}
    said = r"fewer than min_genes=5 genes in a sample left out: short \(3 of 4 in a\), early \(4 of 9 in b\)"
    with pytest.warns(UserWarning, match=said):
        report = sp.tl.pathway_scores([one, other], net)
    assert report.values.tolist() == [
        ["a", "short", 4, 3, False], ["a", "early", 9, 9, False], ["a", "late", 10, 10, True],
        ["b", "short", 4, 3, False], ["b", "early", 9, 4, False], ["b", "late", 10, 10, True],
    ]  # fmt: skip
    for sample in (one, other):
        assert list(scores(sample).columns) == ["late"]


def test_names_that_differ_in_case_are_not_matched():
    sample = featured()
    with pytest.raises(
        ValueError, match="no pathway has min_genes=5 genes in every sample; 'a' has most, 0 of 9"
    ) as error:
        sp.tl.pathway_scores(sample, {"a": [name.lower() for name in GENES[:9]]})
    assert "Names are matched exactly. Are net and samples of different species" in str(error.value)
    assert "pathways" not in sample["table"].obsm


# --- what cannot be scored


def test_expression_that_cannot_be_scored():
    sample, other = featured(name="a"), featured(name="b")
    other["table"].X = other["table"].X * 0.5
    with pytest.raises(ValueError, match="b: X has values that are not whole numbers"):
        sp.tl.pathway_scores([sample, other], NET)
    assert "pathways" not in sample["table"].obsm
    other.tables["table"] = other["table"][:, :0].copy()
    with pytest.raises(ValueError, match="b: has no expression"):
        sp.tl.pathway_scores([sample, other], NET)
    with pytest.raises(KeyError, match=r"a: predicted='predicted': .* is not there; predictions: none"):
        sp.tl.pathway_scores(sample, NET, predicted="predicted")
    with pytest.raises(ValueError, match="layer='counts': predicted= reads no measurement"):
        sp.tl.pathway_scores(sample, NET, predicted="predicted", layer="counts")
    with pytest.raises(ValueError, match="would replace the prediction that is scored"):
        sp.tl.pathway_scores(sample, NET, predicted="predicted", key_added="X_predicted")


@pytest.mark.parametrize(
    ("net", "options", "said"),
    [
        (NET, {"method": "aucell"}, "whose signs would be lost"),
        ({"all": list(GENES)}, {}, "'all' gives all 60 genes of tiny one weight"),
        ({"a": list(GENES[:9]), "b": list(GENES[:9])}, {"method": "mlm"}, "the same or sums of others"),
        ({"a": list(GENES[:30]), "b": list(GENES[30:])}, {"method": "mlm"}, "the same or sums of others"),
        ({g: [g] for g in GENES}, {"method": "mlm", "min_genes": 1}, "60 genes are too few for .* 61 coefficients"),
    ],
)
def test_sets_that_a_method_cannot_tell_apart(net, options, said):
    with pytest.raises(ValueError, match=said):
        sp.tl.pathway_scores(featured(), net, **options)


def test_without_decoupler_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "decoupler", None)
    with pytest.raises(ImportError, match=r"pip install 'spade-st\[pathways\]'"):
        sp.tl.pathway_scores(featured(), NET)
