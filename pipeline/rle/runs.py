"""The runs of a mask, and what can be computed from them without the mask."""

from collections.abc import Sequence

import numpy as np

Runs = tuple[np.ndarray, np.ndarray]  # starts and ends, int64, 0-based, half-open, sorted, disjoint

MAX_PIXELS = 10**12  # no image has more, and sums of such numbers do not overflow int64


class RLEError(ValueError):
    """A text that is not a valid run-length encoding in the dialect in which it is read.

    Attributes:
        fault: what is wrong, without the number of the text.
        number: the position of the text among many, counted from 0; None if it was read alone.
    """

    def __init__(self, fault: str, number: int | None = None):
        super().__init__(fault if number is None else f"text {number}: {fault}")
        self.fault, self.number = fault, number

    def __reduce__(self) -> tuple[type["RLEError"], tuple[str, int | None]]:
        return RLEError, (self.fault, self.number)


def area(runs: Runs) -> int:
    """The number of pixels in the runs of one mask."""
    starts, ends = runs
    return int((ends - starts).sum())


def no_runs() -> Runs:
    """The runs of an empty mask."""
    return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)


def pixel_count(shape: tuple[int, int]) -> int:
    """The number of pixels of a mask of shape (H, W).

    Raises:
        ValueError: if shape is not two positive numbers.
    """
    if len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"shape {tuple(shape)}: expected (height, width), both at least 1 pixel")
    return int(shape[0]) * int(shape[1])


def overlap(a: Runs, b: Runs) -> int:
    """The number of pixels that two masks share, from their runs.

    With B(x) the number of b's pixels before pixel x:

        overlap = sum over the runs of a of B(end) - B(start)

    Both masks must have the same shape and pixel order. Takes O((|a| + |b|) log |b|) steps, independent of the image's
    size.
    """
    starts, ends = a
    return int((_pixels_before(ends, b) - _pixels_before(starts, b)).sum())


def _pixels_before(pixels: np.ndarray, runs: Runs) -> np.ndarray:
    """The number of pixels in the runs before each of the given pixels, (N,) to (N,)."""
    starts, ends = runs
    if not starts.size:
        return np.zeros_like(pixels)
    total = np.concatenate(([0], np.cumsum(ends - starts)))
    begun = np.searchsorted(starts, pixels)  # runs that begin before the pixel; the last may end after it
    after = np.maximum(ends[begun - 1] - pixels, 0) * (begun > 0)
    return total[begun] - after


def union(masks: Sequence[Runs]) -> Runs:
    """The runs of the pixels that are in any of several masks of one shape and pixel order; at least one mask."""
    if len(masks) == 1:
        return masks[0]
    starts, ends = (np.concatenate(each) for each in zip(*masks, strict=True))
    points, steps = np.concatenate([starts, ends]), np.repeat([1, -1], [len(starts), len(ends)])
    order = np.lexsort((-steps, points))  # starts before ends at the same pixel: runs that touch become one
    points, steps = points[order], steps[order]
    depth = np.cumsum(steps)
    return points[(depth == 1) & (steps == 1)], points[depth == 0]


def without(runs: Runs, others: Runs) -> Runs:
    """The runs of a mask's pixels that are not in another one of the same shape and pixel order."""
    points = np.unique(np.concatenate([*runs, *others]))
    lows, highs = points[:-1], points[1:]
    left = _covers(runs, lows) & ~_covers(others, lows)
    return lows[left], highs[left]


def _covers(runs: Runs, pixels: np.ndarray) -> np.ndarray:
    """Whether each pixel is in a mask."""
    starts, ends = runs
    return np.searchsorted(starts, pixels, side="right") > np.searchsorted(ends, pixels, side="right")


def find_overlap(masks: Sequence[Runs]) -> tuple[int, int] | None:
    """The numbers of two masks of one shape and pixel order that share a pixel, counted from 0; None without any.

    They are those of the first pixel that is in two masks.
    """
    if len(masks) < 2:
        return None
    starts, ends = (np.concatenate(each) for each in zip(*masks, strict=True))
    owner = np.repeat(np.arange(len(masks)), [len(mask[0]) for mask in masks])
    order = np.argsort(starts, kind="stable")
    starts, ends, owner = starts[order], ends[order], owner[order]
    latest = np.maximum.accumulate(ends)  # a run that begins before the latest end so far shares a pixel
    shared = np.flatnonzero(starts[1:] < latest[:-1]) + 1
    if not shared.size:
        return None
    one, other = sorted((owner[ends[: shared[0]].argmax()], owner[shared[0]]))
    return int(one), int(other)
