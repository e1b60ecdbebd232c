"""Rows that someone else changes between the first and the second reading: one error, and nothing is written."""

from __future__ import annotations

import importlib

import pytest
from helpers.sections import featured
from spatialdata import read_zarr

import spade as sp

CALLS = {
    "pp._split.split": {"groupby": "patient", "fractions": (0.5, 0.0, 0.5)},
    "pp._genes.select_genes.select_genes": {"min_genes": 5, "n_top_genes": 8},
    "tl._training.cluster_experts.cluster_experts": {"use_rep": "X_f", "n_prototypes": 2, "n_experts": 2},
    "tl._few_shot.annotate.annotate": {"label_key": "organ", "use_rep": "X_f"},
    "tl._slides.attention.attention": {"label_key": "kind", "use_rep": "X_f", "n_epochs": 1, "hidden": 4},
}


def fewer(table):
    return table[2:].copy()


def another_order(table):
    return table[::-1].copy()


def with_a_column(table):
    table.obs["mine"] = 1.0
    return table


def rewrite(path, change):
    """What another program does that knows nothing of locks."""
    sdata = read_zarr(path)
    table = change(sdata["table"])
    sdata.delete_element_from_disk("table")
    del sdata.tables["table"]
    sdata.tables["table"] = table
    sdata.write_element("table")


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    for i, name in enumerate("abc"):
        sdata = featured(name=name, seed=i)
        sdata["table"].obs["kind"] = "xyx"[i]
        sp.io.write(sdata, folder / f"{name}.zarr")
    return [folder / f"{name}.zarr" for name in "abc"]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("change", [fewer, another_order])
def test_nothing_is_written_to_rows_that_were_not_read(stores, call, change, monkeypatch):
    module, _, name = call.rpartition(".")
    module = importlib.import_module(f"spade.{module}")
    opened, done = module.iter_samples, []

    def meanwhile(*args, writes=False, **kwargs):
        if writes and not done:  # all was read; before the first is written, the last changes
            done.append(rewrite(stores[-1], change))
        return opened(*args, writes=writes, **kwargs)

    monkeypatch.setattr(module, "iter_samples", meanwhile)
    before = [read_zarr(path)["table"] for path in stores]
    with pytest.raises(ValueError, match=r"c: the rows of tables\['table'\] were changed by someone else"):
        getattr(module, name)(stores, **CALLS[call])
    assert done
    rewrite(stores[-1], lambda table: before[-1])
    for path, table in zip(stores, before, strict=True):
        now = read_zarr(path)["table"]
        assert list(now.obs) == list(table.obs)
        assert list(now.var) == list(table.var)


def test_columns_that_others_add_meanwhile_are_kept(stores, monkeypatch):
    module = importlib.import_module("spade.pp._split")
    dealt = module._by_group

    def meanwhile(*args):
        rewrite(stores[0], with_a_column)
        return dealt(*args)

    monkeypatch.setattr(module, "_by_group", meanwhile)
    sp.pp.split(stores, groupby="patient", fractions=(0.5, 0.0, 0.5), key_added="other")
    assert {"mine", "other_split"} <= set(read_zarr(stores[0])["table"].obs)
