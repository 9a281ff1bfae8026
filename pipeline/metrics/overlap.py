"""Scores of a mask against a target, from pixel counts."""

import numpy as np

from pipeline.metrics.counts import Counts


def dice(counts: Counts) -> np.ndarray:
    """Dice coefficient of each image: 2·|A∩B| / (|A| + |B|); 1 where both masks are empty.

    Shapes:
        counts: any; returned with the same shape, float64 in [0, 1].

    Source:
        The evaluation pages of HuBMAP and Ultrasound nerve, "the mean of the Dice coefficients for each image", and of
        Severstal, "for each <ImageId, ClassId> pair", defined as 1 when both are empty.
    """
    total = counts.predicted + counts.target
    return np.where(total == 0, 1.0, 2 * counts.intersection / np.maximum(total, 1))


def f_beta(counts: Counts, beta: float) -> np.ndarray:
    """F-beta of each image: (1 + β²)·|A∩B| / (|A| + β²·|B|), A predicted and B true; 1 where both are empty.

    The harmonic mean of precision and recall, in which recall weighs β times as much: β above 1 favours recall, below 1
    precision, and 1 is Dice.

    Args:
        beta: > 0.

    Shapes:
        counts: any; returned with the same shape, float64 in [0, 1].

    Source:
        van Rijsbergen, Information Retrieval, 2nd edition 1979, chapter 7: one minus the effectiveness E. The values
        equal those of scikit-learn's `fbeta_score`. The rule for empty masks is that of Dice. With β = ½, Vesuvius'
        ink detection takes the mean over fragments.
    """
    total = counts.predicted + beta**2 * counts.target
    return np.where(total == 0, 1.0, (1 + beta**2) * counts.intersection / np.where(total == 0, 1.0, total))


def iou(counts: Counts) -> np.ndarray:
    """Intersection over union of each image: |A∩B| / |A∪B|; 1 where both masks are empty.

    Shapes:
        counts: any; returned with the same shape, float64 in [0, 1].
    """
    union = counts.predicted + counts.target - counts.intersection
    return np.where(union == 0, 1.0, counts.intersection / np.maximum(union, 1))


def tgs_precision(counts: Counts) -> np.ndarray:
    """The TGS Salt score of each image: the share of the thresholds .50, .55, …, .95 that its IoU exceeds.

    An image has one mask or none, so precision TP / (TP + FP + FN) at a threshold is 1 or 0. It is 1 where both masks
    are empty, and 0 where one of them is, since the IoU is 0.

    The comparison is strict and done in integers, so that rounding does not let an IoU of exactly .55 exceed .55:
    IoU > k/20 is 20·intersection > k·union.

    Shapes:
        counts: any; returned with the same shape, float64 in [0, 1].

    Source:
        https://www.kaggle.com/competitions/tgs-salt-identification-challenge/overview/evaluation
    """
    union = counts.predicted + counts.target - counts.intersection
    # A sum, not an array with an axis of thresholds: a search over thresholds passes millions of counts.
    passed = sum((20 * counts.intersection > twentieths * union).astype(np.int64) for twentieths in range(10, 20))
    return np.where(union == 0, 1.0, passed / 10)
