"""Objects that touch, parted by the mask's shape alone: where it narrows, one ends and the next begins."""

import cv2
import numpy as np
from skimage.segmentation import watershed

from pipeline.postprocess.instances import keep_labels
from pipeline.postprocess.rules import label_components
from pipeline.postprocess.threshold_counts import level

SMOOTHING = 1.0  # pixels; a jagged outline gives every tooth a summit of its own
FARTHEST = 1e6  # pixels; OpenCV's distance to a background that is nowhere
STEPS = ((0, 1), (1, 0), (1, 1), (1, -1))  # to half of a pixel's eight neighbours: each pair is met once


def split_by_shape(values: np.ndarray, threshold: float, neck: float, min_area: int = 1) -> np.ndarray:
    """Instances of a mask, parted at its necks, by these rules in this order:

        1. threshold   draws the mask
        2. depth       of each of its pixels: the distance to the background, smoothed
        3. summits     of the depth have a basin each: the watershed of the depth turned upside down
        4. neck        two basins are one object if the highest pass between them is at least that share of the lower
                       summit; passes are judged from the highest down, and what was joined counts as one basin
        5. min_area    removes smaller objects

    Two discs that overlap by little have a narrow neck, and are parted; a long or dented object has a wide one. The
    share has no unit: small and large objects are parted alike.

    Rules 3 and 4 keep the summits whose dynamics, relative to their height, are above 1 − neck: M. Grimaud, A new
    measure of contrast: the dynamics, 1992, https://doi.org/10.1117/12.60650. On depth without its logarithm or share,
    it is the h-maxima's watershed of many tutorials.

    Args:
        threshold: on probabilities, 0 to 1.
        neck: 0 to 1: 0 joins all that touches, 1 parts every summit.
        min_area: pixels.

    Shapes:
        values: (H, W) uint8, 0 … 255: the mask's.
        returns: (H, W) int32, 0 is background; instances are 1, 2, … by their first pixel, row by row.
    """
    mask = values >= level(threshold)
    depth = _depth(mask)
    summits = label_components(mask & (depth >= cv2.dilate(depth, np.ones((3, 3), np.uint8))), connectivity=8)
    basins = watershed(-depth, summits.astype(np.int32), connectivity=2, mask=mask)
    return keep_labels(_joined(basins, depth, neck), min_area)


def _depth(mask: np.ndarray) -> np.ndarray:
    """The distance of each pixel of the mask to the background, smoothed, in pixels. (H, W) bool to float32.

    0 outside of the mask: so each of its components has a summit.
    """
    distance = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.where(mask, cv2.GaussianBlur(np.minimum(distance, FARTHEST), (0, 0), SMOOTHING), np.float32(0))


def _joined(basins: np.ndarray, depth: np.ndarray, neck: float) -> np.ndarray:
    """The basins, numbered from 1, with those joined that no neck parts."""
    owner = np.arange(basins.max() + 1)
    summit = np.zeros(owner.size)
    np.maximum.at(summit, basins.ravel(), depth.ravel())
    for height, first, second in _passes(basins, depth):
        low, high = sorted((_root(owner, first), _root(owner, second)), key=lambda each: summit[each])
        if low != high and height >= neck * summit[low]:
            owner[low] = high
    return np.array([_root(owner, basin) for basin in range(owner.size)], dtype=np.int32)[basins]


def _root(owner: np.ndarray, basin: int) -> int:
    while owner[basin] != basin:
        basin = int(owner[basin])
    return basin


def _passes(basins: np.ndarray, depth: np.ndarray) -> list[tuple[float, int, int]]:
    """Between neighbouring basins, the depth at which one comes from one to the other; the highest first."""
    height, width = basins.shape
    found = []
    for down, right in STEPS:
        here = (slice(0, height - down), slice(max(0, -right), width - max(0, right)))
        there = (slice(down, height), slice(max(0, right), width + min(0, right)))
        a, b = basins[here], basins[there]
        border = (a != b) & (a > 0) & (b > 0)
        found.append(np.stack([np.minimum(depth[here], depth[there])[border], a[border], b[border]], axis=1))
    passes = np.concatenate(found)
    return [(height, int(a), int(b)) for height, a, b in passes[np.argsort(-passes[:, 0], kind="stable")].tolist()]
