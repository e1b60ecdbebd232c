"""One naming of genes: ids, symbols, aliases, case, duplicates, orthologues; the shipped table and files."""

from __future__ import annotations

import lzma

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from helpers.sections import tiny, warns_here
from scipy.sparse import csr_matrix
from spatialdata import read_zarr

import spade as sp
from spade.io._genes.shipped import HGNC, MGI, shipped_genes
from spade.io._genes.tables import gene_files

HUMAN = ["TP53", "EPCAM", "VIM", "CD3E", "PTPRC", "COL1A1", "GAPDH", "MKI67"]
MOUSE = ["Trp53", "Epcam", "Vim", "Cd3e", "Ptprc", "Col1a1", "Gapdh", "Mki67"]


def section(genes, name="a", var=None, counts=None):
    """A section whose genes have these names; counts differ between genes."""
    sdata = tiny(6, name=name)
    old = sdata["table"]
    counts = np.arange(6 * len(genes)).reshape(6, -1) if counts is None else counts
    table = AnnData(csr_matrix(counts.astype(np.float32)), obs=old.obs.copy(), uns=dict(old.uns))
    table.var = pd.DataFrame(var or {}, index=list(genes))
    sdata.tables["table"] = table
    return sdata


def told(report):
    """Names, status and reason by name before."""
    return {row.gene: (row.name, row.status, row.reason) for row in report.itertuples(index=False, name="Row")}


def rows(report):
    return [tuple(row) for row in report[["gene", "name", "status", "reason"]].to_numpy()]


def test_ids_symbols_former_symbols_aliases_and_case():
    genes = ["ENSG00000141510.18", "EPCAM", "FAM46C", "HER2", "gapdh", "NoSuchGene", "CD8", "NegControlProbe_00042"]
    sdata = section([*genes, *HUMAN[2:6]])
    before = sdata["table"].X.toarray()
    report = sp.pp.harmonize_genes(sdata)
    expected = [
        ("ENSG00000141510.18", "TP53", "renamed", "Ensembl id"),
        ("EPCAM", "EPCAM", "matched", "symbol"),
        ("FAM46C", "TENT5C", "renamed", "previous symbol"),
        ("HER2", "ERBB2", "renamed", "alias"),
        ("gapdh", "GAPDH", "renamed", "other case"),
        ("NoSuchGene", "NoSuchGene", "missing", "not in the tables"),
        ("CD8", "CD8A", "renamed", "previous symbol"),
        ("NegControlProbe_00042", "NegControlProbe_00042", "missing", "control probe"),
    ]
    assert rows(report)[:8] == expected
    assert (report["sample"] == "a").all()
    table = sdata["table"]
    assert table.var_names.tolist() == report["name"].tolist()
    assert table.var["harmonized_from"].tolist() == report["gene"].tolist()
    np.testing.assert_array_equal(table.X.toarray(), before)
    again = sp.pp.harmonize_genes(sdata)
    assert set(again["status"]) == {"matched", "missing"}
    assert table.var_names.tolist() == again["name"].tolist()


def test_to_ensembl_ids_of_no_version_and_back():
    sdata = section([*HUMAN, "ENSG00000146648.20", "NoSuchGene"])
    report = sp.pp.harmonize_genes(sdata, to="ensembl")
    names = dict(zip(report["gene"], report["name"], strict=True))
    assert names["TP53"] == "ENSG00000141510"
    assert names["ENSG00000146648.20"] == "ENSG00000146648"
    assert names["NoSuchGene"] == "NoSuchGene"
    assert sp.pp.harmonize_genes(sdata)["name"].tolist() == [*HUMAN, "EGFR", "NoSuchGene"]


def test_ids_beside_the_symbols_decide():
    """Space Ranger's ``gene_ids``: an id beats the symbol of an older annotation, whichever version it has."""
    ids = ["ENSG00000141510", "ENSG00000146648.3", "ENSG00000171791", "ENSG00000111640"]
    sdata = section(["P53_old", "EGFR", "BCL2", "GAPDH"], var={"gene_ids": ids})
    assert sp.pp.harmonize_genes(sdata)["name"].tolist() == ["TP53", "EGFR", "BCL2", "GAPDH"]


