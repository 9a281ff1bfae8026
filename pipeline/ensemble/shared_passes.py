"""Several selections in step: each image is decoded once for a pass of all of them, not once for each."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Generic, TypeVar

from pipeline.ensemble.selection import Oof

T = TypeVar("T")


def select_with_members(oof: Oof, select: Callable[[Oof], T]) -> tuple[T, list[T]]:
    """The selection for all members together, and that for each one alone; the same one for a single member."""
    if oof.members == 1:
        together = select(oof)
        return together, [together]
    alone = [lambda each, member=member: select(each.only(member)) for member in range(oof.members)]
    together, *others = select_in_step(oof, [select, *alone])
    return together, others


def select_in_step(oof: Oof, selections: Sequence[Callable[[Oof], T]]) -> list[T]:
    """The results of several selections, each equal to that of a call with `oof` alone.

    Every pass of a selection is over all images in one order. Each selection has a thread, and the threads take turns:
    one takes its next image, then the next thread does. All are therefore at the same image, which is kept until
    all have seen it. The progress is that of the first.

    Args:
        selections: functions of an `Oof`; they read images in the order of `Oof.images` only.

    Raises:
        Exception: the first one that a selection raises; the others are then stopped.
    """
    shared = replace(oof, read=lru_cache(maxsize=1)(oof.read))
    quiet = replace(shared, track=lambda items, _: items)
    turns = [_Turn(select, shared if number == 0 else quiet) for number, select in enumerate(selections)]
    try:
        running = turns
        while running:
            running = [turn for turn in running if turn.take()]
    finally:
        for turn in turns:
            turn.stop()
    return [turn.result for turn in turns]


class _StoppedError(Exception):
    """Another selection failed, or the user interrupted."""


class _Turn(Generic[T]):
    """A selection that waits before each image until it may continue."""

    result: T

    def __init__(self, select: Callable[[Oof], T], oof: Oof):
        self._may_run, self._waits = threading.Semaphore(0), threading.Semaphore(0)
        self._error: BaseException | None = None
        self._stopped, self._ended = False, False
        self._thread = threading.Thread(target=self._run, args=(select, oof), daemon=True)
        self._thread.start()

    def take(self) -> bool:
        """Run up to the next image; returns whether there is one.

        Raises:
            Exception: what the selection raises.
        """
        if not self._ended:
            self._may_run.release()
            self._waits.acquire()
        if self._error:
            raise self._error
        return not self._ended

    def stop(self) -> None:
        """End the thread, if it still runs."""
        self._stopped = True
        self._may_run.release()
        self._thread.join(timeout=1)  # after an interrupt it may compute for longer; then it ends with the process

    def _run(self, select: Callable[[Oof], T], oof: Oof) -> None:
        self._may_run.acquire()
        try:
            if not self._stopped:
                self.result = select(replace(oof, track=self._wait_before_each(oof.track)))
        except _StoppedError:
            pass
        except BaseException as error:  # raised again in the caller's thread
            self._error = error
        self._ended = True
        self._waits.release()

    def _wait_before_each(
        self, track: Callable[[Iterable[str], str], Iterable[str]]
    ) -> Callable[[Iterable[str], str], Iterator[str]]:
        def tracked(items: Iterable[str], task: str) -> Iterator[str]:
            for item in track(items, task):
                self._waits.release()
                self._may_run.acquire()
                if self._stopped:
                    raise _StoppedError
                yield item

        return tracked
