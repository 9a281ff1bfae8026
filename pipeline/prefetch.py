"""Prefetching: items are produced by a thread while the consumer works on earlier ones."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from queue import Full, Queue
from threading import Event, Thread
from typing import TypeVar

T = TypeVar("T")
POLL_SECONDS = 0.1  # between two checks of a waiting thread whether its consumer has stopped


def prefetch(items: Iterable[T], buffer_size: int = 2) -> Iterator[T]:
    """The same items in the same order, produced by a thread.

    This is faster if producer and consumer release the GIL, as decoding and networks do. An exception of the producer
    is re-raised in the consumer, after the items before it. If the consumer stops, the thread ends at its next item.

    Args:
        buffer_size: largest number of items that wait for the consumer.

    Raises:
        BaseException: what `items` raises.

    >>> list(prefetch(range(3)))
    [0, 1, 2]
    """
    ready: Queue[tuple[T | None, BaseException | None] | None] = Queue(buffer_size)
    stopped = Event()
    thread = Thread(target=_produce, args=(items, ready, stopped), daemon=True)
    thread.start()
    try:
        while (result := ready.get()) is not None:
            item, error = result
            if error:
                raise error
            yield item
    finally:
        stopped.set()
        thread.join()


def _produce(items: Iterable[T], ready: Queue, stopped: Event) -> None:
    try:
        for item in items:
            if not _put((item, None), ready, stopped):
                return
    except BaseException as error:  # re-raised in the consumer
        _put((None, error), ready, stopped)
    else:
        _put(None, ready, stopped)


def _put(result: object, ready: Queue, stopped: Event) -> bool:
    """Wait for a free place in the queue; False if the consumer has stopped."""
    while not stopped.is_set():
        with suppress(Full):
            ready.put(result, timeout=POLL_SECONDS)
            return True
    return False
