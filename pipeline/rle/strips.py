"""Masks that do not fit in memory: runs from strips, and windows of the mask from runs."""

from collections.abc import Iterable

import numpy as np

from pipeline.rle.pixels import mask_of_runs, runs_of_mask
from pipeline.rle.runs import Runs, no_runs


def runs_of_strips(strips: Iterable[np.ndarray], order: str) -> tuple[Runs, int]:
    """The runs of a mask that arrives in strips, and the number of its pixels.

    Shapes:
        strips: in column order (H, w) each, from left to right; in row order (h, W) each, from top to bottom; bool or
            uint8, 0 or 1.

    Raises:
        ValueError: if the strips differ in length, or as `runs_of_mask`.
    """
    found, pixels, side = [no_runs()], 0, None
    for strip in strips:
        line = strip.shape[0 if order == "column" else -1]
        if line != (side := side or line):
            raise ValueError(f"strips of {side} and {line} pixels across: expected one mask, in whole {order}s")
        starts, ends = runs_of_mask(strip, order)
        found.append((starts + pixels, ends + pixels))
        pixels += strip.size
    starts, ends = (np.concatenate(each) for each in zip(*found, strict=True))
    apart = starts[1:] != ends[:-1]  # False where a run continues in the next strip
    if starts.size:
        starts, ends = starts[np.append(True, apart)], ends[np.append(apart, True)]
    return (starts, ends), pixels


def window_of_runs(runs: Runs, shape: tuple[int, int], window: tuple[slice, slice], order: str) -> np.ndarray:
    """A window of the mask with these runs, in time proportional to the columns (or rows) that it touches.

    Args:
        shape: (H, W) of the mask.
        window: rows and columns, inside the mask.

    Shapes:
        returns: (h, w) uint8, C-contiguous.
    """
    rows, columns = window
    lines, length = (columns, shape[0]) if order == "column" else (rows, shape[1])
    first, last = lines.start * length, lines.stop * length  # pixels
    here = slice(np.searchsorted(runs[1], first, side="right"), np.searchsorted(runs[0], last))
    inside = tuple(np.clip(borders[here], first, last) - first for borders in runs)
    count = lines.stop - lines.start
    if order == "column":
        return np.ascontiguousarray(mask_of_runs(inside, (length, count), order)[rows])
    return np.ascontiguousarray(mask_of_runs(inside, (count, length), order)[:, columns])
