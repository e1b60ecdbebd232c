"""A table of all figures, the models behind it, and weights of a small transformer."""

from __future__ import annotations

import pytest
from helpers.switchboard import NAMES, cohort, run
from safetensors.torch import save_file

from spade.tl._switchboard import switchboard as shell


@pytest.fixture(scope="module")
def table():
    """All tasks, four variants and the shuffled pairs, two seeds."""
    return run(cohort(), NAMES, control=True, label_key="organ", shots=(4, 1), n_repeats=3, n_seeds=2)


@pytest.fixture
def models(monkeypatch):
    """Identities of all models, by fold and number; filled as they are used."""
    found = {}
    run_variant = shell.run_variant

    def noted(model, cohort, fold, patches_key):
        found.setdefault(fold.name, []).append(model.id)
        return run_variant(model, cohort, fold, patches_key)

    monkeypatch.setattr(shell, "run_variant", noted)
    return found


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    import timm
    import torch

    torch.manual_seed(5)
    path = tmp_path_factory.mktemp("weights") / "vit.safetensors"
    save_file(timm.create_model("test_vit", num_classes=0).state_dict(), path)
    return path
