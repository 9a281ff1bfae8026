"""Do masks lie on what is in their images? Decided image by image, against the masks of the other images.

    fit         how well a mask lies on an image: edges along its outline, another brightness inside
    relation    masks fit their own images better than those k rows further, for all k
    view        masks that were turned, mirrored or read in another order fit better in most images, and have a clear
                relation to them, once that is undone
    pairs       masks without a relation to their images are paired wrongly if another assignment fits clearly better
                than mirrored masks can be made to fit by any assignment

What all images or all masks of a set have in common decides nothing, nor do masks that show little of themselves in
their images. How often this is right, and how often it is a false alarm: `benchmarks/study_doctor.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import cv2
import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.stats import t

from pipeline.rle import Dialect
from pipeline.symmetries import SYMMETRIES

Sample = tuple[np.ndarray, np.ndarray]  # a grey image (H, W) uint8, and its labels (H, W) uint8: one number a class

FEWEST = 10  # images, below which nothing is said
SIDE = 512  # pixels; larger images are reduced to it before outlines and gradients are taken
GRID = 128  # pixels, height and width at which images and masks of all sizes are compared
MOST = 0.75  # share of the images that another view must fit better
CHANCE = 5e-4  # probability of so clear a relation by chance, at most
FACTOR = 1.2  # by which another assignment must fit better than mirrored masks can be made to fit

# Transforms of the masks that are tried: keys of SYMMETRIES. The last four apply to square images only.
MIRRORED = ("flip_horizontal", "flip_vertical", "rotate_180")
VIEWS = (*MIRRORED, "transpose", "rotate_90", "rotate_270", "anti_transpose")


class Verdict(NamedTuple):
    """What the doctor thinks of how masks are read, or of how they lie."""

    kind: Literal["good", "other", "shuffled", "unknown"]
    message: str  # in one line
    better: str | Dialect | None = None  # the view or the dialect that is right, if it is another
    doubt: str | None = None  # a possible problem that is reported as `look`


def judge_masks(samples: Sequence[Sample]) -> Verdict:
    """Whether masks lie on what is in their images.

    Args:
        samples: images with more than one label each; some dozens, neighbours in the table beside each other.
    """
    placement = Placement(samples)
    views = {name: [SYMMETRIES[name](labels) for _, labels in samples] for name in VIEWS}
    if found := placement.better(views):
        view, how = found
        undo = "apply it to the mask files, or its inverse to the images"
        message = f"masks fit their images better after {view} ({how}): {undo}"
        return Verdict("other", message, view)
    return placement.judge("see files.mask_pattern or files.mask_suffix, and the names of both")


class Placement:
    """Images and masks, and how well each of these lies on each of those."""

    def __init__(self, samples: Sequence[Sample]):
        self._labels = [reduced_labels(labels) for _, labels in samples]
        if len(samples) < FEWEST:
            return
        reduced = [_reduced(image, cv2.INTER_AREA) for image, _ in samples]
        self._steep = _vectors([np.sqrt(_steepness(image)) for image in reduced])  # few strong edges decide nothing
        self._bright = _vectors(reduced)
        self._fits = self._fit(range(len(samples)), self._labels)

    def better(self, views: Mapping[str, Sequence[np.ndarray]]) -> tuple[str, str] | None:
        """The view that fits better than the labels as they are, and in how many images; None if none does.

        Args:
            views: other labels for each image, by name; one of another shape than its image is left out.
        """
        found = {}
        for name, labels in views.items():
            gains, relation = self._compare(labels)
            won = int((gains > 0).sum())
            if won >= max(1, MOST * len(gains)) and _is_clear(relation, len(gains)):
                found[name] = (relation, f"{won} of {len(gains)} images")
        if not found:
            return None
        name = max(found, key=lambda name: found[name][0])
        return name, found[name][1]

    def judge(self, paired: str) -> Verdict:
        """Whether masks fit their own images.

        Args:
            paired: where to look if images and masks are paired wrongly, for the message.
        """
        count = len(self._labels)
        if count < FEWEST:
            return Verdict("unknown", f"{count} images with masks are too few to tell whether masks lie on them")
        own = _relation(self._fits)
        how = f"{own:+.1f} standard deviations"
        if _is_clear(own, count):
            return Verdict("good", f"masks lie on what is in their images ({how})")
        if self._is_shuffled():
            why = f"masks fit their own images no better than others ({how}), and paired otherwise they would"
            return Verdict("shuffled", f"{why}: are rows or ids shuffled? {paired}")
        return Verdict("unknown", f"inconclusive: masks do not follow what is in their images ({how})")

    def _compare(self, labels: Sequence[np.ndarray]) -> tuple[np.ndarray, float]:
        """By how much other labels fit each image better, of those that have its shape; and their relation to them."""
        labels = [reduced_labels(each) for each in labels]
        at = [number for number, each in enumerate(labels) if each.shape == self._labels[number].shape]
        if len(at) < FEWEST:
            return np.zeros(0), 0.0
        ours, theirs = _centred(self._fits[np.ix_(at, at)]), self._fit(at, [labels[number] for number in at])
        return (theirs - ours).diagonal(), _relation(theirs)

    def _is_shuffled(self) -> bool:
        """Whether some assignment fits better than the pairs as they are, and than one of mirrored masks can."""
        best = _best(self._fits)
        if self._fits.trace() > best / 2:
            return False
        mirrored = [[reduced_labels(SYMMETRIES[name](each)) for each in self._labels] for name in MIRRORED]
        everywhere = range(len(self._labels))
        return best > FACTOR * max(_best(self._fit(everywhere, labels)) for labels in mirrored)

    def _fit(self, at: Sequence[int], labels: Sequence[np.ndarray]) -> np.ndarray:
        """How well the labels j lie on the images i, (N, N)."""
        fits = self._steep[at] @ _vectors([_outline(each) for each in labels]).T
        for number, each in enumerate(labels):
            classes = _vectors([each == label for label in np.unique(each)[1:]])
            if len(classes):
                fits[:, number] += np.abs(self._bright[at] @ classes.T).mean(axis=1)
        return _centred(fits)


def reduced_labels(labels: np.ndarray) -> np.ndarray:
    """Labels (H, W) at SIDE pixels a side at most."""
    return _reduced(np.ascontiguousarray(labels), cv2.INTER_NEAREST)


def _outline(labels: np.ndarray) -> np.ndarray:
    """Pixels on either side of a border between labels, (H, W) bool; the image's edge is none."""
    kernel = np.ones((3, 3), np.uint8)
    return cv2.dilate(labels, kernel) != cv2.erode(labels, kernel)


