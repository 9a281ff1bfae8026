"""The 255 thresholds, and the counts of an image at all of them.

Thresholds lie between the 256 stored levels: threshold number k (1 … 255) is (k - ½) / 255, and a pixel
belongs to the mask if its stored value is k or more. Rounding therefore moves no pixel across a threshold,
and number 128 is exactly .5.
"""

import math

import numpy as np
import torch
from torch import Tensor

from pipeline.inference.prediction_store import MAX_VALUE
from pipeline.metrics import VOID, Counts

LEVELS = MAX_VALUE + 1
THRESHOLDS = (np.arange(1, MAX_VALUE + 1) - 0.5) / MAX_VALUE
HALF = int(THRESHOLDS.searchsorted(0.5))  # position of .5 in THRESHOLDS


def level(threshold: float) -> int:
    """The lowest stored value that reaches a threshold, 0 to 1.

    >>> level(0.5)
    128
    """
    return int(np.ceil(threshold * MAX_VALUE + 0.5 - 1e-9))


def histograms(values: Tensor, target: Tensor) -> Tensor:
    """Count the pixels of each image and class by label and stored value.

    Shapes:
        values: (..., H, W) uint8; target: 0 or 1, of the same shape; 255 for void, which is not counted.
        returns: (..., 2, 256) int64 on the device of the values; [0] counts the pixels outside of the target, [1] those
            inside.
    """
    bins = 2 * LEVELS  # void pixels are counted in one more, which is dropped
    joint = values.int() + (target.int() << 8)
    joint.clamp_(max=bins)
    count = math.prod(values.shape[:-2])
    joint.view(count, -1).add_((bins + 1) * torch.arange(count, dtype=torch.int32, device=values.device)[:, None])
    counts = torch.bincount(joint.flatten(), minlength=count * (bins + 1)).view(count, bins + 1)
    return counts[:, :bins].reshape(*values.shape[:-2], 2, LEVELS)


def count_by_label(values: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Count the pixels of an image by label and stored value, as `histograms`.

    Shapes:
        values: uint8; target: 0 or 1, of the same shape; 255 for void, which is not counted.
        returns: (2, 256) int64.
    """
    flat = (torch.from_numpy(np.require(each.reshape(1, -1), requirements="W")) for each in (values, target))
    return histograms(*flat).numpy()


def counts_at_levels(counts: np.ndarray) -> Counts:
    """The counts at all 255 thresholds.

    Shapes:
        counts: (..., 2, 256), of `histograms`.
        returns: Counts of (..., 255) int64.
    """
    # Pixels at level k or above, for k = 1 … 255.
    above = counts[..., :0:-1].cumsum(axis=-1)[..., ::-1]
    inside = counts[..., 1, :].sum(axis=-1, keepdims=True)
    return Counts(above[..., 1, :], above.sum(axis=-2), np.broadcast_to(inside, above[..., 1, :].shape))


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
    return counts_at_levels(count_by_label(values, target))


def weighted_counts(counts: np.ndarray) -> Counts:
    """The counts without a threshold: each pixel counts with its probability.

    Shapes:
        counts: (..., 2, 256), of `histograms`.
        returns: Counts of (...) float64.
    """
    sums = counts @ np.arange(LEVELS)  # of stored values
    return Counts(sums[..., 1] / MAX_VALUE, sums.sum(axis=-1) / MAX_VALUE, counts[..., 1, :].sum(axis=-1) / 1.0)


def confusions(values: Tensor, target: Tensor) -> Tensor:
    """Count the pixels of each image by true class and most probable class; of equally probable ones, the first.

    Shapes:
        values: (N, C, H, W) uint8; target: (N, C, H, W), 0 or 1, or 255 for void, which is not counted.
        returns: (N, C, C) int64 on the device of the values: true class, then predicted class.
    """
    images, classes = values.shape[:2]
    bins = classes * classes
    joint = target.argmax(dim=1) * classes + values.argmax(dim=1)
    joint[target[:, 0] == VOID] = bins
    joint = joint.flatten(1) + (bins + 1) * torch.arange(images, device=values.device)[:, None]
    counts = torch.bincount(joint.flatten(), minlength=images * (bins + 1)).view(images, bins + 1)
    return counts[:, :bins].view(images, classes, classes)


def counts_of_classes(counts: np.ndarray) -> Counts:
    """The counts of exclusive classes.

    Shapes:
        counts: (..., C, C), of `confusions`.
        returns: Counts of (..., C) int64.
    """
    return Counts(counts.diagonal(axis1=-2, axis2=-1).copy(), counts.sum(axis=-2), counts.sum(axis=-1))


def count_argmax(values: np.ndarray, target: np.ndarray) -> Counts:
    """The counts of each exclusive class of one image, (C,) int64; a pixel gets its most probable class.

    Shapes:
        values: (C, H, W) uint8; target: (C, H, W), 0 or 1, or 255 for void, which is not counted.
    """
    pair = (torch.from_numpy(np.require(each[None], requirements="W")) for each in (values, target))
    return counts_of_classes(confusions(*pair)[0].numpy())


def count_pixels(values: Tensor, target: Tensor, *, exclusive: bool) -> tuple[Counts, Counts]:
    """The counts of several images, made on the device of the values; only the results leave it.

    Args:
        exclusive: one class per pixel: there is no threshold, and the counts are the same at all.

    Shapes:
        values: (N, C or more, H, W) uint8, stored probabilities; channels after the target's are ignored.
        target: (N, C, H, W), 0 or 1, or 255 for void, which is not counted.
        returns: Counts of (N, C, 255) at every threshold, and of (N, C) without a threshold.
    """
    values = values[:, : target.shape[1]]
    by_level = histograms(values, target).cpu().numpy()
    if not exclusive:
        return counts_at_levels(by_level), weighted_counts(by_level)
    counts = counts_of_classes(confusions(values, target).cpu().numpy())
    return Counts(*(np.repeat(each[..., None], MAX_VALUE, axis=-1) for each in counts)), weighted_counts(by_level)


def best_threshold(scores: np.ndarray) -> int:
    """Position of the best of the 255 scores; of equal ones, that of the threshold nearest to .5."""
    return int(np.where(is_best(scores), np.abs(THRESHOLDS - 0.5), np.inf).argmin())


def is_best(scores: np.ndarray) -> np.ndarray:
    """Which scores equal the highest, up to rounding errors: bool of the same shape."""
    return np.isclose(scores, scores.max(), rtol=0, atol=1e-12)
