"""Machine code for loops over pixels and characters that NumPy cannot express."""

from collections.abc import Callable

import numba


def cached_njit(function: Callable, *, fastmath: bool = False) -> Callable:
    """The function, compiled by numba at its first call.

    Compilation takes seconds, so numba caches the result in the first of these folders that is writable:
    NUMBA_CACHE_DIR, the source's __pycache__, the user's cache. If none is, as in some read-only installations, every
    process compiles.

    Args:
        fastmath: whether sums of floats may be added in any order, so several at a time.
    """
    try:
        return numba.njit(cache=True, fastmath=fastmath)(function)
    except RuntimeError:
        return numba.njit(fastmath=fastmath)(function)
