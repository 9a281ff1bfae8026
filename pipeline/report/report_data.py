"""What a report shows: plain tables, arrays and one function, gathered by a stage. No paths, no stores, no models.

A part that is None, or a table without rows, is left out of the page, which says so and why.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pipeline.metrics import DetectionRates
from pipeline.statistics.bootstrap import Difference, Interval

# Columns of `View.images` that say how an image came out; any other may be a way to tell images apart.
RESULTS = ("image_id", "fold", "score", "coverage", "predicted", "suspicion", "said")


class Picture(NamedTuple):
    """One training image with what is known of it.

    Target and mask are 0 where there is nothing. All pixels of another number are one region with an outline of its
    own: the mask, a class, a combination of classes that overlap, an object.
    """

    image: np.ndarray  # (H, W, 1 or 3) uint8
    target: np.ndarray  # (H, W) bool or int
    values: np.ndarray  # (H, W) uint8, 255 · probability out of fold; of several classes, of the most probable
    mask: np.ndarray  # (H, W) bool or int, drawn by the cut that was chosen without the image's fold


class Honest(NamedTuple):
    """The score to report, and those that flatter."""

    interval: Interval  # of the cross-fitted score
    in_sample: float  # chosen and scored on the same images
    at_half: float | None  # at threshold .5, with nothing chosen; None for exclusive classes, which have none
    trivial: float | None = None  # of nothing predicted; of exclusive classes, of the most frequent one everywhere

    @property
    def optimism(self) -> float:
        """What the choice seemed to be worth, and is not."""
        return self.in_sample - self.interval.mean


class Chosen(NamedTuple):
    """A cut of one family of rules."""

    threshold: float  # 0 to 1
    area: int  # pixels; of what, the family says
    presence_threshold: float = 0.0  # 0 to 1, of the triplet alone


class Surface(NamedTuple):
    """The mean score of every cut that was tried, of one class, in the family of rules that ships."""

    areas: np.ndarray  # (A,) pixels, rising
    scores: np.ndarray  # (A, 255), at `postprocess.THRESHOLDS`; of the triplet, at the presence threshold that ships
    chosen: Chosen  # on all folds: what ships
    per_fold: Mapping[int, Chosen]  # the best of this family without the fold
    rules: str = "total"  # the family, of `postprocess.FAMILIES`
    further: tuple[str, ...] = ()  # rules beside the family's, in words


class Parting(NamedTuple):
    """How touching objects are parted."""

    ways: pd.DataFrame  # way, score (cross-fitted)
    cuts: pd.DataFrame  # a row for what ships, and for what was chosen without each fold: what draws objects


class Members(NamedTuple):
    """An ensemble's members."""

    table: pd.DataFrame  # name, weight, score (OOF, alone)
    correlation: np.ndarray  # (M, M), −1 to 1, of the members' errors on the OOF images, in the table's order


class Pseudo(NamedTuple):
    """What training on pseudo-labels changed."""

    labelled: str  # the config that trained on them
    source: str  # the one without, whose models labelled
    table: pd.DataFrame  # fold, labelled (test images), with, without (OOF at threshold .5)
    difference: Difference  # with − without, over groups


class Submission(NamedTuple):
    """What is handed in."""

    rows: int
    empty: int  # rows without a mask
    coverage: np.ndarray  # (T,) predicted masked share of each test image and class, 0 to 1


class Boards(NamedTuple):
    """Simulated leaderboards of this one submission."""

    differences: np.ndarray  # (D,) private − public score of each simulated test set
    public_images: int
    private_images: int


@dataclass(frozen=True, kw_only=True)
class View:
    """Everything that a report shows.

    Args:
        title: of the page: the config's or the ensemble's name.
        competition: its title.
        metric: name of what `honest` and the images' scores are by: the official one; of volumes, that of their slices.
        made: as `manifest.collect_provenance`.
        images: a row for each training image, with its OOF result: image_id, fold, score (cross-fitted, 0 to 1),
            coverage (true; 1 where each pixel has a class), predicted (coverage, of the cut chosen without its fold),
            suspicion (of `suspicion.suspicion`), said (what is true and what was predicted, in words); if there is
            one, group; any other column of few values, such as the competition's `kind`, tells images apart. Of an
            image that has no OOF result (a run on all images), score is NaN.
        honest: None if nothing was cross-fitted.
        found: what the cross-fitted masks find; None if nothing was.
        picture: of an image id; asked only for the images shown.
        masks: of several classes, a row for each class and image: class, coverage, predicted. Of one, `images` has it.
        history: the rows of each fold's metrics.jsonl: fold, phase, epoch, loss, score, best; if there, threshold,
            selection, dice, found, left_empty.
        folds: a row for each fold: fold, images, then any numbers; the column `seconds` is shown as time.
        classes: a row for each class: class, then any numbers.
        metric_of_epochs: name of what the history's scores are by, where it is not `metric`.
        surfaces: by class.
        cuts: a row for what ships, and for what was chosen without each fold: if there are several, class; chosen on,
            rules, threshold, and a column for each further rule that any of them has.
        parting: of objects.
        reliability: as `suspicion.reliability`.
    """

    title: str
    competition: str
    metric: str
    made: Mapping[str, Any]
    images: pd.DataFrame
    honest: Honest | None
    picture: Callable[[str], Picture]
    found: DetectionRates | None = None
    masks: pd.DataFrame = field(default_factory=pd.DataFrame)
    metric_of_epochs: str | None = None
    history: pd.DataFrame = field(default_factory=pd.DataFrame)
    folds: pd.DataFrame = field(default_factory=pd.DataFrame)
    classes: pd.DataFrame = field(default_factory=pd.DataFrame)
    surfaces: Mapping[str, Surface] = field(default_factory=dict)
    cuts: pd.DataFrame = field(default_factory=pd.DataFrame)
    parting: Parting | None = None
    reliability: pd.DataFrame = field(default_factory=pd.DataFrame)
    members: Members | None = None
    pseudo: Pseudo | None = None
    submission: Submission | None = None
    boards: Boards | None = None

    @property
    def scored(self) -> pd.DataFrame:
        """The images that have a score."""
        return self.images[self.images["score"].notna()]

    @property
    def shares(self) -> pd.DataFrame:
        """A row for each image, or for each class and image: coverage, and predicted if there is an OOF result."""
        return self.masks if len(self.masks) else self.images
