"""What threads read ahead comes in order, is bounded, and ends with its user."""

from __future__ import annotations

import threading
import time

import pytest

from spade.core.patches.ahead import read_ahead


def streams(*lengths):
    return [lambda i=i, n=n: ((i, j) for j in range(n)) for i, n in enumerate(lengths)]


def readers():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("patches-")]


@pytest.mark.parametrize("n_threads", [1, 2, 3, 9])
@pytest.mark.parametrize("depth", [1, 4])
def test_items_come_in_the_order_of_the_streams(n_threads, depth):
    lengths = (3, 0, 5, 1, 0, 2)
    found = list(read_ahead(streams(*lengths), n_threads, depth))
    assert found == [(i, j) for i, n in enumerate(lengths) for j in range(n)]
    assert readers() == []


def test_nothing_to_read():
    assert list(read_ahead([], 2, 1)) == []
    assert list(read_ahead(streams(0, 0), 2, 1)) == []


def settled(value):
    """What a function returns when it has returned the same for a while."""
    last, since = value(), time.monotonic()
    while time.monotonic() - since < 0.3:
        if (now := value()) != last:
            last, since = now, time.monotonic()
        time.sleep(0.01)
    return last


def test_no_more_is_read_than_fits_into_the_queues():
    n_read = [0]

    def count(n):
        for i in range(n):
            n_read[0] += 1
            yield i

    ahead = read_ahead([lambda: count(50), lambda: count(50)], 2, 3)
    assert next(ahead) == 0
    assert settled(lambda: n_read[0]) == 1 + 2 * (3 + 1)
    ahead.close()
    assert readers() == []


def test_reading_goes_on_while_an_item_is_used():
    read = threading.Event()

    def items():
        yield 0
        read.set()
        yield 1

    ahead = read_ahead([items], 1, 1)
    assert next(ahead) == 0
    assert read.wait(10)
    assert list(ahead) == [1]


@pytest.mark.parametrize("error", [OSError(5, "no such chunk"), KeyboardInterrupt()])
def test_an_error_of_a_thread_is_raised_as_it_is_in_its_place(error):
    def broken():
        yield "a"
        raise error

    ahead = read_ahead([lambda: iter("x"), broken, lambda: iter("never")], 2, 4)
    assert [next(ahead), next(ahead)] == ["x", "a"]
    with pytest.raises(type(error)) as caught:
        next(ahead)
    assert caught.value is error
    assert readers() == []
