"""Rows of many samples in one array, in memory or in a file."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix, random, vstack

from spade._samples.collect import CHUNK, SparseStack, Stack


@pytest.mark.parametrize("on_disk", [False, True])
def test_rows_of_many_parts_are_joined(on_disk, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(n, 3)).astype(np.float32) for n in (4, 0, 1, 700)]
    many = rng.normal(size=(3 * CHUNK, 3)).astype(np.float32)
    chosen = rng.permutation(len(many))[: 2 * CHUNK + 5]
    stack = Stack(on_disk=on_disk)
    for part in parts:
        stack.add(part)
    stack.add(many, chosen)
    stack.add(many, chosen[:0])
    rows = stack.joined()
    assert isinstance(rows, np.memmap) == on_disk
    assert list(tmp_path.iterdir()) == []  # a killed process leaves nothing
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, np.concatenate([*parts, many[chosen]]))
    with pytest.raises(ValueError, match="no rows were added"):
        stack.joined()
    stack.add(many)
    np.testing.assert_array_equal(stack.joined(), many)


def test_parts_are_copied_and_the_type_grows_with_them():
    first = np.array(["a", "b"])
    stack = Stack()
    stack.add(first)
    first[:] = "z"
    stack.add(np.array(["longer"]))
    assert stack.joined().tolist() == ["a", "b", "longer"]


def test_sparse_rows_are_joined():
    rng = np.random.default_rng(0)
    parts = [csr_matrix(random(n, 6, 0.4, "csr", np.float32, rng=rng)) for n in (5, 1, 40)]
    parts.insert(1, csr_matrix((3, 6), dtype=np.float32))
    stack = SparseStack()
    for part in parts:
        stack.add(part)
    joined, expected = stack.joined(), csr_matrix(vstack(parts))
    assert joined.shape == (49, 6)
    assert joined.dtype == np.float32
    assert (joined != expected).nnz == 0
