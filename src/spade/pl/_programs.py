"""Measured and predicted programs in tissue."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from spade import _keys
from spade._samples.counts import read_expression
from spade._samples.model_features import read_program_features
from spade._samples.open import Samples, iter_samples
from spade._samples.sample import Sample
from spade.core.arrays import Floats
from spade.core.checks import brief, check_count
from spade.models import ProgramModel
from spade.models._rows import scale_by_section
from spade.pl._draw.axes import finish
from spade.pl._draw.colouring import Colouring
from spade.pl._draw.tissue import View, common_frames, views
from spade.pl._expression import FADE, ExpressionStyle, draw_row, panels_of


def programs(
    samples: Samples,
    model: ProgramModel,
    *,
    n_programs: int = 3,
    layer: str | None = None,
    cmap: str | Colormap | None = None,
    vmin: float | str | None = None,
    vmax: float | str | None = None,
    size: float = 1.0,
    alpha_img: float = FADE,
    patches_key: str = _keys.PATCHES,
    table_key: str | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Axes | NDArray[Any] | None = None,
    show: bool = False,
    return_fig: bool = False,
) -> NDArray[Any] | Figure:
    """Draw measured beside predicted programs of expression in tissue.

    One row per section and program, all to one scale: the spots at their true size on the faded image, left coloured by
    the activity of the program in the measured expression, right by what the model predicts from the image, with their
    correlation over spots; on a section that the model was trained on, this is the correlation of the fit. Both are in
    deviations from the mean of the section. Each panel has its own colour scale, from the 2nd to the 98th percentile,
    because predictions vary less. If no section has the genes of the model, the left panel is left out.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or a list or dict of these, with the image features of the model.
    model
        From :func:`spade.tl.train_programs`, with programs.
    n_programs
        Number of programs, those first that were predicted best on held-out spots in training.
    layer
        Layer with raw counts; None: the one of training.
    cmap, vmin, vmax
        Colours, as in :func:`expression`: with both ends as numbers, all panels are on one scale.
    size
        Factor on the true size of the spots.
    alpha_img
        Opacity of the image, from 0 to 1.
    patches_key
        What :func:`spade.pp.patches` wrote; it holds the image, scale and spot size.
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
    Array of Axes, ``(n_sections × n_programs, n_panels)``, in µm from the upper left corner of the image. Spots without
    a value are not coloured.

    Raises
    ------
    KeyError
        No features or no patches.
    ValueError
        A model without programs, features of another width or encoder, colours that end where they begin, or a wrong
        number of ``ax``.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(2, 60)
    >>> sp.pp.patches(samples)
    >>> sp.pp.encode_patches(samples)
    >>> model = sp.tl.train_programs(samples, use_rep="X_texture", n_clusters=(4, 6), n_programs=3)
    >>> sp.pl.programs(samples[0], model, n_programs=2).shape
    (2, 2)
    """
    check_count("n_programs", n_programs)
    style = ExpressionStyle(Colouring(cmap=cmap, vmin=vmin, vmax=vmax), size, alpha_img, unit="deviations")
    if not isinstance(model, ProgramModel):
        raise TypeError(f"model={brief(model)}: expected a ProgramModel, from sp.tl.train_programs.")
    if not model.n_programs:
        raise ValueError("model: it has no programs to draw; train one with n_programs= above 0.")
    history = model.history[model.history["kind"] == "program"].reset_index(drop=True)
    best = history["held_out"].sort_values(ascending=False, kind="stable").index[:n_programs].to_numpy()
    drawn: list[tuple[View, dict[str, Floats]]] = []
    for sample in iter_samples(samples, table_key=table_key):
        values = _read(sample, model, layer)
        drawn += [(view, values) for view in views(sample, patches_key)]
    frames = common_frames([view.frame() for view, _ in drawn])
    names = [name for name in ("measured", "predicted") if any(name in values for _, values in drawn)]
    axes = panels_of(ax, len(drawn) * len(best), names, frames[0], figsize=figsize)
    rows = iter(axes)
    for (view, values), box in zip(drawn, frames, strict=True):
        unknown = np.full((len(values["predicted"]), model.n_programs), np.nan)
        for program in best:
            panels = {name: values.get(name, unknown)[view.rows, program] for name in names}
            draw_row(next(rows), view, box, panels, history["name"][program], style=style)
    return finish(axes, show=show, return_fig=return_fig)


def _read(sample: Sample, model: ProgramModel, layer: str | None) -> dict[str, Floats]:
    """Return predicted programs ``(n_obs, P)`` and, if the sample has all genes, measured ones."""
    section = sample.section_of_row()
    values: dict[str, Floats] = {"predicted": model.predict_programs(read_program_features(sample, model), section)}
    if not sample.has_expression or model.genes is None:
        return values
    layer = model.config.layer if layer is None else layer
    expression, present, filled = read_expression(sample, model.genes, layer, normalized=False)
    if present.all():
        measured = model.measure_programs(expression.toarray()).astype(np.float64)
        measured[~filled] = np.nan
        values["measured"] = scale_by_section(measured, section)
    return values
