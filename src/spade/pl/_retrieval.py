"""Results of a search: patches beside the query, or the map of a signature on tissue."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from spade import _keys
from spade._checks import check_idle, check_table, plural, shorten
from spade._samples.open import Samples, as_list, iter_samples
from spade._samples.shown.colours import Column
from spade.core.arrays import Floats
from spade.core.checks import check_count, check_positive, check_share
from spade.pl._draw.axes import GREY, SMALL, bare, colour_bar, finish, given_axes, new_figure, title
from spade.pl._draw.colouring import Colouring
from spade.pl._draw.tissue import View, common_frames, draw_spots, draw_tissue, scale_bar, views

UNIT = 1.25
PANEL = 3.0
FADE = 0.55
#: Colour map of scores, and the percentiles at which it ends.
CMAP, ENDS = "magma", (1, 99)
COLUMNS = ("query_sample", "query_section", "query", "rank", "sample", "section", "spot", "score")


def retrieval(
    table: pd.DataFrame,
    samples: Samples,
    *,
    query_samples: Samples | None = None,
    n_queries: int = 5,
    n_patches: int = 6,
    cmap: str | Colormap | None = None,
    vmin: float | str | None = None,
    vmax: float | str | None = None,
    size: float = 1.0,
    alpha_img: float = FADE,
    patches_key: str = _keys.PATCHES,
    table_key: str | None = None,
    figsize: tuple[float, float] | None = None,
    ax: NDArray[Any] | None = None,
    show: bool = False,
    return_fig: bool = False,
) -> NDArray[Any] | Figure:
    """Draw the results of :func:`spade.tl.retrieve`.

    Queries that are spots get one row each: the patch of the query, then the patches of its best spots with their
    scores. For a signature its score is drawn on every section; with ``k=None`` all spots have one, and otherwise the
    best ``k``. Open grey circles are spots without a score.

    Parameters
    ----------
    table
        From :func:`spade.tl.retrieve`.
    samples
        The gallery of the search.
    query_samples
        Samples that the queries are from; None: the gallery.
    n_queries
        Of queries that are spots: their number, the first of the table.
    n_patches
        Of queries that are spots: number of patches for each.
    cmap, vmin, vmax
        Of a signature: colours of the score, as in :func:`spatial`. None: ``"magma"``, from the 1st to the 99th
        percentile of all scores drawn; the ends of the bar are pointed where scores lie beyond.
    size
        Of a signature: factor on the true size of the spots.
    alpha_img
        Of a signature: opacity of the image, from 0 to 1.
    patches_key
        What :func:`spade.pp.patches` wrote.
    table_key
        Table; may be left out when there is one.
    figsize
        Width and height of the figure in inches.
    ax
        As many Axes as there are panels, row by row; None: a new figure.
    show
        Call ``plt.show()``.
    return_fig
        Return the figure instead of the Axes.

    Returns
    -------
    Array of Axes: ``(n_queries, n_patches + 1)``, or one per section for a signature.

    Raises
    ------
    KeyError
        Sections or spots of the table that the samples do not have, or no patches.
    TypeError, ValueError
        Not such a table, or an empty one; settings without effect, such as ``n_patches`` for a signature.

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
    if query_samples is not None:
        query_samples = as_list(query_samples, "query_samples")
    colouring = Colouring(cmap=cmap, vmin=vmin, vmax=vmax)
    check_positive("size", size)
    check_share("alpha_img", alpha_img, "[0, 1]")
    if (table["query_sample"] == "").all():
        of_spots = [("query_samples", query_samples, None), ("n_queries", n_queries, 5), ("n_patches", n_patches, 6)]
        check_idle(of_spots, "the query is a signature, which is drawn on the sections")
        axes = _map(_scored(table, samples, patches_key, table_key), colouring, size, alpha_img, figsize=figsize, ax=ax)
    else:
        of_signatures = [*colouring.idle(), ("size", size, 1.0), ("alpha_img", alpha_img, FADE)]
        check_idle(of_signatures, "the queries are spots, whose patches are drawn")
        queries = table[["query_section", "query"]].drop_duplicates().iloc[:n_queries]
        places = {"samples": _places_of_hits(table, queries, n_patches)}
        opened = {"samples": samples} if query_samples is None else {"samples": samples, "query_samples": query_samples}
        places.setdefault(list(opened)[-1], []).extend(_places_of_queries(queries))
        axes = _patch_panels(ax, len(queries), n_patches, figsize)
        for argument, source in opened.items():
            if places[argument]:
                _draw(axes, source, places[argument], argument, patches_key, table_key)
    return finish(axes, show=show, return_fig=return_fig)


class _Place(NamedTuple):
    """Where a spot is drawn, which one it is, and the label of its patch."""

    row: int
    column: int
    section: str
    spot: str
    label: str


def _places_of_queries(queries: pd.DataFrame) -> list[_Place]:
    """Return the places of the queries: one per row, in the first column."""
    return [
        _Place(i, 0, section, str(spot), f"query in {section}\n{spot}")
        for i, (section, spot) in enumerate(queries.itertuples(index=False))
    ]


