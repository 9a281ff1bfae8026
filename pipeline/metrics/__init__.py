"""Official metrics: numpy in, float out. A new one of pixels is a line in METRICS.

A metric goes by its name, or by name and parameters in one text, `mean_f_beta(beta=2)` (see `parameters`).

The score of nothing: where no image and class counts for a metric, its score is NaN, of whatever kind it is and on
whatever way it is computed. What a mask counts in which nothing is and nothing is predicted is each metric's own rule.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import numpy as np

from pipeline.metrics.counts import VOID, Counts, count, stack
from pipeline.metrics.detection import Found, detection_rates, empties_differ
from pipeline.metrics.instances import (
    INSTANCE_METRICS,
    TWENTIETHS,
    VOID_OBJECT,
    Matches,
    f1,
    match,
    match_overlaps,
    overlaps,
    pairwise_iou,
)
from pipeline.metrics.overlap import dice, f_beta, iou, tgs_precision
from pipeline.metrics.parameters import PARAMETERS, parts_of, text_of
from pipeline.metrics.ranked import RANKED_METRICS, Ranked, average_precision, mean_precision, rank
from pipeline.metrics.scores import Scores, or_zero, ratio
from pipeline.metrics.volumes import VOLUME_METRICS, Volume

__all__ = [
    "INSTANCE_METRICS",
    "METRICS",
    "PARAMETERS",
    "RANKED_METRICS",
    "VOID",
    "VOID_OBJECT",
    "VOLUME_METRICS",
    "Counts",
    "Found",
    "Matches",
    "Metric",
    "Ranked",
    "Scores",
    "Term",
    "Volume",
    "average_precision",
    "count",
    "detection_rates",
    "dice",
    "empties_differ",
    "f1",
    "f_beta",
    "instance_metric",
    "iou",
    "judge_of",
    "kind_of",
    "known_metrics",
    "match",
    "match_overlaps",
    "mean_precision",
    "mean_score",
    "metrics_of",
    "of_pixels",
    "or_zero",
    "overlaps",
    "pairwise_iou",
    "pixel_metric",
    "rank",
    "ranked_ious",
    "ratio",
    "stack",
    "text_of",
    "tgs_precision",
    "volume_metric",
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
        """The score of all images (N, C, ...) together at each of what follows, (...)."""
        gained, possible = (np.moveaxis(term.sum(axis=0), 0, -1) for term in self.terms(counts))
        return ratio(gained, possible)

    def baseline(self, areas: np.ndarray, *, exclusive: bool) -> float:
        """The score of predicting nothing; of exclusive classes, of the most frequent one everywhere; NaN if undefined.

        Shapes:
            areas: (N, C) true pixels of each class in each image.
        """
        predicted = np.zeros_like(areas)
        if exclusive:
            predicted[:, areas.sum(axis=0).argmax()] = areas.sum(axis=1)
        return self.scores(Counts(np.minimum(predicted, areas), predicted, areas)).mean()

    def scores(self, counts: Counts) -> Scores:
        """Of images (N,) of one class, or (N, C)."""
        return Scores(*(term.reshape(len(term), -1) for term in self.terms(counts)))


def _anything(counts: Counts) -> np.ndarray:
    return (counts.predicted + counts.target > 0).astype(np.float64)


def mean_of(score: Term, empty: float | str = 1) -> Metric:
    """The mean over images of a score that is 1 where both masks are empty.

    Args:
        empty: what such an image and class counts as: 1; or 0, as where the score is not given a rule for it, and then
            empty in truth scores 0 whatever is predicted; or "skip", not at all.
    """
    if empty == "skip":
        return Metric(lambda counts: score(counts) * _anything(counts), _anything)
    return Metric(score) if empty else Metric(lambda counts: score(counts) * _anything(counts))


def global_f_beta(beta: float) -> Metric:
    """F-beta of all pixels of all images in one: (1 + β²)·Σ|A∩B| / Σ(|A| + β²·|B|), A predicted and B true.

    An image of which both are empty adds nothing; where nothing is there and nothing predicted in any image, it is not
    defined. Of several classes, the mean over those for which it is. At β = 1 it is global Dice.

    Source:
        As `f_beta`. With β = ½ https://www.kaggle.com/competitions/vesuvius-challenge-ink-detection/overview/evaluation,
        where that fragments are pooled, and not averaged, is not verified.
    """
    return Metric(
        lambda counts: (1 + beta**2) * counts.intersection, lambda counts: counts.predicted + beta**2 * counts.target
    )


METRICS: dict[str, Metric] = {
    "mean_dice": mean_of(dice),
    "mean_iou": Metric(iou),
    "tgs_precision": Metric(tgs_precision),
    "mean_dice_empty_0": mean_of(dice, empty=0),
    # UW-Madison's rule by some accounts: an image and class of which both are empty does not count.
    "mean_dice_ignore_empty": mean_of(dice, empty="skip"),
    # Of classes, usually exclusive ones: the mean over them of Σ|A∩B| / Σ|A∪B|, all images in one. CamVid, VOC.
    "class_iou": Metric(
        lambda counts: counts.intersection, lambda counts: counts.predicted + counts.target - counts.intersection
    ),
    # All pixels of all images in one: 2·Σ|A∩B| / Σ(|A| + |B|). Contrails; of classes, the mean over them.
    "global_dice": Metric(lambda counts: 2 * counts.intersection, lambda counts: counts.predicted + counts.target),
    "global_f05": global_f_beta(0.5),  # Vesuvius, all fragments in one
}

# Of pixels, with parameters. Those of mean Dice are not here: each of its rules for empties has a name in METRICS.
FAMILIES: dict[str, Callable[..., Metric]] = {
    "mean_f_beta": lambda beta, empty=1: mean_of(partial(f_beta, beta=beta), empty),
    "global_f_beta": global_f_beta,
}

KINDS: dict[str, tuple[str, ...]] = {
    "pixels": (*METRICS, *FAMILIES),
    "objects": (*INSTANCE_METRICS, "f1"),
    "ranked objects": (*RANKED_METRICS, "average_precision"),
    "volumes": (*VOLUME_METRICS,),
}


def kind_of(name: str) -> str:
    """What a metric is of, in KINDS."""
    family, _ = parts_of(name)
    return next(kind for kind, names in KINDS.items() if family in names)


def metrics_of(*kinds: str) -> list[str]:
    """The names of these kinds, those with parameters too."""
    return sorted(name for kind in kinds for name in KINDS[kind])


def pixel_metric(name: str) -> Metric:
    """The metric of pixels of that name, or of name and parameters."""
    if name in METRICS:
        return METRICS[name]
    family, values = parts_of(name)
    return FAMILIES[family](**values)


def instance_metric(name: str) -> Callable[[Matches], float]:
    """The metric of objects of that name, or of name and parameters."""
    if name in INSTANCE_METRICS:
        return INSTANCE_METRICS[name]
    _, values = parts_of(name)
    return partial(f1, **values)


def volume_metric(name: str) -> Callable[[Iterable[Volume]], float]:
    """The metric of volumes of that name, or of name and parameters."""
    family, values = parts_of(name)
    return partial(VOLUME_METRICS[family], **values)


def ranked_ious(name: str) -> list[float]:
    """The IoUs at which a metric of ranked objects is the mean of average precision."""
    iou = RANKED_METRICS[name] if name in RANKED_METRICS else parts_of(name)[1]["iou"]
    return iou if isinstance(iou, list) else [iou]


def known_metrics() -> list[str]:
    """The names of all metrics without parameters: of pixels, of objects, of ranked objects, and of volumes."""
    return sorted([*METRICS, *INSTANCE_METRICS, *RANKED_METRICS, *VOLUME_METRICS])


# What stands for a metric of volumes where single images are judged: one with its rule for empty masks. The Dice part
# of UW-Madison's leaves out a slice and class of which both are empty. Sources disagree on that, and some count it as
# 0, but none as 1, which would pay for leaving faint organs out.
OF_VOLUMES = {"uw_madison": "mean_dice_ignore_empty", "surface_dice": "mean_dice"}


def judge_of(name: str) -> str:
    """The metric by which weights and cuts are chosen: the official one, or one of single images where that is not.

    Of average precision, that is F1 at its IoU; at the nearest of .50, .55, …, .95, where objects match by counting.
    """
    if kind_of(name) != "ranked objects":
        return OF_VOLUMES.get(parts_of(name)[0], name)
    nearest = {int(np.clip(np.rint(20 * iou), *TWENTIETHS[[0, -1]])) / 20 for iou in ranked_ious(name)}
    return text_of("f1", {"iou": sorted(nearest)})


def of_pixels(name: str) -> str:
    """The metric that judges epochs: the official one, or one of pixels if that is of objects or volumes."""
    return name if kind_of(name) == "pixels" else OF_VOLUMES.get(parts_of(name)[0], "mean_dice")


def mean_score(name: str, counts: Iterable[Iterable[int]]) -> float:
    """The official score of images.

    Args:
        name: as `pixel_metric` takes it.
        counts: intersection, predicted and target pixels of each image.

    Raises:
        ValueError: for no image.
    """
    rows = np.array([tuple(image) for image in counts], dtype=np.int64)
    if not len(rows):
        raise ValueError(f"{name} of no image is not defined")
    return pixel_metric(name).scores(Counts(*rows.T)).mean()
