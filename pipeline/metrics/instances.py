"""Scores of objects against objects: which predicted ones are true ones, at ten demands on their overlap.

Two objects match at a threshold t if IoU > t. From t = .5 on a match is unique, where neither the predicted objects nor
the true ones overlap each other: two objects that share more than half of their union with a third would share pixels
with each other. So matching is counting, and nothing has to be assigned.

All overlaps of an image come from one histogram of pairs of labels, not from a loop over pairs of masks.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

VOID_OBJECT = -1  # void among the numbers of objects
TWENTIETHS = np.arange(10, 20)  # the thresholds .50, .55, …, .95, compared in integers


class Matches(NamedTuple):
    """Objects at each of the ten thresholds, (10,) int64."""

    true_positives: np.ndarray
    false_positives: np.ndarray
    false_negatives: np.ndarray


def overlaps(labels: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels that each predicted object shares with each true one, and the pixels of both.

    Pixels of -1 in the target are void: they count for nothing, so a predicted object that lies in void alone has no
    pixel, and is neither right nor wrong.

    Shapes:
        labels, target: of one shape, integers; 0 is background, any other number an object.
        returns: (P, T), (P,), (T,) int64; objects in the order of their numbers.

    Raises:
        ValueError: if the shapes differ.
    """
    if labels.shape != target.shape:
        raise ValueError(f"labels {labels.shape} and target {target.shape} differ in shape")
    valid = target != VOID_OBJECT
    found, predicted = _numbered(labels)
    there, true = _numbered(np.where(valid, target, 0))
    pairs = np.bincount((predicted * (there + 1) + true)[valid], minlength=(found + 1) * (there + 1))
    joint = pairs.reshape(found + 1, there + 1)
    return joint[1:, 1:], joint[1:].sum(axis=1), joint[:, 1:].sum(axis=0)


def _numbered(labels: np.ndarray) -> tuple[int, np.ndarray]:
    """The number of objects, and the labels renumbered 1, 2, … without gaps, int64."""
    labels = labels.astype(np.int64)
    if labels.size == 0:
        return 0, labels
    if labels.min() < 0:
        raise ValueError(f"label {labels.min()}: expected 0 for the background and numbers above it for objects")
    there = np.zeros(labels.max() + 1, dtype=np.int64)
    there[labels.ravel()] = 1
    there[0] = 0
    return int(there.sum()), (np.cumsum(there) * there)[labels]


def match(labels: np.ndarray, target: np.ndarray) -> Matches:
    """Objects found, invented and missed at each threshold; labels as in `overlaps`."""
    return match_overlaps(*overlaps(labels, target))


def pairwise_iou(shared: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """The IoU of each predicted object with each true one, (P, T), from what `overlaps` returns."""
    return shared / (predicted[:, None] + true - shared)


def match_overlaps(shared: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> Matches:
    """`match` from what `overlaps` returns, or from some rows of it: of fewer predicted objects."""
    union = predicted[:, None] + true - shared
    passed = 20 * shared > TWENTIETHS[:, None, None] * union
    hits = passed.any(axis=2).sum(axis=1) if passed.size else np.zeros(len(TWENTIETHS), dtype=np.int64)
    return Matches(hits, np.count_nonzero(predicted) - hits, len(true) - hits)


def dsb_precision(matches: Matches) -> float:
    """The 2018 Data Science Bowl's score of an image: the mean over thresholds of TP / (TP + FP + FN).

    Nothing predicted and nothing there: 1. The final score is the mean over images.

    Source:
        https://www.kaggle.com/competitions/data-science-bowl-2018/overview/evaluation. The rule for an image without
        any object is not stated there. Sartorius: the same from memory, not verified.
    """
    hits, extra, missed = matches
    total = hits + extra + missed
    return float(np.where(total == 0, 1.0, hits / np.maximum(total, 1)).mean())


def airbus_f2(matches: Matches) -> float:
    """Airbus' score of an image: the mean over thresholds of F2 = 5·TP / (5·TP + 4·FN + FP).

    Nothing predicted and nothing there: 1; ships predicted where there are none: 0. The final score is the mean over
    images.

    Source:
        https://www.kaggle.com/competitions/airbus-ship-detection/overview/evaluation, read in a secondary copy.
    """
    hits, extra, missed = matches
    total = 5 * hits + 4 * missed + extra
    return float(np.where(total == 0, 1.0, 5 * hits / np.maximum(total, 1)).mean())


def f1(matches: Matches, iou: float | Sequence[float]) -> float:
    """F1 = 2·TP / (2·TP + FP + FN) of an image at an IoU, or the mean at several.

    Nothing predicted and nothing there: 1. No competition's score by itself: it judges objects where the score of
    a single image is not defined, as of average precision at that IoU.

    Args:
        iou: of .50, .55, …, .95.
    """
    places = np.rint(20 * np.atleast_1d(iou)).astype(int) - TWENTIETHS[0]
    hits, extra, missed = (each[places] for each in matches)
    total = 2 * hits + extra + missed
    return float(np.where(total == 0, 1.0, 2 * hits / np.maximum(total, 1)).mean())


INSTANCE_METRICS: dict[str, Callable[[Matches], float]] = {
    "dsb_precision": dsb_precision,
    "airbus_f2": airbus_f2,
    "f1_60": partial(f1, iou=0.6),
}
