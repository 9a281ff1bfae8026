"""Detection rates of masks, reported beside a score that may reward empty predictions."""

from typing import NamedTuple

import numpy as np

from pipeline.metrics.counts import Counts
from pipeline.metrics.scores import ratio

MIN_DIFFERENCE = 0.1  # of two shares of empty masks, below which a difference is not reported
MIN_STANDARD_ERRORS = 3  # that the difference must exceed too


class DetectionRates(NamedTuple):
    """Three shares from 0 to 1, None if undefined. A mask is one class of one image."""

    dice: float | None  # over all pixels; the mean over classes that are predicted or in a target
    found: float | None  # share of the masks with objects of which at least one pixel is predicted
    left_empty: float | None  # share of the empty masks whose prediction is empty too


def detection_rates(counts: Counts) -> DetectionRates:
    """Detection rates over the masks of all images, each class of each image being one mask.

    Shapes:
        counts: (N, C) int64.

    >>> detection_rates(Counts(*np.array([[[2], [0], [0]], [[3], [0], [1]], [[3], [4], [0]]])))
    DetectionRates(dice=0.36363636363636365, found=0.5, left_empty=0.0)
    """
    filled = counts.target > 0
    total = (counts.predicted + counts.target).sum(axis=0)
    return DetectionRates(
        _or_none(ratio(2 * counts.intersection.sum(axis=0), total)),
        _share(counts.intersection[filled] > 0),
        _share(counts.predicted[~filled] == 0),
    )


def _share(which: np.ndarray) -> float | None:
    return float(which.mean()) if which.size else None


def _or_none(value: np.ndarray) -> float | None:
    return None if np.isnan(value) else float(value)


def empties_differ(share: float, expected: float, count: int) -> bool:
    """Whether a share of empty masks differs from the expected one, by more than chance.

    Args:
        share: of empty predictions, 0 to 1.
        expected: share of empty masks, 0 to 1.
        count: number of masks.

    >>> empties_differ(1.0, 0.71, 337), empties_differ(0.76, 0.71, 337), empties_differ(1.0, 0.71, 3)
    (True, False, False)
    """
    error = np.sqrt(expected * (1 - expected) / max(count, 1))
    return bool(abs(share - expected) > max(MIN_DIFFERENCE, MIN_STANDARD_ERRORS * error))
