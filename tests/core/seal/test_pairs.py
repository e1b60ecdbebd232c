"""How pairs are dealt into batches."""

from __future__ import annotations

import numpy as np
import pytest

from spade.core.seal.pairs import epoch_batches, n_batches


@pytest.mark.parametrize("n", [*range(1, 24), 100, 385, 769])
@pytest.mark.parametrize("size", [2, 3, 7, 384])
def test_every_row_is_in_one_batch_of_an_epoch(n, size):
    rows = 3 * np.arange(n)
    count = n_batches(n, size)
    dealt = epoch_batches(rows, np.zeros(3 * n, int), count, balance=False, generator=np.random.default_rng(0))
    sizes = [len(batch) for batch in dealt]
    assert len(dealt) == count
    assert sorted(np.concatenate(dealt)) == rows.tolist()
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 2 or n == 1
    assert max(sizes) <= size or (size == 2 and n % 2 and max(sizes) == 3)


def test_order_changes_with_its_generator_alone():
    rows, section = np.arange(40), np.arange(40) % 3
    for balance in (False, True):
        one, same, other = (
            np.concatenate(epoch_batches(rows, section, 5, balance=balance, generator=np.random.default_rng(seed)))
            for seed in (0, 0, 1)
        )
        assert one.tolist() == same.tolist() != other.tolist()


@pytest.mark.parametrize("sizes", [(40, 40), (100, 5, 17), (1, 60), (3, 3, 3, 90)])
@pytest.mark.parametrize("batch", [2, 6, 9, 64])
def test_balanced_batches_have_as_many_rows_of_every_section(sizes, batch):
    section = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    rows = np.flatnonzero(section >= 0)
    n = n_batches(len(rows), batch)
    dealt = epoch_batches(rows, section, n, balance=True, generator=np.random.default_rng(0))
    counts = np.array([np.bincount(section[one], minlength=len(sizes)) for one in dealt])
    assert len(dealt) == n
    assert (counts.sum(1) == len(rows) // n).all()
    assert (np.ptp(counts, axis=1) <= 1).all()
    assert np.ptp(counts.sum(0)) <= 1 + n // len(sizes)
    for one, count in zip(dealt, counts, strict=True):  # a pair that is its own negative cannot be told apart
        for name, size in enumerate(sizes):
            assert len(np.unique(one[section[one] == name])) == min(count[name], size)
    for name, size in enumerate(sizes):  # a section is used up before a row of it comes again
        seen = np.bincount(np.concatenate(dealt)[section[np.concatenate(dealt)] == name], minlength=len(rows))
        own = seen[section == name]
        assert np.ptp(own) <= 1, size