def test_ids_with_symbols_in_one_sample_name_those_of_another():
    """Genes that no table has, and a species that none is of."""
    ids = [f"ENSRNOG{i:011d}" for i in range(6)]
    known = section([f"Rat{i}" for i in range(6)], "a", var={"gene_ids": ids})
    bare = section([f"{one}.2" for one in ids], "b")
    report = sp.pp.harmonize_genes([known, bare])
    assert bare["table"].var_names.tolist() == known["table"].var_names.tolist() == [f"Rat{i}" for i in range(6)]
    assert (report["status"] == ["matched"] * 6 + ["renamed"] * 6).all()
    human = section(["ENSG00000999999", *HUMAN], "c")
    tells = section(["NEWGENE1", *HUMAN], "d", var={"gene_ids": ["ENSG00000999999.1"] + [""] * 8})
    sp.pp.harmonize_genes([human, tells])
    assert human["table"].var_names[0] == "NEWGENE1"


def test_one_gene_that_is_there_twice_is_added_up():
    genes = ["ENSG00000182378.15", "ENSG00000182378.15_PAR_Y", *HUMAN[:4]]
    sdata = section(genes)
    sdata["table"].layers["double"] = sdata["table"].X * 2
    before = sdata["table"].X.toarray()
    report = sp.pp.harmonize_genes(sdata)
    table = sdata["table"]
    assert table.var_names.tolist() == ["PLCXD1", *HUMAN[:4]]
    np.testing.assert_array_equal(table.X.toarray(), np.column_stack([before[:, :2].sum(1), before[:, 2:]]))
    np.testing.assert_array_equal(table.layers["double"].toarray(), 2 * table.X.toarray())
    assert table.var["harmonized_from"].iloc[0] == "|".join(genes[:2])
    assert report["reason"].tolist()[0] == "Ensembl id; counts of several columns are added up"
    assert len(report) == 6


@pytest.mark.parametrize(
    ("dtype", "value", "sums"),
    [
        ("uint8", 200, "int32"), ("int8", 100, "int32"), ("uint16", 100, "uint16"), ("bool", 1, "int32"),
        ("int32", 2**31 - 1, "int64"), ("float16", 2_047, "float32"), ("float32", 2**24 - 1, "float64"),
        ("float32", 3, "float32"), ("float64", 2**31, "float64"),
    ],
)  # fmt: skip
def test_sums_are_exact_whatever_type_holds_the_counts(dtype, value, sums):
    sdata = section(["ENSG00000182378.15", "ENSG00000182378.15_PAR_Y", "ENSG00000182378.14", *HUMAN[:4]])
    table = sdata["table"]
    table.X = np.full((6, 7), value, dtype)
    table.layers["raw"] = np.full((6, 7), value, dtype)
    sp.pp.harmonize_genes(sdata)
    for matrix in (sdata["table"].X, sdata["table"].layers["raw"]):
        assert matrix.dtype == sums
        np.testing.assert_array_equal(matrix.toarray().astype(float), [[3 * value, *[value] * 4]] * 6)


@pytest.mark.parametrize("key", ["X", "scaled"])
def test_only_counts_are_added_up(key):
    sdata = section(["ENSG00000182378.15", "ENSG00000182378.15_PAR_Y", *HUMAN[:4]])
    table, before = sdata["table"], sdata["table"].X.copy()
    table.layers["scaled"] = before.copy()
    values = csr_matrix(np.log1p(before.toarray()))
    if key == "X":
        table.X = values
    else:
        table.layers[key] = values
    source = "X" if key == "X" else r"layers\['scaled'\]"
    with pytest.raises(
        ValueError, match=rf": {source}: columns of one gene .*'PLCXD1'.* not whole numbers \(such as 0\.69"
    ):
        sp.pp.harmonize_genes(sdata)
    assert sdata["table"].var_names[0] == "ENSG00000182378.15"
    once = section(HUMAN[:4])  # without columns to add up, any values are renamed
    once["table"].X = csr_matrix(np.log1p(once["table"].X.toarray()))
    sp.pp.harmonize_genes(once)


