"""What all plots share: axes, paths, legends, colours and type sizes."""

from __future__ import annotations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from helpers.plots import spots_of
from matplotlib.colors import to_hex
from scipy.sparse import csr_matrix

import spade as sp
from spade._samples.experts import palette


def calls(samples, model):
    return {
        "patches": (lambda **kw: sp.pl.patches(samples, n=2, **kw), 6),
        "expert_clusters": (lambda **kw: sp.pl.expert_clusters(samples, **kw), 4),
        "expert_gallery": (lambda **kw: sp.pl.expert_gallery(samples, experts=one(samples), n_patches=2, **kw), 3),
        "training": (lambda **kw: sp.pl.training(model, **kw), 1),
        "embedding": (lambda **kw: sp.pl.embedding(samples, color=["organ", "domain"], **kw), 2),
    }


def one(samples):
    return [samples[0]["table"].obs["spade_expert"].astype(str).iloc[0]]


@pytest.mark.parametrize("name", ["patches", "expert_clusters", "expert_gallery", "training", "embedding"])
def test_axes_are_used_and_shown_only_if_asked(name, embedded, model, monkeypatch):
    if name == "embedding":
        for sdata in embedded:
            sdata["table"].obsm["X_spade"] = sdata["table"].obsm["X_spade"][:, :2]
    call, n = calls(embedded, model)[name]
    figure, given = plt.subplots(1, n, squeeze=False)
    found = call(ax=given if n > 1 else given[0, 0])
    assert np.ravel(found).tolist() == given.ravel().tolist()
    assert plt.get_fignums() == [figure.number]
    figure.canvas.draw()
    _, wrong = plt.subplots(1, n + 1)
    with pytest.raises(ValueError, match=rf"ax: got {n + 1} Axes for {n} panels: .*leave ax= out"):
        call(ax=wrong)
    with pytest.raises(TypeError, match="ax: got Figure; expected matplotlib Axes, one per panel"):
        call(ax=figure)
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(True))
    call(show=True)
    assert shown == [True]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_paths_are_read_and_left_as_they_are(embedded, tmp_path):
    path = tmp_path / "toy.zarr"
    sp.io.write(embedded[0], path)
    files = {file: file.stat().st_mtime_ns for file in path.rglob("*")}
    axes = [
        sp.pl.patches(path, n=1),
        sp.pl.expert_clusters([path]),
        sp.pl.expert_gallery(iter([str(path)]), n_patches=1),
    ]
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*")} == files
    np.testing.assert_allclose(
        spots_of(axes[1][0, 0]).get_offsets(), spots_of(sp.pl.expert_clusters(embedded[0])[0, 0]).get_offsets()
    )
    with pytest.raises(FileNotFoundError, match="there is no store"):
        sp.pl.patches(tmp_path / "none.zarr")


def test_a_sample_without_expression_takes_part_in_every_plot(embedded):
    table = embedded[1]["table"]
    bare = AnnData(csr_matrix((table.n_obs, 0), dtype=np.float32), obs=table.obs, obsm=dict(table.obsm), uns=table.uns)
    embedded[1].tables["table"] = bare
    assert sp.pl.expert_clusters(embedded).shape == (2, 2)
    gallery = sp.pl.expert_gallery(embedded, n_patches=4)
    shown = "".join(ax.get_xlabel() for ax in gallery[:, :-1].ravel())
    assert "toy_0" in shown
    assert "toy_1" in shown
    assert all(ax.patches for ax in gallery[:, -1])
    assert all(ax.texts[0].get_text() == "no expression" for ax in sp.pl.expert_gallery(embedded[1])[:, -1])


def test_legends_lie_outside_of_the_panels_and_inside_of_the_figure(embedded):
    for axes in (
        sp.pl.expert_clusters(embedded)[:, 0],
        sp.pl.training(section_history()),
    ):
        for ax in np.ravel(axes):
            ax.figure.canvas.draw()
            legend, panel = ax.get_legend().get_window_extent(), ax.get_window_extent()
            assert legend.x0 >= panel.x1
            assert legend.x1 <= ax.figure.bbox.x1


def section_history():
    epochs = np.arange(3)
    return pd.concat(
        [
            pd.DataFrame(
                {"expert": str(e), "epoch": epochs, "n_spots": 99, "train_loss": 3.0 - epochs, "val_loss": 4.0 - epochs}
            )
            for e in range(16)
        ]
    )


