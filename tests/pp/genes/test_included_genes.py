"""Genes that are in the panel because they were named."""

from __future__ import annotations

import pytest
from helpers.sections import GENES, tiny

import spade as sp

FEW = {"min_genes": 20, "n_top_genes": 8}


def section(name, genes=GENES, seed=0):
    return tiny(36, name=name, genes=genes, seed=seed)


def test_genes_are_included_whether_they_vary_or_not():
    samples = [section("a"), section("b", [name.lower() for name in GENES], seed=1)]
    panel = sp.pp.select_genes(samples, **FEW, fold_case=True)
    absent = next(name for name in GENES if name not in panel.names)
    more = sp.pp.select_genes(samples, **FEW, fold_case=True, include=[absent.lower(), absent, panel.names[0]])
    assert more.names == tuple(sorted({*panel.names, absent}))
    for sample in samples:
        assert sample["table"].var["spade_gene"].sum() == len(panel) + 1
    assert samples[0]["table"].uns["spade"]["spade_gene"]["include"].startswith(f"{absent.lower()}, {absent}, ")


@pytest.mark.parametrize("method", ["spade", "seal"])
def test_an_included_gene_that_a_sample_lacks_is_named(method):
    samples = [section("a"), section("b", GENES[1:])]
    with pytest.raises(ValueError, match=rf"^include: b lacks '{GENES[0]}', or has them only .*harmonize_genes"):
        sp.pp.select_genes(samples, method=method, include=GENES[:2], **FEW)
    with pytest.raises(ValueError, match="include: a lacks 'NONE'; b lacks 'NONE'"):
        sp.pp.select_genes(samples, method=method, include="NONE", **FEW)
    assert "spade_gene" not in samples[0]["table"].var
    for wrong, error in (([], ValueError), ({"a"}, TypeError), (3, TypeError)):
        with pytest.raises(error, match="include"):
            sp.pp.select_genes(samples, method=method, include=wrong, **FEW)
