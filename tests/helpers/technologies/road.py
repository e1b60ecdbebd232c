"""From squares with counts to a joint embedding."""

from __future__ import annotations

import numpy as np

import spade as sp
from helpers.whole_slides import Means


def embed_bins(sdata):
    """Lay patches, encode, choose genes, train briefly and embed; return the table of squares, which is checked."""
    sp.pp.patches(sdata, table_key="bins", size_um=32, size_px=32)
    sp.pp.encode_patches(sdata, Means(), table_key="bins")
    panel = sp.pp.select_genes(sdata, table_key="bins", n_top_genes=20)
    model = sp.tl.train_spade(
        sdata, use_rep="X_means", genes=panel, n_prototypes=3, n_experts=2, n_epochs=2, batch_size=16,
        table_key="bins", device="cpu",
    )  # fmt: skip
    sp.tl.embed(sdata, model, table_key="bins")
    table = sdata["bins_table"]
    valid = table.obs["spade_valid"].to_numpy()
    assert valid.mean() > 0.9
    assert np.isfinite(table.obsm["X_spade"][valid]).all()
    assert table.obsm["X_spade"].shape == (table.n_obs, 256)
    return table
