"""Official metrics. All of them start from three pixel counts per image, kept in int64.

Counts are enough to score a submission without any image, and they let a search over thresholds
score every threshold from one histogram (see `postprocess/`).
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np


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
        mask, target: the same, 0 or 1.

    Raises:
        ValueError: if the shapes differ.
    """
    if mask.shape != target.shape:
        raise ValueError(f"mask {mask.shape} and target {target.shape} differ in shape")
    counts = (np.count_nonzero(mask & target), np.count_nonzero(mask), np.count_nonzero(target))
    return Counts(*(np.int64(number) for number in counts))


def dice(counts: Counts) -> np.ndarray:
    """Dice coefficient of each image: 2·|A∩B| / (|A| + |B|); 1 where both are empty.

    Source:
        The evaluation pages of Severstal, Understanding clouds, HuBMAP and SIIM: "the mean of the Dice
        coefficients for each image", defined as 1 when both are empty.
    """
    total = counts.predicted + counts.target
    return np.where(total == 0, 1.0, 2 * counts.intersection / np.maximum(total, 1))


def iou(counts: Counts) -> np.ndarray:
    """Intersection over union of each image; 1 where both are empty."""
    union = counts.predicted + counts.target - counts.intersection
    return np.where(union == 0, 1.0, counts.intersection / np.maximum(union, 1))


def tgs_precision(counts: Counts) -> np.ndarray:
    """TGS salt's score of each image: the share of the thresholds .50, .55, …, .95 that its IoU exceeds.

    An image holds one mask or none, so precision TP / (TP + FP + FN) at a threshold is 1 or 0. Both empty:
    1. A prediction on an empty image, or none on a full one, has IoU 0 and scores 0.

    The comparison is strict and done in integers, so that an IoU of exactly .55 does not pass .55
    through rounding: IoU > k/20 is 20·intersection > k·union.

    Source:
        https://www.kaggle.com/competitions/tgs-salt-identification-challenge/overview/evaluation
    """
    union = counts.predicted + counts.target - counts.intersection
    # A sum, not an array with an axis of thresholds: a search over cuts holds millions of counts.
    passed = sum((20 * counts.intersection > twentieths * union).astype(np.int64) for twentieths in range(10, 20))
    return np.where(union == 0, 1.0, passed / 10)


METRICS: dict[str, Callable[[Counts], np.ndarray]] = {
    "mean_dice": dice,
    "mean_iou": iou,
    "tgs_precision": tgs_precision,
}


def mean_score(name: str, counts: Iterable[Iterable[int]]) -> float:
    """The official score of images: the mean of a metric over them.

    Args:
        name: in METRICS.
        counts: intersection, predicted and target pixels of each image.

    Raises:
        ValueError: for no image.
    """
    rows = np.array([tuple(image) for image in counts], dtype=np.int64)
    if not len(rows):
        raise ValueError(f"{name} of no image is not defined")
    return float(METRICS[name](Counts(*rows.T)).mean())
