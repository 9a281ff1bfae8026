"""Metrics of volumes, each a stack of the slices of one scan."""

from collections.abc import Iterable, Sequence

import numpy as np
from scipy.ndimage import distance_transform_edt

from pipeline.metrics.counts import count
from pipeline.metrics.overlap import dice
from pipeline.metrics.surface import surface_sums

Volume = tuple[np.ndarray, np.ndarray]  # predicted and true masks, (D, C, H, W), 0 or 1; slices in order


def hausdorff(mask: np.ndarray, target: np.ndarray) -> float:
    """The Hausdorff distance of two masks: the largest distance of a pixel of one mask to the other mask, in pixels.

    0 if both are empty, infinity if one is.

    Shapes:
        mask, target: the same shape with any number of axes, 0 or 1.
        returns: scalar >= 0.
    """
    mask, target = mask.astype(bool), target.astype(bool)
    if not mask.any() or not target.any():
        return 0.0 if mask.any() == target.any() else float("inf")
    return float(max(distance_transform_edt(~target)[mask].max(), distance_transform_edt(~mask)[target].max()))


def hausdorff_score(mask: np.ndarray, target: np.ndarray) -> float:
    """One minus the Hausdorff distance divided by the diagonal of the volume; 0 if one mask is empty.

    Shapes:
        mask, target: as `hausdorff`.
        returns: scalar in [0, 1].

    Source:
        UW-Madison GI tract: "the expected / predicted pixel locations are normalized by image size to create a bounded
        0-1 score", slice depth 1. Not verified: that they divide by the diagonal.
    """
    distance, diagonal = hausdorff(mask, target), float(np.linalg.norm(mask.shape))
    return 1 - min(distance / diagonal, 1.0)


def uw_madison(volumes: Iterable[Volume]) -> float:
    """0.4 · mean Dice over slices and classes + 0.6 · mean Hausdorff score over volumes and classes.

    A slice (or volume) and class with both masks empty is left out of its mean; sources disagree whether Kaggle counts
    it as 0. NaN if all masks are empty.

    Args:
        volumes: predicted and true masks of each.

    Source:
        https://www.kaggle.com/competitions/uw-madison-gi-tract-image-segmentation/overview/evaluation, from memory.
    """
    dices, distances = [], []
    for masks, target in volumes:
        for mask, true in zip(masks.swapaxes(0, 1), target.swapaxes(0, 1), strict=True):
            pairs = zip(mask, true, strict=True)
            dices += [float(dice(count(one, other))) for one, other in pairs if one.any() or other.any()]
            if mask.any() or true.any():
                distances.append(hausdorff_score(mask, true))
    if not distances:
        return float("nan")
    return float(0.4 * np.mean(dices) + 0.6 * np.mean(distances))


def mean_surface_dice(
    volumes: Iterable[Volume], tolerance: float = 0.0, spacing: Sequence[float] = (1.0, 1.0, 1.0)
) -> float:
    """3D surface Dice, pooled over the surfaces of all volumes and classes.

    A volume and class with both masks empty adds nothing. NaN if all masks are empty.

    Args:
        volumes: predicted and true masks of each.
        tolerance: in the units of the spacing, 0 or more.
        spacing: between slices, rows and columns.

    Source:
        https://www.kaggle.com/competitions/blood-vessel-segmentation/overview/evaluation. Not verified: that volumes
        are pooled, not averaged. SenNet uses tolerance 0 and no spacing.
    """
    sums = np.zeros(2)
    for masks, target in volumes:
        for mask, true in zip(masks.swapaxes(0, 1), target.swapaxes(0, 1), strict=True):
            sums += surface_sums(mask, true, tolerance, tuple(spacing))
    return float(sums[0] / sums[1]) if sums[1] else float("nan")
