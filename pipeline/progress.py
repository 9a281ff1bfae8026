"""Progress: a bar in a terminal, a log line every 30 seconds elsewhere."""

import logging
import os
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

import psutil
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

log = logging.getLogger(__name__)
# One console for bars and log lines, so that neither overwrites the other. Text is printed without markup or emoji.
console = Console(stderr=True, markup=False, emoji=False)
T = TypeVar("T")
SECONDS_BETWEEN_LINES = 30


def is_main_process() -> bool:
    """Whether this process reports progress: the only process, or rank 0 under torchrun."""
    return int(os.environ.get("RANK", "0")) == 0


def seconds_of_process() -> float:
    """Seconds of wall-clock time since this process started; most of the first ones are those of imports."""
    return max(0.0, time.time() - psutil.Process().create_time())


def track(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """The same items, with progress reported by the main process.

    Args:
        what: label of the progress bar.
        total: number of items; needed if `items` has no length.
    """
    total = len(items) if total is None and isinstance(items, Sized) else total
    if not is_main_process():
        yield from items
    elif console.is_terminal:
        yield from _bar(items, what, total)
    else:
        yield from _lines(items, what, total)


def _bar(items: Iterable[T], what: str, total: int | None) -> Iterator[T]:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        yield from progress.track(items, description=what, total=total)


def _lines(items: Iterable[T], what: str, total: int | None) -> Iterator[T]:
    started = last_line = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last_line > SECONDS_BETWEEN_LINES:
            left = f", {clock((now - started) / done * (total - done))} left" if total else ""
            log.info("%s: %d of %s%s", what, done, total or "?", left)
            last_line = now


class Timed(Iterator[T]):
    """An iterator that measures how long its consumer waits.

    Attributes:
        seconds: that the consumer has waited for items.
    """

    def __init__(self, items: Iterable[T]):
        self._items, self.seconds = iter(items), 0.0

    def __next__(self) -> T:
        started = time.monotonic()
        try:
            return next(self._items)
        finally:
            self.seconds += time.monotonic() - started


def clock(seconds: float) -> str:
    """A duration in seconds as minutes:seconds, or hours:minutes:seconds.

    >>> clock(75), clock(3675)
    ('1:15', '1:01:15')
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
