"""Decoded images with their masks, in memory that worker processes share."""

import logging
import mmap
import multiprocessing
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from pipeline.data.mixing import Pair
from pipeline.data.rasters import free_memory
from pipeline.hardware import local_processes

log = logging.getLogger(__name__)
SHARE = 0.25  # of the free memory
ALIGNMENT = 64  # bytes
DTYPES = (np.dtype(np.uint8), np.dtype(np.float32))  # of images; the state of an item is 1 + the index of its dtype


class PairCache:
    """Images and masks by position.

    The memory is mapped once and belongs to no file: workers that are forked share it, and a page is allocated when it
    is first written. A pickled cache, as other workers get it, is empty and has memory of its own.

    Args:
        sizes: height and width of each image.
        channels: of an image, and of its mask.
        limit: bytes that are written at most; a pair that would exceed it is not kept.
    """

    def __init__(self, sizes: Sequence[tuple[int, int]], channels: tuple[int, int], limit: int):
        self._sizes, self._channels, self._limit = sizes, channels, limit
        image, mask = channels
        widest = max(dtype.itemsize for dtype in DTYPES) * image + mask  # bytes per pixel
        self._starts = [0, *accumulate(-(-height * width * widest // ALIGNMENT) * ALIGNMENT for height, width in sizes)]
        self._bytes = np.frombuffer(mmap.mmap(-1, self._starts[-1] + ALIGNMENT + len(sizes)), np.uint8)
        self._used = self._bytes[self._starts[-1] : self._starts[-1] + 8].view(np.int64)
        self._states = self._bytes[self._starts[-1] + ALIGNMENT :]

    def __reduce__(self) -> tuple:
        return PairCache, (self._sizes, self._channels, self._limit)

    def read(self, position: int) -> Pair | None:
        """The pair at a position, which cannot be written to; None if it was not added yet."""
        state = self._states[position]
        if not state:
            return None
        pair = self._arrays(position, DTYPES[state - 1])
        for each in pair:
            each.flags.writeable = False
        return pair

    def add(self, position: int, pair: Pair) -> None:
        """Store a pair, unless it would exceed the limit, or has another shape or dtype than expected.

        Two workers may store the same pair at once: they write the same bytes.

        Shapes:
            pair: image (H, W, channels) uint8 or float32, mask (H, W, C) uint8.
        """
        dtype, nbytes = pair[0].dtype, sum(each.nbytes for each in pair)
        shapes = [(*self._sizes[position], channels) for channels in self._channels]
        if [each.shape for each in pair] != shapes or dtype not in DTYPES or self._used[0] + nbytes > self._limit:
            return
        self._used[0] += nbytes  # between workers approximately: they do not lock it
        for target, source in zip(self._arrays(position, dtype), pair, strict=True):
            target[...] = source
        self._states[position] = 1 + DTYPES.index(dtype)  # last: others read the pair from now on

    def _arrays(self, position: int, dtype: np.dtype) -> Pair:
        height, width = self._sizes[position]
        image, mask = self._channels
        memory = self._bytes[self._starts[position] : self._starts[position + 1]]
        split = height * width * image * dtype.itemsize
        return (
            memory[:split].view(dtype).reshape(height, width, image),
            memory[split : split + height * width * mask].reshape(height, width, mask),
        )


def make_cache(sizes: Sequence[tuple[int, int]], channels: tuple[int, int], num_workers: int) -> PairCache | None:
    """A cache, if all pairs of 8 bits fit into this process's share of the free memory; None otherwise.

    Args:
        num_workers: each has a cache of its own where processes are not forked.
    """
    needed = sum(height * width for height, width in sizes) * sum(channels)
    if multiprocessing.get_start_method() != "fork":
        needed *= max(1, num_workers)
    limit = int(SHARE * free_memory()) // local_processes()
    fits = needed <= limit
    log.debug(
        "decoded images: %.1f GiB, %s the limit of %.1f GiB: %s",
        needed / 2**30,
        "within" if fits else "above",
        limit / 2**30,
        "kept in memory" if fits else "decoded in every epoch",
    )
    return PairCache(sizes, channels, limit) if fits and len(sizes) else None
