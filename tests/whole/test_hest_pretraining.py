"""A HEST-1k folder of eight small samples, of two species and technologies: pretrains in one call, goes on, embeds."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.hest.folder import CONTROLS, GENES, HUMAN, MOUSE, PANEL, Colours, write_folder

import spade as sp
from spade.io._genes.shipped import shipped_genes
from spade.tl._training import train_spade as module

SETTINGS = {"n_experts": 2, "n_prototypes": 2, "n_epochs": 4, "batch_size": 16, "warm_start": 0, "groupby": "organ"}


@pytest.mark.slow
def test_pretraining_in_one_call_goes_on_after_interruptions(tmp_path, monkeypatch):
    pairs = [(human, mouse) for human, mouse in shipped_genes().pairs if mouse.upper() != human][:GENES]
    human, mouse = (list(names) for names in zip(*pairs, strict=True))
    folder = write_folder(tmp_path / "hest", genes={HUMAN: human, MOUSE: mouse})
    cohort = sp.io.hest_cohort(folder, stores=tmp_path / "stores")
    assert len(cohort) == 8

    def pretrain(encoder):
        return sp.tl.train_spade(cohort, encoder=encoder, checkpoint_dir=tmp_path / "state", **SETTINGS)

    with pytest.raises(ValueError, match=r"mouse in TENX7 and human in TENX1: sp\.pp\.harmonize_genes"):
        sp.pp.select_genes(cohort)
    report = sp.pp.harmonize_genes(cohort, species="human").set_index("sample")
    assert report.loc["TENX7", "name"].tolist() == human
    assert set(report.loc["TENX7", "status"]) == {"renamed"}

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
    assert rest.batches == [36] * 7  # the others; features of the first are in its store
    last = Colours()
    model = pretrain(last)
    assert last.batches == []

    # the same steps one by one, on the samples that were prepared, without a state to go on from
    tables = [sample.open()["table"] for sample in cohort]
    panels = {tuple(table.var_names[table.var["spade_gene"]]) for table in tables}
    assert {tuple(sorted(panel)) for panel in panels} == {model.genes.names}
    assert set(model.genes.names) <= set(human[:PANEL])
    assert set(CONTROLS) <= set(tables[7].var_names)
    again = sp.tl.train_spade(cohort, use_rep="X_colours", **SETTINGS)
    x, g = tables[0].obsm["X_colours"], np.ones((3, len(model.genes)), np.float32)
    np.testing.assert_array_equal(again.encode_image(x), model.encode_image(x))
    np.testing.assert_array_equal(again.encode_expression(g), model.encode_expression(g))
    assert model.config.encoder == "colours"

    sp.tl.embed(cohort, model)
    for sample in cohort:
        table = sample.open()["table"]
        assert table.obsm["X_spade"].shape == (36, 256)
        assert np.isfinite(table.obsm["X_spade"]).all()
    # the slide is not copied, and the dataset is as it was
    assert not (tmp_path / "stores" / "TENX1.zarr" / "images").exists()
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["HEST_v1_1_0.csv", "cellvit_seg", "metadata", "st", "tissue_seg", "wsis"]
    )
    with pytest.raises(ValueError, match=r"TENX1: .* is there, but of encoder 'colours', not 'texture'"):
        sp.tl.train_spade(cohort[:1], encoder="texture", use_rep="X_colours")
