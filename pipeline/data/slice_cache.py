"""The last slices that were read, so that an image and its neighbours do not read each file several times."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock

import numpy as np

CACHE_BYTES = 256 << 20  # of each process; a series of 11 slices of 2,000 × 2,000 pixels in float32 takes 176 MB


class SliceCache:
    """Arrays by key; the one that was used least recently is dropped first.

    Args:
        limit: bytes that are kept at most.
    """

    def __init__(self, limit: int = CACHE_BYTES):
        self._limit, self._bytes, self._lock = limit, 0, Lock()
        self._arrays: OrderedDict[Hashable, np.ndarray] = OrderedDict()

    def get(self, key: Hashable, read: Callable[[], np.ndarray]) -> np.ndarray:
        """The array of a key, read if it is not there; it cannot be written to.

        Two threads may read the same array at once.
        """
        with self._lock:
            if key in self._arrays:
                self._arrays.move_to_end(key)
                return self._arrays[key]
        array = read()
        array.flags.writeable = False
        with self._lock:
            if key not in self._arrays and array.nbytes <= self._limit:
                self._arrays[key] = array
                self._bytes += array.nbytes
                while self._bytes > self._limit:
                    self._bytes -= self._arrays.popitem(last=False)[1].nbytes
        return array
