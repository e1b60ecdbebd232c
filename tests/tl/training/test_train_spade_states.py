"""A training that was interrupted goes on from its folder."""

from __future__ import annotations

import pandas as pd
import pytest
from helpers.sections import GENES, cohort, split, spoil, train

from spade.core.experts.checkpoints import Checkpoints


def test_a_training_with_a_folder_goes_on_and_ends_in_the_same_model(tmp_path, monkeypatch):
    monkeypatch.setattr("spade.core.experts.checkpoints.SECONDS", 0.0)
    options = {"split_key": "fold", "n_epochs": 4, "checkpoint_dir": tmp_path / "state"}
    whole = train(split(cohort()), split_key="fold", n_epochs=4)

    save = Checkpoints.save

    def save_or_stop(self, run, flat, row):
        save(self, run, flat, row)
        if run.step == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_or_stop)
        for _ in range(2):  # once in each expert
            with pytest.raises(KeyboardInterrupt):
                train(split(cohort()), **options)
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == [
        "expert_0000.npz",
        "expert_0001.npz",
        "training.json",
    ]
    assert train(split(cohort()), **options).id == whole.id
    files = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "state").iterdir()}
    again = train(split(cohort()), **options)
    assert again.id == whole.id
    pd.testing.assert_frame_equal(again.history, whole.history)
    assert files == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "state").iterdir()}


def test_a_folder_of_other_settings_or_data_is_refused(tmp_path):
    train(cohort(), checkpoint_dir=tmp_path)
    for options, said in (
        ({"lr": 0.5}, r"lr: 0\.01 there, 0\.5 now"),
        ({"genes": GENES[:19]}, r"expression: '\w{16}' there, '\w{16}' now"),
        ({"rng": 1}, r"seed: 0 there, 1 now"),
    ):
        with pytest.raises(
            ValueError, match=rf"belongs to another training \(.*{said}.*Choose another folder, or repeat the call"
        ):
            train(cohort(), checkpoint_dir=tmp_path, **options)
    samples = cohort()
    spoil(samples[1], "X_f", [3], 0.5)
    with pytest.raises(ValueError, match=r"belongs to another training \(features: "):
        train(samples, checkpoint_dir=tmp_path)
