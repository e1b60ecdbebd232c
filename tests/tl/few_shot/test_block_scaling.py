"""Blocks of features side by side: how they are scaled and weighted, and a warning of measured expression."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.few_shot import labelled, run
from helpers.sections import featured, no_warning

import spade as sp
from spade import _keys
from spade._samples.features import read_blocks
from spade._samples.open import iter_samples
from spade.tl._few_shot.probes import WEIGHTS, Probe


def blocks_of(sdata, *keys, scaling="block", weights=None):
    (sample,) = iter_samples(sdata)
    return read_blocks(sample, {"both": keys}, scaling, weights or {})[0]


@pytest.fixture
def section():
    """Image features whose columns differ in scale, and programs of which the first matters most."""
    sdata = featured(50, name="s")
    rng = np.random.default_rng(0)
    obsm, uns = sdata["table"].obsm, sdata["table"].uns
    obsm["X_f"] = (rng.normal(size=(50, 4)) * [1, 10, 100, 0] + 7).astype(np.float32)
    obsm["X_p"] = (rng.normal(size=(50, 2)) * [3, 0.3]).astype(np.float32)
    _keys.write_provenance(uns, "X_f", function="pp.encode_patches", encoder="test")
    return sdata


def test_blocks_have_the_same_total_variance(section):
    blocks = blocks_of(section, "X_f", "X_p")
    for block in blocks.values():
        np.testing.assert_allclose(block.mean(0), 0, atol=1e-6)
        np.testing.assert_allclose(block.var(0).sum(), 1, rtol=1e-5)
    np.testing.assert_allclose(blocks["X_f"].var(0), [1 / 3, 1 / 3, 1 / 3, 0], rtol=1e-5)  # of an encoder: every column
    raw = section["table"].obsm["X_p"].var(0)
    np.testing.assert_allclose(blocks["X_p"].var(0), raw / raw.sum(), rtol=1e-5)  # the scale within is kept


def test_context_of_image_features_is_scaled_like_them(section):
    table = section["table"]
    for key, source in (("X_f_context", "X_f"), ("X_p_context", "X_p")):
        table.obsm[key] = table.obsm[source].copy()
        _keys.write_provenance(table.uns, key, function="pp.spatial_context", use_rep=source, radius_um=1.0)
    blocks = blocks_of(section, "X_f", "X_f_context", "X_p", "X_p_context")
    np.testing.assert_array_equal(blocks["X_f_context"], blocks["X_f"])
    np.testing.assert_array_equal(blocks["X_p_context"], blocks["X_p"])


def test_weights_multiply_whole_blocks(section):
    weighted = blocks_of(section, "X_f", "X_p", weights={"X_p": 3.0})
    plain = blocks_of(section, "X_f", "X_p")
    np.testing.assert_allclose(weighted["X_p"], 3 * plain["X_p"], rtol=1e-6)
    np.testing.assert_array_equal(weighted["X_f"], plain["X_f"])
    raw = blocks_of(section, "X_f", "X_p", scaling="none", weights={"X_f": 0.5})
    np.testing.assert_allclose(raw["X_f"], section["table"].obsm["X_f"] / 2)


def test_every_section_is_scaled_by_itself(four):
    shifted = [labelled(f"s{i}", i) for i in range(4)]
    for i, sample in enumerate(shifted):
        sample["table"].obsm["X_f"] = (i + 1) * sample["table"].obsm["X_f"] + 5 * i
    scores = [run(samples, groupby="patient")["value"] for samples in (four, shifted)]
    np.testing.assert_allclose(*scores)


def test_a_weight_of_zero_takes_a_block_out(four):
    both = ("X_f", "X_noise")
    table = run(four, use_rep={"f": "X_f", "both": both}, weights={"X_noise": 0}, groupby="patient")
    f, both = (table.loc[table["representation"] == name, "value"].to_numpy() for name in ("f", "both"))
    np.testing.assert_allclose(f, both)


def test_weights_are_chosen_within_the_support():
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    noise, signal = 3 * rng.normal(size=(40, 20)), (2 * y - 1)[:, None] + 0.3 * rng.normal(size=(40, 3))
    probe = Probe(choose_weights=True)
    assert probe._weights(np.hstack([noise, signal]), y, 0, [20, 3]).tolist() == [1, max(WEIGHTS)]
    assert probe._weights(np.hstack([signal, noise]), y, 0, [3, 20]).tolist() == [1, 0]
    assert probe._weights(np.hstack([signal, noise])[:2], y[:2], 0, [3, 20]).tolist() == [1, 1]  # one shot: the prior
    x = np.hstack([signal, noise])
    np.testing.assert_allclose(probe.fit(x, y, 0, [3, 20])(x), Probe().fit(signal, y)(signal), atol=1e-4)


def test_weights_chosen_are_used(four):
    options = {"use_rep": ("X_noise", "X_f"), "groupby": "patient", "shots": 8, "n_repeats": 10}
    auto, alike = (sp.tl.few_shot_summary(run(four, weights=w, **options))["mean"].item() for w in ("auto", None))
    assert auto > alike


def test_measured_expression_is_warned_of(four):
    for sample in four:
        sample["table"].obsm["X_pca"] = sample["table"].obsm["X_f"]
    with pytest.warns(UserWarning, match=r"obsm\['X_pca'\] of s0 was made from the measured expression") as seen:
        run(four, use_rep=["X_f", ("X_f", "X_pca")], groupby="patient")
    assert sum(issubclass(one.category, UserWarning) for one in seen) == 1
    with no_warning():
        run(four, groupby="patient")


def test_only_the_sides_with_expression_hold_it():
    samples = sp.datasets.toy(1, 40)
    sp.pp.patches(samples)
    sp.pp.encode_patches(samples)
    panel = sp.pp.select_genes(samples)
    model = sp.tl.train_spade(samples, use_rep="X_texture", genes=panel, n_prototypes=1, n_experts=1, n_epochs=1)
    sp.tl.embed(samples, model)
    options = {"label_key": "domain", "shots": 1, "n_repeats": 1}
    for key in ("X_spade", "X_spade_expression"):
        with pytest.warns(UserWarning, match="was made from the measured expression"):
            sp.tl.few_shot(samples, use_rep=key, **options)
    with no_warning():
        sp.tl.few_shot(samples, use_rep=["X_spade_image", "X_texture"], **options)
