"""A mouse and a human section that train together, on purpose."""

from __future__ import annotations

import numpy as np
import pytest
from _sections import read_bulb, read_tumour

import spade as sp

pytestmark = [pytest.mark.realdata, pytest.mark.slow]


def test_mouse_and_human_train_together_once_their_genes_are_harmonized(data_dir):
    mouse, human = samples = [read_bulb(data_dir / "mob", "11"), read_tumour(data_dir / "her2st", "B4")]
    before = mouse["table"].to_df()
    report = sp.pp.harmonize_genes(samples, species="human")
    common = set(mouse["table"].var_names) & set(human["table"].var_names)
    assert len(common) > 9_000
    assert {"PENK", "ERBB2", "MBP"} <= common
    for name, former in (("PENK", "Penk"), ("ERBB2", "Erbb2"), ("MBP", "Mbp")):  # the counts stay with their gene
        np.testing.assert_array_equal(mouse["table"].to_df()[name].to_numpy(), before[former].to_numpy())
    renamed = report[(report["sample"] == "MOB_11") & (report["status"] == "renamed")]
    assert renamed.set_index("name").loc["PENK", "gene"] == "Penk"

    panel = sp.pp.select_genes(samples, n_top_genes=500)
    assert set(panel.names) <= common
    sp.pp.patches(samples)
    sp.pp.encode_patches(samples, "texture")
    model = sp.tl.train_spade(samples, use_rep="X_texture", genes=panel, n_experts=2, n_epochs=100, warm_start=20)
    sp.tl.embed(samples, model)
    table = sp.tl.retrieval_metrics(samples, model).set_index(["gallery", "direction"])
    print(table.to_string())
    for sample in samples:
        assert np.isfinite(sample["table"].obsm["X_spade"]).all()
    for direction in ("image_to_expression", "expression_to_image"):
        row = table.loc[("same_section", direction)]
        assert row["recall"] > 2 * row["chance_recall"]
