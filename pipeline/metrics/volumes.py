"""Metrics of whole volumes: slices of one scan, one behind the other."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from scipy.ndimage import distance_transform_edt

from pipeline.metrics.counts import count
from pipeline.metrics.overlap import dice
from pipeline.metrics.surface import surface_sums

Volume = tuple[np.ndarray, np.ndarray]  # masks and target, (D, C, H, W), 0 or 1, slices in their order


def hausdorff(mask: np.ndarray, target: np.ndarray) -> float:
    """The Hausdorff distance of two sets of pixels, in pixels: how far the farthest of either is from the other set.

    Both empty: 0. One empty: infinite.

    Shapes:
        mask, target: the same, 0 or 1, of any number of axes.
    """
    mask, target = mask.astype(bool), target.astype(bool)
    if not mask.any() or not target.any():
        return 0.0 if mask.any() == target.any() else float("inf")
    there, back = distance_transform_edt(~target)[mask].max(), distance_transform_edt(~mask)[target].max()
    return float(max(there, back))


def hausdorff_score(mask: np.ndarray, target: np.ndarray) -> float:
    """One minus the Hausdorff distance over the volume's diagonal, in 0 … 1; 0 where one of both is empty.

    Source:
        UW-Madison GI tract: "the expected / predicted pixel locations are normalized by image size to create a bounded
        0-1 score", slice depth 1. That the diagonal is what they divide by is not verified.
    """
    distance, diagonal = hausdorff(mask, target), float(np.linalg.norm(mask.shape))
    return 1 - min(distance / diagonal, 1.0)


def uw_madison(volumes: Iterable[Volume]) -> float:
    """0.4 · mean Dice over slices and classes + 0.6 · mean Hausdorff score over volumes and classes.

    What is empty in truth and prediction is left out of either mean; sources disagree whether Kaggle counts it as 0.
    If all of it is, NaN.

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
    """3D surface Dice, over the surfaces of all volumes and classes together; as in `surface_dice` for one.

    A volume and class without a surface, in truth and prediction, adds nothing; if there is none at all, NaN.

    Args:
        tolerance: in the units of the spacing, 0 or more.
        spacing: between slices, rows and columns.

    Source:
        https://www.kaggle.com/competitions/blood-vessel-segmentation/overview/evaluation. That volumes are pooled, and
        not averaged, is not verified. SenNet's tolerance is 0; no card that ships asks for another, or for a spacing.
    """
    sums = np.zeros(2)
    for masks, target in volumes:
        for mask, true in zip(masks.swapaxes(0, 1), target.swapaxes(0, 1), strict=True):
            sums += surface_sums(mask, true, tolerance, tuple(spacing))
    return float(sums[0] / sums[1]) if sums[1] else float("nan")


VOLUME_METRICS: dict[str, Callable[..., float]] = {
    "surface_dice": mean_surface_dice,
    "uw_madison": uw_madison,
}
