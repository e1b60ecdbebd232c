"""A HEST-1k folder of eight small samples: pretrains in one call, goes on after interruptions, embeds."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.hest.folder import Colours, write_folder

import spade as sp
from spade.tl._training import train_spade as module

SETTINGS = {"n_experts": 2, "n_prototypes": 2, "n_epochs": 4, "batch_size": 16, "warm_start": 0, "groupby": "organ"}


def test_pretraining_in_one_call_goes_on_after_interruptions(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "hest")
    cohort = sp.io.hest_cohort(folder, exclude=["spade", "TENX4"], stores=tmp_path / "stores")
    assert len(cohort) == 3

    def pretrain(encoder):
        return sp.tl.train_spade(cohort, encoder=encoder, checkpoint_dir=tmp_path / "state", **SETTINGS)

    interrupted = Colours(fail_at=1)
    with pytest.raises(KeyboardInterrupt):
        pretrain(interrupted)
    assert interrupted.batches == [36]

    def killed(*_):
        raise KeyboardInterrupt

    rest = Colours()
    with monkeypatch.context() as patched:
        patched.setattr(module, "assemble_spade", killed)
        with pytest.raises(KeyboardInterrupt):
            pretrain(rest)
    assert rest.batches == [36, 36]  # the other two; features of the first are in its store
    last = Colours()
    model = pretrain(last)
    assert last.batches == []

    # the same steps one by one, on the samples that were prepared, without a state to go on from
    tables = [sample.open()["table"] for sample in cohort]
    panels = {tuple(table.var_names[table.var["spade_gene"]]) for table in tables}
    assert {tuple(sorted(panel)) for panel in panels} == {model.genes.names}
    again = sp.tl.train_spade(cohort, use_rep="X_colours", **SETTINGS)
    x, g = tables[0].obsm["X_colours"], np.ones((3, len(model.genes)), np.float32)
    np.testing.assert_array_equal(again.encode_image(x), model.encode_image(x))
    np.testing.assert_array_equal(again.encode_expression(g), model.encode_expression(g))
    assert model.config.encoder == "colours"

    sp.tl.embed(cohort[2], model)
    table = cohort[2].open()["table"]
    assert table.obsm["X_spade"].shape == (36, 256)
    assert np.isfinite(table.obsm["X_spade"]).all()
    # the slide is not copied, and the dataset is as it was
    assert not (tmp_path / "stores" / "TENX1.zarr" / "images").exists()
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["HEST_v1_1_0.csv", "cellvit_seg", "metadata", "st", "tissue_seg", "wsis"]
    )
    with pytest.raises(ValueError, match=r"TENX1: .* is there, but of encoder 'colours', not 'texture'"):
        sp.tl.train_spade(cohort[:1], encoder="texture", use_rep="X_colours")
