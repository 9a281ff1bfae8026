"""The boundaries between touching instances, as a target for semantic segmentation."""

import cv2
import numpy as np


def touching_boundary(labels: np.ndarray, width: float) -> np.ndarray:
    """The pixels near two different instances, as a second target channel.

    A pixel is boundary if at least two instances have a pixel within `width` of it (Euclidean distance of the centres;
    its own instance is at distance 0). Two instances that touch along a straight line get a boundary of `width` pixels
    on each side; two with a narrow gap one across the gap; the outline of a single instance none. A mask without its
    boundary separates into its instances: see `postprocess.instances.split`.

    It takes two dilations per image for any number of instances: a pixel is near two of them if the largest and the
    smallest label within reach differ.

    Args:
        width: in pixels, 1 or more.

    Shapes:
        labels: (H, W) integers, 0 is background, each other value an instance; at most 2**24.
        returns: (H, W) uint8, 0 or 1.

    Raises:
        ValueError: if width is below 1, or the labels are not (H, W) integers within 0 … 2**24.

    Source:
        A channel for the boundaries between touching nuclei: the first place of DSB 2018 (Selim Seferbekov, Alexander
        Buslaev, Victor Durnov), https://www.kaggle.com/c/data-science-bowl-2018/discussion/54741 (address from
        memory). Their exact definition is not verified; this one is our own.
    """
    _refuse_other_than_labels(labels)
    if not width >= 1:
        raise ValueError(f"boundary width is {width} pixels: expected 1 or more, or no pixel sees its neighbour")
    largest = cv2.dilate(labels.astype(np.float32), _disc(width))
    # Background must not be the smallest label: it becomes larger than all. float32 is exact up to 2**24.
    negated = np.where(labels == 0, -np.inf, -labels.astype(np.float32)).astype(np.float32)
    smallest = -cv2.dilate(negated, _disc(width))
    return ((largest > 0) & (largest != smallest)).astype(np.uint8)


def _disc(radius: float) -> np.ndarray:
    """The offsets within a radius, (2r + 1, 2r + 1) uint8."""
    reach = int(radius)
    rows, columns = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    return (rows**2 + columns**2 <= radius**2).astype(np.uint8)


def _refuse_other_than_labels(labels: np.ndarray) -> None:
    if labels.ndim != 2 or labels.dtype.kind not in "iu":
        raise ValueError(f"labels are {labels.dtype} of shape {labels.shape}: expected (H, W) integers")
    if labels.size and not 0 <= labels.min() <= labels.max() <= 1 << 24:
        raise ValueError(f"labels hold {labels.min()} … {labels.max()}: expected 0 (background) … 2**24")
