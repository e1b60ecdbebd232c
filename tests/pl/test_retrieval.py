"""Search results on the tissue."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.plots import spots_of
from helpers.sections import through_csv
from matplotlib.colors import to_rgba

import spade as sp
from spade.pl._draw.axes import GREY


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


def test_a_section_without_any_of_the_best_is_drawn_in_grey(cohort, model):
    signature = list(model.genes.names[:3])
    everything = sp.tl.retrieve(signature, cohort, model, k=None)
    best = everything.head(4)
    first = best["section"].iloc[0]
    found = best[best["section"] == first].assign(rank=lambda table: np.arange(1, len(table) + 1))
    axes = dict(zip(("toy_0", "toy_1"), sp.pl.retrieval(found, cohort), strict=True))
    grey = to_rgba(GREY)
    for name, ax in axes.items():
        n = len(found) if name == first else 0
        spots = spots_of(ax)
        assert ax.get_title(loc="left") == f"{name} ({80 - n} of 80 spots without a score)"
        assert spots.get_array().count() == n
        assert sum(tuple(edge) == grey for edge in spots.get_edgecolors()) == 80 - n
    scores = spots_of(axes[first]).get_array().compressed()
    assert sorted(scores) == pytest.approx(sorted(found["score"]))
    # the default k, as users call it
    assert sp.pl.retrieval(sp.tl.retrieve(signature, cohort, model, k=1), cohort).shape == (2,)
    # sections that are not drawn say that this is another gallery
    with pytest.raises(KeyError, match=rf"no score for 'toy_[01]'; its sections: '{first}'.*search with k=None"):
        sp.pl.retrieval(found, [one for one in cohort if one.attrs["spade"]["sample"] != first])
    with pytest.raises(KeyError, match=r"no score for 'toy_1'; its sections: '(toy_0|other)', '(toy_0|other)'"):
        sp.pl.retrieval(everything.replace({"section": {"toy_1": "other"}}), cohort)


def test_the_colours_of_scores_end_at_percentiles_and_say_so(cohort, model):
    found = sp.tl.retrieve(list(model.genes.names[:3]), cohort, model, k=None)
    last = sp.pl.retrieval(found, cohort)[-1]
    spots = spots_of(last)
    assert spots.get_clim() == pytest.approx(np.percentile(found["score"], [1, 99]))
    assert (spots.cmap.name, spots.colorbar.extend, spots.get_linewidth()[0] > 0) == ("magma", "both", True)
    assert (np.asarray(spots.get_edgecolors())[:, 3] == 0).all()  # all have a score
    middle = float(found["score"].median())
    other = spots_of(sp.pl.retrieval(found, cohort, cmap="cividis", vmin="p0", vmax=middle, size=2, alpha_img=0)[-1])
    assert (other.cmap.name, other.colorbar.extend, other.get_clim()[1]) == ("cividis", "max", middle)
    np.testing.assert_allclose(other.get_widths(), 2 * spots.get_widths())


def test_settings_of_the_other_kind_of_query_are_refused(cohort, model):
    found = sp.tl.retrieve(list(model.genes.names[:3]), cohort, model, k=None)
    for option in ({"n_queries": 2}, {"n_patches": 3}, {"query_samples": cohort}):
        with pytest.raises(ValueError, match=rf"{next(iter(option))}=.*: the query is a signature"):
            sp.pl.retrieval(found, cohort, **option)
    pairs = sp.tl.retrieve(cohort[0], cohort, model, spots=list(cohort[0]["table"].obs_names[:2]), k=2)
    for option in ({"cmap": "magma"}, {"vmin": 0}, {"size": 2}, {"alpha_img": 1}):
        with pytest.raises(ValueError, match=rf"{next(iter(option))}=.*: the queries are spots"):
            sp.pl.retrieval(pairs, cohort, **option)
