"""Two images side by side, pixel by pixel: is it the same scene?"""

import cv2
import numpy as np

from pipeline.symmetries import SYMMETRIES

SIDE = 96  # pixels to which whole images are reduced for comparison
LEAST_OVERLAP = 20  # pixels of each side that two crops must share


def detail(image: np.ndarray, fine: float = 1.0, coarse: float = 6.0) -> np.ndarray:
    """What is neither noise nor lighting: the difference of two Gaussian blurs, float32."""
    image = image.astype(np.float32)
    return cv2.GaussianBlur(image, (0, 0), fine) - cv2.GaussianBlur(image, (0, 0), coarse)


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson's, over all pixels; 0 if one is constant."""
    first, second = first - first.mean(), second - second.mean()
    norm = np.sqrt((first**2).sum() * (second**2).sum())
    return float((first * second).sum() / norm) if norm > 1e-6 else 0.0


def copies(first: np.ndarray, second: np.ndarray, view: str) -> float:
    """Correlation of the details of two whole images, the second one turned."""
    small = [
        cv2.resize(image.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA) for image in (first, second)
    ]
    return correlation(detail(small[0]), detail(SYMMETRIES[view](small[1])))


def overlapping(first: np.ndarray, second: np.ndarray, down: int, right: int) -> float:
    """Correlation of the details where two images overlap, the second's corner at (down, right) of the first."""
    height = min(first.shape[0], second.shape[0] + down) - max(0, down)
    width = min(first.shape[1], second.shape[1] + right) - max(0, right)
    if min(height, width) < LEAST_OVERLAP:
        return 0.0
    shared = first[max(0, down) :, max(0, right) :][:height, :width]
    other = second[max(0, -down) :, max(0, -right) :][:height, :width]
    return correlation(detail(shared), detail(other))


def continuing(first: np.ndarray, second: np.ndarray, down: int, right: int) -> float:
    """How well a seam of two neighbours hides: 1 where it is as smooth as the lines beside it, 0 where it is a cut.

    The jump across the seam is compared with the jumps between the next lines on both sides.
    """
    if down < 0 or right < 0:
        first, second, down, right = second, first, -down, -right
    if down:
        first, second = first.T, second.T
    before, after = first[:, -3:].astype(np.float32), second[:, :3].astype(np.float32)
    usual = np.mean([np.abs(np.diff(before, axis=1)).mean(), np.abs(np.diff(after, axis=1)).mean()])
    # The seam is predicted from both sides: a slope that goes on is no jump.
    jump = np.abs((after[:, 0] - before[:, -1]) - 0.5 * ((before[:, -1] - before[:, -2]) + (after[:, 1] - after[:, 0])))
    return float(min(1.0, usual / max(jump.mean(), 1e-6)))