def _steepness(image: np.ndarray) -> np.ndarray:
    """How much a grey image changes at each pixel, (H, W) float32."""
    smooth = cv2.GaussianBlur(image.astype(np.float32), (0, 0), 1.0)
    return np.hypot(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1))


def _reduced(pixels: np.ndarray, how: int) -> np.ndarray:
    share = SIDE / max(pixels.shape)
    if share >= 1:
        return pixels
    return cv2.resize(pixels, [max(1, round(side * share)) for side in pixels.shape[::-1]], interpolation=how)


def _vectors(maps: Sequence[np.ndarray]) -> np.ndarray:
    """Maps of any size as vectors of one, mean 0 and length 1: products of two are correlations. (N, GRID²)."""
    grids = [cv2.resize(each.astype(np.float32), (GRID, GRID), interpolation=cv2.INTER_AREA) for each in maps]
    vectors = np.array(grids, dtype=np.float32).reshape(len(grids), GRID * GRID)
    vectors -= vectors.mean(axis=1, keepdims=True)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)


def _centred(fits: np.ndarray) -> np.ndarray:
    """Without what an image has for any mask, and a mask for any image."""
    return fits - fits.mean(axis=0) - fits.mean(axis=1, keepdims=True) + fits.mean()


def _relation(fits: np.ndarray) -> float:
    """How much better masks fit their own images than those k places further, in standard deviations over all k.

    Neighbours in a table may be slices of one volume or frames of one video. Shifted pairs are as much alike among
    themselves as true ones, so that this is not mistaken for a relation of masks to images.
    """
    count = len(fits)
    places = np.arange(count)
    own, *shifted = (fits[places, (places + shift) % count].mean() for shift in range(count))
    return float((own - np.mean(shifted)) / max(np.std(shifted, ddof=1), 1e-9))


def _is_clear(relation: float, count: int) -> bool:
    return t.sf(relation, count - 2) <= CHANCE


def _best(fits: np.ndarray) -> float:
    """The sum of fits under the best assignment of masks to images."""
    return float(fits[linear_sum_assignment(fits, maximize=True)].sum())
