"""Whether masks are aligned with the content of their images, tested against the other masks of the same set.

    alignment score    how well a mask fits an image: gradients along its outline, a different brightness inside
    z-score            how much better masks fit their own images than the images k rows further, over all k
    misread            flipped, rotated or transposed masks fit better in most images, and with a significant z-score
    shuffled           masks fit their own images no better than others, and another assignment of masks to images
                       scores clearly higher than any assignment of flipped masks

What all images or all masks of a set have in common cancels out, and masks that do not follow image edges give an
inconclusive result. Rates of detection and of false alarms: `benchmarks/study_doctor.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import cv2
import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.stats import t

from pipeline.rle import Dialect
from pipeline.symmetries import SYMMETRIES

LabelledSample = tuple[np.ndarray, np.ndarray]  # a grey image and its class labels, both (H, W) uint8

MIN_IMAGES = 10  # the result is inconclusive for fewer images
MAX_SIDE = 512  # pixels; larger images are downscaled to it before outlines and gradients are computed
GRID_SIZE = 128  # pixels a side; images and masks of all sizes are compared at this size
MIN_SHARE = 0.75  # share of the images in which a corrected mask must fit better
MAX_P_VALUE = 5e-4  # of the z-score, by Student's t distribution
MIN_GAIN = 1.2  # least ratio of the best assignment's score to that of flipped masks, for shuffled pairs

# Transforms of the masks that are tried: keys of SYMMETRIES. The last four apply to square images only.
FLIPPED = ("flip_horizontal", "flip_vertical", "rotate_180")
VIEWS = (*FLIPPED, "transpose", "rotate_90", "rotate_270", "anti_transpose")


class MaskCheck(NamedTuple):
    """The result of a check of how masks are read."""

    status: Literal["ok", "misread", "shuffled", "inconclusive"]
    message: str  # one line
    correction: str | Dialect | None = None  # if misread: the key of SYMMETRIES that corrects it, or the right dialect
    warning: str | None = None  # a possible problem, reported at level "look"


def check_alignment(samples: Sequence[LabelledSample]) -> MaskCheck:
    """Check whether masks are aligned with the content of their images.

    Args:
        samples: some dozens of images with more than one label each, in the table's order.
    """
    alignment = Alignment(samples)
    views = {name: [SYMMETRIES[name](labels) for _, labels in samples] for name in VIEWS}
    if found := alignment.find_correction(views):
        view, evidence = found
        fix = "apply it to the mask files, or its inverse to the images"
        message = f"masks fit their images better after {view} ({evidence}): {fix}"
        return MaskCheck("misread", message, view)
    return alignment.check("compare files.mask_pattern or files.mask_suffix with the names of images and masks")


class Alignment:
    """The alignment scores of all pairs of an image and a mask."""

    def __init__(self, samples: Sequence[LabelledSample]):
        self._labels = [downscale_labels(labels) for _, labels in samples]
        if len(samples) < MIN_IMAGES:
            return
        images = [_downscale(image, cv2.INTER_AREA) for image, _ in samples]
        # The square root keeps a few strong edges from dominating the score.
        self._gradients = _normalized_vectors([np.sqrt(_gradient_magnitude(image)) for image in images])
        self._brightness = _normalized_vectors(images)
        self._scores = self._score(range(len(samples)), self._labels)

    def find_correction(self, views: Mapping[str, Sequence[np.ndarray]]) -> tuple[str, str] | None:
        """The view whose labels fit better than the labels as they are read, and the share of images; or None.

        Args:
            views: other labels for each image, by name. Labels (H, W) uint8 that differ in shape from their image
                are skipped.
        """
        found = {}
        for name, labels in views.items():
            gains, z_score = self._compare(labels)
            better = int((gains > 0).sum())
            if better >= max(1, MIN_SHARE * len(gains)) and _is_significant(z_score, len(gains)):
                found[name] = (z_score, f"{better} of {len(gains)} images")
        if not found:
            return None
        name = max(found, key=lambda name: found[name][0])
        return name, found[name][1]

    def check(self, advice: str) -> MaskCheck:
        """Check whether masks fit their own images.

        Args:
            advice: what to compare if images and masks are paired wrongly, for the message.
        """
        count = len(self._labels)
        if count < MIN_IMAGES:
            return MaskCheck("inconclusive", f"{count} images with masks are too few to check their alignment")
        z_score = _own_pair_z_score(self._scores)
        evidence = f"z-score {z_score:+.1f}"
        if _is_significant(z_score, count):
            return MaskCheck("ok", f"masks are aligned with their images ({evidence})")
        if self._is_shuffled():
            what = f"masks fit their own images no better than other images ({evidence}), but fit in another order"
            return MaskCheck("shuffled", f"{what}: are rows or ids shuffled? {advice}")
        return MaskCheck("inconclusive", f"inconclusive: masks do not follow image edges ({evidence})")

    def _compare(self, labels: Sequence[np.ndarray]) -> tuple[np.ndarray, float]:
        """The gain in score of other labels, of each image whose shape they have, (N,); and their z-score."""
        labels = [downscale_labels(each) for each in labels]
        at = [number for number, each in enumerate(labels) if each.shape == self._labels[number].shape]
        if len(at) < MIN_IMAGES:
            return np.zeros(0), 0.0
        ours, theirs = _double_centre(self._scores[np.ix_(at, at)]), self._score(at, [labels[number] for number in at])
        return (theirs - ours).diagonal(), _own_pair_z_score(theirs)

    def _is_shuffled(self) -> bool:
        """Whether another assignment scores higher than the pairs as they are and than any one of flipped masks."""
        best = _best_assignment_score(self._scores)
        if self._scores.trace() > best / 2:
            return False
        flipped = [[downscale_labels(SYMMETRIES[name](each)) for each in self._labels] for name in FLIPPED]
        everywhere = range(len(self._labels))
        return best > MIN_GAIN * max(_best_assignment_score(self._score(everywhere, labels)) for labels in flipped)

    def _score(self, at: Sequence[int], labels: Sequence[np.ndarray]) -> np.ndarray:
        """The alignment score of the images `at` (rows) with the labels (columns), (N, N), double-centred."""
        scores = self._gradients[at] @ _normalized_vectors([_outline(each) for each in labels]).T
        for number, each in enumerate(labels):
            classes = _normalized_vectors([each == label for label in np.unique(each)[1:]])
            if len(classes):
                scores[:, number] += np.abs(self._brightness[at] @ classes.T).mean(axis=1)
        return _double_centre(scores)


def downscale_labels(labels: np.ndarray) -> np.ndarray:
    """Labels (H, W) with at most MAX_SIDE pixels a side, by nearest neighbour."""
    return _downscale(np.ascontiguousarray(labels), cv2.INTER_NEAREST_EXACT)


def _outline(labels: np.ndarray) -> np.ndarray:
    """The pixels on both sides of each border between labels, (H, W) bool; the image's edge is no border."""
    kernel = np.ones((3, 3), np.uint8)
    return cv2.dilate(labels, kernel) != cv2.erode(labels, kernel)


