"""A trace of the first updates of a training, to see what it waits for."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TypeVar

from torch.profiler import profile

from pipeline.files import atomic_write

T = TypeVar("T")
UPDATES = 20  # a trace of more is slow to open


def profiled(batches: Iterable[T], path: Path) -> Iterator[T]:
    """The same batches; what is done with the first of them is written as a trace, for https://ui.perfetto.dev."""
    remaining = iter(batches)
    with profile() as trace:
        yield from islice(remaining, UPDATES)
    with atomic_write(path) as partial:
        trace.export_chrome_trace(str(partial))
    yield from remaining
