"""Panels of genes that are hardly expressed, and experts with few spots, are said."""

from __future__ import annotations

import logging
import warnings

import numpy as np
import pytest
from helpers.sections import featured, train
from scipy.sparse import csr_matrix

import spade as sp


def with_rare(n_rare):
    """A section in which the first genes are found in two spots each."""
    sdata = featured()
    counts = sdata["table"].X.toarray()
    counts[:, :n_rare] = 0
    for gene in range(n_rare):
        counts[[gene % 36, (gene + 7) % 36], gene] = 9
    sdata["table"].X = csr_matrix(counts)
    return sdata


def said(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(one.message) for one in caught if "hardly" in str(one.message) or "of the panel" in str(one.message)]


@pytest.mark.parametrize("method", ["spade", "seal"])
def test_a_panel_of_rare_genes_is_warned_of(method, caplog):
    with caplog.at_level(logging.INFO, "spade"):
        (message,) = said(lambda: sp.pp.select_genes(with_rare(60), method=method, min_genes=5, n_top_genes=60))
    assert message.startswith("60 of the 60 genes chosen have counts in fewer than 1% of the spots, or in fewer than 3")
    assert "n_top_genes" in message


@pytest.mark.parametrize("method", ["spade", "seal"])
def test_some_rare_genes_are_logged(method, caplog):
    with caplog.at_level(logging.INFO, "spade"):
        assert not said(lambda: sp.pp.select_genes(with_rare(3), method=method, min_genes=5, n_top_genes=60))
    assert "3 of the 60 genes chosen have counts in fewer than 5% of the spots, or in fewer than 3" in caplog.text
    assert "'G00', 'G01', 'G02'" in caplog.text


def test_genes_in_few_of_many_spots_are_named_the_rarest_first(caplog):
    sdata = sp.datasets.toy(1, 200)[0]
    counts = sdata["table"].X.toarray() + 1
    counts[8:, 0], counts[4:, 1], counts[12:, 2] = 0, 0, 0  # in 4 %, 2 % and 6 % of the spots
    sdata["table"].X = csr_matrix(counts)
    names = sdata["table"].var_names
    with caplog.at_level(logging.INFO, "spade"):
        assert not said(lambda: sp.pp.select_genes(sdata, min_genes=5, include=names[:3]))
    assert "2 of the 53 genes chosen" in caplog.text
    assert f"the rarest first: {names[1]!r}, {names[0]!r}" in caplog.text


def test_genes_are_counted_over_all_samples(caplog):
    with caplog.at_level(logging.INFO, "spade"):
        sp.pp.select_genes([with_rare(3), featured(name="b", seed=1)], min_genes=5, n_top_genes=60)
    assert "chosen have counts" not in caplog.text


def test_common_genes_are_not_told(caplog):
    with caplog.at_level(logging.INFO, "spade"):
        assert not said(lambda: sp.pp.select_genes(featured(), min_genes=5, n_top_genes=60))
    assert "chosen have counts" not in caplog.text


def test_experts_with_few_spots_are_warned_of():
    with pytest.warns(UserWarning, match=r"experts 0, 1 have fewer than 20 spots to train on \(18, 18\).*n_experts="):
        train([featured()], n_prototypes=2, n_experts=2)


def test_experts_with_enough_spots_are_not(recwarn):
    train([featured(name=name, seed=seed) for seed, name in enumerate("ab")], n_prototypes=2, n_experts=2)
    assert not [one for one in recwarn if "spots to train on" in str(one.message)]


def test_an_empty_expert_is_named_once():
    sdata = featured()
    routing = sp.tl.cluster_experts([sdata], use_rep="X_f", n_prototypes=2, n_experts=2)
    near = featured(name="b", seed=1)
    x = near["table"].obsm["X_f"]
    near["table"].obsm["X_f"] = x - 6.0 * (np.arange(36) % 2)[:, None].astype(np.float32)
    with pytest.warns(UserWarning, match="no training spots") as caught:
        train([near], routing=routing)
    assert not [one for one in caught if "spots to train on" in str(one.message)]
