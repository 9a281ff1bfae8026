"""Average precision: of objects with a confidence, pooled over images and ranked by it."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np


class Ranked(NamedTuple):
    """The predicted objects of one image."""

    confidences: np.ndarray  # (P,)
    hits: np.ndarray  # (P,) bool: whether each is a true one
    true: int  # objects there are


def rank(iou: np.ndarray, confidences: np.ndarray, threshold: float) -> Ranked:
    """Which predicted objects are true ones: the most confident takes the free true one that it covers best.

    Args:
        iou: (P, T) of each predicted object with each true one.
        threshold: that the IoU must exceed.
    """
    free, hits = np.ones(iou.shape[1], dtype=bool), np.zeros(iou.shape[0], dtype=bool)
    for place in np.argsort(-confidences, kind="stable"):
        open_to = np.where(free, iou[place], 0.0)
        if open_to.size and open_to.max() > threshold:
            hits[place] = True
            free[open_to.argmax()] = False
    return Ranked(confidences, hits, iou.shape[1])


def average_precision(images: Iterable[Ranked]) -> float:
    """The area under precision over recall, as confidence falls, of all images' objects together.

    Precision at a recall is the highest at that recall or beyond it, as in VOC since 2010 and in Open Images. Objects
    of one confidence come in one step, so their order means nothing.

    Returns:
        0 to 1; NaN if there is no true object.

    Source:
        https://www.kaggle.com/competitions/hubmap-hacking-the-human-vasculature/overview/evaluation, from memory: "mean
        Average Precision", as in Open Images' instance segmentation, at IoU .6. That IoU must exceed .6 and not reach
        it, and what many objects of one confidence do, is not verified.
    """
    ranked = list(images)
    true = sum(image.true for image in ranked)
    if not true:
        return float("nan")
    confidences = np.concatenate([image.confidences for image in ranked])
    hits = np.concatenate([image.hits for image in ranked])
    order = np.argsort(-confidences, kind="stable")
    steps = np.flatnonzero(np.diff(confidences[order], append=-np.inf))  # the last object of each confidence
    found = np.cumsum(hits[order])[steps]
    precision = np.maximum.accumulate((found / (steps + 1))[::-1])[::-1]
    return float((np.diff(found / true, prepend=0.0) * precision).sum())


def mean_precision(images: Iterable[tuple[np.ndarray, np.ndarray]], ious: Sequence[float]) -> float:
    """The mean over IoUs of average precision, each with objects matched anew; of one IoU, average precision itself.

    Args:
        images: the IoUs (P, T) and confidences (P,) of each, as `rank` takes them.
        ious: that must be exceeded.

    Returns:
        0 to 1; NaN if there is no true object.

    Source:
        The mean over .50, .55, …, .95 is COCO's main metric, https://cocodataset.org/#detection-eval, but for what
        `average_precision` says of itself: no mean of 101 points, no IoU that is just reached, no limit of 100 objects
        an image. No card that ships asks for more than one.
    """
    held = list(images)
    return float(np.mean([average_precision(rank(iou, scores, least) for iou, scores in held) for least in ious]))


RANKED_METRICS: dict[str, float] = {"ap60": 0.6}  # the IoU that each asks for
