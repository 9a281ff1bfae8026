"""Metrics of volumes, each a stack of the slices of one scan."""

from collections.abc import Iterable, Sequence
from math import sqrt
from typing import Literal

import numpy as np
from scipy.ndimage import distance_transform_edt

from pipeline.metrics.counts import count
from pipeline.metrics.overlap import dice
from pipeline.metrics.scores import ratio
from pipeline.metrics.surface import surface_sums

Volume = tuple[np.ndarray, np.ndarray]  # predicted and true masks, (D, C, H, W), 0 or 1; slices in order
Normalize = Literal["axes", "cube", "diagonal"]


def hausdorff(mask: np.ndarray, target: np.ndarray, spacing: Sequence[float] | None = None) -> float:
    """The Hausdorff distance of two masks: the largest distance of a pixel of one mask to the other mask.

    0 if both are empty, infinity if one is.

    Args:
        spacing: between pixels along each axis; 1 each by default.

    Shapes:
        mask, target: the same shape with any number of axes, 0 or 1.
        returns: scalar >= 0.
    """
    mask, target = mask.astype(bool), target.astype(bool)
    if not mask.any() or not target.any():
        return 0.0 if mask.any() == target.any() else float("inf")
    to_target, to_mask = (distance_transform_edt(~each, sampling=spacing) for each in (target, mask))
    return float(max(to_target[mask].max(), to_mask[target].max()))


def hausdorff_score(mask: np.ndarray, target: np.ndarray, normalize: Normalize = "axes") -> float:
    """One minus the Hausdorff distance as a share of the volume's size, 0 at least; 0 if one mask is empty.

    Args:
        normalize: "axes": positions along each axis are divided by its length, so that the volume is a unit cube;
            "cube": the same, and the distance is divided by the cube's diagonal, √3; "diagonal": distances in pixels
            are divided by the volume's diagonal.

    Shapes:
        mask, target: as `hausdorff`.
        returns: scalar in [0, 1].

    Source:
        UW-Madison GI tract: "the expected / predicted pixel locations are normalized by image size to create a bounded
        0-1 score", slice depth 1. These words describe "axes", where a distance may exceed 1: here it counts as 1. The
        grader of MLE-bench, https://github.com/openai/mle-bench, computes "cube"; public notebooks compute "diagonal".
    """
    if normalize == "diagonal":
        distance = hausdorff(mask, target) / float(np.linalg.norm(mask.shape))
    else:
        distance = hausdorff(mask, target, [1 / length for length in mask.shape])
        distance /= sqrt(mask.ndim) if normalize == "cube" else 1
    return 1 - min(distance, 1.0)


def uw_madison(volumes: Iterable[Volume], normalize: Normalize = "axes") -> float:
    """0.4 · mean Dice over slices and classes + 0.6 · mean Hausdorff score over volumes and classes.

    A slice (or volume) and class with both masks empty is left out of its mean. NaN if all masks are empty.

    Args:
        volumes: predicted and true masks of each.
        normalize: as for `hausdorff_score`.

    Source:
        https://www.kaggle.com/competitions/uw-madison-gi-tract-image-segmentation/overview/evaluation. The page says
        that Dice is 0 if both masks are empty. Discussion 324934 there, cited by MLE-bench's grader, says that such
        masks do not count.
    """
    dices, distances = [], []
    for masks, target in volumes:
        for mask, true in zip(masks.swapaxes(0, 1), target.swapaxes(0, 1), strict=True):
            pairs = zip(mask, true, strict=True)
            dices += [float(dice(count(one, other))) for one, other in pairs if one.any() or other.any()]
            if mask.any() or true.any():
                distances.append(hausdorff_score(mask, true, normalize))
    if not distances:
        return float("nan")
    return float(0.4 * np.mean(dices) + 0.6 * np.mean(distances))


def mean_surface_dice(
    volumes: Iterable[Volume],
    tolerance: float = 0.0,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    average: Literal["volumes", "surfaces"] = "volumes",
) -> float:
    """3D surface Dice: the mean over volumes, and over classes.

    A volume and class with both masks empty does not count. NaN if all masks are empty.

    Args:
        volumes: predicted and true masks of each.
        tolerance: in the units of the spacing, 0 or more.
        spacing: between slices, rows and columns.
        average: "surfaces": instead of the mean, the share of the surfaces of all volumes and classes together, where
            a volume with more surface weighs more.

    Source:
        https://www.kaggle.com/competitions/blood-vessel-segmentation/overview/evaluation, with tolerance 0 and no
        spacing. Kaggle's code for it, of which public repositories have copies, divides the sum over kidneys by their
        number. A kidney with both masks empty would be NaN there.
    """
    sums = [
        surface_sums(mask, true, tolerance, tuple(spacing))
        for masks, target in volumes
        for mask, true in zip(masks.swapaxes(0, 1), target.swapaxes(0, 1), strict=True)
    ]
    numerator, denominator = np.array(sums, dtype=np.float64).reshape(-1, 2).T
    if average == "surfaces":
        numerator, denominator = numerator.sum(keepdims=True), denominator.sum(keepdims=True)
    return float(ratio(numerator, denominator))
