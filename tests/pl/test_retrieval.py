"""Search results on the tissue."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.sections import through_csv

import spade as sp


def test_a_search_from_a_file_is_drawn_alike(cohort, model):
    found = sp.tl.retrieve(list(model.genes.names[:3]), cohort, model, k=None)
    drawn, again = (sp.pl.retrieval(table, cohort) for table in (found, through_csv(found)))
    assert drawn.shape == again.shape == (2,)
    for one, other in zip(drawn, again, strict=True):
        np.testing.assert_allclose(one.collections[0].get_array(), other.collections[0].get_array())


def test_recall_curves_stand_beside_chance_and_control(cohort, model):
    table = sp.tl.retrieval_metrics(cohort, model, k=(20, 1, 5), control=model)
    axes = sp.pl.retrieval_curve(table, galleries=["same_section", "all_spots"])
    assert [ax.get_title(loc="left") for ax in axes] == [
        "image → expression (160 queries)", "expression → image (160 queries)",
    ]  # fmt: skip
    for ax, direction in zip(axes, ("image_to_expression", "expression_to_image"), strict=True):
        own = table[table["direction"] == direction].set_index(["gallery", "k"]).sort_index()
        lines = {line.get_gid(): line for line in ax.lines}
        for gallery in ("same_section", "all_spots"):
            for label, key in (("model", "recall"), ("chance", "chance_recall"), ("control", "control_recall")):
                line = lines.pop(f"{gallery}: {label}")
                assert line.get_xdata().tolist() == [1, 5, 20]
                assert line.get_ydata().tolist() == own.loc[gallery, key].tolist()
        assert not lines
        words = [text.get_text() for text in ax.get_legend().get_texts()]
        assert words == ["same section", "all spots", "model", "chance", "control"]
    plain = sp.pl.retrieval_curve(table.drop(columns=["control_recall", "control_rank"]))
    assert "control" not in [text.get_text() for text in plain[0].get_legend().get_texts()]
    with pytest.raises(KeyError, match=r"galleries: 'mine' is not in the table; galleries: 'all_spots'"):
        sp.pl.retrieval_curve(table, galleries="mine")
