"""The gene panel: the paper's rule, and samples whose genes do not go together."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import scanpy as sc
from _tiny import GENES, circles, empty_rows, square_lattice, table, tiny, warns_here
from anndata import AnnData
from scipy.sparse import csr_matrix
from spatialdata import SpatialData, read_zarr

import spade as sp
from spade.models import GenePanel

MOUSE = tuple(name.capitalize() + "rik" for name in GENES)
FEW = {"min_genes": 20, "n_top_genes": 8}


def section(name, genes=GENES, seed=0, n=36):
    return tiny(n, name=name, genes=genes, seed=seed)


def most_variable(sdata, common, n):
    """The paper's rule, spelled out on a dense copy."""
    counts = sdata["table"].X.toarray()
    counts = counts[counts.sum(1) > 0]
    total = counts.sum(1, keepdims=True)
    scratch = AnnData(np.log1p(counts / total * np.median(total)), var=sdata["table"].var)
    scratch = scratch[:, scratch.var_names.isin(common)].copy()
    sc.pp.highly_variable_genes(scratch, n_top_genes=n)
    return set(scratch.var_names[scratch.var["highly_variable"]])


def test_the_panel_is_the_union_of_each_samples_most_variable_common_genes():
    samples = [section("a", GENES[:50]), section("b", GENES[5:], seed=1), section("c", seed=2)]
    before = [sample["table"].X.toarray() for sample in samples]
    panel = sp.pp.select_genes(samples, **FEW)
    common = GENES[5:50]
    expected = set().union(*(most_variable(sample, common, 8) for sample in samples))
    assert panel.names == tuple(sorted(expected))
    assert 8 < len(panel) <= 24
    assert (panel.n_common, panel.dropped) == (45, ())
    for sample, counts in zip(samples, before, strict=True):
        var = sample["table"].var
        assert var["spade_gene"].dtype == bool
        assert set(var.index[var["spade_gene"]]) == expected
        np.testing.assert_array_equal(sample["table"].X.toarray(), counts)
        facts = sample["table"].uns["spade"]["spade_gene"]
        assert (facts["function"], facts["n_genes"]) == ("pp.select_genes", len(panel))


def test_a_gene_that_varies_is_chosen():
    sdata = section("a")
    counts = np.full((36, 60), 5.0)
    counts[::2, 17] = 200
    sdata["table"].X = csr_matrix(counts)
    assert "G17" in sp.pp.select_genes(sdata, n_top_genes=1, min_genes=1).names


def test_asking_for_more_genes_than_are_common_takes_them_all():
    assert (
        sp.pp.select_genes([section("a", GENES[:30]), section("b")], **FEW | {"n_top_genes": 500}).names == GENES[:30]
    )


def test_a_stem_keeps_two_panels_apart():
    sdata = section("a")
    small, large = sp.pp.select_genes(sdata, **FEW), sp.pp.select_genes(sdata, n_top_genes=30, key_added="wide")
    var = sdata["table"].var
    assert (var["spade_gene"].sum(), var["wide_gene"].sum()) == (len(small), len(large)) == (8, 30)


def test_the_same_from_stores_and_nothing_else_changes(tmp_path):
    samples = [section("a"), section("b", seed=1)]
    paths = [tmp_path / f"{name}.zarr" for name in "ab"]
    for sample, path in zip(samples, paths, strict=True):
        sp.io.write(sample, path)
    panel = sp.pp.select_genes(paths, **FEW)
    assert panel == sp.pp.select_genes(samples, **FEW)
    for sample, path in zip(samples, paths, strict=True):
        again = read_zarr(path)
        assert again["table"].var.equals(sample["table"].var)
        np.testing.assert_array_equal(again["table"].X.toarray(), sample["table"].X.toarray())
        np.testing.assert_array_equal(again["image"].to_numpy(), sample["image"].to_numpy())
        assert again["table"].uns["spade"] == sample["table"].uns["spade"]


# --- genes that do not go together


def test_mouse_and_human_are_refused_with_names_numbers_and_a_question():
    said = (
        r"only 0 gene names in common, fewer than min_genes=20 \(human: 60 genes such as G00, G01, G02; mouse: 60 genes such as "
        r"G00rik, .*\)\. Names are matched exactly\. Are the samples of different species, or .*Ensembl id\?.*on_few_common=\"drop\""
    )
    samples = [section("human"), section("mouse", MOUSE)]
    with pytest.raises(ValueError, match=said):
        sp.pp.select_genes(samples, **FEW)
    assert all("spade_gene" not in sample["table"].var for sample in samples)


def test_case_is_never_folded():
    with pytest.raises(ValueError, match="only 0 gene names in common"):
        sp.pp.select_genes([section("a"), section("b", tuple(map(str.lower, GENES)))], **FEW)


@pytest.mark.parametrize("odd", [0, 1, 2])
def test_drop_leaves_out_the_sample_that_does_not_fit(odd):
    samples = [section(f"s{i}", MOUSE if i == odd else GENES, seed=i) for i in range(3)]
    with warns_here(
        rf"s{odd}: left out of gene selection and training.*min_genes=20 genes are common; 60 are common to s"
    ):
        panel = sp.pp.select_genes(samples, on_few_common="drop", **FEW)
    assert (panel.dropped, panel.n_common) == ((f"s{odd}",), 60)
    assert [sample["table"].var["spade_gene"].any() for sample in samples] == [i != odd for i in range(3)]
    rest = [sample for i, sample in enumerate(samples) if i != odd]
    assert panel.names == sp.pp.select_genes(rest, **FEW).names


