"""Loops over single pixels and characters as machine code, where no array operation does them."""

from collections.abc import Callable

import numba


def cached_njit(function: Callable) -> Callable:
    """The function as machine code, made at its first call.

    That takes seconds, so numba keeps it, in the first of these folders that can be written: NUMBA_CACHE_DIR, the
    source's __pycache__, the user's cache. Where none can, as in some read-only installs, every process compiles.
    """
    try:
        return numba.njit(cache=True)(function)
    except RuntimeError:
        return numba.njit(function)
