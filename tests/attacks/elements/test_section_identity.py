"""Objects without a recorded name, with equal barcodes: a section is the same in every order and subset of a list."""

from __future__ import annotations

import numpy as np
import pytest

import spade as sp


@pytest.fixture
def nameless():
    """Three sections of a reader that records no name, with the same barcodes."""
    samples = sp.datasets.toy(3, 40)
    for sdata in samples:
        table = sdata["table"]
        names = [f"AAAC{i:03}-1" for i in range(40)]
        sdata.shapes["spots"].index = names
        table.obs["spot_id"], table.obs_names = names, names
        sdata.attrs["spade"] = {key: value for key, value in sdata.attrs["spade"].items() if key != "sample"}
    return samples


def prepared(samples):
    for sdata in samples:  # one by one, as in a loop over readers
        sp.pp.patches(sdata)
        sp.pp.encode_patches(sdata)
    genes = sp.pp.select_genes(samples)
    return sp.tl.train_spade(samples, use_rep="X_texture", genes=genes, n_prototypes=2, n_experts=2, n_epochs=1)


def test_scores_are_drawn_on_their_own_section(nameless):
    model = prepared(nameless)
    gene = model.genes.names[0]
    found = sp.tl.retrieve({gene: 1.0}, nameless, model, k=None)
    names = [sdata.attrs["spade"]["sample"] for sdata in nameless]
    assert len(set(names)) == 3
    for order in ([1, 2], [2, 0], [2]):
        chosen = [nameless[i] for i in order]
        axes = sp.pl.retrieval(found, chosen)
        for ax, i in zip(axes, order, strict=True):
            assert names[i] in ax.get_title(loc="left")
            drawn = np.ma.getdata(ax.collections[-1].get_array())
            expected = found[found["sample"] == names[i]].set_index("spot")["score"]
            np.testing.assert_allclose(drawn, expected.reindex(nameless[i]["table"].obs_names).to_numpy())


def test_a_section_that_is_not_in_the_table_is_refused(nameless):
    model = prepared(nameless)
    gene = model.genes.names[0]
    found = sp.tl.retrieve({gene: 1.0}, nameless[:2], model, k=None)
    with pytest.raises(KeyError, match=r"the table has no score for 'sample [0-9a-f]{6}'"):
        sp.pl.retrieval(found, nameless[2])


def test_the_name_outlives_changes_of_the_content(nameless):
    first = nameless[0]
    sp.pp.patches(first)
    name = first.attrs["spade"]["sample"]
    first.tables["table"] = first["table"][5:30, :100].copy()
    sp.pp.encode_patches(first)
    assert first.attrs["spade"]["sample"] == name


def test_two_objects_of_the_same_content_are_refused(nameless):
    again = sp.datasets.toy(3, 40)[0]
    names = [f"AAAC{i:03}-1" for i in range(40)]
    again.shapes["spots"].index = names
    again["table"].obs["spot_id"], again["table"].obs_names = names, names
    del again.attrs["spade"]["sample"]
    for sdata in (nameless[0], again):
        sp.pp.patches(sdata)
        sp.pp.encode_patches(sdata)
    with pytest.raises(ValueError, match="two sections are named 'sample"):
        sp.tl.few_shot([nameless[0], again], label_key="domain", use_rep="X_texture", shots=1)


@pytest.mark.parametrize("values", [["tumour"] * 40, [None] * 40, ["toy_0_spots"] + ["tumour"] * 39])
def test_rows_of_no_region_are_not_left_out_in_silence(nameless, values):
    table = nameless[0]["table"]
    table.obs[table.uns["spatialdata_attrs"]["region_key"]] = values
    with pytest.raises(ValueError, match=r"\d+ of 40 rows of tables\['table'\] have values in obs\['region'\]"):
        sp.pp.patches(nameless[0])