def test_type_sizes_do_not_follow_the_defaults(embedded):
    with mpl.rc_context({"font.size": 30, "axes.titlesize": 40}):
        ((ax, entropy), _) = sp.pl.expert_clusters(embedded)
    texts = [*ax.get_legend().get_texts(), spots_of(entropy).colorbar.ax.yaxis.label, *ax.texts]
    assert {text.get_fontsize() for text in texts} == {8}
    assert {t.get_fontsize() for t in ax.findobj(mpl.text.Text) if "expert" in t.get_text()} == {8, 9}


def test_experts_are_known_by_number_where_a_subset_lacks_some(embedded, model):
    """A subset drops unused categories; patches, weights and colours must still be those of the same expert."""
    table = embedded[0]["table"]
    experts = table.obs["spade_expert"].astype(str).to_numpy()
    kept = np.flatnonzero(experts != "1")
    assert set(experts[kept]) == {"0", "2"}
    embedded[0].tables["table"] = table[kept].copy()
    assert list(embedded[0]["table"].obs["spade_expert"].cat.categories) == ["0", "2"]
    axes = sp.pl.expert_gallery(embedded[0], n_patches=1)
    for row, expert in zip(axes, (0, 2), strict=True):
        weight = table.obsm["spade_expert_weights"][kept][experts[kept] == str(expert), expert].max()
        assert row[0].get_xlabel().endswith(f"w = {weight:.2f}")
        assert to_hex(row[0].spines["left"].get_edgecolor()) == palette(model.n_experts)[expert]
    del embedded[0]["table"].uns["spade_expert_colors"]
    ((panel, _),) = sp.pl.expert_clusters(embedded[0])
    faces = {to_hex(face) for face in panel.collections[0].get_facecolors()}
    assert faces == {to_hex(palette(3)[expert]) for expert in (0, 2)}


def test_dates_are_categories(cohort):
    cohort[0]["table"].obs["day"] = pd.to_datetime(["2020-01-01", "2020-02-01"] * 40)
    for plot in (sp.pl.expert_clusters, sp.pl.embedding):
        options = {"basis": "X_texture"} if plot is sp.pl.embedding else {"entropy": False}
        plot(cohort[0], color="day", **options)


def test_experts_have_the_colours_of_uns_in_all_plots_of_samples(embedded):
    for sdata in embedded:
        sdata["table"].uns["spade_expert_colors"] = ["#112233", "#445566", "#778899"]
    experts = pd.concat([sdata["table"].obs["spade_expert"] for sdata in embedded]).astype(int)
    wanted = [["#112233", "#445566", "#778899"][expert] for expert in experts]
    for axes in (sp.pl.expert_clusters(embedded)[:, 0], sp.pl.spatial(embedded, "spade_expert").ravel()):
        assert [to_hex(face) for ax in axes for face in spots_of(ax).get_facecolors()] == wanted
    gallery = sp.pl.expert_gallery(embedded, n_patches=1)
    shown = sorted(set(experts))
    assert [to_hex(ax.spines["left"].get_edgecolor()) for ax in gallery[:, 0]] == [
        ["#112233", "#445566", "#778899"][expert] for expert in shown
    ]
    for sdata in embedded:
        sdata["table"].obsm["X_two"] = sdata["table"].obsm["X_spade"][:, :2]
    faces = sp.pl.embedding(embedded, basis="X_two", color="expert").collections[0].get_facecolors()
    assert sorted(map(to_hex, faces)) == sorted(wanted)
    ((slide,),) = [sp.pl.slide(embedded[0], "spade_expert")]
    drawn = {to_hex(colour / 255) for colour in np.unique(slide.images[-1].get_array().reshape(-1, 4), axis=0)[:, :3]}
    assert drawn >= {wanted[i] for i in range(80)}


def test_a_number_has_the_same_colours_in_all_plots(embedded):
    left, right = (plot(embedded, color="cell_density") for plot in (sp.pl.expert_clusters, sp.pl.spatial))
    for one, other in zip(left[:, 0], right[:, 0], strict=True):
        a, b = spots_of(one), spots_of(other)
        assert (a.cmap.name, a.get_clim()) == (b.cmap.name, b.get_clim()) and b.cmap.name == "viridis"
