"""Scores of candidate pairs, 0 to 1, from a pixel by pixel comparison of two grey images."""

import cv2
import numpy as np

from pipeline.symmetries import SYMMETRIES

COMPARED_SIZE = 96  # pixels a side to which copies are resized for comparison
MIN_OVERLAP = 20  # pixels a side that two crops must share


def band_pass(image: np.ndarray, fine: float = 1.0, coarse: float = 6.0) -> np.ndarray:
    """The difference of two Gaussian blurs, (H, W) float32: details without noise and lighting.

    Args:
        image: (H, W), grey.
        fine, coarse: standard deviations of the blurs, pixels.
    """
    image = image.astype(np.float32)
    return cv2.GaussianBlur(image, (0, 0), fine) - cv2.GaussianBlur(image, (0, 0), coarse)


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson's correlation over all pixels of two arrays (H, W); 0 if one of them is constant."""
    first, second = first - first.mean(), second - second.mean()
    norm = np.sqrt((first**2).sum() * (second**2).sum())
    return float((first * second).sum() / norm) if norm > 1e-6 else 0.0


def copy_score(first: np.ndarray, second: np.ndarray, view: str) -> float:
    """Correlation of the details of two whole images, both grey (H, W), after `view` is applied to the second.

    Args:
        view: a key of SYMMETRIES.
    """
    size = (COMPARED_SIZE, COMPARED_SIZE)
    small = [cv2.resize(image.astype(np.float32), size, interpolation=cv2.INTER_AREA) for image in (first, second)]
    return correlation(band_pass(small[0]), band_pass(SYMMETRIES[view](small[1])))


def crop_score(first: np.ndarray, second: np.ndarray, down: int, right: int) -> float:
    """Correlation of the details where two grey images (H, W) overlap; 0 if they overlap by less than MIN_OVERLAP.

    Args:
        down, right: the second image's corner in the first's coordinates, pixels.
    """
    height = min(first.shape[0], second.shape[0] + down) - max(0, down)
    width = min(first.shape[1], second.shape[1] + right) - max(0, right)
    if min(height, width) < MIN_OVERLAP:
        return 0.0
    shared = first[max(0, down) :, max(0, right) :][:height, :width]
    other = second[max(0, -down) :, max(0, -right) :][:height, :width]
    return correlation(band_pass(shared), band_pass(other))


def neighbour_score(first: np.ndarray, second: np.ndarray, down: int, right: int) -> float:
    """How smooth the seam of two neighbouring grey images (H, W) is: 1 if as smooth as the lines next to it.

    The mean jump across the seam is compared with the mean jump between the next lines on both sides.

    Args:
        down, right: the second image's corner in the first's coordinates, pixels; one of them is 0.
    """
    if down < 0 or right < 0:
        first, second, down, right = second, first, -down, -right
    if down:
        first, second = first.T, second.T
    before, after = first[:, -3:].astype(np.float32), second[:, :3].astype(np.float32)
    usual = np.mean([np.abs(np.diff(before, axis=1)).mean(), np.abs(np.diff(after, axis=1)).mean()])
    # The seam is extrapolated from both sides, so that a constant slope is no jump.
    jump = np.abs((after[:, 0] - before[:, -1]) - 0.5 * ((before[:, -1] - before[:, -2]) + (after[:, 1] - after[:, 0])))
    return float(min(1.0, usual / max(jump.mean(), 1e-6)))
