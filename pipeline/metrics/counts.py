"""Three pixel counts per image, kept in int64: what the metrics of pixels start from.

Counts are enough to score a submission without any image, and they let a search over thresholds
score every threshold from one histogram (see `postprocess/`).
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

VOID = 255  # in a target: a pixel that counts for nothing


class Counts(NamedTuple):
    """Pixels per image: arrays of int64 of any one shape."""

    intersection: np.ndarray  # predicted and true
    predicted: np.ndarray
    target: np.ndarray


def stack(counts: Iterable[Counts]) -> Counts:
    """The counts of several images as one, with an axis of images in front."""
    return Counts(*map(np.stack, zip(*counts, strict=True)))


def count(mask: np.ndarray, target: np.ndarray) -> Counts:
    """The counts of one image.

    Shapes:
        mask, target: the same; 0 or 1, the target VOID where void.

    Raises:
        ValueError: if the shapes differ.
    """
    if mask.shape != target.shape:
        raise ValueError(f"mask {mask.shape} and target {target.shape} differ in shape")
    drawn, true = mask == 1, target == 1
    counts = (np.count_nonzero(drawn & true), np.count_nonzero(drawn & (target != VOID)), np.count_nonzero(true))
    return Counts(*(np.int64(number) for number in counts))
