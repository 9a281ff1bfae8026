"""Whether images can be told from their mirrored or rotated copies: which flips and rotations an augmentation may use.

A linear classifier sees an image and its copy, as histograms of gradient directions, and names the original. If it is
right on held-out images more often than chance explains, the images have a preferred side, and a network would learn
from copies that never occur. What the classifier cannot see may still differ: text, or a heart on the left side.

Source:
    Histograms of oriented gradients: Dalal and Triggs, https://doi.org/10.1109/CVPR.2005.177. A classifier that tells a
    change of the data from none: Lopez-Paz and Oquab, https://arxiv.org/abs/1610.06545.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from pipeline.symmetries import SYMMETRIES

SIDE = 64  # pixels of the square in the middle of an image, after resizing
CELLS = 4  # per axis, each with a histogram
DIRECTIONS = 8  # centred on multiples of 45°, so that a symmetry maps each to another
FOLDS = 5
MIN_ACCURACY = 0.6  # from which images differ from their copies, if chance does not explain it
MIN_DEVIATION = 3.0  # standard errors from one half
MIN_GROUPS = 20  # for an answer


class SymmetryProbe(NamedTuple):
    """How often the original was told from its copy, on held-out images."""

    symmetry: str
    accuracy: float  # 0 to 1; one half by chance
    groups: int  # independent groups of images

    @property
    def holds(self) -> bool | None:
        """Whether images look like their copies; None if there are too few to tell."""
        if self.groups < MIN_GROUPS:
            return None
        deviation = (self.accuracy - 0.5) / np.sqrt(0.25 / self.groups)
        return not (self.accuracy >= MIN_ACCURACY and deviation >= MIN_DEVIATION)


def probe_symmetries(pictures: Sequence[np.ndarray], groups: Sequence[object]) -> list[SymmetryProbe]:
    """Probe each symmetry of the square but the identity.

    Args:
        groups: of each picture; pictures of a group are held out together.

    Shapes:
        pictures: (H, W, 1 or 3) uint8 each, of any sizes.
    """
    squares = [_middle_square(each) for each in pictures]
    originals = np.stack([histograms(each) for each in squares])
    numbers = np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]
    count = int(numbers.max()) + 1
    probes = []
    for name, symmetry in SYMMETRIES.items():
        if name != "identity":
            copies = np.stack([histograms(np.ascontiguousarray(symmetry(each))) for each in squares])
            probes.append(SymmetryProbe(name, _accuracy(originals - copies, numbers, min(FOLDS, count)), count))
    return probes


def _middle_square(picture: np.ndarray) -> np.ndarray:
    """The grey square in the middle, (SIDE, SIDE) float32; its shape does not tell a transpose."""
    grey = picture.mean(axis=2, dtype=np.float32)
    side = min(grey.shape)
    top, left = ((length - side) // 2 for length in grey.shape)
    return cv2.resize(grey[top : top + side, left : left + side], (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def histograms(square: np.ndarray) -> np.ndarray:
    """Per cell, the share of each gradient direction in the image's gradients, and the brightness.

    Shapes:
        square: (SIDE, SIDE) float32.
        returns: (CELLS · CELLS · (DIRECTIONS + 1),) float32.
    """
    across, down = (cv2.Sobel(square, cv2.CV_32F, *order) for order in ((1, 0), (0, 1)))
    strength, angle = np.hypot(across, down), np.arctan2(down, across)
    direction = np.rint(angle / (2 * np.pi / DIRECTIONS)).astype(int) % DIRECTIONS
    planes = [strength * (direction == number) for number in range(DIRECTIONS)]
    cell = SIDE // CELLS
    sums = np.stack(planes).reshape(DIRECTIONS, CELLS, cell, CELLS, cell).sum(axis=(2, 4))
    shares = np.sqrt(sums / max(float(strength.sum()), 1e-6))
    brightness = square.reshape(CELLS, cell, CELLS, cell).mean(axis=(1, 3))
    spread = max(float(square.std()), 1.0)
    return np.concatenate([shares.ravel(), (brightness.ravel() - square.mean()) / spread]).astype(np.float32)


def _accuracy(differences: np.ndarray, groups: np.ndarray, folds: int) -> float:
    """The share of held-out differences that a classifier of differences and their negatives takes for differences."""
    if folds < 2:
        return 0.5
    scaled = differences / np.maximum(differences.std(axis=0), 1e-3)
    correct = np.empty(len(scaled))
    for train, test in GroupKFold(folds).split(scaled, groups=groups):
        both = np.concatenate([scaled[train], -scaled[train]])
        labels = np.repeat([1, 0], len(train))
        classifier = LogisticRegression(C=0.01, fit_intercept=False, max_iter=1000).fit(both, labels)
        margin = scaled[test] @ classifier.coef_[0]
        correct[test] = np.where(margin == 0, 0.5, margin > 0)
    return float(correct.mean())


def symmetry_rows(probes: Sequence[SymmetryProbe]) -> list[dict[str, object]]:
    """A table of the probes: symmetry, accuracy (0 to 1), and whether it holds."""
    words = {True: "yes", False: "no", None: "too few images"}
    return [{"symmetry": each.symmetry, "accuracy": each.accuracy, "holds": words[each.holds]} for each in probes]


def advise(probes: Sequence[SymmetryProbe]) -> str:
    """What the probes mean for augmentation and test-time augmentation, in a sentence."""
    if any(each.holds is None for each in probes):
        return f"{probes[0].groups} independent images are too few to tell whether they have a preferred side."
    names = [each.symmetry for each in probes if each.holds]
    if not names:
        return "Images can be told from all their copies: use no flip or rotation unless it gains."
    if len(names) == len(probes):
        return "Images look like all their copies: use D4 (medium, strong), and any views."
    transform = {"flip_horizontal": "HorizontalFlip (light)", "flip_vertical": "VerticalFlip"}.get("+".join(names))
    views = ", ".join(f'"{name}"' for name in ["identity", *names])
    return f"Images look like some copies only: use {transform or 'a list of transforms'}, and views = [{views}]."