def test_an_unknown_id_does_not_bring_a_former_symbol_back():
    """FAM46C is TENT5C since 2018, whatever id stands beside it in one of the samples."""
    old = section(["FAM46C", *HUMAN], "a", var={"gene_ids": ["ENSG00000999999", *[""] * len(HUMAN)]})
    new, bare = section(["TENT5C", *HUMAN], "b"), section(["FAM46C", *HUMAN], "c")
    sp.pp.harmonize_genes([old, new, bare])
    assert [one["table"].var_names[0] for one in (old, new, bare)] == ["TENT5C"] * 3


def test_nothing_is_guessed_where_names_are_ambiguous():
    report = told(sp.pp.harmonize_genes(section([*HUMAN, "ERBB2", "HER2", "p32", "FRAP1", "FRAP2"])))
    assert report["ERBB2"][:2] == ("ERBB2", "matched")
    assert report["HER2"] == ("HER2", "ambiguous", "alias; ERBB2 is also ERBB2")
    assert report["p32"][:2] == ("p32", "ambiguous")
    assert "alias of " in report["p32"][2]
    assert "CD8A" in report["p32"][2]
    for gene, other in (("FRAP1", "FRAP2"), ("FRAP2", "FRAP1")):  # both are former symbols of MTOR
        assert report[gene] == (gene, "ambiguous", f"previous symbol; MTOR is also {other}")


def test_no_gene_gets_a_name_that_another_one_keeps():
    """The gene called AK3 is AK4 by its id; AK4 is there, so it keeps its name, which no other gene may get."""
    ids = ["ENSG00000162433", "ENSG00000147853", "ENSG00000999999"]
    sdata = section(["AK3", "AK3L1", "AK4", *HUMAN], var={"gene_ids": [*ids, *[""] * len(HUMAN)]})
    before = sdata["table"].X.toarray()
    report = told(sp.pp.harmonize_genes(sdata))
    assert report["AK3"] == ("AK3", "ambiguous", "Ensembl id; AK4 is also AK4")
    assert report["AK3L1"] == ("AK3L1", "ambiguous", "Ensembl id; AK3 is also AK3")
    assert report["AK4"][:2] == ("AK4", "matched")
    np.testing.assert_array_equal(sdata["table"].X.toarray(), before)


def test_two_genes_of_one_name_are_not_added_up():
    """Of MATR3, Cell Ranger has two ids; they have one name already, and stay two columns."""
    ids = ["ENSG00000015479", "ENSG00000280987"]
    sdata = section(["MATR3", "MATR3", "Unknown", "Unknown", *HUMAN],
                    var={"gene_ids": [*ids, "ENSG00000999998", "ENSG00000999997", *[""] * len(HUMAN)]})  # fmt: skip
    before = sdata["table"].X.toarray()
    report = sp.pp.harmonize_genes(sdata)
    assert report["name"].tolist()[:4] == ["MATR3", "MATR3", "Unknown", "Unknown"]
    assert "ambiguous" in report["status"].tolist()[:2]
    np.testing.assert_array_equal(sdata["table"].X.toarray(), before)
    with pytest.raises(ValueError, match=r"gene names occur more than once, such as 'MATR3'"):
        sp.pp.select_genes(sdata, min_genes=1)


def test_mouse_and_human_train_together_on_purpose():
    """Orthologues one to one, also where the symbols differ; genes without one match nothing."""
    human, mouse = section([*HUMAN, "CD8B", "A2M"], "h"), section([*MOUSE, "Cd8b1", "Gm10", "A2M"], "m")
    with pytest.raises(ValueError, match=r"of two species \(h is human and m is mouse\): pass species='human' or"):
        sp.pp.harmonize_genes([human, mouse])
    assert human["table"].var_names[0] == "TP53"
    report = sp.pp.harmonize_genes([human, mouse], species="human")
    assert human["table"].var_names.tolist() == [*HUMAN, "CD8B", "A2M"]
    assert mouse["table"].var_names.tolist()[:9] == [*HUMAN, "CD8B"]
    assert mouse["table"].var_names.tolist()[9:] in (["Gm10 (mouse)", "A2M (mouse)"], ["Gm10 (mouse)", "A2M"])
    of_mouse = report[report["sample"] == "m"].set_index("gene")
    assert of_mouse.loc["Trp53", "reason"] == "orthologue of Trp53"
    assert of_mouse.loc["Gm10", "status"] == "missing"
    assert mouse["table"].uns["spade"]["harmonized_from"]["own_species"] == "mouse"
    back = section([*HUMAN, "CD8B"], "h2")
    sp.pp.harmonize_genes([back], species="mouse", to="ensembl")
    assert back["table"].var_names[0] == "ENSMUSG00000059552"  # Trp53


