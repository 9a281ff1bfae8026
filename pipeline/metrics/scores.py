"""What each image adds to a score: most of Kaggle's metrics are one sum over images divided by another.

    mean over images       Σ score of the image / Σ 1
    empty images skipped   Σ score of the image with a mask / Σ 1 of those
    over all pixels        Σ 2·|A∩B| / Σ (|A| + |B|)

Of several classes, the mean over classes of these ratios. Thresholds, cross-fitting, bootstraps and simulated boards
need nothing but such sums, so they work for all of these metrics alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Scores:
    """What N images gained of what was possible, class by class.

    Shapes:
        gained, possible: (N, C) float64; a class that is not counted in an image has possible 0 there.
    """

    gained: np.ndarray
    possible: np.ndarray

    @classmethod
    def of(cls, values: "np.ndarray | Sequence[float] | Scores") -> "Scores":
        """Plain scores of images, (N,), each of which counts alike; `Scores` as they are.

        Raises:
            ValueError: for an array of another number of axes.
        """
        if isinstance(values, Scores):
            return values
        gained = np.asarray(values, dtype=np.float64)
        if gained.ndim != 1:
            raise ValueError(f"scores of shape {gained.shape}: expected one per image")
        gained = gained[:, None]
        return cls(gained, np.ones_like(gained))

    @classmethod
    def side_by_side(cls, classes: Sequence["Scores"]) -> "Scores":
        """The classes of several scores of the same images."""
        return cls(
            *(np.concatenate([getattr(each, part) for each in classes], axis=1) for part in ("gained", "possible"))
        )

    def __len__(self) -> int:
        return len(self.gained)

    @classmethod
    def end_to_end(cls, parts: Sequence["Scores"]) -> "Scores":
        """The images of several scores, one after the other."""
        gained, possible = zip(*((each.gained, each.possible) for each in parts), strict=True)
        return cls(np.concatenate(gained), np.concatenate(possible))

    def take(self, rows: np.ndarray) -> "Scores":
        """Those of some images: (N,) bool, or positions."""
        return Scores(self.gained[rows], self.possible[rows])

    def mean(self) -> float:
        """The score of all images together."""
        return float(ratio(self.gained.sum(axis=0), self.possible.sum(axis=0)))

    def each(self) -> np.ndarray:
        """The score of every image by itself, (N,); NaN for one in which no class counts."""
        return ratio(self.gained, self.possible)

    def counting(self, groups: np.ndarray | None = None) -> int:
        """In how many groups, or images, anything counts."""
        return int((self.per_group(groups).possible > 0).any(axis=1).sum())

    def per_group(self, groups: np.ndarray | None) -> "Scores":
        """The sums over each group's images, the groups in rising order; without groups, the images themselves."""
        if groups is None:
            return self
        _, group = np.unique(groups, return_inverse=True)
        return Scores(_sums(self.gained, group), _sums(self.possible, group))


def _sums(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    return np.stack([np.bincount(group, column) for column in values.T], axis=1)


def ratio(gained: np.ndarray, possible: np.ndarray) -> np.ndarray:
    """Sums to scores: (..., C) to (...), the mean over the classes that count, NaN where none does.

    NaN says that a score is not defined, and is not to be compared; to choose by scores, see `or_zero`.

    >>> ratio(np.array([1.0, 3.0, 0.0]), np.array([2.0, 4.0, 0.0]))
    np.float64(0.625)
    """
    counts = possible > 0
    shares = np.divide(gained, possible, out=np.zeros(counts.shape), where=counts)
    classes = counts.sum(axis=-1)
    return np.where(classes > 0, shares.sum(axis=-1) / np.maximum(classes, 1), np.nan)[()]


def or_zero(scores: np.ndarray) -> np.ndarray:
    """Scores to choose by: one that is not defined is no reason to choose what it is of."""
    return np.nan_to_num(scores)
