"""The content of a report: plain tables, arrays and one function, collected by a stage. No paths, stores or models.

A part that is None, or a table without rows, does not exist for this run: the page gives the reason.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pipeline.metrics import DetectionRates
from pipeline.statistics.bootstrap import Difference, Interval
from pipeline.statistics.symmetry_probe import SymmetryProbe

# Columns of `ReportData.images` with the result of an image; any other column may define subgroups.
RESULT_COLUMNS = ("image_id", "fold", "score", "coverage", "predicted", "label_error_score", "summary")


class Picture(NamedTuple):
    """One training image with its target and its out-of-fold prediction.

    Target and mask are 0 in the background. All pixels of another number are one region with its own outline: the
    mask, a class, a combination of overlapping classes, an object.
    """

    image: np.ndarray  # (H, W, 1 or 3) uint8
    target: np.ndarray  # (H, W) bool or int
    values: np.ndarray  # (H, W) uint8, 255 · probability out of fold; of several classes, the most probable
    mask: np.ndarray  # (H, W) bool or int, by the rules that were chosen without the image's fold


class CrossFittedScore(NamedTuple):
    """The cross-fitted score, and scores to compare it with. All are 0 to 1."""

    interval: Interval  # of the cross-fitted score
    in_sample: float  # rules chosen and scored on the same images
    at_half: float | None  # at threshold .5, without rules; None for exclusive classes, which have no threshold
    baseline: float  # nothing predicted; of exclusive classes, the most frequent one everywhere

    @property
    def optimism(self) -> float:
        """In-sample minus cross-fitted score."""
        return self.in_sample - self.interval.mean


class SurfacePoint(NamedTuple):
    """Threshold and area, or share, of one rule set."""

    threshold: float  # 0 to 1
    area: float  # pixels; the rule set defines of what. Or a share
    presence_threshold: float = 0.0  # 0 to 1, only of the triplet


class ScoreSurface(NamedTuple):
    """The mean score of each searched threshold and area, of one class, in the rule set that is used."""

    areas: np.ndarray  # (A,) pixels, or shares, rising
    scores: np.ndarray  # (A, 255), at `postprocess.THRESHOLDS`; at the presence threshold, or gate, in use
    best: SurfacePoint  # on all folds: what the submission uses
    per_fold: Mapping[int, SurfacePoint]  # the best of this rule set without the fold
    rule_set: str = "total"  # a key of `postprocess.search.RULE_SETS`
    rules: tuple[str, ...] = ()  # descriptions of the rules in use beside the threshold


class ObjectSeparation(NamedTuple):
    """How touching objects are separated."""

    methods: pd.DataFrame  # method, score (cross-fitted)
    rules: pd.DataFrame  # a row for the submission, and one for what was chosen without each fold


class Members(NamedTuple):
    """The members of an ensemble."""

    table: pd.DataFrame  # name, weight, score (OOF, of the member alone)
    correlation: pd.DataFrame  # errors of, and a column for each member: −1 to 1, of errors on the OOF images


class PseudoGain(NamedTuple):
    """The gain of training on pseudo-labels."""

    name: str  # of the config with labels
    source: str  # of the one without, whose models made the labels
    folds: pd.DataFrame  # fold, labelled (test images), with, without
    scores: tuple[float, float]  # with and without, out of fold at threshold .5
    difference: Difference  # with − without, over groups


class LikeTest(NamedTuple):
    """How test images differ from training images, and the score weighted by likeness to them."""

    summary: str  # whether they differ, in a sentence
    differ: bool
    score: Interval  # of the training images, weighted
    effective: float  # number of images
    differences: pd.DataFrame  # statistic, train, test (medians), distance (0 to 1); the largest first
    probability: Mapping[str, float]  # of each compared training image, that it is a test image; 0 to 1


class Submission(NamedTuple):
    """A summary of the submission."""

    rows: int
    empty: int  # rows without a mask
    coverage: np.ndarray  # (T,) predicted masked share of each test image and class, 0 to 1


class SimulatedShakeup(NamedTuple):
    """Simulated public and private splits, scored with this submission."""

    differences: np.ndarray  # (D,) private − public score of each simulated test set
    public_images: int
    private_images: int


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """All content of a report.

    Args:
        title: of the page: the name of the config or the ensemble.
        competition: its title.
        metric: name of the metric of `score` and of the images' scores: the official one, or one of single images that
            stands in for it.
        provenance: as `manifest.collect_provenance` returns it.
        images: a row for each training image with its OOF result: image_id, fold, score (cross-fitted, 0 to 1),
            coverage (of the target, 0 to 1; 1 where each pixel has a class), predicted (coverage of the mask by the
            rules chosen without its fold), label_error_score (of `label_quality`), summary (target and prediction
            described in a few words); group; any other column of few values, such as the
            competition's `kind`, defines subgroups. An image that does not count for the metric has score NaN.
        picture: the picture of an image id; called only for the images that are shown.
        detection: what the cross-fitted masks find.
        masks: of several classes, a row for each class and image: class, coverage, predicted. Of one, see `images`.
        epoch_metric: name of the metric of the history's scores.
        history: of one config, the rows of each fold's metrics.jsonl: fold, phase, epoch, loss, score, selection,
            best; if they exist, threshold, dice, found, left_empty.
        folds: a row for each fold: fold, images, then any numbers; the column `seconds` is shown as time.
        classes: a row for each class: class, then any numbers.
        surfaces: by class.
        rules: a row for the submission, and one for what was chosen without each fold: class (if there are several),
            chosen on, rules, threshold, and a column for each further rule that any of them has.
        separation: of objects.
        reliability: as `label_quality.reliability` returns it.
        like_test: of the test images; a text says why they were not compared.
        symmetries: of the training images; empty if they are too large to be read whole.
        notes: what the score does not say, one line each.
    """

    title: str
    competition: str
    metric: str
    provenance: Mapping[str, Any]
    images: pd.DataFrame
    score: CrossFittedScore
    picture: Callable[[str], Picture]
    detection: DetectionRates
    masks: pd.DataFrame
    epoch_metric: str
    history: pd.DataFrame
    folds: pd.DataFrame
    classes: pd.DataFrame
    surfaces: Mapping[str, ScoreSurface]
    rules: pd.DataFrame
    separation: ObjectSeparation | None
    reliability: pd.DataFrame
    members: Members | None
    pseudo: PseudoGain | None
    submission: Submission
    shakeup: SimulatedShakeup | str  # a text says why there is none
    like_test: LikeTest | str = "there are no test images yet"
    symmetries: Sequence[SymmetryProbe] = ()
    notes: Sequence[str] = ()

    @property
    def scored(self) -> pd.DataFrame:
        """The rows of `images` that have a score."""
        return self.images[self.images["score"].notna()]

    @property
    def coverages(self) -> pd.DataFrame:
        """A row for each image, or for each class and image: coverage and predicted."""
        return self.masks if len(self.masks) else self.images
