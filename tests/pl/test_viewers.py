"""What spatialdata-plot draws of the patches, where it is installed."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest
from matplotlib.colors import to_hex


def test_patches_are_coloured_by_the_expert(embedded):
    pytest.importorskip("spatialdata_plot")
    sample, (_, ax) = embedded[0], plt.subplots()
    colours = dict(zip("012", ["#ff0000", "#00ff00", "#0000ff"], strict=True))
    sample.pl.render_shapes(
        "patches", color="spade_expert", palette=list(colours.values()), groups=list(colours)
    ).pl.show(ax=ax)
    squares = ax.collections[0]  # the others are entries of the legend
    experts = sample["patches"]["spade_expert"].astype(str)
    assert [to_hex(face) for face in squares.get_facecolors()] == experts.map(colours).tolist()
