"""Average precision of objects that have a confidence, pooled over images."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np


class RankedObjects(NamedTuple):
    """The P predicted objects of one image."""

    confidences: np.ndarray  # (P,) float; a higher one ranks first
    true_positive: np.ndarray  # (P,) bool: whether each matches a true object
    num_true: int  # true objects of the image


def rank_objects(iou: np.ndarray, confidences: np.ndarray, threshold: float) -> RankedObjects:
    """Match predicted with true objects, in falling order of confidence, each with the best true object still free.

    Args:
        iou: of each predicted object with each true one.
        threshold: that the IoU must exceed.

    Shapes:
        iou: (P, T) in [0, 1].
        confidences: (P,).
    """
    free, true_positive = np.ones(iou.shape[1], dtype=bool), np.zeros(iou.shape[0], dtype=bool)
    for position in np.argsort(-confidences, kind="stable"):
        candidates = np.where(free, iou[position], 0.0)
        if candidates.size and candidates.max() > threshold:
            true_positive[position] = True
            free[candidates.argmax()] = False
    return RankedObjects(confidences, true_positive, iou.shape[1])


def average_precision(images: Iterable[RankedObjects]) -> float:
    """The area under the precision-recall curve of the objects of all images.

    Precision at a recall is the highest precision at that recall or a higher one, as in VOC since 2010 and in Open
    Images. Objects of equal confidence are one step of the curve, so their order has no effect.

    Returns:
        0 to 1; NaN if there is no true object.

    Source:
        https://www.kaggle.com/competitions/hubmap-hacking-the-human-vasculature/overview/evaluation, from memory: "mean
        Average Precision", as in Open Images' instance segmentation, at IoU .6. Not verified: that the IoU has
        to exceed .6, where it could be enough to reach it, and how objects of equal confidence are ranked.
    """
    ranked = list(images)
    num_true = sum(image.num_true for image in ranked)
    if not num_true:
        return float("nan")
    confidences = np.concatenate([image.confidences for image in ranked])
    true_positive = np.concatenate([image.true_positive for image in ranked])
    order = np.argsort(-confidences, kind="stable")
    steps = np.flatnonzero(np.diff(confidences[order], append=-np.inf))  # the last object of each confidence
    true_positives = np.cumsum(true_positive[order])[steps]
    precision = np.maximum.accumulate((true_positives / (steps + 1))[::-1])[::-1]
    return float((np.diff(true_positives / num_true, prepend=0.0) * precision).sum())


def mean_average_precision(images: Iterable[tuple[np.ndarray, np.ndarray]], ious: Sequence[float]) -> float:
    """The mean over IoU thresholds of average precision; objects are matched separately at each threshold.

    Args:
        images: the IoUs (P, T) and confidences (P,) of each image, as `rank_objects` takes them.
        ious: thresholds that an IoU must exceed.

    Returns:
        0 to 1; NaN if there is no true object.

    Source:
        The mean over .50, .55, …, .95 is COCO's main metric, https://cocodataset.org/#detection-eval. Three details
        differ: COCO takes the mean of 101 points of the curve, counts an IoU that equals the threshold as a match, and
        keeps 100 objects per image at most.
    """
    pairs = list(images)
    return float(np.mean([average_precision(rank_objects(*pair, threshold) for pair in pairs) for threshold in ious]))
