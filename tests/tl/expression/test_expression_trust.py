"""Which genes can be predicted, as far as the reference tells."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from conftest import fresh
from helpers.expression import RIDGE, cohort, predicted, truth_of
from helpers.sections import GENES, featured

import spade as sp
from spade.core.expression.correlation import pearson_per_gene


def test_trust_is_what_predicting_each_section_from_the_others_gives(model):
    for settings in ({"model": model}, RIDGE):
        samples = cohort()
        table = sp.tl.expression_trust(samples, **settings).set_index("gene")
        sp.tl.predict_expression(samples, reference=samples, **settings)
        each = np.array([pearson_per_gene(truth_of(one, GENES), predicted(one).to_numpy()) for one in samples])
        np.testing.assert_allclose(table.loc[list(GENES), "pearson"], each.mean(0), atol=1e-5)
        assert (table["low"] <= table["pearson"] + 1e-9).all()
        assert (table["pearson"] <= table["high"] + 1e-9).all()
        assert table["pearson"].is_monotonic_decreasing
        means = [np.concatenate([truth_of(one, GENES) for one in samples if one is not own]).mean(0) for own in samples]
        squared = np.mean([np.square(truth_of(s, GENES) - m).mean(0) for s, m in zip(samples, means, strict=True)], 0)
        np.testing.assert_allclose(table.loc[list(GENES), "rmse_mean"], np.sqrt(squared), atol=1e-5)


def test_trust_of_one_section_is_by_halves_without_interval():
    sample = featured(name="a")
    with pytest.raises(ValueError, match=r"reference: has one section \('a'\) and no patches"):
        sp.tl.expression_trust(sample, alpha=1.0, **RIDGE)
    sp.pp.patches(sample, size_um=40)
    table = sp.tl.expression_trust(sample, alpha=1.0, **RIDGE)
    assert table["low"].isna().all()
    assert (table["n_sections"] == 1).all()
    with pytest.raises(ValueError, match="level=2"):
        sp.tl.expression_trust(sample, level=2, **RIDGE)


def test_the_same_seed_gives_the_same_table(model):
    one, other = (sp.tl.expression_trust(cohort(), model, genes=GENES[:5], rng=3) for _ in range(2))
    pd.testing.assert_frame_equal(one, other)


@pytest.mark.slow
def test_trusted_genes_are_those_with_a_program(toy):
    table = sp.tl.expression_trust([fresh(one) for one in toy], method="ridge", use_rep="X_texture")
    program = toy[0]["table"].var["program"].astype(str)
    own = table.set_index("gene")["pearson"]
    driven = own[program[~program.isin(["housekeeping", *{str(o) for o in toy[0]["table"].obs["organ"].unique()},
                                        *{str(o) for o in toy[1]["table"].obs["organ"].unique()}])].index]  # fmt: skip
    idle = own[program[program == "housekeeping"].index]
    assert driven.mean() > idle.mean() + 0.15
    assert table["low"].notna().all()
