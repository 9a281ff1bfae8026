"""The numerator and denominator that each image adds to a score.

Most Kaggle metrics are one sum over images divided by another:

    mean over images       Σ score of the image / Σ 1
    empty images skipped   Σ score of the image / Σ 1, both over the images with a mask
    over all pixels        Σ 2·|A∩B| / Σ (|A| + |B|)

With several classes, the score is the mean over classes of these ratios. The search over thresholds, cross-fitting, the
bootstrap and the shake-up simulation need only these sums, so they support every such metric.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Scores:
    """The numerators and denominators of N images, class by class.

    Shapes:
        numerator, denominator: (N, C) float64; the denominator is 0 where a class does not count in an image.
    """

    numerator: np.ndarray
    denominator: np.ndarray

    @classmethod
    def from_values(cls, values: "np.ndarray | Sequence[float] | Scores") -> "Scores":
        """Scores of images that all count alike; `Scores` are returned unchanged.

        Shapes:
            values: (N,), one score per image.

        Raises:
            ValueError: if the values do not have exactly one axis.
        """
        if isinstance(values, Scores):
            return values
        numerator = np.asarray(values, dtype=np.float64)
        if numerator.ndim != 1:
            raise ValueError(f"scores of shape {numerator.shape}: expected one per image")
        numerator = numerator[:, None]
        return cls(numerator, np.ones_like(numerator))

    @classmethod
    def concat_classes(cls, parts: Sequence["Scores"]) -> "Scores":
        """The classes of several scores of the same images, one after the other."""
        return cls._concatenate(parts, axis=1)

    @classmethod
    def concat_images(cls, parts: Sequence["Scores"]) -> "Scores":
        """The images of several scores with the same classes, one after the other."""
        return cls._concatenate(parts, axis=0)

    @classmethod
    def _concatenate(cls, parts: Sequence["Scores"], axis: int) -> "Scores":
        terms = ([each.numerator for each in parts], [each.denominator for each in parts])
        return cls(*(np.concatenate(term, axis=axis) for term in terms))

    def __len__(self) -> int:
        return len(self.numerator)

    def take(self, rows: np.ndarray) -> "Scores":
        """The scores of some images.

        Shapes:
            rows: (N,) bool, or positions of images.
        """
        return Scores(self.numerator[rows], self.denominator[rows])

    def mean(self) -> float:
        """The score of all images together; NaN if nothing counts."""
        return float(ratio(self.numerator.sum(axis=0), self.denominator.sum(axis=0)))

    def per_image(self) -> np.ndarray:
        """The score of every image by itself, (N,); NaN for an image in which no class counts."""
        return ratio(self.numerator, self.denominator)

    def count_defined(self, groups: np.ndarray | None = None) -> int:
        """The number of groups in which any class counts; without groups, of images."""
        return int((self.per_group(groups).denominator > 0).any(axis=1).sum())

    def per_group(self, groups: np.ndarray | None) -> "Scores":
        """The sums over the images of each group, groups in rising order; without groups, the scores unchanged.

        Shapes:
            groups: (N,), the group of each image.
        """
        if groups is None:
            return self
        _, group = np.unique(groups, return_inverse=True)
        return Scores(_sums(self.numerator, group), _sums(self.denominator, group))


def _sums(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    return np.stack([np.bincount(group, column) for column in values.T], axis=1)


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """The mean over classes of numerator / denominator; classes with denominator 0 are left out.

    NaN where no class counts: the score is undefined and cannot be compared. To rank scores, see `nan_to_zero`.

    Shapes:
        numerator, denominator: (..., C).
        returns: (...) float64, or a scalar.

    >>> ratio(np.array([1.0, 3.0, 0.0]), np.array([2.0, 4.0, 0.0]))
    np.float64(0.625)
    """
    counts = denominator > 0
    shares = np.divide(numerator, denominator, out=np.zeros(counts.shape), where=counts)
    classes = counts.sum(axis=-1)
    return np.where(classes > 0, shares.sum(axis=-1) / np.maximum(classes, 1), np.nan)[()]


def nan_to_zero(scores: np.ndarray) -> np.ndarray:
    """Scores for choosing the best candidate: an undefined score counts as 0, so it is never preferred.

    Shapes:
        scores: any shape; returned with the same shape.
    """
    return np.nan_to_num(scores)
