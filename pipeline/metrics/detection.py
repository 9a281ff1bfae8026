"""What masks find, beside a score that may reward predicting nothing."""

from typing import NamedTuple

import numpy as np

from pipeline.metrics.counts import Counts
from pipeline.metrics.scores import ratio

FAR = 0.1  # difference of two shares of empty masks that is reported,
ERRORS = 3  # if it is as many standard errors too


class Found(NamedTuple):
    """Three shares from 0 to 1; None for one that is not defined. A mask is one class of one image."""

    dice: float | None  # over all pixels; of several classes the mean over those that are there or predicted
    found: float | None  # of the masks with objects: those of whose pixels at least one is predicted
    left_empty: float | None  # of the empty masks: those where nothing is predicted


def detection_rates(counts: Counts) -> Found:
    """Detection rates over the masks of all images.

    Shapes:
        counts: (N, C).

    >>> detection_rates(Counts(*np.array([[[2], [0], [0]], [[3], [0], [1]], [[3], [4], [0]]])))
    Found(dice=0.36363636363636365, found=0.5, left_empty=0.0)
    """
    filled = counts.target > 0
    total = (counts.predicted + counts.target).sum(axis=0)
    return Found(
        _or_none(ratio(2 * counts.intersection.sum(axis=0), total)),
        _share(counts.intersection[filled] > 0),
        _share(counts.predicted[~filled] == 0),
    )


def _share(which: np.ndarray) -> float | None:
    return float(which.mean()) if which.size else None


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def empties_differ(share: float, expected: float, count: int) -> bool:
    """Whether the share of empty masks among `count` is far from the one expected, and not by chance.

    >>> empties_differ(1.0, 0.71, 337), empties_differ(0.76, 0.71, 337), empties_differ(1.0, 0.71, 3)
    (True, False, False)
    """
    error = np.sqrt(expected * (1 - expected) / max(count, 1))
    return bool(abs(share - expected) > max(FAR, ERRORS * error))
