"""Feature files in all their forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.slides import write_h5

from spade.io._feature_files import read_feature_file


def test_tensors_in_all_their_forms(tmp_path):
    x = torch.randn(5, 4)
    torch.save(x, tmp_path / "bare.pt")
    torch.save(x[None], tmp_path / "three.pt")
    torch.save({"features": x, "coords": torch.zeros(5, 2)}, tmp_path / "dict.pt")
    torch.save(x, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for path in tmp_path.iterdir():
        np.testing.assert_array_equal(read_feature_file(path), x.numpy())


def test_rows_of_files_that_are_nan_are_left_out(tmp_path):
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    x[2] = np.nan
    write_h5(tmp_path / "a.h5", x)
    np.testing.assert_array_equal(read_feature_file(tmp_path / "a.h5"), x[[0, 1, 3, 4]])
    x[1, 1] = np.inf
    write_h5(tmp_path / "a.h5", x)
    with pytest.raises(ValueError, match=r"slide 'a': .* has 1 row with NaN or infinite values"):
        read_feature_file(tmp_path / "a.h5")
    write_h5(tmp_path / "a.h5", np.full((3, 4), np.nan))
    with pytest.raises(ValueError, match="has nothing but NaN"):
        read_feature_file(tmp_path / "a.h5")
