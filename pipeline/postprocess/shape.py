"""Touching objects, separated by the shape of their mask: a narrow place ends one object and starts the next."""

import cv2
import numpy as np
from skimage.segmentation import watershed

from pipeline.postprocess.rules import keep_labels, label_components
from pipeline.postprocess.threshold_counts import level

SIGMA = 1.0  # pixels; smooths the distance transform: else a jagged outline gives a peak at each of its teeth
MAX_DISTANCE = 1e6  # pixels; limits OpenCV's distance where an image has no background
NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))  # half of a pixel's eight: each pair of neighbours is visited once


def split_by_shape(values: np.ndarray, threshold: float, saddle_ratio: float, min_area: int = 1) -> np.ndarray:
    """Instances of a mask, separated where it is narrow, by these rules in this order:

        1. threshold            pixels that reach it are the mask
        2. distance transform   the distance of each of its pixels to the background, smoothed
        3. watershed            each peak of the distance transform has a basin
        4. saddle_ratio         two neighbouring basins are one object if the highest saddle between them is at least
                                that share of the lower peak; saddles are visited from the highest down, and merged
                                basins count as one
        5. min_area             removes smaller objects

    Two discs that overlap a little have a low saddle, and are separated; a long or dented object has a high one. The
    ratio has no unit: small and large objects are separated alike.

    Rules 3 and 4 keep the peaks whose dynamics, relative to their height, are above 1 − saddle_ratio: M. Grimaud, A
    new measure of contrast: the dynamics, 1992, https://doi.org/10.1117/12.60650. With an absolute saddle depth in
    pixels it would be the h-maxima watershed of many tutorials.

    Args:
        threshold: on probabilities, 0 to 1.
        saddle_ratio: 0 to 1: 0 merges all basins that touch, 1 separates every peak.
        min_area: pixels.

    Shapes:
        values: (H, W) uint8, 0 … 255: the mask's.
        returns: (H, W) int32, 0 is background; instances are 1, 2, … by their first pixel, row by row.
    """
    mask = values >= level(threshold)
    distance = _distance_transform(mask)
    peaks = label_components(mask & (distance >= cv2.dilate(distance, np.ones((3, 3), np.uint8))), connectivity=8)
    basins = watershed(-distance, peaks.astype(np.int32), connectivity=2, mask=mask)
    return keep_labels(_merge_basins(basins, distance, saddle_ratio), min_area)


def _distance_transform(mask: np.ndarray) -> np.ndarray:
    """The smoothed distance of each pixel of the mask to the background, in pixels. (H, W) bool to float32.

    It is 0 outside of the mask, so that each component of the mask has a peak.
    """
    distance = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.where(mask, cv2.GaussianBlur(np.minimum(distance, MAX_DISTANCE), (0, 0), SIGMA), np.float32(0))


def _merge_basins(basins: np.ndarray, distance: np.ndarray, saddle_ratio: float) -> np.ndarray:
    """Merge the basins, numbered from 1, whose saddle is at least saddle_ratio times the lower peak."""
    parent = np.arange(basins.max() + 1)
    peak = np.zeros(parent.size)
    np.maximum.at(peak, basins.ravel(), distance.ravel())
    for height, first, second in _saddles(basins, distance):
        low, high = sorted((_root(parent, first), _root(parent, second)), key=lambda each: peak[each])
        if low != high and height >= saddle_ratio * peak[low]:
            parent[low] = high
    return np.array([_root(parent, basin) for basin in range(parent.size)], dtype=np.int32)[basins]


def _root(parent: np.ndarray, basin: int) -> int:
    while parent[basin] != basin:
        basin = int(parent[basin])
    return basin


def _saddles(basins: np.ndarray, distance: np.ndarray) -> list[tuple[float, int, int]]:
    """Each pair of neighbouring pixels of two basins: the lower of their distances, and the basins; highest first."""
    height, width = basins.shape
    found = []
    for down, right in NEIGHBOURS:
        here = (slice(0, height - down), slice(max(0, -right), width - max(0, right)))
        there = (slice(down, height), slice(max(0, right), width + min(0, right)))
        a, b = basins[here], basins[there]
        border = (a != b) & (a > 0) & (b > 0)
        found.append(np.stack([np.minimum(distance[here], distance[there])[border], a[border], b[border]], axis=1))
    saddles = np.concatenate(found)
    return [(height, int(a), int(b)) for height, a, b in saddles[np.argsort(-saddles[:, 0], kind="stable")].tolist()]
