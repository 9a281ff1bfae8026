"""Prefetching: the same items and errors in the same order, and an end when the consumer stops."""

import threading
import time

import pytest

from pipeline.prefetch import prefetch


def test_all_items_are_returned_in_order():
    assert list(prefetch(iter(range(1000)), buffer_size=3)) == list(range(1000))


def test_the_next_item_is_computed_while_the_current_one_is_used():
    begun = []

    def slow():
        for number in range(3):
            begun.append(number)
            yield number

    items = prefetch(slow(), buffer_size=1)
    assert next(items) == 0
    give_up = time.monotonic() + 10
    while len(begun) < 3 and time.monotonic() < give_up:  # one is ready, one waits for space
        time.sleep(0.01)
    assert begun == [0, 1, 2]
    items.close()


def test_no_more_items_are_computed_than_the_buffer_holds():
    begun = []
    items = prefetch((begun.append(number) or number for number in range(100)), buffer_size=2)
    next(items)
    time.sleep(0.3)
    assert len(begun) <= 1 + 2 + 1, "one is used, two are ready, one waits for space"
    items.close()


def test_an_error_is_raised_at_its_item():
    def broken():
        yield 1
        raise ValueError("the second is damaged")

    items = prefetch(broken())
    assert next(items) == 1
    with pytest.raises(ValueError, match="the second is damaged"):
        next(items)


def test_closing_the_iterator_stops_the_thread():
    before, closed = set(threading.enumerate()), []

    def endless():
        try:
            while True:
                yield 0
        finally:
            closed.append(True)

    items = prefetch(endless())
    next(items)
    (thread,) = set(threading.enumerate()) - before
    items.close()
    assert not thread.is_alive()
    assert closed
