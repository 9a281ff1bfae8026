"""Weighted votes of submissions: of masks pixel by pixel, of classes, and of objects that are matched by IoU.

A vote needs more than half of the weight. With exactly half, which is a tie, nothing is masked.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pipeline.metrics import overlaps, pairwise_iou

SAME_OBJECT = 0.5  # IoU above which objects are the same: an object can then match one of another submission at most
TIE = 1e-9  # of the weights: sums that differ by less are equal


class VotedObjects(NamedTuple):
    """The objects of an image that several submissions agree on."""

    labels: np.ndarray  # (H, W) int32, numbered from 1
    confidences: np.ndarray  # (N,): the weighted mean over all submissions; 0 where one has no such object
    ties: int  # objects with exactly half of the weight, which are left out


def vote(masks: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, int]:
    """The pixels that more than half of the weight masks, and the number of pixels with exactly half of it.

    Shapes:
        masks: (S, ...) of S submissions, 0 or 1; returned as (...) uint8.
        weights: (S,), not negative, of a sum above 0.
    """
    difference = np.full(masks.shape[1:], -weights.sum() / 2)
    for weight, mask in zip(weights, masks, strict=True):  # one at a time: all of them as floats need much memory
        np.add(difference, weight, out=difference, where=mask.astype(bool))
    tie = TIE * weights.sum()
    return (difference > tie).astype(np.uint8), int(np.count_nonzero(abs(difference) <= tie))


def vote_classes(masks: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, int]:
    """The class of most weight at each pixel, of equals the first; and the number of pixels with several such classes.

    A pixel that no submission gives a class has none.

    Shapes:
        masks: (S, C, H, W) of S submissions, 0 or 1; returned as (C, H, W) uint8.
        weights: (S,).
    """
    votes = np.tensordot(weights, masks, axes=1)
    most = votes.max(axis=0)
    equal = (votes >= most - TIE * weights.sum()) & (most > 0)
    first = equal & (np.cumsum(equal, axis=0) == 1)
    return first.astype(np.uint8), int(np.count_nonzero(equal.sum(axis=0) > 1))


def vote_objects(
    submissions: Sequence[np.ndarray],
    weights: np.ndarray,
    confidences: Sequence[np.ndarray] | None = None,
) -> VotedObjects:
    """The objects that more than half of the weight has; objects of an IoU above SAME_OBJECT are the same.

    An object is compared with the one that founded its group: that of the submission of most weight, of equals the
    first. Its pixels are voted by the submissions that have it. Pixels of two objects go to the one of more weight.

    Args:
        submissions: the labels of each, (H, W) integers, 0 where there is no object.
        weights: (S,), not negative, of a sum above 0.
        confidences: of each, (N,) by rising number; if given, objects of less weight stay, with less confidence.
    """
    founders = [np.zeros_like(labels) for labels in submissions]  # numbers of groups, at the objects that founded them
    groups: list[dict[int, int]] = []  # the number of its object in each submission that has it
    for number in np.argsort(-weights, kind="stable").tolist():
        labels = submissions[number]
        group_of = _matches(labels, founders)
        for label in np.unique(labels[labels > 0]).tolist():
            if label not in group_of:
                groups.append({})
                group_of[label] = len(groups)
                founders[number][labels == label] = len(groups)
            groups[group_of[label] - 1].setdefault(number, label)
    return _render(groups, submissions, weights, confidences)


def _matches(labels: np.ndarray, founders: Sequence[np.ndarray]) -> dict[int, int]:
    """By the number of an object, the group of the founder that it matches; the highest IoU wins."""
    best: dict[int, tuple[float, int]] = {}
    present = np.unique(labels[labels > 0]).tolist()
    for founder in founders:
        iou = pairwise_iou(*overlaps(labels, founder))
        numbers = np.unique(founder[founder > 0]).tolist()
        for row, column in np.argwhere(iou > SAME_OBJECT).tolist():
            best[present[row]] = max(best.get(present[row], (0.0, 0)), (float(iou[row, column]), numbers[column]))
    return {label: group for label, (_, group) in best.items()}


def _render(
    groups: Sequence[dict[int, int]],
    submissions: Sequence[np.ndarray],
    weights: np.ndarray,
    confidences: Sequence[np.ndarray] | None,
) -> VotedObjects:
    labels, found, ties = np.zeros(submissions[0].shape, dtype=np.int32), [], 0
    total, tie = weights.sum(), TIE * weights.sum()
    by_weight = sorted(groups, key=lambda group: -weights[list(group)].sum())  # stable: of equals the first
    for group in by_weight:
        numbers = list(group)
        weight = weights[numbers].sum()
        ties += abs(weight - total / 2) <= tie
        if confidences is None and weight <= total / 2 + tie:
            continue
        masks = np.stack([submissions[number] == label for number, label in group.items()])
        free = (vote(masks, weights[numbers])[0] == 1) & (labels == 0)
        if free.any():
            confidence = 0.0 if confidences is None else _mean_confidence(group, submissions, weights, confidences)
            found.append(confidence)
            labels[free] = len(found)
    return VotedObjects(labels, np.array(found), 0 if confidences is not None else int(ties))


def _mean_confidence(
    group: dict[int, int], submissions: Sequence[np.ndarray], weights: np.ndarray, confidences: Sequence[np.ndarray]
) -> float:
    def of(number: int, label: int) -> float:
        present = np.unique(submissions[number][submissions[number] > 0])
        return confidences[number][np.searchsorted(present, label)]

    return float(sum(weights[number] * of(number, label) for number, label in group.items()) / weights.sum())
