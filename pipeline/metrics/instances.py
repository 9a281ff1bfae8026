"""Metrics of instances: predicted objects are matched with true objects at ten IoU thresholds.

Two objects match at a threshold t if IoU > t. For t ≥ .5 a match is unique if neither the predicted objects nor the
true ones overlap each other: two objects that each share more than half of their union with a third would share pixels
with each other. So matches are counted, without an assignment.

All overlaps of an image come from one histogram of pairs of labels, not from a loop over pairs of masks.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

VOID_OBJECT = -1  # in a target of object numbers: a pixel that is ignored
IOU_TWENTIETHS = np.arange(10, 20)  # thresholds .50, .55, …, .95 in twentieths, since they are compared in integers


class Matches(NamedTuple):
    """Numbers of objects of one image at each of the ten IoU thresholds, (10,) int64."""

    true_positives: np.ndarray
    false_positives: np.ndarray
    false_negatives: np.ndarray


def overlaps(labels: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels that each predicted object shares with each true object, and the pixels of each.

    Pixels of -1 in the target are ignored, so a predicted object that lies only on them has no pixel, and counts
    neither as true nor as false positive.

    Shapes:
        labels, target: (H, W) integers of one shape; 0 is background, any other number an object.
        returns: shared (P, T), predicted (P,) and true (T,) int64, of P predicted and T true objects in rising order of
            their numbers.

    Raises:
        ValueError: if the shapes differ, or a label is negative.
    """
    if labels.shape != target.shape:
        raise ValueError(f"labels {labels.shape} and target {target.shape} differ in shape")
    valid = target != VOID_OBJECT
    num_predicted, predicted = _renumber(labels)
    num_true, true = _renumber(np.where(valid, target, 0))
    pairs = np.bincount((predicted * (num_true + 1) + true)[valid], minlength=(num_predicted + 1) * (num_true + 1))
    joint = pairs.reshape(num_predicted + 1, num_true + 1)
    return joint[1:, 1:], joint[1:].sum(axis=1), joint[:, 1:].sum(axis=0)


def _renumber(labels: np.ndarray) -> tuple[int, np.ndarray]:
    """The number of objects, and the labels renumbered 1, 2, … without gaps, int64."""
    labels = labels.astype(np.int64)
    if labels.size == 0:
        return 0, labels
    if labels.min() < 0:
        raise ValueError(f"label {labels.min()}: expected 0 for the background and numbers above it for objects")
    exists = np.zeros(labels.max() + 1, dtype=np.int64)
    exists[labels.ravel()] = 1
    exists[0] = 0
    return int(exists.sum()), (np.cumsum(exists) * exists)[labels]


def match(labels: np.ndarray, target: np.ndarray) -> Matches:
    """True positives, false positives and false negatives at each IoU threshold.

    Shapes:
        labels, target: as in `overlaps`.

    Raises:
        ValueError: as `overlaps`.
    """
    return match_overlaps(*overlaps(labels, target))


def pairwise_iou(shared: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """The IoU of each predicted object with each true object.

    Shapes:
        shared, predicted, true: (P, T), (P,), (T,), as `overlaps` returns them.
        returns: (P, T) float64 in [0, 1].
    """
    return shared / (predicted[:, None] + true - shared)


def match_overlaps(shared: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> Matches:
    """`match` from the arrays that `overlaps` returns, or from the rows of some predicted objects.

    Shapes:
        shared, predicted, true: (P, T), (P,), (T,).
    """
    union = predicted[:, None] + true - shared
    passed = 20 * shared > IOU_TWENTIETHS[:, None, None] * union
    matched = passed.any(axis=2).sum(axis=1) if passed.size else np.zeros(len(IOU_TWENTIETHS), dtype=np.int64)
    return Matches(matched, np.count_nonzero(predicted) - matched, len(true) - matched)


def dsb_precision(matches: Matches) -> float:
    """The 2018 Data Science Bowl's score of an image: the mean over IoU thresholds of TP / (TP + FP + FN).

    It is 1 if there is neither a predicted nor a true object. The final score is the mean over images.

    Source:
        https://www.kaggle.com/competitions/data-science-bowl-2018/overview/evaluation. The rule for an image without
        any object is not stated there. Sartorius' page has the same text.
    """
    total = matches.true_positives + matches.false_positives + matches.false_negatives
    return float(np.where(total == 0, 1.0, matches.true_positives / np.maximum(total, 1)).mean())


def airbus_f2(matches: Matches) -> float:
    """The Airbus score of an image: the mean over IoU thresholds of F2 = 5·TP / (5·TP + 4·FN + FP).

    It is 1 if there is neither a predicted nor a true ship, and 0 if ships are predicted on an image without any. The
    final score is the mean over images.

    Source:
        https://www.kaggle.com/competitions/airbus-ship-detection/overview/evaluation, read in a copy.
    """
    true_positives, false_positives, false_negatives = matches
    total = 5 * true_positives + 4 * false_negatives + false_positives
    return float(np.where(total == 0, 1.0, 5 * true_positives / np.maximum(total, 1)).mean())


def f1(matches: Matches, iou: float | Sequence[float]) -> float:
    """F1 = 2·TP / (2·TP + FP + FN) of an image at an IoU threshold, or the mean over several.

    It is 1 if there is neither a predicted nor a true object. No competition uses it as its official score: it
    stands in for average precision at that IoU, which has no score of a single image. An IoU has to exceed the
    threshold here, as in the other metrics of matches, while average precision counts one that equals it.

    Args:
        iou: one or several of .50, .55, …, .95.
    """
    positions = np.rint(20 * np.atleast_1d(iou)).astype(int) - IOU_TWENTIETHS[0]
    true_positives, false_positives, false_negatives = (each[positions] for each in matches)
    total = 2 * true_positives + false_positives + false_negatives
    return float(np.where(total == 0, 1.0, 2 * true_positives / np.maximum(total, 1)).mean())
