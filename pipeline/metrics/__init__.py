"""Official metrics: numpy in, float out."""

from collections.abc import Callable, Iterable

import numpy as np

from pipeline.metrics.counts import Counts, count, stack
from pipeline.metrics.overlap import dice, iou, tgs_precision

__all__ = ["METRICS", "Counts", "count", "dice", "iou", "mean_score", "stack", "tgs_precision"]

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
