"""The 255 thresholds, and the counts of an image at all of them.

Thresholds lie between the 256 stored levels: threshold number k (1 … 255) is (k - ½) / 255, and a pixel
belongs to the mask if its stored value is k or more. Rounding therefore moves no pixel across a threshold,
and number 128 is exactly .5.
"""

import numpy as np

from pipeline.inference.prediction_store import MAX_VALUE
from pipeline.metrics import VOID, Counts

THRESHOLDS = (np.arange(1, MAX_VALUE + 1) - 0.5) / MAX_VALUE
HALF = int(THRESHOLDS.searchsorted(0.5))  # position of .5 in THRESHOLDS


def level(threshold: float) -> int:
    """The lowest stored value that reaches a threshold, 0 to 1.

    >>> level(0.5)
    128
    """
    return int(np.ceil(threshold * MAX_VALUE + 0.5 - 1e-9))


def count_by_label(values: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Count the pixels of an image by label and stored value.

    Shapes:
        values: uint8; target: 0 or 1, of the same shape; 255 for void, which is not counted.
        returns: (2, 256) int64; row 0 counts the pixels outside of the target, row 1 those inside.
    """
    valid = target != VOID
    if not valid.all():
        values, target = values[valid], target[valid]
    joint = values.ravel().astype(np.uint16)
    joint |= target.ravel().astype(np.uint16) << 8
    return np.bincount(joint, minlength=2 * (MAX_VALUE + 1)).reshape(2, -1)


def count_levels(values: np.ndarray, target: np.ndarray) -> Counts:
    """The counts of one image at all 255 thresholds, from one histogram instead of 255 masks.

    Shapes:
        values: uint8, target: 0 or 1, of the same shape; 255 for void, which is not counted.
        returns: Counts of (255,) int64.

    Raises:
        ValueError: if the shapes differ.
    """
    if values.shape != target.shape:
        raise ValueError(f"values {values.shape} and target {target.shape} differ in shape")
    outside, inside = count_by_label(values, target)
    intersection = inside[:0:-1].cumsum()[::-1]  # pixels at level k or above, for k = 1 … 255
    predicted = intersection + outside[:0:-1].cumsum()[::-1]
    return Counts(intersection, predicted, np.full(MAX_VALUE, inside.sum()))


def count_argmax(values: np.ndarray, target: np.ndarray) -> Counts:
    """The counts of each exclusive class, (C,) int64: a pixel gets its most probable class, of equals the first.

    Shapes:
        values: (C, H, W) uint8; target: (C, H, W), 0 or 1, or 255 for void, which is not counted.
    """
    classes, valid = len(values), target[0] != VOID
    found, true = values.argmax(axis=0)[valid], target.argmax(axis=0)[valid]
    joint = np.bincount(true * classes + found, minlength=classes * classes).reshape(classes, classes)
    return Counts(joint.diagonal().copy(), joint.sum(axis=0), joint.sum(axis=1))


def count_soft(values: np.ndarray, target: np.ndarray) -> Counts:
    """The soft counts of one image, (C,) float64: each pixel counts with its probability, without a threshold.

    Shapes:
        values: (C, H, W) uint8, or more channels, of which the first C are used; target: (C, H, W), 0 or 1, or 255 for
        void, which is not counted.
    """
    axes = (1, 2)
    values = np.where(target == VOID, 0, values[: len(target)])
    inside = (values * (target == 1)).sum(axis=axes, dtype=np.int64)
    predicted, true = values.sum(axis=axes, dtype=np.int64), (target == 1).sum(axis=axes)
    return Counts(inside / MAX_VALUE, predicted / MAX_VALUE, true.astype(np.float64))


def best_threshold(scores: np.ndarray) -> int:
    """Position of the best of the 255 scores; of equal ones, that of the threshold nearest to .5."""
    return int(np.where(is_best(scores), np.abs(THRESHOLDS - 0.5), np.inf).argmin())


def is_best(scores: np.ndarray) -> np.ndarray:
    """Which scores equal the highest, up to rounding errors: bool of the same shape."""
    return np.isclose(scores, scores.max(), rtol=0, atol=1e-12)