def test_cohorts_that_do_not_fit_are_told_what_to_do():
    names = [f"{gene}{i}" for gene in HUMAN for i in range(8)]
    human = section(names, "h")
    ids = section([f"ENSG{i:011d}" for i in range(64)], "e")
    mouse = section([name.capitalize() for name in names], "m")
    said = r"e is named by Ensembl ids and h by symbols: sp\.pp\.harmonize_genes\(samples\) gives all one naming"
    with pytest.raises(ValueError, match=said):
        sp.pp.select_genes([human, ids])
    said = r"different species, mouse in m and human in h: .*harmonize_genes\(samples, species='human'\)"
    with pytest.raises(ValueError, match=said):
        sp.pp.select_genes([human, mouse])


@pytest.mark.parametrize(
    ("genes", "options", "error", "message"),
    [
        ([f"G{i}" for i in range(9)], {}, ValueError, r"a: the species is not clear: of 9 genes such as G0, G1, G2, 0"),
        (
            [*(f"ENSG{i:011d}" for i in range(9)), *(f"ENSMUSG{i:011d}" for i in range(3))], {}, ValueError,
            r"a: the sample has genes of two species, 9 Ensembl ids of human and 3 of mouse",
        ),
        (
            [f"ENSRNOG{i:011d}" for i in range(9)], {"species": "human"}, ValueError,
            r"a: its Ensembl ids begin with ENSRNOG; orthologues are known of human and mouse alone",
        ),
        (HUMAN, {"own_species": {"b": "human"}}, KeyError, r"own_species= names 'b', which is no sample; samples: 'a'"),
        (HUMAN, {"tables": "no_such.txt"}, FileNotFoundError, r"tables: there is no file"),
    ],
)  # fmt: skip
def test_what_does_not_fit(genes, options, error, message):
    sdata = section(genes)
    with pytest.raises(error, match=message):
        sp.pp.harmonize_genes(sdata, **options)
    assert sdata["table"].var_names.tolist() == list(genes)


def test_the_species_that_obs_states():
    """As HEST-1k states it: it decides where genes do not tell, and must fit where they do."""
    unclear = section(["NoGene1", "NoGene2", "NoGene3"])
    unclear["table"].obs["species"] = pd.Categorical(["Mus musculus"] * 6)
    with pytest.warns(UserWarning, match="fewer than half of its genes are known"):
        sp.pp.harmonize_genes(unclear)
    assert unclear["table"].uns["spade"]["harmonized_from"]["own_species"] == "mouse"
    wrong = section(HUMAN)
    wrong["table"].obs["species"] = "Mus musculus"
    with pytest.raises(ValueError, match=r"a: obs\['species'\] says mouse, but its genes are of human"):
        sp.pp.harmonize_genes(wrong)
    sp.pp.harmonize_genes(wrong, own_species="human")


def test_mostly_unknown_names_are_warned_of():
    with warns_here("a: fewer than half of its genes are known"):
        sp.pp.harmonize_genes(section(["TP53", *(f"Unknown{i}" for i in range(9))]), own_species="human")


def test_a_store_is_renamed(tmp_path):
    store = tmp_path / "a.zarr"
    section(["FAM46C", "ENSG00000182378.1", "ENSG00000182378.2", *HUMAN]).write(store)
    sp.pp.harmonize_genes(store)
    table = read_zarr(store)["table"]
    assert table.var_names.tolist() == ["TENT5C", "PLCXD1", *HUMAN]
    assert table.var["harmonized_from"].tolist()[1] == "ENSG00000182378.1|ENSG00000182378.2"


