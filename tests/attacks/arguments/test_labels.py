"""One rule for labels and groups in all functions: what is missing, what is a class, and what the log says of it."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
from geopandas import GeoDataFrame
from helpers.sections import featured, train
from shapely import box

import spade as sp

TEXTS = ["", "   ", "NA", " NA ", "N/A", "n/a", "#N/A", "NaN", "nan", "<NA>", "NULL", "null", None, np.nan, pd.NA]
CLEAN = [["a", "b"][i % 2] for i in range(36)]


def labelled(values, key: str = "site", **kwargs):
    sdata = featured(**kwargs)
    sdata["table"].obs[key] = values
    return sdata


def odd(values, text, rows=(3, 4, 9)):
    values = list(values)
    for row in rows:
        values[row] = text
    return values


def few_shot(sdata):
    table = sp.tl.few_shot(sdata, label_key="site", use_rep="X_f", shots=(1, 2), n_repeats=3)
    return table[["shots", "repeat", "metric", "label", "value"]]


READERS = {
    "few_shot": few_shot,
    "composition": lambda sdata: sp.tl.expert_composition(sdata, by="site", n_boot=20),
    "agreement": lambda sdata: sp.tl.expert_agreement(sdata, label_key="site"),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("as_category", [False, True])
def test_every_missing_text_is_missing(reader, as_category, caplog):
    def result(text):
        values = odd(CLEAN, text)
        sdata = labelled(pd.Categorical(values) if as_category else pd.Series(values, dtype=object).to_numpy())
        sp.tl.cluster_experts(sdata, use_rep="X_f", n_prototypes=4, n_experts=2)
        with caplog.at_level(logging.INFO, "spade"):
            return READERS[reader](sdata)

    expected = result(None)
    assert "read as missing" not in caplog.text
    for text in TEXTS[1:12:3]:
        caplog.clear()
        pd.testing.assert_frame_equal(result(text), expected)
        assert "3 of 36 values" in caplog.text, text


@pytest.mark.parametrize("text", TEXTS)
def test_every_missing_text_has_no_prediction_and_no_class(text):
    sdata = labelled(odd(CLEAN, text))
    sp.tl.annotate(sdata, label_key="site", use_rep="X_f")
    assert sdata["table"].obs["site_predicted"].cat.categories.tolist() == ["a", "b"]
    assert sdata["table"].obsm["site_predicted_probability"].shape == (36, 2)


def test_spaces_do_not_make_a_class(caplog):
    spaced = labelled([value + " " * (i % 3) for i, value in enumerate(CLEAN)])
    pd.testing.assert_frame_equal(few_shot(spaced), few_shot(labelled(CLEAN)))
    sp.tl.annotate(spaced, label_key="site", use_rep="X_f")
    assert spaced["table"].obs["site_predicted"].cat.categories.tolist() == ["a", "b"]


def test_none_is_a_class_and_the_log_says_so(caplog):
    sdata = labelled(odd(CLEAN, "None", range(0, 36, 3)))
    with caplog.at_level(logging.INFO, "spade"):
        sp.tl.annotate(sdata, label_key="site", use_rep="X_f")
    assert sdata["table"].obs["site_predicted"].cat.categories.tolist() == ["None", "a", "b"]
    assert "'None' is read as a value of its own" in caplog.text


@pytest.mark.parametrize("text", ["nan", " ", "NA"])
def test_a_missing_group_is_an_error(text):
    def two():
        parts = [labelled(["p"] * 36, "donor", name="x"), labelled(["q"] * 36, "donor", name="y", seed=1)]
        parts[1]["table"].obs["donor"] = odd(["q"] * 36, text, [5])
        return parts

    for call in (
        lambda: sp.pp.split(two(), groupby="donor"),
        lambda: sp.tl.cluster_experts(two(), use_rep="X_f", groupby="donor", n_prototypes=2, n_experts=2),
        lambda: sp.tl.mixing(two(), use_rep="X_f", groupby="donor"),
        lambda: sp.tl.few_shot(two(), label_key="organ", use_rep="X_f", groupby="donor"),
        lambda: train(two(), groupby="donor"),
    ):
        with pytest.raises(ValueError, match=r"obs\['donor'\] is missing for 1 of 36 spots"):
            call()


def test_groups_with_spaces_are_one_group():
    samples = [labelled(["p"] * 36, "donor", name="x"), labelled(["p "] * 36, "donor", name="y", seed=1)]
    samples.append(labelled(["q"] * 36, "donor", name="z", seed=2))
    sp.pp.split(samples, groupby="donor", fractions=(0.5, 0.5, 0))
    parts = [set(sdata["table"].obs["spade_split"]) for sdata in samples]
    assert parts[0] == parts[1] != parts[2]


def test_roles_are_stripped_and_missing_ones_not_used():
    plain = ["train"] * 30 + ["val"] * 4 + [None] * 2
    spaced = [f" {part} " if part else "nan" for part in plain]
    models = [train(labelled(parts, "part"), split_key="part") for parts in (plain, spaced)]
    assert models[0].id == models[1].id
    panels = [
        sp.pp.select_genes(labelled(parts, "part"), split_key="part", min_genes=5, n_top_genes=5)
        for parts in (plain, spaced)
    ]
    assert panels[0].names == panels[1].names
    tables = [
        sp.tl.retrieval_metrics(labelled(parts, "part"), models[0], split_key="part", part="val")
        for parts in (plain, spaced)
    ]
    pd.testing.assert_frame_equal(*tables)


def test_unknown_parts_are_an_error_in_gene_selection():
    sdata = labelled(["train"] * 30 + ["traim"] * 6, "part")
    with pytest.raises(ValueError, match=r"obs\['part'\] has the values 'traim'"):
        sp.pp.select_genes(sdata, split_key="part", min_genes=5, n_top_genes=5)


def test_tables_and_polygons_follow_the_rule(tmp_path):
    sdata = featured()
    spots = list(sdata["table"].obs["spot_id"])
    frame = pd.DataFrame({"spot": spots, "site": odd(CLEAN, " n/a ")})
    sp.pp.label_patches(sdata, frame)
    assert sdata["table"].obs["site"].isna().sum() == 3
    assert sdata["table"].obs["site"].cat.categories.tolist() == ["a", "b"]
    (tmp_path / "labels.csv").write_text(
        "spot,grade\n" + "".join(f"{s},{'#N/A' if s == 's03' else 2}\n" for s in spots)
    )
    sp.pp.label_patches(sdata, tmp_path / "labels.csv")
    assert sdata["table"].obs["grade"].isna().sum() == 1
    assert sdata["table"].obs["grade"].dropna().unique().tolist() == [2]
    sp.pp.patches(sdata, size_um=40)
    drawn = GeoDataFrame({"label": ["tumour ", "NaN"]}, geometry=[box(0, 0, 400, 200), box(0, 200, 400, 400)])
    sp.pp.label_patches(sdata, drawn)
    assert sdata["table"].obs["label"].dropna().unique().tolist() == ["tumour"]


def test_slides_follow_the_rule():
    samples = [featured(name=f"s{i}", seed=i) for i in range(6)]
    labels = pd.DataFrame({"sample": [f"s{i}" for i in range(6)], "site": ["u", "v ", "u", " v", "u", "N/A"]})
    table = sp.tl.slide_task(
        samples, label_key="site", use_rep="X_f", labels=labels, groupby=None, n_folds=2, head="mean"
    )
    assert set(table["label"]) - {""} <= {"u", "v"}
    assert table["n_classes"].max() == 2


def test_plots_follow_the_rule():
    from spade._samples.open import iter_samples
    from spade._samples.shown.colours import join_columns, read_column

    sdata = labelled(pd.Categorical(odd([f"{value} " for value in CLEAN], "nan"), categories=["nan", "a ", "b "]))
    sdata["table"].uns["site_colors"] = np.array(["#000000", "#ff0000", "#00ff00"])
    (sample,) = iter_samples(sdata)
    column = join_columns("site", [read_column(sample, "site", "spade")])
    assert column.colours == {"a": "#ff0000", "b": "#00ff00"}
    assert (column.values == "").sum() == 3
    sp.tl.annotate(sdata, label_key="site", use_rep="X_f")
    assert sdata["table"].uns["site_predicted_colors"].tolist() == ["#ff0000", "#00ff00"]
