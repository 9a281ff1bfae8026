"""Pixel counts per image, in int64, from which the metrics of pixels are computed.

They are enough to score a submission without images, and a search over thresholds gets the counts of every threshold
from one histogram (see `postprocess/`).
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

VOID = 255  # in a target: a pixel that is ignored


class Counts(NamedTuple):
    """Numbers of pixels per image: int64 arrays of one common shape, such as (N, C)."""

    intersection: np.ndarray  # predicted and in the target
    predicted: np.ndarray
    target: np.ndarray

    def at(self, index: Any) -> "Counts":
        """The counts at an index of the arrays, whatever NumPy takes."""
        return Counts(*(each[index] for each in self))


def stack(counts: Iterable[Counts]) -> Counts:
    """The counts of several images, stacked along a new first axis: N of shape (...) to (N, ...)."""
    return Counts(*map(np.stack, zip(*counts, strict=True)))


def count(mask: np.ndarray, target: np.ndarray) -> Counts:
    """The counts of one image.

    Shapes:
        mask: any shape, 0 or 1.
        target: the same shape, 0, 1 or VOID.
        returns: three scalars.

    Raises:
        ValueError: if the shapes differ.
    """
    if mask.shape != target.shape:
        raise ValueError(f"mask {mask.shape} and target {target.shape} differ in shape")
    predicted, true = mask == 1, target == 1
    counts = (
        np.count_nonzero(predicted & true),
        np.count_nonzero(predicted & (target != VOID)),
        np.count_nonzero(true),
    )
    return Counts(*np.array(counts, dtype=np.int64))