def _places_of_hits(table: pd.DataFrame, queries: pd.DataFrame, n: int) -> list[_Place]:
    """Return the places of the best spots of every query, best first."""
    places = []
    for i, (section, spot) in enumerate(queries.itertuples(index=False)):
        best = table[(table["query_section"] == section) & (table["query"] == spot)].nsmallest(n, "rank")
        places += [
            _Place(i, j, hit.section, str(hit.spot), f"{hit.section}\n{hit.score:.2f}")
            for j, hit in enumerate(best[["section", "spot", "score"]].itertuples(index=False), 1)
        ]
    return places


def _scored(
    table: pd.DataFrame, samples: Samples, patches_key: str, table_key: str | None
) -> list[tuple[View, Floats]]:
    """Return every section, and the scores of its spots, NaN where the table has none.

    A table of the best spots may have none of a section; it is not the gallery if the table has sections beside it.
    """
    scores = table.set_index(["section", "spot"])["score"]
    drawn: list[tuple[View, Floats]] = []
    for sample in iter_samples(samples, table_key=table_key):
        for view in views(sample, patches_key):
            names = sample.table.obs_names[view.rows].astype(str)
            values = scores.reindex(pd.MultiIndex.from_product([[view.name], names])).to_numpy()
            drawn.append((view, values))
    without = [view.name for view, values in drawn if not np.isfinite(values).any()]
    there = list(dict.fromkeys(table["section"]))
    if without and (len(without) == len(drawn) or set(there) - {view.name for view, _ in drawn}):
        raise KeyError(
            f"samples: the table has no score for {shorten(without)}; its sections: {shorten(there)}. Pass the gallery "
            "of the search, in the same form; a search with k=None gives a score to all its spots, not to the best k."
        )
    return drawn


def _map(
    drawn: list[tuple[View, Floats]],
    colouring: Colouring,
    size: float,
    alpha_img: float,
    *,
    figsize: tuple[float, float] | None,
    ax: Any,
) -> NDArray[Any]:
    """Draw the score of a signature on every section."""
    frames = common_frames([view.frame() for view, _ in drawn])
    axes = _map_panels(ax, len(drawn), frames[0], figsize)
    scores = Column("score of the signature", np.concatenate([values for _, values in drawn]), None)
    cmap, norm = colouring.scale(scores, ENDS, CMAP)
    for panel, (view, values), box in zip(axes, drawn, frames, strict=True):
        draw_tissue(panel, view, box, alpha_img)
        edges = np.where(np.isnan(values), GREY, "none").tolist()
        spots = draw_spots(panel, view, size, cmap=cmap, norm=norm, edgecolors=edges, linewidth=0.6)
        spots.set_array(np.ma.masked_invalid(values))
        n_without = int(np.isnan(values).sum())
        note = f" ({n_without:,} of {plural(len(values), 'spot')} without a score)" if n_without else ""
        title(panel, view.name + note)
    colour_bar(axes[-1], spots, scores.name)
    return axes


def _map_panels(ax: Any, n: int, frame: Floats, figsize: object) -> NDArray[Any]:
    if ax is not None:
        return given_axes(ax, (n,), plural(n, "section"), figsize=figsize)
    aspect = (frame[3] - frame[1]) / (frame[2] - frame[0])
    figure = new_figure((PANEL + 0.2) * n + 0.7, PANEL * aspect + 0.5, figsize)
    return figure.subplots(1, n, squeeze=False)[0]


def _patch_panels(ax: Any, n_rows: int, n_patches: int, figsize: object) -> NDArray[Any]:
    """Return invisible panels: each becomes visible when its patch is drawn."""
    shape = (n_rows, n_patches + 1)
    if ax is None:
        figure = new_figure(UNIT * shape[1] + 0.4, (UNIT + 0.42) * shape[0] + 0.3, figsize)
        axes = figure.subplots(*shape, squeeze=False)
    else:
        axes = given_axes(ax, shape, f"{shape[0]} × (query + {n_patches})", figsize=figsize)
    for panel in axes.ravel():
        panel.set_visible(False)
    return axes


def _draw(
    axes: NDArray[Any],
    samples: Samples,
    places: list[_Place],
    argument: str,
    patches_key: str,
    table_key: str | None,
) -> None:
    """Draw patches sample by sample, so that each sample is opened once."""
    missing = list(places)
    for sample in iter_samples(samples, table_key=table_key):
        for view in views(sample, patches_key):
            rows = {str(spot): row for row, spot in enumerate(sample.table.obs_names[view.rows])}
            shown = [place for place in missing if place.section == view.name and place.spot in rows]
            missing = [place for place in missing if place not in shown]
            pixels = view.patches(np.array([rows[place.spot] for place in shown], dtype=np.int64))
            for place, patch in zip(shown, pixels, strict=True):
                first = (place.row, place.column) == (0, 0)
                _patch(axes[place.row, place.column], view, patch, place.label, query=place.column == 0, first=first)
    if missing:
        raise KeyError(
            f"{argument}: spots of the table are not there: "
            f"{shorten(f'{place.section}: {place.spot}' for place in missing)}. Pass the gallery of the search as "
            "samples and, if its queries are from other samples, these as query_samples=."
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