def test_drop_cannot_help_a_sample_that_is_too_small_itself():
    with pytest.raises(ValueError, match=r"only 10 gene names in common, fewer than min_genes=20"):
        sp.pp.select_genes(section("a", GENES[:10]), on_few_common="drop", **FEW)


def test_two_samples_of_one_name_are_refused():
    with pytest.raises(ValueError, match=r"two samples are named 'a'; give each its own name"):
        sp.pp.select_genes([section("a"), section("a", seed=1)], **FEW)


# --- expression that is missing or wrong


def test_samples_without_expression_are_passed_over(caplog):
    bare = tiny(name="image only", genes=())
    with caplog.at_level(logging.INFO, logger="spade"):
        panel = sp.pp.select_genes([bare, section("a")], **FEW)
    assert panel.names == sp.pp.select_genes(section("a"), **FEW).names
    assert "image only: no expression, passed over" in caplog.text
    with pytest.raises(ValueError, match=r"no sample has expression \(all tables have width 0\): image only"):
        sp.pp.select_genes(bare)


@pytest.mark.parametrize("stored_zeros", [False, True])
def test_spots_without_counts_do_not_take_part(stored_zeros):
    sdata, clean = section("a"), section("a")
    empty_rows(sdata, [3, 4], stored_zeros)
    clean.tables["table"] = clean["table"][[i for i in range(36) if i not in (3, 4)]].copy()
    with warns_here("a: 2 of 36 spots have no counts and do not take part in gene selection"):
        panel = sp.pp.select_genes(sdata, **FEW)
    assert panel.names == sp.pp.select_genes(clean, **FEW).names


def test_a_sample_needs_spots_with_counts():
    sdata = section("a")
    sdata["table"].X = csr_matrix((36, 60), dtype=np.float32)
    with (
        pytest.warns(UserWarning),
        pytest.raises(ValueError, match=r"a: 0 spots have counts; gene selection needs at least 2"),
    ):
        sp.pp.select_genes(sdata, **FEW)


def test_counts_may_lie_in_a_layer():
    sdata = section("a")
    expected = sp.pp.select_genes(sdata, **FEW)
    sdata["table"].layers["counts"] = sdata["table"].X.copy()
    sdata["table"].X = sdata["table"].X.log1p()
    with pytest.raises(ValueError, match=r"a: X has values that are not whole numbers .*Name the layer="):
        sp.pp.select_genes(sdata, **FEW)
    with pytest.raises(KeyError, match=r"layer='raw' is not there; layers: 'counts'"):
        sp.pp.select_genes(sdata, layer="raw", **FEW)
    assert sp.pp.select_genes(sdata, layer="counts", **FEW) == expected


def test_duplicated_gene_names_are_refused():
    with pytest.raises(ValueError, match=r"a: 1 gene names occur more than once, such as 'G00'.*var_names_make_unique"):
        sp.pp.select_genes(section("a", ("G00", *GENES[:59])), **FEW)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "hvg"}, "method='hvg': there is \"spade\""),
        ({"on_few_common": "skip"}, 'on_few_common=\'skip\': expected "error" or "drop"'),
        ({"n_top_genes": 0}, "n_top_genes=0: expected a whole number of at least 1"),
        ({"min_genes": 0}, "min_genes=0: expected a whole number"),
        ({"key_added": "my genes"}, "key_added='my genes' cannot be stored"),
    ],
)
def test_settings_are_checked(options, said):
    with pytest.raises(ValueError, match=said):
        sp.pp.select_genes(section("a"), **options)


# --- the panel itself


def test_a_panel_takes_columns_in_its_own_order_and_names_what_is_missing():
    panel = GenePanel(("c", "x", "a"))
    matrix = csr_matrix(np.array([[1.0, 2, 3], [4, 5, 6]], dtype=np.float32))
    taken, present = panel.take(matrix, ["a", "b", "c"])
    np.testing.assert_array_equal(taken.toarray(), [[3, 0, 1], [6, 0, 4]])
    assert present.tolist() == [True, False, True]
    assert taken.dtype == np.float32


@pytest.mark.parametrize(
    ("names", "error", "said"),
    [
        ([], ValueError, "the gene panel is empty; choose genes with sp.pp.select_genes or name some"),
        (["a", "b", "a"], ValueError, r"1 names occur more than once in the panel, such as \['a'\]"),
        ("Mbp", TypeError, "genes='Mbp': expected a GenePanel or a list of gene names, got one string"),
    ],
)
def test_a_panel_must_be_a_list_of_different_names(names, error, said):
    with pytest.raises(error, match=said):
        GenePanel.of(names)


def test_a_panel_may_be_made_of_any_names(tmp_path):
    panel = GenePanel.of(SpatialData(tables={"table": table(["a"], GENES[:3])})["table"].var_names)
    assert panel.names == GENES[:3]
    assert GenePanel.of(panel) is panel
    panel.save(tmp_path / "genes.json")
    assert GenePanel.load(tmp_path / "genes.json") == panel


@pytest.mark.parametrize("text", ['{"names": ["a"', '{"names": ["a"], "colour": 1}', '{"names": []}', "[1]"])
def test_a_damaged_panel_is_refused(text, tmp_path):
    (tmp_path / "genes.json").write_text(text)
    with pytest.raises(ValueError, match=r"genes\.json is not a gene panel .*cut off or edited"):
        GenePanel.load(tmp_path / "genes.json")


def test_shapes_play_no_part():
    sdata = section("a")
    sdata.shapes["spots"] = circles(square_lattice(3), ids=["x", "y", "z"])
    assert len(sp.pp.select_genes(sdata, **FEW)) == 8
