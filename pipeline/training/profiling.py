"""A trace of the first updates of a training, to see what it waits for."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TypeVar

from torch.profiler import profile

from pipeline.files import atomic_write

T = TypeVar("T")
UPDATES = 20  # a trace of more is slow to open


def profiled(batches: Iterable[T], path: Path, accumulate: int) -> Iterator[T]:
    """The same batches; writes a trace of the computation on those of the first updates, for https://ui.perfetto.dev.

    Args:
        accumulate: batches per update.
    """
    remaining = iter(batches)
    with profile() as trace:
        try:
            yield from islice(remaining, UPDATES * accumulate)
        finally:
            trace.stop()
            with atomic_write(path) as partial:
                trace.export_chrome_trace(str(partial))
    yield from remaining
