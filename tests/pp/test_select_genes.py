"""The gene panel: the paper's rule, and samples whose genes do not go together."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import scanpy as sc
from anndata import AnnData
from helpers.sections import GENES, circles, empty_rows, square_lattice, tiny, warns_here
from scipy.sparse import csr_matrix
from spatialdata import read_zarr

import spade as sp
from spade.models import GenePanel
from spade.pp._genes.common import is_control
from spade.pp._genes.variable import SectionCounts, variable_together

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
        r"only 0 gene names in common, fewer than min_genes=20 \(human: 60 genes such as G00, G01, G02; "
        r"mouse: 60 genes such as G00rik, .*\)\. Names are matched exactly\. "
        r"Are the samples of different species, or .*Ensembl id\?.*on_few_common=\"drop\""
    )
    samples = [section("human"), section("mouse", MOUSE)]
    with pytest.raises(ValueError, match=said):
        sp.pp.select_genes(samples, **FEW)
    assert all("spade_gene" not in sample["table"].var for sample in samples)


def test_case_is_not_folded_unless_asked():
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
    assert "image only: no expression, skipped" in caplog.text
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
        pytest.raises(ValueError, match=r"a: no spot has counts; gene selection needs at least 2"),
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
        ({"method": "hvg"}, "method='hvg': expected one of 'spade', 'seal'"),
        ({"on_few_common": "skip"}, "on_few_common='skip': expected one of 'error', 'drop'"),
        ({"n_top_genes": 0}, "n_top_genes=0: expected a whole number of at least 1"),
        ({"min_genes": 0}, "min_genes=0: expected a whole number"),
        (
            {"by_section": True},
            r"by_section=True: method='spade' chooses genes within each sample anyway; leave it out, or choose",
        ),
        ({"key_added": "my genes"}, "key_added='my genes' cannot be stored"),
    ],
)
def test_settings_are_checked(options, said):
    with pytest.raises(ValueError, match=said):
        sp.pp.select_genes(section("a"), **options)


# --- the rule of SEAL


SEAL = {"method": "seal", "n_top_genes": 12, "min_genes": 20}


CONTROLS = (
    "NegControlProbe_00042", "NegControlCodeword_0500", "UnassignedCodeword_0001", "DeprecatedCodeword_0321",
    "Intergenic_Region_1", "BLANK_0006", "Blank-12", "antisense_SCRIB", "NegPrb3", "Negative01",
    "SystemControl9", "FalseCode0042",
)  # fmt: skip


def most_variable_together(samples, genes, n, rows=None, section=None):
    """The rule, spelled out on dense copies: totals over all genes, scanpy's seurat flavour over all spots."""
    kept, total = [], 0
    for i, sdata in enumerate(samples):
        counts = sdata["table"].X.toarray()[slice(None) if rows is None else rows[i]]
        columns = [[name.upper() for name in sdata["table"].var_names].index(gene) for gene in genes]
        kept.append(np.log1p(counts / counts.sum(1, keepdims=True) * 1e4)[:, columns])
        total = total + counts[:, columns].sum(0)
    names = np.array(genes)[total >= 3]
    scratch = AnnData(csr_matrix(np.vstack(kept)[:, total >= 3], dtype=np.float32))
    scratch.var_names = names
    if section:
        scratch.obs["section"] = np.repeat([f"s{i}" for i in range(len(kept))], [len(part) for part in kept])
    sc.pp.highly_variable_genes(scratch, flavor="seurat", n_top_genes=n, batch_key="section" if section else None)
    return tuple(sorted(names[scratch.var["highly_variable"]]))


def lower(sdata):
    sdata["table"].var_names = [name.lower() for name in sdata["table"].var_names]
    return sdata


