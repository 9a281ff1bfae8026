"""From one image's stored values to its instances: objects that touch are split, or taken as one."""

from typing import NamedTuple

import numpy as np
from skimage.segmentation import watershed

from pipeline.postprocess.rules import label_components
from pipeline.postprocess.threshold_counts import level


class SplitCut(NamedTuple):
    """What turns the stored values of a mask and its borders into instances. See `split`."""

    threshold: float  # on the mask's probabilities, 0 to 1: draws the mask
    boundary_threshold: float  # on the border's probabilities, 0 to 1: what reaches it is no seed
    min_seed: int = 1  # pixels; a smaller seed is none
    min_area: int = 1  # pixels; a smaller instance is removed


def components(values: np.ndarray, threshold: float, min_area: int = 1) -> np.ndarray:
    """The connected components (8-connectivity) of the mask as instances: objects that touch stay one.

    Args:
        threshold: on probabilities, 0 to 1.
        min_area: pixels; a smaller component is removed.

    Shapes:
        values: (H, W) uint8, 0 … 255: the mask's.
        returns: (H, W) int32, 0 is background; instances are 1, 2, … by their first pixel, row by row.
    """
    labels = label_components(values >= level(threshold), connectivity=8)
    return keep_labels(labels, min_area)


def split(values: np.ndarray, cut: SplitCut) -> np.ndarray:
    """Instances of a mask whose touching objects the border channel parts, by these rules in this order:

        1. threshold            draws the mask
        2. boundary_threshold     the mask without its borders falls apart into seeds (4-connectivity, so that a
                                border that runs diagonally, one pixel wide, is tight)
        3. min_seed             removes smaller seeds
        4. a component (8-connectivity) of the mask that is left without a seed becomes one: it is one object
        5. watershed            the seeds grow over their mask, and pixels of low border probability are taken first,
                                of equal ones those nearest to a seed: two objects meet on the border's ridge, or in
                                its middle where it is flat
        6. min_area             removes smaller instances

    Each pixel of the mask goes to exactly one instance before rule 6, so instances never overlap, never leave the
    mask, and their union is the mask but for what rule 6 removed.

    An image turned or mirrored gives the same instances turned or mirrored, but for pixels that are equally far from
    two seeds: scikit-image gives those to the seed whose front came first, row by row.

    Why scikit-image's watershed: OpenCV's draws lines of background between instances and closes small seeds, and
    scipy's `watershed_ift` knows no mask.

    Shapes:
        values: (2, H, W) uint8, 0 … 255: the mask's and the border's, see `data.boundaries.border`.
        returns: (H, W) int32, 0 is background; instances are 1, 2, … by their first pixel, row by row.

    Raises:
        ValueError: if there are not two channels.
    """
    if values.ndim != 3 or len(values) != 2:
        raise ValueError(f"values of shape {values.shape}: expected (2, H, W), a mask and its borders")
    mask = values[0] >= level(cut.threshold)
    seeds = _seeds(mask, values[1] < level(cut.boundary_threshold), cut.min_seed)
    labels = watershed(values[1], seeds, connectivity=2, mask=mask)
    return keep_labels(labels, cut.min_area)


def confidences(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How sure a network is of each instance: the mean probability of its pixels.

    Shapes:
        values: (H, W) uint8, 0 … 255: the mask's.
        labels: (H, W), 0 is background; instances are 1, 2, … N.
        returns: (N,) float64, 0 to 1.
    """
    sums = np.bincount(labels.ravel(), weights=values.ravel(), minlength=labels.max() + 1)
    return sums[1:] / np.bincount(labels.ravel(), minlength=labels.max() + 1)[1:] / 255


def _seeds(mask: np.ndarray, inside: np.ndarray, min_seed: int) -> np.ndarray:
    """Where instances start to grow, at least one in each component of the mask, (H, W) int32."""
    seeds = keep_labels(label_components(mask & inside, connectivity=4), min_seed)
    objects = label_components(mask, connectivity=8)
    seeded = np.zeros(objects.max() + 1, dtype=bool)
    seeded[objects[seeds > 0]] = True
    unseeded = ~seeded[objects] & mask
    return np.where(unseeded, seeds.max() + objects.astype(np.int32), seeds)


def keep_labels(labels: np.ndarray, min_area: int) -> np.ndarray:
    """The labels of at least so many pixels, numbered from 1 by their first pixel, row by row; int32."""
    pixels = labels.ravel()
    areas = np.bincount(pixels)
    first = np.zeros(areas.size, dtype=np.int64)
    first[pixels[::-1]] = np.arange(pixels.size)[::-1]  # the last of several writes stays: a label's first pixel
    kept = np.flatnonzero(areas >= max(min_area, 1))  # 1: a number that no pixel has is no label
    kept = kept[kept > 0]
    numbers = np.zeros(areas.size, dtype=np.int32)
    numbers[kept[first[kept].argsort()]] = np.arange(1, kept.size + 1)
    return numbers[labels]
