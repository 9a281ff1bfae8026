"""Work that goes on while the one who wants it is busy with what came before."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from queue import Full, Queue
from threading import Event, Thread
from typing import TypeVar

T = TypeVar("T")
LOOK_UP = 0.1  # seconds after which a thread that waits for room looks whether anybody still wants it


def prefetch(items: Iterable[T], waiting: int = 2) -> Iterator[T]:
    """The same items in the same order, worked out by a thread of their own.

    It pays where both sides leave Python's lock: decoding and networks do. An error is raised here, in its turn; who
    stops asking stops the thread, at its next item.

    Args:
        waiting: items that may be ready before they are asked for.

    >>> list(prefetch(range(3)))
    [0, 1, 2]
    """
    ready: Queue[tuple[T | None, BaseException | None] | None] = Queue(waiting)
    unwanted = Event()
    thread = Thread(target=_work, args=(items, ready, unwanted), daemon=True)
    thread.start()
    try:
        while (found := ready.get()) is not None:
            item, error = found
            if error:
                raise error
            yield item
    finally:
        unwanted.set()
        thread.join()


def _work(items: Iterable[T], ready: Queue, unwanted: Event) -> None:
    try:
        for item in items:
            if not _hand_over((item, None), ready, unwanted):
                return
    except BaseException as error:  # whoever asks shall hear of it, whatever it is
        _hand_over((None, error), ready, unwanted)
    else:
        _hand_over(None, ready, unwanted)


def _hand_over(found: object, ready: Queue, unwanted: Event) -> bool:
    """Wait for room; False if nobody wants it any more."""
    while not unwanted.is_set():
        with suppress(Full):
            ready.put(found, timeout=LOOK_UP)
            return True
    return False