def _gradient_magnitude(image: np.ndarray) -> np.ndarray:
    """The gradient magnitude of a smoothed grey image, (H, W) float32."""
    smooth = cv2.GaussianBlur(image.astype(np.float32), (0, 0), 1.0)
    return np.hypot(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1))


def _downscale(pixels: np.ndarray, interpolation: int) -> np.ndarray:
    scale = MAX_SIDE / max(pixels.shape)
    if scale >= 1:
        return pixels
    size = [max(1, round(side * scale)) for side in pixels.shape[::-1]]
    return cv2.resize(pixels, size, interpolation=interpolation)


def _normalized_vectors(maps: Sequence[np.ndarray]) -> np.ndarray:
    """Maps of any size as vectors of mean 0 and norm 1, (N, GRID_SIZE²): dot products are correlations."""
    grids = [cv2.resize(each.astype(np.float32), (GRID_SIZE, GRID_SIZE), interpolation=cv2.INTER_AREA) for each in maps]
    vectors = np.array(grids, dtype=np.float32).reshape(len(grids), GRID_SIZE * GRID_SIZE)
    vectors -= vectors.mean(axis=1, keepdims=True)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)


def _double_centre(scores: np.ndarray) -> np.ndarray:
    """Scores (N, N) without the mean score of each image and of each mask."""
    return scores - scores.mean(axis=0) - scores.mean(axis=1, keepdims=True) + scores.mean()


def _own_pair_z_score(scores: np.ndarray) -> float:
    """How much better masks fit their own images than those k rows further, in standard deviations over all k.

    Neighbours in a table may be slices of one volume or frames of one video. A shift by k rows keeps this similarity,
    so it does not count as alignment.
    """
    count = len(scores)
    rows = np.arange(count)
    own, *shifted = (scores[rows, (rows + shift) % count].mean() for shift in range(count))
    return float((own - np.mean(shifted)) / max(np.std(shifted, ddof=1), 1e-9))


def _is_significant(z_score: float, count: int) -> bool:
    return t.sf(z_score, count - 2) <= MAX_P_VALUE


def _best_assignment_score(scores: np.ndarray) -> float:
    """The summed scores of the best assignment of masks to images."""
    return float(scores[linear_sum_assignment(scores, maximize=True)].sum())