@pytest.mark.parametrize("by_section", [False, True])
def test_seal_takes_the_most_variable_of_all_spots_together(by_section, caplog):
    samples = [section("a", GENES[:50], n=30), lower(section("b", GENES[5:], seed=1))]
    with caplog.at_level(logging.INFO, logger="spade"):
        panel = sp.pp.select_genes(samples, by_section=by_section, **SEAL | {"n_top_genes": 9})
    common = GENES[5:50]
    assert panel.names == most_variable_together(samples, common, 9, section=by_section)
    assert len(panel) == 9
    assert (panel.fold_case, panel.n_common) == (True, 45)
    for sdata, change in zip(samples, (str, str.lower), strict=True):
        var = sdata["table"].var
        assert set(var.index[var["spade_gene"]]) == set(map(change, panel.names))
        facts = sdata["table"].uns["spade"]["spade_gene"]
        assert (facts["method"], facts["fold_case"], facts.get("by_section", False)) == ("seal", True, by_section)


def test_genes_that_vary_between_sections_alone_are_not_chosen_by_section():
    rng = np.random.default_rng(0)
    genes = tuple(f"G{i:03d}" for i in range(300))
    samples = [section("a", genes), section("b", genes)]
    for sdata, rate in zip(samples, (20.0, 40.0), strict=True):
        counts = rng.poisson(30, (36, 300)).astype(float)
        counts[:, 17] = rng.poisson(rate, 36)
        counts[:, 23] = rng.permutation(np.repeat([10.0, 50.0], 18))
        sdata["table"].X = csr_matrix(counts, dtype=np.float32)
    options = SEAL | {"n_top_genes": 20}
    assert {"G017", "G023"} <= set(sp.pp.select_genes(samples, **options).names)
    assert {"G017", "G023"} & set(sp.pp.select_genes(samples, by_section=True, **options).names) == {"G023"}


def test_seal_asks_for_2000_genes_and_drops_those_hardly_found():
    sdata = section("a")
    counts = sdata["table"].X.toarray()
    counts[:, :3] = 0
    counts[0, 1], counts[:3, 2] = 2, 1  # 0, 2 and 3 counts in all
    sdata["table"].X = csr_matrix(counts)
    panel = sp.pp.select_genes(sdata, method="seal")
    assert panel.names == GENES[2:]
    assert sdata["table"].uns["spade"]["spade_gene"]["n_top_genes"] == 2000


def test_control_probes_are_dropped_and_named(caplog):
    samples = [section(name, (*GENES[:48], *CONTROLS), seed) for seed, name in enumerate("ab")]
    with caplog.at_level(logging.INFO, logger="spade"):
        panel = sp.pp.select_genes(samples, **SEAL | {"n_top_genes": 500})
    assert panel.names == GENES[:48]
    assert panel.n_common == 48
    assert "a: 12 control probes dropped: 'BLANK_0006'" in caplog.text
    assert panel.names == sp.pp.select_genes(samples, **SEAL | {"n_top_genes": 500, "fold_case": False}).names
    assert sp.pp.select_genes(samples, **FEW | {"n_top_genes": 500}).n_common == 60


@pytest.mark.parametrize(
    "gene", ["NEGR1", "blanks", "Nelfe", "NEGATIVE", "SYS1", "BLNK", "FALZ", "ANTISENSE1", "NRG1", "ERCC1", "SCRIB-AS1"]
)
def test_genes_that_sound_like_control_probes_stay(gene):
    assert not is_control(gene)
    assert not is_control(gene.upper())


def test_genes_whose_names_become_equal_are_dropped_from_all(caplog):
    samples = [section("a"), section("b", (*GENES[:59], "g07"), 1)]
    with (
        warns_here(r"b: 2 genes are dropped because their names are equal in upper case: 'G07', 'g07'\."),
        caplog.at_level(logging.INFO, logger="spade"),
    ):
        panel = sp.pp.select_genes(samples, **SEAL | {"n_top_genes": 500})
    assert panel.names == tuple(name for name in GENES[:59] if name != "G07")
    assert not samples[0]["table"].var.loc["G07", "spade_gene"]
    assert not samples[1]["table"].var.loc[["G07", "g07"], "spade_gene"].any()


