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
    """Match predicted with true objects, in falling order of confidence.

    A predicted object can match only the true object with which its IoU is highest. If a more confident one has
    matched that already, it is a false positive, even where it overlaps a second true object enough. This matters
    only where true objects overlap each other.

    Args:
        iou: of each predicted object with each true one.
        threshold: that the IoU must reach, above 0.

    Shapes:
        iou: (P, T) in [0, 1].
        confidences: (P,).

    Source:
        TensorFlow's object detection API, which evaluates Open Images: utils/per_image_evaluation.py in
        https://github.com/tensorflow/models/tree/master/research/object_detection.
    """
    matched, true_positive = np.zeros(iou.shape[1], dtype=bool), np.zeros(iou.shape[0], dtype=bool)
    if iou.size:
        best = iou.argmax(axis=1)
        for position in np.argsort(-confidences, kind="stable"):
            if iou[position, best[position]] >= threshold and not matched[best[position]]:
                true_positive[position] = matched[best[position]] = True
    return RankedObjects(confidences, true_positive, iou.shape[1])


def average_precision(images: Iterable[RankedObjects]) -> float:
    """The area under the precision-recall curve of the objects of all images.

    Precision at a recall is the highest precision at that recall or a higher one, as in VOC since 2010 and in Open
    Images. Objects of equal confidence are one step of the curve, so their order has no effect.

    Returns:
        0 to 1; NaN if there is no true object.

    Source:
        The area is that of TensorFlow's evaluator (see `rank_objects`), utils/metrics.py. It takes objects of equal
        confidence one by one, in an order that is not defined. HuBMAP's vasculature uses it at IoU .6.
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
        ious: thresholds that an IoU must reach.

    Returns:
        0 to 1; NaN if there is no true object.

    Source:
        The mean over .50, .55, …, .95 is COCO's main metric, https://cocodataset.org/#detection-eval. Three details
        differ: COCO takes the mean of 101 points of the curve, keeps 100 objects per image at most, and lets a
        predicted object whose best true object is taken match the next best.
    """
    pairs = list(images)
    return float(np.mean([average_precision(rank_objects(*pair, threshold) for pair in pairs) for threshold in ious]))