# --- files as they are downloaded

COMPLETE = (
    "hgnc_id\tsymbol\tname\tlocus_group\tstatus\talias_symbol\tprev_symbol\tensembl_gene_id\tmgd_id\n"
    'HGNC:1\tAAA1\tfirst\tprotein-coding gene\tApproved\t"A1|A-ONE"\tOLDA\tENSG00000000001\tMGI:11\n'
    "HGNC:2\tBBB1\tsecond\tprotein-coding gene\tApproved\t\t\tENSG00000000002\tMGI:12|MGI:13\n"
    "HGNC:3\tCCC1\tgone\twithdrawn\tEntry Withdrawn\t\t\t\t\n"
)
CUSTOM = (
    "HGNC ID\tApproved symbol\tApproved name\tStatus\tPrevious symbols\tAlias symbols\tEnsembl gene ID\n"
    "HGNC:1\tAAA1\tfirst\tApproved\tOLDA, OLDER\tA1\tENSG00000000001\n"
)
MARKERS = (
    "MGI Accession ID\tChr\tcM Position\tgenome coordinate start\tgenome coordinate end\tstrand\tMarker Symbol\t"
    "Status\tMarker Name\tMarker Type\tFeature Type\tMarker Synonyms (pipe-separated)\n"
    "MGI:11\t1\t1\t1\t2\t+\tAaa1\tO\tfirst\tGene\tprotein coding gene\tOlda|a-one\n"
    "MGI:12\t1\t1\t1\t2\t+\tBbb1\tO\tsecond\tGene\tprotein coding gene\t\n"
    "MGI:13\t1\t1\t1\t2\t+\tBbb2\tO\tsecond\tGene\tprotein coding gene\t\n"
    "MGI:14\t1\t1\t1\t2\t+\tQtl1\tO\tno gene\tQTL\tQTL\t\n"
)
ENSEMBL = "MGI:11\tAaa1\tfirst\t1.0\t1\tENSMUSG00000000001\tENSMUST1\tENSMUSP1\tprotein coding gene\t1\t2\t+\tbiotype\n"
HOMOLOGY = (
    "DB Class Key\tCommon Organism Name\tNCBI Taxon ID\tSymbol\tEntrezGene ID\tMouse MGI ID\tHGNC ID\n"
    "1\tmouse, laboratory\t10090\tAaa1\t1\tMGI:11\t\n1\thuman\t9606\tAAA1\t2\t\tHGNC:1\n"
    "2\tmouse, laboratory\t10090\tBbb1\t3\tMGI:12\t\n2\tmouse, laboratory\t10090\tBbb2\t4\tMGI:13\t\n"
    "2\thuman\t9606\tBBB1\t5\t\tHGNC:2\n"
)
BIOMART = (
    "Gene stable ID,Gene name,Gene Synonym,Mouse gene stable ID,Mouse gene name,Mouse homology type\n"
    "ENSG00000000001,AAA1,OLDA,ENSMUSG00000000001,Aaa1,ortholog_one2one\n"
    "ENSG00000000001,AAA1,A1,ENSMUSG00000000001,Aaa1,ortholog_one2one\n"
    "ENSG00000000002,BBB1,,ENSMUSG00000000002,Bbb1,ortholog_one2many\n"
)


def written(folder, **texts):
    paths = []
    for name, text in texts.items():
        paths.append(folder / f"{name}.txt")
        paths[-1].write_text(text)
    return paths


@pytest.mark.parametrize(
    ("texts", "human", "mouse"),
    [
        ({"complete": COMPLETE, "markers": MARKERS, "ensembl": ENSEMBL}, ["A1", "OLDA"], ["Olda", "a-one"]),
        ({"custom": CUSTOM, "homology": HOMOLOGY}, ["OLDER", "A1"], []),
        ({"biomart": BIOMART}, ["OLDA", "A1"], []),
    ],
)
def test_files_of_hgnc_mgi_and_biomart(tmp_path, texts, human, mouse):
    files = gene_files(written(tmp_path, **texts))
    names = {species: frame.set_index("symbol") for species, frame in files.names.items()}
    assert "CCC1" not in names["human"].index
    assert "Qtl1" not in names["mouse"].index
    row = names["human"].loc["AAA1"]
    assert row["ensembl"] == "ENSG00000000001"
    assert set(human) <= set((row["previous"] + "|" + row["alias"]).split("|"))
    row = names["mouse"].loc["Aaa1"]
    assert row["ensembl"] == ("" if "homology" in texts else "ENSMUSG00000000001")
    assert row["alias"].split("|") == (mouse or [""])
    assert files.orthologues() == {"AAA1": "Aaa1"}  # BBB1 has two


