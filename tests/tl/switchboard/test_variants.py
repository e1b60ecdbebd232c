"""Settings that go to the variants, and encoders that are tuned on pixels."""

from __future__ import annotations

import functools

import numpy as np
import pandas as pd
import pytest
from conftest import fresh
from helpers.sections import assert_same
from helpers.switchboard import FAST, PANEL, cohort, run, values
from scipy.sparse import csr_matrix

import spade as sp


def test_models_train_on_one_layer_and_all_are_measured_on_another(models):
    samples = cohort()
    for i, sample in enumerate(samples):
        other = np.random.default_rng(9 + i).poisson(2, sample["table"].shape)
        sample["table"].layers["other"] = csr_matrix(other, dtype=np.float32)
    plain = run(samples)
    ids = {fold: list(own) for fold, own in models.items()}
    models.clear()
    found = run(samples, measured_layer="other")
    assert models == ids  # trained on X
    both = run(samples, layer="other")
    keys = {"variant": "frozen", "by": "probe"}
    for metric in ("pearson", "median_rank"):  # the probe learns what is measured
        pd.testing.assert_series_equal(values(found, metric=metric, **keys), values(both, metric=metric, **keys))
        assert (values(found, metric=metric, **keys) != values(plain, metric=metric, **keys)).any()
    pd.testing.assert_frame_equal(run(samples, measured_layer="X"), plain)
    with pytest.raises(KeyError, match=r"layer='none' is not there"):
        run(samples, measured_layer="none")


# --- an encoder that is tuned on pixels


def patched(n=3):
    samples = cohort()[1 : n + 1]
    for sample in samples:
        del sample["table"].obsm["X_f"]
    sp.pp.patches(samples, size_um=40)
    return samples


@pytest.mark.filterwarnings("ignore:.*coarser than twice the wanted.*:UserWarning")
def test_an_encoder_is_tuned_beside_its_frozen_features(weights):
    samples = patched()
    before = [fresh(one) for one in samples]
    options = {"genes": PANEL, "control": False, "k": 5}
    pixels = {"n_epochs": 1, "batch_size": 32, "lr": 1e-2, "n_workers": 0}
    variants = {"tuned": pixels, "head": {**FAST, "on_features": True}}
    found = sp.tl.switchboard(samples, encoder="test_vit", weights=weights, variants=variants, **options)
    for one, other in zip(samples, before, strict=True):
        assert_same(one, other)
    sp.pp.encode_patches(samples, encoder="test_vit", weights=weights, key_added="X_v")
    other = sp.tl.switchboard(samples, use_rep="X_v", variants={"head": FAST}, **options)
    same = found[found["variant"] != "tuned"].reset_index(drop=True)
    pd.testing.assert_frame_equal(same, other)  # frozen features of the same patches
    model = sp.tl.train_seal(samples[1], encoder="test_vit", weights=weights, genes=PANEL, **pixels)
    sp.pp.encode_patches(samples[2], encoder=model, key_added="X_t")
    measured = sp.tl.retrieval_metrics(samples[2], model, k=5, use_rep="X_t").query("gallery == 'same_section'")
    own = values(found, "tuned", metric="median_rank", by="model")["d"]
    assert own.tolist() == measured["median_rank"].tolist()


@pytest.mark.filterwarnings("ignore:.*coarser than twice the wanted.*:UserWarning")
def test_settings_for_all_go_to_those_that_have_a_use_for_them(weights, tmp_path, monkeypatch):
    given = {}

    def noting(samples, **options):
        given["pixels" if options.get("encoder") else "head"] = options
        return train_seal(samples, **options)

    train_seal = sp.tl.train_seal
    monkeypatch.setattr("spade.tl._switchboard.variants.train_seal", functools.wraps(train_seal)(noting))
    settings = {
        "n_epochs": 1,
        "dim": 12,
        "cache_dir": tmp_path / "cache",
        "n_workers": 0,
        "stain_jitter": 0.0,
        "lr": 1e-3,
    }
    options = {"encoder": "test_vit", "weights": weights, "genes": PANEL, "control": False, "k": 5}
    sp.tl.switchboard(patched(2), variants=["projection", "seal"], seal_settings=settings, **options)
    assert {name for name in settings if name in given["head"]} == {"n_epochs", "dim", "lr"}
    assert {name for name in settings if name in given["pixels"]} == set(settings) - {"dim"}
    with pytest.raises(ValueError, match=r"variants\['wide'\]: 'dim' has no meaning for a tuned encoder"):
        sp.tl.switchboard(patched(2), variants={"wide": {"dim": 8}}, **options)
    with pytest.raises(ValueError, match=r"variants\['seal'\]: 'rank' has no meaning for a head on features"):
        run(cohort(), ["seal"], seal_settings={"rank": 4})


def test_patches_are_needed_to_tune(weights):
    samples = cohort()
    with pytest.raises(KeyError, match=r"patches_key='patches' is not there"):
        run(samples, use_rep=None, encoder="test_vit", weights=weights)
