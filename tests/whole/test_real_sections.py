"""Trainings on real sections: the scripts of the README, the cross-modal check, and a cohort that must be refused."""

from __future__ import annotations

import runpy
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from _sections import read_bulb, read_tumour
from pairs import SHUFFLED, compare
from spatialdata import read_zarr

import spade as sp
from spade._samples.open import iter_samples

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.realdata, pytest.mark.slow]


@pytest.fixture(scope="module", params=["mob", "her2st"])
def trained(request, data_dir, tmp_path_factory):
    """What a README script leaves behind: its variables and its folder."""
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPADE_DATA_DIR", str(data_dir))
        patch.chdir(folder)
        found = runpy.run_path(str(ROOT / "tutorials" / f"{request.param}.py"))
    samples = found.get("samples") or [found["sdata"]]
    return request.param, samples, found["genes"], found["model"], folder


@pytest.mark.parametrize("name", ["mob", "her2st"])
def test_the_readme_shows_the_scripts_as_they_are(name):
    script = (ROOT / "tutorials" / f"{name}.py").read_text()
    assert len(script.splitlines()) <= 25
    assert script in (ROOT / "README.md").read_text()


def test_the_first_lines_of_the_readme_run_as_they_stand(data_dir, monkeypatch):
    """With fewer epochs: what they find is measured elsewhere."""
    lines = (ROOT / "README.md").read_text().split("```python\n")[1].split("```")[0]
    assert len(lines.splitlines()) == 10
    short = lines.replace("n_experts=3", "n_experts=3, n_epochs=5")
    assert short != lines
    monkeypatch.setenv("SPADE_DATA_DIR", str(data_dir))
    monkeypatch.setattr(plt, "show", lambda: None)
    found = {}
    exec(short, found)  # noqa: S102
    agreement = sp.tl.expert_agreement(found["bulb"], label_key="label")
    assert agreement["adjusted_rand"].iloc[0] > 0.3  # the picture beside them: experts follow the layers
    plt.close("all")


def test_scripts_embed_every_spot_and_draw_every_plot(trained):
    name, samples, genes, model, folder = trained
    assert sorted(path.name for path in folder.glob("*.png")) == sorted(
        f"{name}_{plot}.png" for plot in ("patches", "expert_clusters", "expert_gallery", "embedding", "training")
    )
    assert model.n_genes == len(genes) >= 1000
    for sample in iter_samples(samples):
        table = sample.table
        assert table.obs["spade_valid"].all()
        for key in ("X_texture", "X_spade", "X_spade_image", "X_spade_expression", "spade_expert_weights"):
            assert table.obsm[key].dtype == np.float32
            assert np.isfinite(table.obsm[key]).all()
        np.testing.assert_allclose(table.obsm["spade_expert_weights"].sum(1), 1, atol=1e-5)
        assert set(table.obs["spade_expert"]) <= set(map(str, range(model.n_experts)))


def test_every_key_survives_writing_and_reading(trained, tmp_path):
    _, samples, *_ = trained
    for sample in samples:
        path = tmp_path / "sample.zarr"
        sp.io.write(sample, path)
        again = read_zarr(path)
        before, after = sample["table"], again["table"]
        for one, other in ((before.obs, after.obs), (before.var, after.var)):
            pd.testing.assert_frame_equal(one, other, check_dtype=False, check_index_type=False)
        assert set(before.obsm) == set(after.obsm)
        for key in before.obsm:
            np.testing.assert_array_equal(before.obsm[key], after.obsm[key])
        assert before.uns["spade"] == after.uns["spade"]
        assert dict(sample.attrs) == dict(again.attrs)
        assert set(sample.shapes) == set(again.shapes)


def test_pairs_are_found_above_every_chance_level(trained):
    """On held-out blocks real pairs are well above chance, overall and in experts; shuffled pairs are not.

    The bulb is cheap, so it gets three draws of blocks. One draw of the tumours has too few spots to tell within an
    expert.
    """
    name, samples, _, model, _ = trained
    draws, parted, by_chance = (3, 1.2, 1.25) if name == "mob" else (1, 1.1, 1.5)
    table = compare(samples, model.n_experts, draws, ("experts", SHUFFLED))
    print(table.round(3).to_string())
    bounds = {"all_spots": 1.8, "same_section": 1.5, "same_expert": 1.25}
    if draws == 1:
        bounds = {"all_spots": 1.3, "same_section": 1.3}
    for gallery, least in bounds.items():
        real, shuffled = table.loc[("experts", gallery)], table.loc[(SHUFFLED, gallery)]
        assert real.recall > least * real.chance_recall
        assert real.median_rank < (0.8 if draws == 3 else 0.9) * real.chance_rank
        assert real.recall > parted * shuffled.recall
        if gallery != "all_spots":  # what tells sections apart is there without any true pair
            assert shuffled.recall < by_chance * shuffled.chance_recall
            assert shuffled.median_rank > (0.8 if draws == 3 else 0.75) * shuffled.chance_rank


def test_mouse_and_human_together_are_refused(data_dir):
    samples = [read_bulb(data_dir / "mob", "11"), read_tumour(data_dir / "her2st", "B4")]
    message = (
        r"only 6 gene names in common, fewer than min_genes=50 \(MOB_11: 16218 genes .*; B4: 15289 genes .*\)"
        r".*different species, mouse in MOB_11 and human in B4: sp\.pp\.harmonize_genes"
    )
    with pytest.raises(ValueError, match=message):
        sp.pp.select_genes(samples)
    for sample in samples:  # the same refusal when the panel was chosen on one of them alone
        sample["table"].obsm["X_any"] = np.random.default_rng(0).normal(size=(sample["table"].n_obs, 4))
    panel = sp.pp.select_genes(samples[0])
    with pytest.raises(ValueError, match=r"training needs every gene .* but B4 lacks 50 of 50.*different species"):
        sp.tl.train_spade(samples, use_rep="X_any", genes=panel)
