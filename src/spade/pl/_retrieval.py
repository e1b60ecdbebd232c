"""Results of a search: patches beside the query, or the map of a signature on tissue."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from numpy.typing import NDArray

from spade import _keys
from spade._checks import check_table, plural, shorten
from spade._samples.open import Samples, as_list, iter_samples
from spade.core.arrays import Floats
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
    """Draw the results of :func:`spade.tl.retrieve`.

    Queries that are spots get one row each: the patch of the query, then the patches of its best spots with their
    scores. For a signature its score is drawn on every section; with ``k=None`` all spots have one.

    Parameters
    ----------
    table
        From :func:`spade.tl.retrieve`.
    samples
        The gallery of the search.
    query_samples
        Samples that the queries are from; None: the gallery.
    n_queries
        Number of queries, the first of the table.
    n_patches
        Number of patches for each query.
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
        Not such a table, or an empty one.

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
    if (table["query_sample"] == "").all():
        axes = _map(table, samples, patches_key, table_key, ax)
    else:
        queries = table[["query_section", "query"]].drop_duplicates().iloc[:n_queries]
        places = {"samples": _places_of_hits(table, queries, n_patches)}
        opened = {"samples": samples} if query_samples is None else {"samples": samples, "query_samples": query_samples}
        places.setdefault(list(opened)[-1], []).extend(_places_of_queries(queries))
        axes = _patch_panels(ax, len(queries), n_patches)
        for argument, source in opened.items():
            if places[argument]:
                _draw(axes, source, places[argument], argument, patches_key, table_key)
    finish(show=show)
    return axes


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


def _map(table: pd.DataFrame, samples: Samples, patches_key: str, table_key: str | None, ax: Any) -> NDArray[Any]:
    """Draw the score of a signature on every section."""
    scores = table.set_index(["section", "spot"])["score"]
    drawn: list[tuple[View, Floats]] = []
    for sample in iter_samples(samples, table_key=table_key):
        for view in views(sample, patches_key):
            names = sample.table.obs_names[view.rows].astype(str)
            values = scores.reindex(pd.MultiIndex.from_product([[view.name], names])).to_numpy()
            if not np.isfinite(values).any():
                raise KeyError(
                    f"samples: the table has no score for {view.name!r}; its sections: "
                    f"{shorten(dict.fromkeys(table['section']))}. Pass the gallery of the search, in the same form."
                )
            drawn.append((view, values))
    frames = common_frames([view.frame() for view, _ in drawn])
    axes = _map_panels(ax, len(drawn), frames[0])
    norm = Normalize(*np.nanpercentile(np.concatenate([values for _, values in drawn]), [1, 99]))
    for panel, (view, values), box in zip(axes, drawn, frames, strict=True):
        draw_tissue(panel, view, box, FADE)
        spots = draw_spots(panel, view, cmap="magma", norm=norm, linewidth=0)
        spots.set_array(np.ma.masked_invalid(values))
        n_without = int(np.isnan(values).sum())
        title(panel, f"{view.name} ({plural(n_without, 'spot')} without a score)" if n_without else view.name)
    colour_bar(axes[-1], spots, "score of the signature")
    return axes


def _map_panels(ax: Any, n: int, frame: Floats) -> NDArray[Any]:
    if ax is not None:
        return given_axes(ax, (n,), plural(n, "section"))
    aspect = (frame[3] - frame[1]) / (frame[2] - frame[0])
    figure = new_figure((PANEL + 0.2) * n + 0.7, PANEL * aspect + 0.5)
    return figure.subplots(1, n, squeeze=False)[0]


def _patch_panels(ax: Any, n_rows: int, n_patches: int) -> NDArray[Any]:
    """Return invisible panels: each becomes visible when its patch is drawn."""
    shape = (n_rows, n_patches + 1)
    if ax is None:
        axes = new_figure(UNIT * shape[1] + 0.4, (UNIT + 0.42) * shape[0] + 0.3).subplots(*shape, squeeze=False)
    else:
        axes = given_axes(ax, shape, f"{shape[0]} × (query + {n_patches})")
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