def test_case_is_folded_as_asked_for_either_rule():
    samples = [section("a"), lower(section("b", seed=1))]
    with pytest.raises(ValueError, match=r"only 0 gene names in common.*Names are matched exactly\."):
        sp.pp.select_genes(samples, fold_case=False, **SEAL)
    panel = sp.pp.select_genes(samples, fold_case=True, **FEW)
    upper = [section("a"), section("b", seed=1)]
    assert panel.names == sp.pp.select_genes(upper, **FEW).names
    with pytest.raises(ValueError, match=r"only 0 gene names in common.*Names are matched in upper case;"):
        sp.pp.select_genes([section("a"), section("mouse", MOUSE)], **SEAL)


def test_seal_leaves_out_samples_that_do_not_fit():
    samples = [section("a"), section("mouse", MOUSE, 1), section("b", seed=2)]
    with warns_here("mouse: left out of gene selection and training"):
        panel = sp.pp.select_genes(samples, on_few_common="drop", **SEAL)
    assert panel.dropped == ("mouse",)
    assert panel.names == most_variable_together([samples[0], samples[2]], GENES, 12)
    assert not samples[1]["table"].var["spade_gene"].any()


@pytest.mark.parametrize("method", ["spade", "seal"])
def test_only_training_spots_take_part(method):
    samples = [section("a"), section("b", seed=1), section("c", seed=2)]
    rows = [np.arange(36) % 3 > 0, np.arange(36) < 20, np.zeros(36, dtype=bool)]
    for sdata, train in zip(samples, rows, strict=True):
        sdata["table"].obs["fold"] = np.where(train, "train", "test")
    empty_rows(samples[0], [0])  # a test spot, of which nothing need be said
    options = {"method": method, "n_top_genes": 12, "min_genes": 20}
    panel = sp.pp.select_genes(samples, split_key="fold", **options)
    trained = [section("a"), section("b", seed=1)]
    for sdata, train in zip(trained, rows, strict=False):
        sdata.tables["table"] = sdata["table"][train].copy()
    assert panel.names == sp.pp.select_genes(trained, **options).names
    assert samples[2]["table"].var["spade_gene"].sum() == len(panel)
    assert panel.names != sp.pp.select_genes(samples[1:], **options).names
    with pytest.raises(ValueError, match=r"split_key='fold': no spot of any sample is in 'train'"):
        sp.pp.select_genes(samples[2], split_key="fold", **options)
    with pytest.raises(KeyError, match="split_key='mine' is not in obs"):
        sp.pp.select_genes(samples, split_key="mine", **options)


def test_a_section_of_one_spot_has_no_variance_of_its_own():
    sdata = section("a", n=36)
    rest = tiny(36, name="b", seed=1)
    rest["table"].obs["fold"] = ["train"] * 2 + ["test"] * 34
    sdata["table"].obs["fold"] = "train"
    assert len(sp.pp.select_genes([sdata, rest], split_key="fold", by_section=True, **SEAL)) == 12
    parts = [
        SectionCounts(csr_matrix(np.ones((n, 2))), np.array([9.0, 9]), np.array([name] * n))
        for n, name in ((3, "x"), (1, "y"))
    ]
    with pytest.raises(
        ValueError, match="by_section=True: y has a single spot with counts, so no gene varies within it"
    ):
        variable_together(parts, GenePanel(("a", "b")), 1, by_section=True)


def test_seal_from_stores_is_the_same(tmp_path):
    samples = [section("a"), lower(section("b", seed=1))]
    paths = [tmp_path / f"{name}.zarr" for name in "ab"]
    for sample, path in zip(samples, paths, strict=True):
        sp.io.write(sample, path)
    assert sp.pp.select_genes(paths, **SEAL) == sp.pp.select_genes(samples, **SEAL)
    for sample, path in zip(samples, paths, strict=True):
        stored = read_zarr(path)["table"]
        assert stored.var.equals(sample["table"].var)
        assert stored.uns["spade"] == sample["table"].uns["spade"]


def test_shapes_play_no_part():
    sdata = section("a")
    sdata.shapes["spots"] = circles(square_lattice(3), ids=["x", "y", "z"])
    assert len(sp.pp.select_genes(sdata, **FEW)) == 8
