"""A network that has learnt something: EfficientNet-Lite0, with the weights of a package."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.networks import random

import spade as sp

lite0 = pytest.importorskip("_lite0", exc_type=ImportError)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    path = lite0.write_weights(tmp_path_factory.mktemp("lite0") / "lite0.pth")
    return sp.encoders.get(lite0.ARCHITECTURE, weights=path, device="cpu")


@pytest.fixture(scope="module")
def section():
    (sample,) = sp.datasets.toy(1, 60, 20)
    sp.pp.patches(sample)
    return sample


def right(features, labels):
    """Share of patches whose nearest other patch has their label."""
    x = (features - features.mean(0)) / (features.std(0) + 1e-9)
    distances = ((x[:, None] - x[None]) ** 2).mean(-1)
    np.fill_diagonal(distances, np.inf)
    return np.mean(labels[distances.argmin(1)] == labels)


def test_its_features_tell_tissue_apart(pretrained, section):
    assert (pretrained.dim, pretrained.input_px, pretrained.moments[0]) == (1280, 224, (0.5, 0.5, 0.5))
    assert pretrained.id != random(lite0.ARCHITECTURE).id
    sp.pp.encode_patches(section, pretrained, batch_size=16)
    table = section["table"]
    labels = table.obs["domain"].astype(str).to_numpy()
    features = table.obsm["X_tf_efficientnet_lite0"]
    chance = np.mean([right(features, np.random.default_rng(seed).permutation(labels)) for seed in range(5)])
    assert right(features, labels) > 0.6 > chance + 0.2
