"""Panels whose genes are looked up in upper case: everywhere that reads expression, as if the samples were so named."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict

import numpy as np
import pytest
from helpers.sections import GENES, empty_rows, featured, no_warning, table, train, warns_here
from scipy.sparse import csr_matrix
from spatialdata import SpatialData

import spade as sp
from spade._samples.open import iter_samples
from spade._samples.predicted import read_measured
from spade.models import GenePanel, SpadeModel

PANEL = GenePanel(GENES[:20], fold_case=True)


def lower(sdata):
    """The same sample with its genes written in lower case."""
    sdata["table"].var_names = [name.lower() for name in sdata["table"].var_names]
    return sdata


def samples(change=lambda sdata: sdata, **kwargs):
    return [featured(name="a", **kwargs), change(featured(name="b", seed=1, **kwargs))]


def patched(listed):
    for sdata in listed:
        sp.pp.patches(sdata, size_um=40, size_px=16)
    return listed


def twin(sdata, column=30):
    """Name a gene ``G00``, as the first gene is but for its case."""
    names = sdata["table"].var_names.to_list()
    names[column] = "G00" if names[0] == "g00" else "g00"
    sdata["table"].var_names = names
    return sdata


# --- the panel


def test_names_are_upper_case_and_so_are_those_looked_up():
    panel = GenePanel(("Sox2", "MBP", "x"), fold_case=True)
    assert panel.names == ("SOX2", "MBP", "X")
    assert panel.columns(["mbp", "other", "SoX2"]).tolist() == [2, 0, -1]
    taken, present = panel.take(csr_matrix([[1.0, 2, 3]], dtype=np.float32), ["mbp", "other", "SoX2"])
    np.testing.assert_array_equal(taken.toarray(), [[3, 1, 0]])
    assert present.tolist() == [True, True, False]
    assert GenePanel(("Sox2",)).columns(["SOX2"]).tolist() == [-1]
    with pytest.raises(ValueError, match=r"names occur more than once in the panel, such as \['SOX2'\]"):
        GenePanel(("Sox2", "SOX2"), fold_case=True)


@pytest.mark.parametrize("names", [["Sox2", "SOX2", "Mbp"], ["SOX2", "sox2", "Mbp"]])
def test_a_name_that_two_genes_go_by_is_neither(names):
    assert GenePanel(("SOX2", "MBP"), fold_case=True).columns(names).tolist() == [-1, 2]
    assert GenePanel(("SOX2",)).columns(names).tolist() == [names.index("SOX2")]


def test_panels_of_exact_names_are_stored_as_ever(tmp_path):
    GenePanel(("a", "b"), 7, dropped=("s",)).save(tmp_path / "genes.json")
    stored = json.loads((tmp_path / "genes.json").read_text())
    assert stored == {"names": ["a", "b"], "n_common": 7, "target_sum": 1e4, "dropped": ["s"]}
    assert not GenePanel.load(tmp_path / "genes.json").fold_case
    PANEL.save(tmp_path / "genes.json")
    assert GenePanel.load(tmp_path / "genes.json") == PANEL != GenePanel(PANEL.names)


def test_the_id_of_a_model_with_exact_names_is_what_it_was(tmp_path):
    model = train(samples())
    digest = hashlib.sha256()
    for name, array in sorted(model._arrays().items()):
        digest.update(f"{name}{array.shape}{array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    facts = asdict(model.genes) | {"n_common": 0}
    assert (facts.pop("fold_case"), facts.pop("scale")) == (False, "log1p")
    digest.update(json.dumps([model._settings(), facts]).encode())
    assert model.id == digest.hexdigest()[:12]
    model.save(tmp_path / "model")
    assert set(json.loads((tmp_path / "model" / "genes.json").read_text())) == set(facts)
    assert SpadeModel.load(tmp_path / "model").id == model.id
    other = SpadeModel(
        model.experts, model.routing, config=model.config, genes=PANEL, expression_routing=model.expression_routing
    )
    assert other.id != model.id


# --- training and embedding


def test_a_model_reads_samples_in_any_case_as_if_they_were_in_upper_case(tmp_path):
    upper, mixed = samples(), samples(lower)
    models = [train(listed, genes=PANEL) for listed in (upper, mixed)]
    assert models[0].id == models[1].id
    models[0].save(tmp_path / "model")
    with no_warning():
        for listed in (upper, mixed):
            sp.tl.embed(listed, SpadeModel.load(tmp_path / "model"), genes=PANEL.names)
    for one, other in zip(upper, mixed, strict=True):
        np.testing.assert_array_equal(one["table"].obsm["X_spade"], other["table"].obsm["X_spade"])
    exact = train(upper)
    with pytest.raises(ValueError, match=r"b: only 0 of the model's 20 genes are there .*Names are matched exactly\."):
        sp.tl.embed(mixed[1], exact)
    assert train(mixed, init=models[0], genes=None).genes == PANEL


def test_genes_that_were_marked_are_found_again_by_their_own_names():
    listed = samples(lower)
    panel = sp.pp.select_genes(listed, fold_case=True, n_top_genes=10, min_genes=20)
    assert panel.fold_case
    for sdata in listed:
        var = sdata["table"].var
        assert sorted(map(str.upper, var.index[var["spade_gene"]])) == list(panel.names)
    found = train(listed, genes=None)
    assert found.genes.names == panel.names
    assert found.genes.fold_case


def test_a_dropped_sample_is_left_out_of_training_in_any_case():
    listed = samples(lower)
    panel = GenePanel((*GENES[:20], "OTHER"), dropped=("b",), fold_case=True)
    listed[0]["table"].var_names = [*GENES[:59], "Other"]
    with warns_here("b: left out of training"):
        model = train(listed, genes=panel)
    assert model.facts["samples"] == "a"
    within = GenePanel(GENES[:20], dropped=("b",), fold_case=True)
    with warns_here("b: left out of training"):  # although it has all of these
        assert train(samples(lower), genes=within).facts["samples"] == "a"


def test_ambiguous_genes_are_missing_and_this_is_said():
    model = train(samples(), genes=PANEL)
    odd = twin(lower(featured(name="odd")))
    with pytest.raises(
        ValueError, match=r"odd lacks 1 of 20\. Names are matched in upper case; those that become equal"
    ):
        train([odd], genes=PANEL)
    with warns_here(r"odd: 1 of the model's 20 genes are missing and set to their mean in training: 'G00'"):
        sp.tl.embed(odd, model)


# --- what else reads expression


def test_signatures_are_looked_up_in_upper_case():
    listed = samples(lower)
    model = train(listed, genes=PANEL)
    wanted = [sp.tl.retrieve(signature, listed, model, k=3) for signature in (["g03", "G04"], ["G03", "G04"])]
    assert wanted[0].equals(wanted[1])
    with warns_here("'g99', 'g05', 'G05' of the signature are not among the model's genes"):
        sp.tl.retrieve(["g03", "g99", "g05", "G05"], listed, model, k=3)


def test_expression_is_predicted_and_trusted_alike():
    upper, mixed = patched(samples()), patched(samples(lower))
    tables, kept = [], []
    for listed in (upper, mixed):
        options = {"reference": listed, "method": "ridge", "use_rep": "X_f", "genes": PANEL}
        sp.tl.predict_expression(listed[1], **options)
        kept.append(listed[1]["table"].obsm["X_predicted"])
        assert listed[1]["table"].uns["predicted_genes"].tolist() == list(PANEL.names)
        tables.append(sp.tl.expression_trust(listed, **{k: v for k, v in options.items() if k != "reference"}))
    np.testing.assert_array_equal(*kept)
    assert tables[0].equals(tables[1])
    with pytest.raises(KeyError, match=r"b: genes: .* are not in the table\. Names are matched exactly\."):
        sp.tl.expression_trust(mixed, method="ridge", use_rep="X_f", genes=PANEL.names)


def test_measured_expression_is_drawn_beside_predicted():
    import matplotlib.pyplot as plt

    listed = patched(samples(lower))
    sp.tl.predict_expression(listed[1], reference=listed[:1], method="ridge", use_rep="X_f", genes=PANEL)
    axes = sp.pl.expression(listed[1], ["G03", "G01"])
    assert axes.shape == (2, 2)
    assert axes[0, 0].get_title(loc="left") == "b: G03, measured"
    drawn = axes[0, 0].collections[-1].get_array()
    counts = listed[1]["table"].X.toarray()
    np.testing.assert_allclose(drawn, np.log1p(1e4 * counts[:, 3] / counts.sum(1)), rtol=1e-5)
    plt.close("all")


@pytest.mark.parametrize("protocol", ["hest", "sound"])
def test_benchmarks_find_the_genes(protocol):
    upper, mixed = patched(samples()), patched(samples(lower))
    options = {"use_rep": "X_f", "protocol": protocol, "genes": PANEL}
    found = sp.tl.expression_benchmark(mixed, **options)
    assert found.equals(sp.tl.expression_benchmark(upper, **options))
    with pytest.raises(KeyError, match=r"b: genes: 'G00' are not in the table\. Names are matched in upper case"):
        sp.tl.expression_benchmark([upper[0], twin(mixed[1])], **options)


def test_spots_without_counts_are_still_left_out():
    listed = samples(lower)
    empty_rows(listed[1], [2])
    with warns_here("1 spot without counts is left out of training"):
        train(listed, genes=PANEL)


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
        (["a", "b", "a"], ValueError, r"names occur more than once in the panel, such as \['a'\]"),
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


# --- the scale


def log1p(counts, target_sum=1e4):
    return np.log1p(counts / counts.sum(1, keepdims=True) * target_sum)


@pytest.mark.parametrize(
    ("options", "scaled"),
    [({}, log1p), ({"target_sum": 1e6}, lambda x: log1p(x, 1e6)), ({"scale": "counts"}, lambda x: x)],
    ids=["log1p", "of a million", "counts"],
)
def test_expression_is_read_and_compared_in_the_scale_of_the_panel(options, scaled):
    """Training, prediction from neighbours and from ridge, and what is measured beside a prediction."""
    one, other = samples()
    panel = GenePanel(GENES[:20], **options)
    wanted = [scaled(sdata["table"].X.toarray().astype(float))[:, :20] for sdata in (one, other)]
    model = sp.tl.train_spade(one, use_rep="X_f", genes=panel, n_experts=1, n_epochs=1)
    np.testing.assert_allclose(model.expression_mean, wanted[0].mean(0), rtol=1e-5)
    sp.tl.embed(one, model, key_added="m")
    by_hand = model.encode_expression(wanted[0].astype(np.float32), "uniform")
    np.testing.assert_allclose(one["table"].obsm["X_m_expression"], by_hand, atol=1e-4)
    sp.tl.predict_expression(other, reference=one, method="ridge", use_rep="X_f", genes=panel, alpha=10.0)
    table = other["table"]
    np.testing.assert_allclose(table.obsm["X_predicted"].mean(), wanted[0].mean(), rtol=0.1)
    (sample,) = iter_samples(other)
    measured = read_measured(sample, "predicted", panel.names, None, normalized=False)
    np.testing.assert_allclose(measured, wanted[1], rtol=1e-5)


def test_the_scale_is_saved_and_part_of_the_identity(tmp_path):
    panel = GenePanel(GENES[:20], scale="counts")
    panel.save(tmp_path / "genes.json")
    assert GenePanel.load(tmp_path / "genes.json") == panel
    assert "scale" not in GenePanel(GENES[:20]).facts()
    with pytest.raises(ValueError, match=r"scale='log2'.*'log1p'.*'counts'"):
        GenePanel(GENES[:20], scale="log2")


def test_no_fold_change_is_added_to_counts():
    one, _ = samples()
    model = sp.tl.train_spade(one, use_rep="X_f", genes=GenePanel(GENES[:20], scale="counts"), n_experts=1, n_epochs=1)
    with pytest.raises(ValueError, match="reads raw counts, to which no fold change can be added; search with spots"):
        sp.tl.retrieve({GENES[0]: 2.0}, one, model)


def test_a_panel_and_a_routing_are_shown_in_a_line():
    panel = GenePanel(GENES[:20], n_common=300, dropped=("S9",), scale="counts")
    shown = repr(panel)
    assert shown.startswith("GenePanel: 20 genes of 300 in common, scale='counts': ")
    assert repr(GENES[0]) in shown
    assert GENES[19] not in shown
    assert shown.endswith("… (20 in all); samples left out: 'S9'")
    one, _ = samples()
    routing = sp.tl.cluster_experts(one, use_rep="X_f", n_prototypes=3, n_experts=2)
    n = one["table"].obsm["X_f"].shape[1]
    assert repr(routing) == f"Routing: {n} features -> 3 prototypes -> 2 experts, by distances, temperature 0.1"
