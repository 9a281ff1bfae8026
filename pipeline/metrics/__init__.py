"""Official metrics: numpy in, float out. A new one of pixels is a line in METRICS."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from pipeline.metrics.counts import Counts, count, stack
from pipeline.metrics.instances import (
    INSTANCE_METRICS,
    Matches,
    match,
    match_overlaps,
    overlaps,
    pairwise_iou,
)
from pipeline.metrics.overlap import dice, iou, tgs_precision
from pipeline.metrics.ranked import RANKED_METRICS, Ranked, average_precision, rank
from pipeline.metrics.scores import Scores, ratio
from pipeline.metrics.volumes import VOLUME_METRICS, Volume

__all__ = [
    "INSTANCE_METRICS",
    "METRICS",
    "RANKED_METRICS",
    "VOLUME_METRICS",
    "Counts",
    "Matches",
    "Metric",
    "Ranked",
    "Scores",
    "Term",
    "Volume",
    "average_precision",
    "count",
    "dice",
    "iou",
    "judge_of",
    "known_metrics",
    "match",
    "match_overlaps",
    "mean_score",
    "of_pixels",
    "overlaps",
    "pairwise_iou",
    "rank",
    "ratio",
    "stack",
    "tgs_precision",
]

Term = Callable[[Counts], np.ndarray]


class Metric(NamedTuple):
    """A metric of pixels: Σ gained / Σ possible over images, each from an image's counts of one class.

    Called with counts, it gives each image's own score, NaN where nothing is possible.
    """

    gained: Term
    possible: Term | None = None  # None: 1 for each image, a mean over images

    def __call__(self, counts: Counts) -> np.ndarray:
        gained, possible = self.terms(counts)
        return ratio(gained[..., None], possible[..., None]) if self.possible else gained

    @property
    def counts_empties(self) -> bool:
        """Whether an image counts in which nothing is and nothing is predicted."""
        _, possible = self.terms(Counts(*np.zeros((3, 1), dtype=np.int64)))
        return bool(possible > 0)

    def terms(self, counts: Counts) -> tuple[np.ndarray, np.ndarray]:
        """What the images gained, and what was possible: arrays of the counts' shape."""
        gained = np.asarray(self.gained(counts), dtype=np.float64)
        return gained, np.ones(gained.shape) if self.possible is None else np.asarray(self.possible(counts), np.float64)

    def total(self, counts: Counts) -> np.ndarray:
        """The score of all images (N, C, ...) together at each of what follows, (...); 0 where it is not defined."""
        gained, possible = (np.moveaxis(term.sum(axis=0), 0, -1) for term in self.terms(counts))
        return np.nan_to_num(ratio(gained, possible))

    def scores(self, counts: Counts) -> Scores:
        """Of images (N,) of one class, or (N, C)."""
        return Scores(*(term.reshape(len(term), -1) for term in self.terms(counts)))


def _anything(counts: Counts) -> np.ndarray:
    return (counts.predicted + counts.target > 0).astype(np.float64)


METRICS: dict[str, Metric] = {
    "mean_dice": Metric(dice),
    "mean_iou": Metric(iou),
    "tgs_precision": Metric(tgs_precision),
    # Empty in truth scores 0 whatever is predicted, as where Dice is not given a rule for it.
    "mean_dice_empty_0": Metric(lambda counts: dice(counts) * _anything(counts)),
    # UW-Madison's rule by some accounts: an image and class of which both are empty does not count.
    "mean_dice_of_filled": Metric(lambda counts: dice(counts) * _anything(counts), _anything),
    # Of classes, usually exclusive ones: the mean over them of Σ|A∩B| / Σ|A∪B|, all images in one. CamVid, VOC.
    "class_iou": Metric(
        lambda counts: counts.intersection, lambda counts: counts.predicted + counts.target - counts.intersection
    ),
    # All pixels of all images in one: 2·Σ|A∩B| / Σ(|A| + |B|). Contrails; of classes, the mean over them.
    "global_dice": Metric(lambda counts: 2 * counts.intersection, lambda counts: counts.predicted + counts.target),
    # Vesuvius, all fragments in one: (1 + β²)·Σ|A∩B| / Σ(|A| + β²·|B|), A predicted and β = ½.
    "global_f05": Metric(
        lambda counts: 1.25 * counts.intersection, lambda counts: counts.predicted + 0.25 * counts.target
    ),
}


def known_metrics() -> list[str]:
    """The names of all metrics: of pixels, of objects, of ranked objects, and of volumes."""
    return sorted([*METRICS, *INSTANCE_METRICS, *RANKED_METRICS, *VOLUME_METRICS])


# What stands for a metric of volumes where single images are judged: one with its rule for empty masks. The Dice part
# of UW-Madison's leaves out a slice and class of which both are empty. Sources disagree on that, and some count it as
# 0, but none as 1, which would pay for leaving faint organs out.
OF_VOLUMES = {"uw_madison": "mean_dice_of_filled", "surface_dice": "mean_dice"}


def judge_of(name: str) -> str:
    """The metric by which weights and cuts are chosen: the official one, or one of single images where that is not."""
    return "f1_60" if name in RANKED_METRICS else OF_VOLUMES.get(name, name)


def of_pixels(name: str) -> str:
    """The metric that judges epochs: the official one, or one of pixels if that is of objects or volumes."""
    return name if name in METRICS else OF_VOLUMES.get(name, "mean_dice")


def mean_score(name: str, counts: Iterable[Iterable[int]]) -> float:
    """The official score of images.

    Args:
        name: in METRICS.
        counts: intersection, predicted and target pixels of each image.

    Raises:
        ValueError: for no image.
    """
    rows = np.array([tuple(image) for image in counts], dtype=np.int64)
    if not len(rows):
        raise ValueError(f"{name} of no image is not defined")
    return METRICS[name].scores(Counts(*rows.T)).mean()
