"""Metrics that need only pixel counts, as sums over images."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

from pipeline.metrics.counts import Counts
from pipeline.metrics.scores import Scores, ratio

Term = Callable[[Counts], np.ndarray]


class Metric(NamedTuple):
    """A metric of pixels: Σ numerator / Σ denominator over images, each computed from an image's counts of one class.

    Called with counts of any shape, it returns each image's own score in that shape, NaN where the denominator is 0.
    """

    numerator: Term
    denominator: Term | None = None  # None: 1 for each image, which gives a mean over images

    def __call__(self, counts: Counts) -> np.ndarray:
        numerator, denominator = self.terms(counts)
        return ratio(numerator[..., None], denominator[..., None]) if self.denominator else numerator

    @property
    def counts_empties(self) -> bool:
        """Whether an image counts whose prediction and target are both empty."""
        _, denominator = self.terms(Counts(*np.zeros((3, 1), dtype=np.int64)))
        return bool(denominator > 0)

    def terms(self, counts: Counts) -> tuple[np.ndarray, np.ndarray]:
        """Numerator and denominator of each image, float64 arrays of the counts' shape."""
        numerator = np.asarray(self.numerator(counts), dtype=np.float64)
        if self.denominator is None:
            return numerator, np.ones(numerator.shape)
        return numerator, np.asarray(self.denominator(counts), np.float64)

    def total(self, counts: Counts) -> np.ndarray:
        """The score of all images together.

        Shapes:
            counts: (N, C, ...), such as one value per threshold in the last axis.
            returns: (...) float64; NaN where nothing counts.
        """
        numerator, denominator = (np.moveaxis(term.sum(axis=0), 0, -1) for term in self.terms(counts))
        return ratio(numerator, denominator)

    def baseline(self, areas: np.ndarray, *, exclusive: bool) -> float:
        """The score of an empty prediction; with exclusive classes, of the most frequent class everywhere.

        Shapes:
            areas: (N, C) target pixels of each class in each image.

        Returns:
            NaN if the score is undefined.
        """
        predicted = np.zeros_like(areas)
        if exclusive:
            predicted[:, areas.sum(axis=0).argmax()] = areas.sum(axis=1)
        return self.scores(Counts(np.minimum(predicted, areas), predicted, areas)).mean()

    def scores(self, counts: Counts) -> Scores:
        """The scores of images.

        Shapes:
            counts: (N,) for one class, or (N, C).
        """
        return Scores(*(term.reshape(len(term), -1) for term in self.terms(counts)))


def mean_over_images(score: Term, empty: Literal[0, 1, "skip"] = 1) -> Metric:
    """The mean over images of a score that is 1 where prediction and target are both empty.

    Args:
        empty: what such an image and class scores: 1; 0, so that an empty target scores 0 whatever is predicted; or
            "skip": it is left out of the mean.
    """
    if empty == "skip":
        return Metric(lambda counts: score(counts) * _not_both_empty(counts), _not_both_empty)
    return Metric(score) if empty else Metric(lambda counts: score(counts) * _not_both_empty(counts))


def _not_both_empty(counts: Counts) -> np.ndarray:
    return (counts.predicted + counts.target > 0).astype(np.float64)


def class_iou() -> Metric:
    """The mean over classes of Σ|A∩B| / Σ|A∪B|, summed over all images; usually for exclusive classes.

    Source:
        CamVid and PASCAL VOC call it mean IoU.
    """
    return Metric(
        lambda counts: counts.intersection, lambda counts: counts.predicted + counts.target - counts.intersection
    )


def global_dice() -> Metric:
    """Dice over the pixels of all images: 2·Σ|A∩B| / Σ(|A| + |B|); with several classes, the mean over them.

    Source:
        https://www.kaggle.com/competitions/google-research-identify-contrails-reduce-global-warming
    """
    return Metric(lambda counts: 2 * counts.intersection, lambda counts: counts.predicted + counts.target)


def global_f_beta(beta: float) -> Metric:
    """F-beta over the pixels of all images: (1 + β²)·Σ|A∩B| / Σ(|A| + β²·|B|), A predicted and B true.

    An image with both masks empty adds nothing. If all masks of all images are empty, the score is undefined. With
    several classes, it is the mean over those with a defined score. At β = 1 it is global Dice.

    Source:
        As `f_beta`.
    """
    return Metric(
        lambda counts: (1 + beta**2) * counts.intersection, lambda counts: counts.predicted + beta**2 * counts.target
    )
