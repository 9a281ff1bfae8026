"""How well a mask lies on an image, and when a difference over many images is none of chance."""

from collections.abc import Callable, Sequence

import cv2
import numpy as np

LEAST = 6  # images with a mask that can be read, below which nothing is said
CLEAR = 4.0  # standard errors by which another reading must be better
BETTER = 0.15  # and by how much, in the logarithm of the fit
UNLIKELY = 1.5  # standard errors below which masks fit their images no better than others'
MANY = 40  # images, for that to be said
OTHERS = 12  # images that a mask is laid on beside its own
SLACK = 1e-3


def outline(labels: np.ndarray) -> np.ndarray:
    """Pixels on either side of a border between labels, (H, W) bool; the image's edge is none."""
    kernel = np.ones((3, 3), np.uint8)
    return cv2.dilate(labels, kernel) != cv2.erode(labels, kernel)


def steepness(image: np.ndarray) -> np.ndarray:
    """How much a grey image changes at each pixel, (H, W) float32."""
    smooth = cv2.GaussianBlur(image.astype(np.float32), (0, 0), 1.0)
    return np.hypot(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1))


def edges(steep: np.ndarray, labels: np.ndarray) -> float:
    """The logarithm of how much more an image changes on the outline than elsewhere."""
    return float(np.log((steep[outline(labels)].mean() + SLACK) / (steep.mean() + SLACK)))


def contrast(image: np.ndarray, labels: np.ndarray) -> float:
    """How differently bright each label and the rest are, in standard deviations of the image; the mean over labels."""
    pixels = np.bincount(labels.ravel())
    sums = np.bincount(labels.ravel(), image.ravel())
    there = np.flatnonzero((pixels > 0) & (pixels < labels.size))
    pixels, sums = pixels[there], sums[there]
    inside, outside = sums / pixels, (image.sum(dtype=np.float64) - sums) / (labels.size - pixels)
    return float(np.abs(inside - outside).mean() / (image.std() + SLACK))


def relation(shapes: Sequence[tuple[int, int]], lies: Callable[[int, int], float]) -> float:
    """Standard errors by which masks fit their own image better than others of its size; near 0 for shuffled ones.

    By rank, because some masks fit anything well: among k others, its own image is equally likely at each of k + 1
    places if the pairs are shuffled, and the share of images that it beats has a variance of (k + 2) / 12k.

    Args:
        shapes: of the images.
        lies: how well a mask lies on an image, from the numbers of both: image, mask.
    """
    pairs = _crossed(shapes, lies)
    ranks = [(own > others).mean() - 0.5 for own, others in pairs]
    variance = sum((len(others) + 2) / (12 * len(others)) for _, others in pairs)
    return float(sum(ranks) / np.sqrt(variance)) if ranks else 0.0


def _crossed(shapes: Sequence[tuple[int, int]], lies: Callable[[int, int], float]) -> list[tuple[float, np.ndarray]]:
    """How well each mask lies on its own image, and on some others of that size."""
    pairs = []
    for shape in sorted(set(shapes)):
        same = [number for number, each in enumerate(shapes) if each == shape]
        for place, number in enumerate(same):
            rest = same[place + 1 :] + same[:place]
            if rest:
                some = rest[:: -(-len(rest) // OTHERS)]
                own, *others = (lies(each, number) for each in (number, *some))
                pairs.append((own, np.array(others)))
    return pairs


def errors(values: np.ndarray) -> float:
    """A mean in its standard errors; 0 of fewer than two values."""
    if len(values) < 2:
        return 0.0
    return float(values.mean() / max(values.std(ddof=1) / np.sqrt(len(values)), 1e-9))