def test_tables_of_the_user_take_the_place_of_the_shipped(tmp_path):
    paths = written(tmp_path, complete=COMPLETE, markers=MARKERS, ensembl=ENSEMBL)
    sdata = section(["Olda", "ENSMUSG00000000001.4", "Bbb1"])
    with warns_here("fewer than half"):
        report = sp.pp.harmonize_genes(sdata, tables=paths, own_species="mouse", species="human")
    assert rows(report) == [
        ("Olda", "Olda (mouse)", "ambiguous", "orthologue of Aaa1; AAA1 is also ENSMUSG00000000001.4"),
        ("ENSMUSG00000000001.4", "ENSMUSG00000000001.4 (mouse)", "ambiguous", "orthologue of Aaa1; AAA1 is also Olda"),
        ("Bbb1", "Bbb1 (mouse)", "missing", "no one-to-one orthologue"),
    ]
    with pytest.raises(ValueError, match=r"no table of gene names is recognised; columns: 'a', 'b'\. Expected HGNC's"):
        sp.pp.harmonize_genes(sdata, tables=str(written(tmp_path, other="a\tb\n1\t2\n")[0]))


def test_the_shipped_tables():
    """Their sources, dates and licences stand in their first lines; facts that are known."""
    for path, source, licence in ((HGNC, "HGNC", "CC0"), (MGI, "Mouse Genome Informatics", "CC BY 4.0")):
        first = lzma.decompress(path.read_bytes()).decode().split("\n", 1)[0]
        assert source in first
        assert "2024" in first
        assert first.endswith(licence)
    files = shipped_genes()
    assert len(files.names["human"]) > 40_000
    assert len(files.names["mouse"]) > 50_000
    assert all(names["symbol"].is_unique for names in files.names.values())
    pairs = files.orthologues()
    assert len(pairs) > 16_000
    known = {"TP53": "Trp53", "CD8B": "Cd8b1", "MT-ND1": "mt-Nd1", "COL1A1": "Col1a1"}
    assert {human: pairs[human] for human in known} == known
    assert set(pairs.values()) <= set(files.names["mouse"]["symbol"])


@pytest.mark.realdata
def test_genes_of_a_real_mouse_section_of_2016(data_dir):
    folder = data_dir / "mob" / "MOB_11"
    sdata = sp.io.read_st(folder / "Rep11_MOB_count_matrix-1.tsv.gz", folder / "11.jpg")
    report = sp.pp.harmonize_genes(sdata)
    counts = report["status"].value_counts()
    assert counts.to_dict() == {"matched": 14_662, "renamed": 1_435, "missing": 92, "ambiguous": 29}
    assert sdata["table"].var_names.is_unique


def test_mouse_genes_by_id_alias_and_former_symbol_and_those_without_orthologue():
    sdata = section([*MOUSE[1:], "ENSMUSG00000059552.5", "Sepp1", "Lor", "Gm20716"], "m")
    of = told(sp.pp.harmonize_genes(sdata))
    assert of["ENSMUSG00000059552.5"] == ("Trp53", "renamed", "Ensembl id")
    assert of["Sepp1"] == ("Selenop", "renamed", "alias")
    assert of["Lor"] == ("Loricrin", "renamed", "previous symbol")
    assert of["Gm20716"] == ("Gm20716", "matched", "symbol")
    of = told(sp.pp.harmonize_genes(section([*MOUSE, "Sepp1", "Gm20716"], "m"), species="human"))
    assert of["Sepp1"][0] == "SELENOP"
    assert of["Gm20716"] == ("Gm20716 (mouse)", "missing", "no one-to-one orthologue")
