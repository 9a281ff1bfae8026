"""Decoded images and masks, in memory that worker processes share."""

import logging
import math
import mmap
import multiprocessing
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from pipeline.data.rasters import free_memory
from pipeline.hardware import local_processes

log = logging.getLogger(__name__)
SHARE = 0.25  # of the free memory
ALIGNMENT = 64  # bytes; of each array
DTYPES = (np.dtype(np.uint8), np.dtype(np.float32))
WIDEST = max(dtype.itemsize for dtype in DTYPES)

Shape = tuple[int, ...]
Arrays = tuple[np.ndarray, ...]


class ArrayCache:
    """A tuple of arrays for each position, such as an image and its mask.

    The memory is mapped once and belongs to no file: workers that are forked share it, and a page is allocated when it
    is first written. A pickled cache, as other workers get it, is empty and has memory of its own.

    Args:
        shapes: of the arrays of each position.
        limit: bytes that are written at most; arrays that would exceed it are not kept.
    """

    def __init__(self, shapes: Sequence[Sequence[Shape]], limit: int):
        self._shapes, self._limit = [tuple(map(tuple, each)) for each in shapes], limit
        self._starts = [0, *accumulate(_reserved(each) for each in self._shapes)]
        self._bytes = np.frombuffer(mmap.mmap(-1, self._starts[-1] + ALIGNMENT + len(shapes)), np.uint8)
        self._used = self._bytes[self._starts[-1] : self._starts[-1] + 8].view(np.int64)
        # 0: nothing is stored; else 1 + the dtypes of the arrays, as digits.
        self._states = self._bytes[self._starts[-1] + ALIGNMENT :]

    def __reduce__(self) -> tuple:
        return ArrayCache, (self._shapes, self._limit)

    def read(self, position: int) -> Arrays | None:
        """The arrays at a position, which cannot be written to; None if they were not added yet."""
        state = int(self._states[position])
        if not state:
            return None
        arrays = self._views(position, _dtypes(state, len(self._shapes[position])))
        for each in arrays:
            each.flags.writeable = False
        return arrays

    def add(self, position: int, arrays: Arrays) -> None:
        """Store arrays, unless they would exceed the limit, or have another shape or dtype than expected.

        Two workers may store the same arrays at once: they write the same bytes.

        Shapes:
            arrays: those of the position, uint8 or float32.
        """
        shapes, nbytes = tuple(each.shape for each in arrays), sum(each.nbytes for each in arrays)
        dtypes = [each.dtype for each in arrays]
        unexpected = shapes != self._shapes[position] or any(dtype not in DTYPES for dtype in dtypes)
        if unexpected or self._used[0] + nbytes > self._limit:
            return
        self._used[0] += nbytes  # between workers approximately: they do not lock it
        for target, source in zip(self._views(position, dtypes), arrays, strict=True):
            target[...] = source
        self._states[position] = _state(dtypes)  # last: others read the arrays from now on

    def _views(self, position: int, dtypes: Sequence[np.dtype]) -> Arrays:
        start, views = self._starts[position], []
        for shape, dtype in zip(self._shapes[position], dtypes, strict=True):
            nbytes = math.prod(shape) * dtype.itemsize
            views.append(self._bytes[start : start + nbytes].view(dtype).reshape(shape))
            start += _aligned(nbytes)
        return tuple(views)


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def _reserved(shapes: Sequence[Shape]) -> int:
    """Bytes of address space for arrays of the widest dtype."""
    return sum(_aligned(math.prod(shape) * WIDEST) for shape in shapes)


def _state(dtypes: Sequence[np.dtype]) -> int:
    return 1 + sum(DTYPES.index(dtype) * len(DTYPES) ** place for place, dtype in enumerate(dtypes))


def _dtypes(state: int, count: int) -> list[np.dtype]:
    return [DTYPES[(state - 1) // len(DTYPES) ** place % len(DTYPES)] for place in range(count)]


def make_cache(shapes: Sequence[Sequence[Shape]], num_workers: int) -> ArrayCache | None:
    """A cache, if all arrays fit into this process's share of the free memory with 8 bits per value; None otherwise.

    Args:
        shapes: as for `ArrayCache`.
        num_workers: each has a cache of its own where processes are not forked.
    """
    needed = sum(math.prod(shape) for each in shapes for shape in each)
    if multiprocessing.get_start_method() != "fork":
        needed *= max(1, num_workers)
    limit = int(SHARE * free_memory()) // local_processes()
    fits = needed <= limit
    log.log(
        logging.DEBUG if fits else logging.INFO,
        "decoded images: %.1f GiB, %s the limit of %.1f GiB: %s",
        needed / 2**30,
        "within" if fits else "above",
        limit / 2**30,
        "kept in memory" if fits else "decoded in every epoch",
    )
    return ArrayCache(shapes, limit) if fits and len(shapes) else None
