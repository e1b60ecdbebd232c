"""Scatter plots of embeddings."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
from helpers.plots import labels_of
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex, to_rgba

import spade as sp
from spade._samples.shown.colours import SAFE
from spade.tl._embedding.umap import UmapSettings


def points_of(ax):
    (points,) = [c for c in ax.collections if isinstance(c, PathCollection)]
    return points


@pytest.mark.slow
def test_embedding_panels_are_expert_domain_and_sample(embedded):
    before = [list(s["table"].obsm) for s in embedded]
    axes = sp.pl.embedding(embedded)
    assert [ax.get_title(loc="left") for ax in axes] == ["expert", "domain", "sample"]
    assert [list(s["table"].obsm) for s in embedded] == before
    for ax in axes:
        assert len(points_of(ax).get_offsets()) == 160
    assert labels_of(axes[2]) == ["toy_0 (80)", "toy_1 (80)"]
    again = sp.pl.embedding(embedded, color="sample")
    np.testing.assert_array_equal(points_of(again).get_offsets(), points_of(axes[2]).get_offsets())


def test_a_basis_of_width_two_is_drawn_as_it_is_in_the_right_colours(cohort, caplog):
    for i, sdata in enumerate(cohort):
        xy = np.random.default_rng(i).normal(size=(80, 2)).astype(np.float32)
        xy[:3] = np.nan
        sdata["table"].obsm["X_two"] = xy
    cohort[1]["table"].obs["domain"] = cohort[1]["table"].obs["domain"].where(np.arange(80) != 5)
    with caplog.at_level(logging.INFO, logger="spade"):
        axes = sp.pl.embedding(cohort, basis="X_two", color=["domain", "inflammation"])
    assert "6 of 160 rows have NaN in obsm['X_two']" in caplog.text
    assert axes[0].get_title(loc="left") == "domain (6 rows with NaN not shown)"
    assert axes[0].get_xlabel() == "X_two 1"
    expected = {}
    for sdata in cohort:
        table = sdata["table"]
        for xy, code, value in zip(
            table.obsm["X_two"][3:], table.obs["domain"].cat.codes[3:], table.obs["inflammation"][3:], strict=True
        ):
            expected[tuple(xy.tolist())] = (to_rgba(SAFE[code]) if code >= 0 else to_rgba("#d0d0d0"), value)
    xy = [tuple(np.float32(p).tolist()) for p in points_of(axes[0]).get_offsets()]
    assert sorted(xy) == sorted(expected)
    assert [tuple(c) for c in points_of(axes[0]).get_facecolors()] == [expected[p][0] for p in xy]
    np.testing.assert_allclose(points_of(axes[1]).get_array(), [expected[p][1] for p in xy])
    assert points_of(axes[1]).colorbar.ax.get_ylabel() == "inflammation"
    assert labels_of(axes[0])[-1] == "missing (1)"


def test_colours_of_uns_are_kept(cohort):
    table = cohort[0]["table"]
    table.obsm["X_two"] = np.random.default_rng(0).normal(size=(80, 2)).astype(np.float32)
    table.uns["organ_colors"] = ["#112233", "#445566"]
    ax = sp.pl.embedding(cohort[0], basis="X_two", color="organ")
    assert {to_hex(c) for c in points_of(ax).get_facecolors()} == {"#112233"}


def test_colours_of_uns_count_only_if_there_is_one_for_every_category(cohort):
    table = cohort[0]["table"]
    table.obsm["X_two"] = np.random.default_rng(0).normal(size=(80, 2)).astype(np.float32)
    table.obs["kind"] = pd.Categorical(np.where(np.arange(80) % 2, "1", "2"), categories=["0", "1", "2"])
    table.uns["kind_colors"] = ["#111111", "#222222", "#333333"]
    table.obs["kind"] = table.obs["kind"].cat.remove_unused_categories()
    ax = sp.pl.embedding(cohort[0], basis="X_two", color="kind")
    assert not {to_hex(c) for c in points_of(ax).get_facecolors()} & {"#111111", "#222222", "#333333"}


def test_samples_of_one_name_are_refused(cohort):
    cohort[1].attrs["spade"] = {**cohort[1].attrs["spade"], "sample": cohort[0].attrs["spade"]["sample"]}
    for sdata in cohort:
        sdata["table"].obsm["X_two"] = np.random.default_rng(0).normal(size=(80, 2)).astype(np.float32)
    with pytest.raises(ValueError, match="two samples are named"):
        sp.pl.embedding(cohort, basis="X_two", color="sample")


def test_settings_of_umap_are_refused_where_there_is_none(cohort):
    for sdata in cohort:
        sdata["table"].obsm["X_two"] = np.random.default_rng(0).normal(size=(80, 2)).astype(np.float32)
    for option in ({"n_neighbors": 5}, {"min_dist": 0.1}, {"metric": "cosine"}):
        with pytest.raises(ValueError, match=rf"{next(iter(option))}=.*: basis='X_two' has two columns"):
            sp.pl.embedding(cohort, basis="X_two", **option)
    assert sp.pl.embedding(cohort, basis=("X_two", "X_texture"), color="domain", n_neighbors=5).shape == (1, 2)


def test_embedding_errors(embedded):
    with pytest.raises(KeyError, match=r"toy_0: basis='X_no' is not in obsm; keys: .*'X_spade'.*sp\.tl\.embed"):
        sp.pl.embedding(embedded, basis="X_no")
    with pytest.raises(KeyError, match=r"color='no' is neither a column of obs nor a gene.*obs: .*'domain'"):
        sp.pl.embedding(embedded, color=["domain", "no"])
    with pytest.raises(KeyError, match=r"key='mine': .*there: 'spade_expert'"):
        sp.pl.embedding(embedded, key="mine", color="expert")
    with pytest.raises(ValueError, match=r"color= is empty: name some"):
        sp.pl.embedding(embedded, color=[])
    embedded[0]["table"].obsm["X_spade"] = np.full((80, 256), np.nan, dtype=np.float32)
    with pytest.raises(ValueError, match=r"basis='X_spade' has 0 rows without NaN of 80; at least 10"):
        sp.pl.embedding(embedded[0])
    embedded[0]["table"].obsm["X_spade"] = np.zeros((80, 3), dtype=np.float32)
    with pytest.raises(ValueError, match=r"differs in width between samples \(toy_0: \d+, toy_1: \d+\)"):
        sp.pl.embedding(embedded)


def test_genes_palettes_and_sizes_are_scanpys(cohort):
    table = cohort[0]["table"]
    table.obsm["X_two"] = np.random.default_rng(0).normal(size=(80, 2)).astype(np.float32)
    domains = list(table.obs["domain"].cat.categories)
    gene = table.var_names[3]
    axes = sp.pl.embedding(
        cohort[0], basis="X_two", color=["domain", gene, "sample"], palette=dict.fromkeys(domains, "#123456"),
        groups=domains[:1], cmap="magma", vmax=2, size=7, ncols=2, figsize=(8, 7),
    )  # fmt: skip
    domain, expression, _ = axes
    n = int((table.obs["domain"] == domains[0]).sum())
    assert labels_of(domain) == [f"{domains[0]} ({n})", f"not in groups ({80 - n})"]
    assert {to_hex(c) for c in points_of(domain).get_facecolors()} == {"#123456", "#d0d0d0"}
    assert set(points_of(domain).get_sizes()) == {7}
    points = points_of(expression)
    counts = table.X.toarray()
    known = np.log1p(1e4 * counts[:, 3] / counts.sum(1))
    assert sorted(points.get_array()) == pytest.approx(sorted(known))
    assert (points.cmap.name, points.get_clim()[1]) == ("magma", 2)
    assert domain.figure.get_size_inches().tolist() == [8, 7]
    assert len({round(ax.get_position().y0, 3) for ax in axes}) == 2
    assert sp.pl.embedding(cohort[0], basis="X_two", color=gene, return_fig=True).axes[0].get_title(loc="left") == gene


def test_two_representations_stand_side_by_side_with_lines_between_the_same_spots(cohort):
    rng = np.random.default_rng(0)
    places = []
    for sdata in cohort:
        first, second = rng.normal(size=(2, 80, 2)).astype(np.float32)
        second[4] = np.nan
        sdata["table"].obsm["X_one"], sdata["table"].obsm["X_other"] = first, second
        places += list(zip(map(tuple, first), map(tuple, second), strict=True))
    axes = sp.pl.embedding(cohort, basis=("X_one", "X_other"), color=["domain", "sample"], n_links=12)
    assert axes.shape == (2, 2)
    titles = [[ax.get_title(loc="left") for ax in row] for row in axes]
    assert titles[1] == ["sample: X_one (2 rows with NaN not shown)", "sample: X_other"]
    for left, right in axes:
        assert len(points_of(left).get_offsets()) == len(points_of(right).get_offsets()) == 158
        assert left.get_legend() is None
        assert right.get_legend() is not None
        links = [one for one in right.get_children() if one.get_gid() == "link"]
        assert len({(tuple(one.xy1), tuple(one.xy2)) for one in links} & set(places)) == 12
    assert not [one for one in sp.pl.embedding(cohort, basis=("X_one", "X_other"), n_links=0)[0, 1].get_children()
                if one.get_gid() == "link"]  # fmt: skip
    with pytest.raises(ValueError, match=r"n_links=3: one basis has nothing to link"):
        sp.pl.embedding(cohort, basis="X_one", n_links=3)
    with pytest.raises(ValueError, match=r"expected one key of obsm, or two different ones"):
        sp.pl.embedding(cohort, basis=["X_one", "X_one"])


@pytest.mark.slow
def test_what_tl_umap_wrote_is_drawn_until_the_source_or_the_settings_change(embedded, monkeypatch):
    sp.tl.umap(embedded)
    stored = np.concatenate([sdata["table"].obsm["X_spade_umap"] for sdata in embedded])
    computed, umap = [], UmapSettings._umap
    monkeypatch.setattr(UmapSettings, "_umap", lambda self, x: computed.append(len(x)) or umap(self, x))

    def drawn(samples, **options):
        return points_of(sp.pl.embedding(samples, color="sample", **options)).get_offsets()

    rows = np.lexsort(stored.T)
    np.testing.assert_array_equal(np.sort(drawn(embedded)[:, 1]), np.sort(stored[:, 1]))
    np.testing.assert_array_equal(drawn(embedded)[np.lexsort(drawn(embedded).T)], stored[rows])
    assert not computed
    drawn(embedded[0])  # other samples
    drawn(embedded, n_neighbors=10)
    embedded[1]["table"].obsm["X_spade"][3] += 1
    drawn(embedded)
    assert computed == [80, 160, 160]
    axes = sp.pl.embedding(embedded, basis=("X_spade_image", "X_spade_expression"), color="domain")
    links = [one for one in axes[0, 1].get_children() if one.get_gid() == "link"]
    assert len(links) == 50
    turned = (np.asarray(points_of(ax).get_offsets()) for ax in axes[0, ::-1])
    a, b = (xy - xy.mean(0) for xy in turned)
    u, _, v = np.linalg.svd(a.T @ b)
    np.testing.assert_allclose(u @ v, np.eye(2), atol=1e-5)  # no turn brings them nearer
