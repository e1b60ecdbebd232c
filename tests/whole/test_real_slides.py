"""Slides, survival and expression on real sections of four patients; what so few cannot tell is made up and said so."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from _sections import TUMOURS, read_bulb, read_tumour

import spade as sp

pytestmark = [pytest.mark.realdata, pytest.mark.slow]


@pytest.fixture(scope="module")
def slides(data_dir):
    """Five bulbs of two animals and three tumours of two patients."""
    bulbs = {name: read_bulb(data_dir / "mob", name) for name in ("11", "01", "02", "03", "04")}
    for name, sample in bulbs.items():
        sample["table"].obs[["patient", "tissue"]] = ["m11" if name == "11" else "m1", "bulb"]
    tumours = {name: read_tumour(data_dir / "her2st", name) for name in TUMOURS}
    for name, sample in tumours.items():
        sample["table"].obs[["patient", "tissue"]] = [name[0], "breast"]
    samples = [*bulbs.values(), *tumours.values()]
    sp.pp.patches(samples)
    sp.pp.encode_patches(samples)
    return samples


@pytest.mark.parametrize("head", ["mean", "abmil", "transmil"])
def test_tissues_of_unseen_patients_are_told_apart(slides, head):
    options = {} if head == "mean" else {"n_epochs": 8, "lr": 1e-3, "hidden": 32, "inner_val": 0}
    table = sp.tl.slide_task(slides, label_key="tissue", use_rep="X_texture", head=head, n_folds=2, **options)
    assert sp.tl.few_shot_summary(table).loc[0, "mean"] > 0.7
    sp.pl.few_shot(table)
    plt.close("all")


def test_attention_is_written_and_drawn(slides):
    found = sp.tl.attention(
        slides, label_key="tissue", use_rep="X_texture", hidden=32, n_epochs=5, lr=1e-3, inner_val=0
    )
    assert len(found) == 8
    for sample in slides:
        weights = sample["table"].obs["tissue_attention"]
        assert weights.sum() == pytest.approx(1, abs=1e-3)
        assert weights.nunique() > 10
    assert sp.pl.attention(slides[-2:], key="tissue_attention").shape == (2, 2)
    plt.close("all")


@pytest.mark.parametrize("options", [{"loss": "nll", "n_bins": 2}, {"loss": "cox"}])
def test_made_up_times_that_follow_the_tissue_are_found(slides, options):
    for i, sample in enumerate(slides):
        breast = sample["table"].obs["tissue"].iloc[0] == "breast"
        sample["table"].obs[["months", "died"]] = [10.0 + i if breast else 50.0 + i, True]
    table = sp.tl.survival(
        slides, time_key="months", event_key="died", use_rep="X_texture", groupby=None, n_folds=2, **options
    )
    risk = table.set_index("patient")["risk"]
    assert len(risk) == 8
    summary = sp.tl.survival_summary(table)
    assert summary.loc[0, "c_index"] > 0.6
    sp.pl.survival(table)
    plt.close("all")


def test_expression_of_another_patient(slides):
    samples = slides[-3:]
    genes = sp.pp.select_genes(samples, n_top_genes=30)
    ridge = {"method": "ridge", "use_rep": "X_texture", "genes": genes, "scaling": "section"}
    trust = sp.tl.expression_trust(samples, **ridge)
    assert trust["pearson"].head(10).mean() > 0.2
    assert (trust["n_sections"].head(10) >= 2).all()
    sp.tl.predict_expression(samples[0], reference=samples[1:], **ridge)
    assert np.isfinite(samples[0]["table"].obsm["X_predicted"]).all()
    assert sp.pl.expression(samples[0], trust["gene"].iloc[:2].tolist()).shape == (2, 2)
    sp.pl.expression_ranking(trust, n_genes=10)
    plt.close("all")
    table = sp.tl.expression_benchmark(samples, use_rep="X_texture", n_genes=20)
    summary = sp.tl.expression_summary(table)
    assert set(summary["protocol"]) == {"hest", "sound"}
    assert (summary["pearson"] > 0).all()
    sp.pl.expression_ranking(table, n_genes=10)
    plt.close("all")
