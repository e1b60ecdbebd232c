"""What a search found: patches beside the query, or the map of a signature on tissue."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from numpy.typing import NDArray

from spade import _keys
from spade._checks import check_table, shorten
from spade._samples.open import Samples, iter_samples
from spade.core.checks import check_count
from spade.pl._draw.axes import GREY, SMALL, bare, colour_bar, finish, given_axes, new_figure, title
from spade.pl._draw.tissue import View, common_frames, draw_spots, draw_tissue, scale_bar, views

UNIT = 1.25
PANEL = 3.0
FADE = 0.55
COLUMNS = ("query_sample", "query_section", "query", "rank", "sample", "section", "spot", "score")


def retrieval(
    table: pd.DataFrame,
    samples: Samples,
    *,
    query_samples: Samples | None = None,
    n_queries: int = 5,
    n_patches: int = 6,
    patches_key: str = _keys.PATCHES,
    table_key: str | None = None,
    ax: NDArray[Any] | None = None,
    show: bool = False,
) -> NDArray[Any]:
    """Draw what :func:`spade.tl.retrieve` found.

    Queries that are spots: one row each, the patch of the query and those of its best spots with their scores. A signature: its
    score on every section; with ``k=None`` all spots have one.

    Parameters
    ----------
    table
        From :func:`spade.tl.retrieve`.
    samples
        Its gallery.
    query_samples
        Where its queries are from; None: the gallery.
    n_queries, n_patches
        Queries (the first of the table) and patches of each.
    patches_key
        What :func:`spade.pp.patches` wrote.
    table_key
        Table; may be left out when there is one.
    ax
        As many Axes as there are panels, row by row; None: a new figure.
    show
        Call ``plt.show()``.

    Returns
    -------
    Array of Axes: ``(n_queries, n_patches + 1)``, or one per section for a signature.

    Raises
    ------
    KeyError
        Sections or spots of the table that the samples do not have, or no patches.
    TypeError, ValueError
        A table of something else, or an empty one.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(1, 60)
    >>> sp.pp.patches(samples)
    >>> sp.pp.encode_patches(samples)
    >>> panel = sp.pp.select_genes(samples)
    >>> model = sp.tl.train_spade(samples, use_rep="X_texture", genes=panel, n_prototypes=2, n_experts=2, n_epochs=2)
    >>> found = sp.tl.retrieve(samples, samples, model, spots=["toy_0_0000", "toy_0_0001"])
    >>> sp.pl.retrieval(found, samples, n_patches=3).shape
    (2, 4)
    """
    check_count("n_queries", n_queries)
    check_count("n_patches", n_patches)
    table = check_table(table, COLUMNS, "sp.tl.retrieve")
    if (table["query_sample"] == "").all():
        axes = _map(table, samples, patches_key, table_key, ax)
    else:
        axes = _patches(table, samples, query_samples, n_queries, n_patches, patches_key, table_key, ax)
    finish(show)
    return axes


def _map(table: pd.DataFrame, samples: Samples, patches_key: str, table_key: str | None, ax: Any) -> NDArray[Any]:
    scores = table.set_index(["section", "spot"])["score"]
    drawn: list[tuple[View, NDArray[np.float64]]] = []
    for sample in iter_samples(samples, table_key=table_key):
        for view in views(sample, patches_key):
            names = sample.table.obs_names[view.rows].astype(str)
            own = scores.reindex(pd.MultiIndex.from_product([[view.name], names])).to_numpy()
            if not np.isfinite(own).any():
                raise KeyError(
                    f"samples: the table has no score for {view.name!r}; sections there: {shorten(dict.fromkeys(table['section']))}. Pass the "
                    "gallery of the search, in the same form."
                )
            drawn.append((view, own))
    frames = common_frames([view.frame() for view, _ in drawn])
    aspect = (frames[0][3] - frames[0][1]) / (frames[0][2] - frames[0][0])
    if ax is None:
        figure = new_figure((PANEL + 0.2) * len(drawn) + 0.7, PANEL * aspect + 0.5)
        axes = figure.subplots(1, len(drawn), squeeze=False)[0]
    else:
        axes = given_axes(ax, (len(drawn),), f"{len(drawn)} sections")
    every = np.concatenate([values for _, values in drawn])
    norm = Normalize(*np.nanpercentile(every, [1, 99]))
    for panel, (view, values), box in zip(axes, drawn, frames, strict=True):
        draw_tissue(panel, view, box, FADE)
        spots = draw_spots(panel, view, cmap="magma", norm=norm, linewidth=0)
        spots.set_array(np.ma.masked_invalid(values))
        left_out = int(np.isnan(values).sum())
        title(panel, f"{view.name} ({left_out:,} spots without a score)" if left_out else view.name)
    colour_bar(axes[-1], spots, "score of the signature")
    return axes


def _patches(
    table: pd.DataFrame, samples: Samples, query_samples: Samples | None, n_queries: int, n_patches: int,
    patches_key: str, table_key: str | None, ax: Any,
) -> NDArray[Any]:  # fmt: skip
    """Read sample by sample, so that each is opened once, and draw."""
    queries = table[["query_section", "query"]].drop_duplicates().iloc[:n_queries]
    shape = (len(queries), n_patches + 1)
    if ax is None:
        axes = new_figure(UNIT * shape[1] + 0.4, (UNIT + 0.42) * shape[0] + 0.3).subplots(*shape, squeeze=False)
    else:
        axes = given_axes(ax, shape, f"{shape[0]} queries × (1 + {n_patches} patches)")
    of_queries, of_gallery = [], []
    for i, (name, spot) in enumerate(queries.itertuples(index=False)):
        of_queries.append((i, 0, name, spot, f"query in {name}\n{spot}"))
        best = table[(table["query_section"] == name) & (table["query"] == spot)].nsmallest(n_patches, "rank")
        of_gallery += [
            (i, j, row.section, row.spot, f"{row.section}\n{row.score:.2f}")
            for j, row in enumerate(best[["section", "spot", "score"]].itertuples(index=False), 1)
        ]
    for panel in axes.ravel():
        panel.set_visible(False)
    same = query_samples is None
    for source, wanted, argument in (
        (samples, of_queries + of_gallery if same else of_gallery, "samples"),
        (query_samples, [] if same else of_queries, "query_samples"),
    ):
        if wanted and source is not None:
            _draw(axes, source, wanted, argument, patches_key, table_key)
    return axes


def _draw(
    axes: NDArray[Any], samples: Samples, wanted: list[tuple[int, int, str, str, str]], argument: str, patches_key: str,
    table_key: str | None,
) -> None:  # fmt: skip
    left = list(wanted)
    for sample in iter_samples(samples, table_key=table_key):
        for view in views(sample, patches_key):
            here = {str(spot): position for position, spot in enumerate(sample.table.obs_names[view.rows])}
            own = [one for one in left if one[2] == view.name and one[3] in here]
            left = [one for one in left if one not in own]
            pixels = view.patches(np.array([here[one[3]] for one in own], dtype=np.int64))
            for (i, j, _, _, text), patch in zip(own, pixels, strict=True):
                _patch(axes[i, j], view, patch, text, query=j == 0, first=(i, j) == (0, 0))
    if left:
        raise KeyError(
            f"{argument}: {shorten([f'{sample}: {spot}' for _, _, sample, spot, _ in left])} of the table are not there. Pass the gallery "
            "of the search as samples, and as query_samples= where its queries are from, if they are others."
        )


def _patch(panel: Axes, view: View, patch: NDArray[np.uint8], text: str, *, query: bool, first: bool) -> None:
    panel.set_visible(True)
    panel.imshow(patch, extent=(0, view.side, view.side, 0), interpolation="antialiased")
    bare(panel)
    panel.spines[:].set(color="black" if query else GREY, linewidth=2 if query else 0.6)
    panel.set_xlabel(text, fontsize=SMALL, labelpad=2)
    if first:
        panel.set_xlim(0, view.side)
        scale_bar(panel, small=True, above=True)
