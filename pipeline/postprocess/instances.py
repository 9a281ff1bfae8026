"""From one image's stored values to its instances: touching objects are separated, or taken as one."""

from typing import NamedTuple

import numpy as np
from skimage.segmentation import watershed

from pipeline.postprocess.rules import Count, Share, keep_labels, label_components
from pipeline.postprocess.shape import split_by_shape
from pipeline.postprocess.threshold_counts import level


class InstanceRules(NamedTuple):
    """Post-processing of stored values into instances. Without boundary and saddle_ratio, touching objects are one."""

    threshold: Share  # on the mask's probabilities
    boundary: Share | None = None  # on the boundary's probabilities: separates by the boundary, see `split_by_boundary`
    saddle_ratio: Share | None = None  # separates by shape, see `split_by_shape`
    min_area: Count = 0  # pixels; a smaller instance is removed


def label_instances(values: np.ndarray, rules: InstanceRules) -> np.ndarray:
    """The instances of one image, by the rules.

    Shapes:
        values: (C, H, W) uint8, 0 … 255: the mask's, and the boundary's if `rules.boundary` is given.
        returns: (H, W) int32, 0 is background; instances are 1, 2, … by their first pixel, row by row.
    """
    if rules.boundary is not None:
        return split_by_boundary(values[:2], rules.threshold, rules.boundary, min_area=rules.min_area)
    if rules.saddle_ratio is not None:
        return split_by_shape(values[0], rules.threshold, rules.saddle_ratio, rules.min_area)
    return components(values[0], rules.threshold, rules.min_area)


def components(values: np.ndarray, threshold: float, min_area: int = 1) -> np.ndarray:
    """The connected components (8-connectivity) of the mask as instances: touching objects are one.

    Args:
        threshold: on probabilities, 0 to 1.
        min_area: pixels; a smaller component is removed.

    Shapes:
        values: (H, W) uint8, 0 … 255: the mask's.
        returns: (H, W) int32, 0 is background; instances are 1, 2, … by their first pixel, row by row.
    """
    labels = label_components(values >= level(threshold), connectivity=8)
    return keep_labels(labels, min_area)


def split_by_boundary(
    values: np.ndarray, threshold: float, boundary_threshold: float, *, min_seed: int = 1, min_area: int = 1
) -> np.ndarray:
    """Instances of a mask, separated by the boundary channel, by these rules in this order:

        1. threshold            pixels that reach it are the mask
        2. boundary_threshold   the mask without pixels that reach it splits into seeds (4-connectivity, so that a
                                diagonal boundary, one pixel wide, separates)
        3. min_seed             removes smaller seeds
        4. a component (8-connectivity) of the mask without a seed becomes a seed: it is one object
        5. watershed            the seeds grow over the mask, over pixels of low boundary probability first, and of
                                equal ones over those nearest to a seed: two objects meet on the boundary's ridge, or
                                in its middle where it is flat
        6. min_area             removes smaller instances

    Before rule 6 each pixel of the mask belongs to exactly one instance: instances never overlap, and their union is
    the mask.

    A rotated or mirrored image gives the rotated or mirrored instances, except for pixels at equal distance from two
    seeds: scikit-image gives those to the seed whose front came first, row by row.

    Why scikit-image's watershed: OpenCV's draws lines of background between instances and closes small seeds, and
    scipy's `watershed_ift` takes no mask.

    Args:
        threshold: on the mask's probabilities, 0 to 1.
        boundary_threshold: on the boundary's probabilities, 0 to 1.
        min_seed, min_area: pixels.

    Shapes:
        values: (2, H, W) uint8, 0 … 255: the mask's and the boundary's, see `data.boundaries.touching_boundary`.
        returns: (H, W) int32, 0 is background; instances are 1, 2, … by their first pixel, row by row.

    Raises:
        ValueError: if there are not two channels.
    """
    if values.ndim != 3 or len(values) != 2:
        raise ValueError(f"values of shape {values.shape}: expected (2, H, W), a mask and its boundaries")
    mask = values[0] >= level(threshold)
    seeds = _seeds(mask, values[1] < level(boundary_threshold), min_seed)
    labels = watershed(values[1], seeds, connectivity=2, mask=mask)
    return keep_labels(labels, min_area)


def _seeds(mask: np.ndarray, interior: np.ndarray, min_seed: int) -> np.ndarray:
    """The seeds of the watershed, at least one in each component of the mask, (H, W) int32."""
    seeds = keep_labels(label_components(mask & interior, connectivity=4), min_seed)
    objects = label_components(mask, connectivity=8)
    seeded = np.zeros(objects.max() + 1, dtype=bool)
    seeded[objects[seeds > 0]] = True
    unseeded = ~seeded[objects] & mask
    return np.where(unseeded, seeds.max() + objects.astype(np.int32), seeds)


def confidences(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The confidence of each instance: the mean probability of its pixels.

    Shapes:
        values: (H, W) uint8, 0 … 255: the mask's.
        labels: (H, W), 0 is background; instances are 1, 2, … N.
        returns: (N,) float64, 0 to 1.
    """
    sums = np.bincount(labels.ravel(), weights=values.ravel(), minlength=labels.max() + 1)
    return sums[1:] / np.bincount(labels.ravel(), minlength=labels.max() + 1)[1:] / 255
