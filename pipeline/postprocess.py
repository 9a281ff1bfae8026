"""From probabilities to a mask: a threshold and a smallest area, searched on OOF with the competition's metric.

Thresholds lie between the 256 stored levels: threshold number k (1 … 255) is (k - ½) / 255, and a pixel
belongs to the mask if its stored value is k or more. Rounding then moves no pixel over a threshold, and
number 128 is exactly .5.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from pipeline.inference.store import LEVELS
from pipeline.metrics import Counts, stack

THRESHOLDS = (np.arange(1, LEVELS + 1) - 0.5) / LEVELS
HALF = int(THRESHOLDS.searchsorted(0.5))  # position of .5 among them


class Cut(NamedTuple):
    """What turns stored values into a mask."""

    threshold: float  # on probabilities, 0 to 1
    min_area: int  # pixels; a smaller mask becomes empty


class Search(NamedTuple):
    """The best cut, and all that were tried."""

    cut: Cut
    score: float
    areas: np.ndarray  # (A,) pixels
    scores: np.ndarray  # (A, 255), mean over images
    image_scores: np.ndarray  # (N,) of the best cut, in the order in which the images came


def apply(values: np.ndarray, cut: Cut) -> np.ndarray:
    """The mask of stored values.

    Shapes:
        values: uint8 of any shape, 0 … 255.
        returns: uint8 of that shape, 0 or 1.
    """
    mask = (values >= level(cut.threshold)).astype(np.uint8)
    return mask if np.count_nonzero(mask) >= cut.min_area else np.zeros_like(mask)


def level(threshold: float) -> int:
    """The least stored value that a threshold keeps.

    >>> level(0.5)
    128
    """
    return int(np.ceil(threshold * LEVELS + 0.5 - 1e-9))


def count_levels(values: np.ndarray, target: np.ndarray) -> Counts:
    """The counts of one image at all 255 thresholds, from one histogram and not from 255 masks.

    Shapes:
        values: uint8, target: 0 or 1, of the same shape.
        returns: Counts of (255,) int64.
    """
    if values.shape != target.shape:
        raise ValueError(f"values {values.shape} and target {target.shape} differ in shape")
    joint = values.ravel().astype(np.uint16)
    joint |= target.ravel().astype(np.uint16) << 8
    outside, inside = np.bincount(joint, minlength=512).reshape(2, 256)
    intersection = inside[:0:-1].cumsum()[::-1]  # pixels at level k or above, for k = 1 … 255
    predicted = intersection + outside[:0:-1].cumsum()[::-1]
    return Counts(intersection, predicted, np.full(LEVELS, inside.sum()))


def search(images: Iterable[tuple[np.ndarray, np.ndarray]], metric: Callable[[Counts], np.ndarray]) -> Search:
    """The threshold and smallest area with the best mean score; one pass over the images.

    Of equal scores the smallest area wins, then the threshold nearest to .5.

    Args:
        images: pairs of values (uint8) and target (0 or 1).
        metric: of `metrics.METRICS`.
    """
    counts = stack(count_levels(*image) for image in images)
    areas = _areas(counts.predicted[:, HALF])
    scores = np.stack([metric(_without_small(counts, area)).mean(axis=0) for area in areas])
    row = int(_is_best(scores).any(axis=1).argmax())
    column = best_threshold(scores[row])
    image_scores = metric(_without_small(counts, areas[row]))[:, column]
    cut = Cut(float(THRESHOLDS[column]), int(areas[row]))
    return Search(cut, float(scores[row, column]), areas, scores, image_scores)


def best_threshold(scores: np.ndarray) -> int:
    """Position of the best of the 255 scores; of equal ones, that of the threshold nearest to .5."""
    return int(np.where(_is_best(scores), np.abs(THRESHOLDS - 0.5), np.inf).argmin())


def _is_best(scores: np.ndarray) -> np.ndarray:
    return np.isclose(scores, scores.max(), rtol=0, atol=1e-12)


def _areas(predicted: np.ndarray) -> np.ndarray:
    """Areas to try: 0, then some two dozen from one pixel to the median of the predicted areas."""
    found = predicted[predicted > 0]
    if not len(found):
        return np.zeros(1, dtype=np.int64)
    return np.unique([0, *np.geomspace(1, max(1, np.median(found)), 24).astype(np.int64)])


def _without_small(counts: Counts, area: int) -> Counts:
    kept = counts.predicted >= area
    return Counts(counts.intersection * kept, counts.predicted * kept, counts.target)
