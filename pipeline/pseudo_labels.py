"""Pseudo-labels: test images with predicted masks, as further training images.

Fold-safe: the training of fold k uses only labels of models that held fold k out. A model of another fold was trained
on the masks of fold k, and its labels would leak them into the training that is scored on fold k. The epoch of the
labelling models was selected by their score on fold k, which is a part of the optimism that each OOF score has
(`train.select`).

    expected_dice    of a prediction: the Dice of its mask if its probabilities are calibrated
    quantiles        of an expected Dice among those of the same model, since models are calibrated differently
    calibrate        the minimum to require, from the OOF scores of such predictions
    soft_label       1, 0, or void where the probability lies between two thresholds

The labels of a fold are a folder: a prediction store with values 0, 1 and 255 (void), and `labels.csv` (image_id,
expected_dice, expected_score), which is written last: the labels are complete if it exists.

Source:
    Lee, Pseudo-Label: the simple and efficient semi-supervised learning method for deep neural networks, ICML 2013
    workshop on challenges in representation learning.
"""

import hashlib
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.isotonic import IsotonicRegression

from pipeline.config import Pseudo
from pipeline.files import write_text
from pipeline.inference.prediction_store import MAX_VALUE, StoreWriter, start_store
from pipeline.metrics import VOID
from pipeline.postprocess.threshold_counts import level
from pipeline.schema import read_json

log = logging.getLogger(__name__)
TABLE = "labels.csv"
COLUMNS = ["image_id", "expected_dice", "expected_score"]
THRESHOLD = 0.5  # probability from which a pixel belongs to the mask whose Dice is expected


def expected_dice(values: np.ndarray) -> float:
    """The expected Dice of the mask at THRESHOLD if each pixel is true with its predicted probability.

        2 · sum(p · m) / (sum(p) + sum(m))    m: the mask

    An empty mask has Dice 1 on an empty image and 0 on any other, so its expected Dice is the probability that the
    image is empty. That is taken as 1 - max(p), since the pixels of an object are not independent. (If they were, the
    product of all 1 - p would be near 0 even for 65,536 pixels at p = 1/255.)

    Shapes:
        values: (H, W) uint8 in 0 … 255, as stored.
        returns: 0 to 1.

    >>> expected_dice(np.array([[255, 255], [0, 0]], dtype=np.uint8))
    1.0
    >>> expected_dice(np.array([[204, 0]], dtype=np.uint8))  # 2 · 0.8 / (0.8 + 1)
    0.888...
    """
    mask = values >= level(THRESHOLD)
    if not mask.any():
        return float(1 - values.max() / MAX_VALUE)
    total = values.sum(dtype=np.int64) / MAX_VALUE
    overlap = values[mask].sum(dtype=np.int64) / MAX_VALUE
    return float(2 * overlap / (total + np.count_nonzero(mask)))


def mean_expected_dice(values: np.ndarray) -> float:
    """The mean of `expected_dice` over the classes of an image, (C, H, W) uint8."""
    return float(np.mean([expected_dice(channel) for channel in values]))


def expected_scores(dice: np.ndarray, scores: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The expected score at each value of `at`: the isotonic (never decreasing) regression of OOF scores.

    Outside the range of `dice` it is constant.

    Shapes:
        dice: (N,) expected Dice of OOF images, or their quantiles; scores: (N,), theirs; at: (M,); returns (M,).

    Raises:
        ValueError: for no image, lengths that differ, or a number that is not finite.
    """
    dice, scores = np.asarray(dice, dtype=float), np.asarray(scores, dtype=float)
    if dice.shape != scores.shape or not len(dice):
        raise ValueError(
            f"{len(dice)} expected Dice and {len(scores)} scores of OOF images: expected one of each per image"
        )
    bad = np.flatnonzero(~np.isfinite(dice) | ~np.isfinite(scores))
    if len(bad):
        raise ValueError(
            f"OOF image number {bad[0]} has expected Dice {dice[bad[0]]} and score {scores[bad[0]]}: "
            f"leave out images that the metric is not defined on"
        )
    return IsotonicRegression(out_of_bounds="clip").fit(dice, scores).predict(np.asarray(at, dtype=float))


def calibrate(dice: np.ndarray, scores: np.ndarray, floor: float) -> float:
    """The minimum expected Dice, or quantile, of a label whose expected score is `floor` or more; inf if none has it.

    It is calibrated on training images and used on test images: if those are of another kind, the scores are lower. At
    the upper end few images decide, and the fit can reach a floor by chance.

    Args:
        floor: of the competition's metric.

    Shapes:
        dice, scores: (N,) of OOF images.

    Raises:
        ValueError: as `expected_scores`.
    """
    good = expected_scores(dice, scores, dice) >= floor - 1e-12
    return float(np.asarray(dice)[good].min()) if good.any() else float("inf")


def quantiles(dice: np.ndarray, among: np.ndarray) -> np.ndarray:
    """The share of a model's own OOF values that are no higher than each value, 0 to 1.

    Of five models of one config, one had an expected Dice of .93 and the others .82 to .84, at the same score. A
    minimum that suits the others keeps nearly all predictions of the first. Quantiles are comparable as long as the
    folds are equally hard, and they need no labels.

    Shapes:
        dice: (M,), among: (N,); returns (M,).

    >>> quantiles(np.array([0.1, 0.7, 0.9]), among=np.array([0.9, 0.3, 0.5, 0.7]))
    array([0.  , 0.75, 1.  ])
    """
    return np.searchsorted(np.sort(among), dice, side="right") / len(among)


def soft_label(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """The label of each pixel: 1 from `high` on, 0 below `low`, and 255 (void, ignored by losses) between.

    Args:
        low, high: probabilities, 0 < low <= high <= 1; if they are equal, no pixel is void.

    Shapes:
        values: any, uint8 in 0 … 255, as stored; returns the same shape, uint8 of 0, 1 and 255.
    """
    label = np.full_like(values, VOID)
    label[values < level(low)] = 0
    label[values >= level(high)] = 1
    return label


@dataclass(frozen=True)
class Labelling:
    """How predictions of one fold's models become labels; `calibrated` makes one.

    Args:
        ranks, scores: (N,) of OOF images of the other folds, to calibrate on: the quantile of each one's expected Dice
            among those of its own model, and its score at THRESHOLD.
        own: (M,) expected Dice of the labelling models on the images that they held out.
        floor: minimum expected score of a label.
        low, high: as in `soft_label`.
    """

    ranks: np.ndarray
    scores: np.ndarray
    own: np.ndarray
    floor: float
    low: float
    high: float

    def select(self, images: Iterable[tuple[str, np.ndarray]]) -> Iterator[tuple[str, float, np.ndarray]]:
        """Id, expected Dice and label of each image, (C, H, W) uint8, whose expected score reaches the floor."""
        minimum = calibrate(self.ranks, self.scores, self.floor)
        for image_id, values in images:
            dice = mean_expected_dice(values)
            if quantiles(np.array([dice]), self.own)[0] >= minimum:
                yield image_id, dice, soft_label(values, self.low, self.high)

    def expected(self, dice: np.ndarray) -> np.ndarray:
        """The expected score of predictions of these expected Dice, (M,) to (M,)."""
        return expected_scores(self.ranks, self.scores, quantiles(dice, self.own))

    def record(self) -> dict[str, Any]:
        """The settings that the labels depend on, as plain values."""
        calibration = np.concatenate([self.ranks, self.scores, self.own]).astype(np.float64)
        return {
            "floor": self.floor,
            "low": self.low,
            "high": self.high,
            "threshold": THRESHOLD,
            "calibration": hashlib.sha256(calibration.tobytes()).hexdigest()[:16],
        }


def calibrated(dice: np.ndarray, scores: np.ndarray, fold_of: np.ndarray, fold: int, options: Pseudo) -> Labelling:
    """The labelling for the training of a fold, by the models that held it out, calibrated on the other folds.

    Of the fold's own images only the expected Dice is used, which needs no label. Their scores are not used: they must
    not reach the training of the fold.

    Args:
        fold: to be trained.
        options: with floor, low and high.

    Shapes:
        dice, scores, fold_of: (N,) of OOF images; dice is `mean_expected_dice`.

    Raises:
        ValueError: if there is no OOF image of the fold, or of no other fold.
    """
    own, others = fold_of == fold, fold_of != fold
    if not own.any() or not others.any():
        raise ValueError(
            f"{own.sum()} OOF images of fold {fold} and {others.sum()} of others: labels for a fold need both. "
            f"Train the folds first"
        )
    ranks = np.empty(len(dice))
    for each in np.unique(fold_of):
        ranks[fold_of == each] = quantiles(dice[fold_of == each], dice[fold_of == each])
    return Labelling(ranks[others], scores[others], dice[own], options.floor, options.low, options.high)


def write_labels(
    folder: Path,
    fold: int,
    images: Iterable[tuple[str, np.ndarray]],
    labelling: Labelling,
    made_by: dict[str, Any],
) -> pd.DataFrame:
    """Label the test images whose expected score is high enough, for the training of one fold; resumable.

    Args:
        fold: that the models held out.
        images: image id and stored values (C, H, W) uint8 of test images.
        made_by: what else the labels depend on, such as the records of the weights; kept in `store.json`.

    Returns:
        the table that is written: image_id, expected_dice, expected_score, in order of `images`.
    """
    start_store(folder, {**made_by, **labelling.record(), "fold": fold})
    writer, rows = StoreWriter(folder), []
    for image_id, dice, label in labelling.select(images):
        rows.append((image_id, dice))
        if image_id not in writer.done:
            writer.write(image_id, label)
    writer.flush()
    table = pd.DataFrame(rows, columns=COLUMNS[:2]).astype({"image_id": str, "expected_dice": float})
    table["expected_score"] = labelling.expected(table["expected_dice"].to_numpy()) if len(table) else 0.0
    if not len(table):
        log.warning(
            "fold %s: no test image has an expected score of %.3f, so none is labelled: lower train.pseudo.floor",
            fold,
            labelling.floor,
        )
    write_text(folder / TABLE, table.to_csv(index=False))
    return table


def read_labels(folder: Path, fold: int) -> pd.DataFrame:
    """The table of a fold's labels.

    Raises:
        ValueError: if they were made for another fold, or are incomplete.
    """
    refuse_other_fold(folder, fold)
    if not (folder / TABLE).is_file():
        raise ValueError(f"{folder}: the labels are incomplete: run the stage that makes them again")
    return pd.read_csv(folder / TABLE, dtype={"image_id": str}, keep_default_na=False)


def refuse_other_fold(folder: Path, fold: int | str) -> None:
    """Refuse labels for a fold that were made by models of another fold.

    Raises:
        ValueError: if the folder was made for another fold, or has no labels.
    """
    try:
        remedy = f"remove {folder}, and the same command labels again"
        found = read_json(folder / "store.json", remedy, dict).get("fold")
    except FileNotFoundError:
        raise ValueError(f"{folder}: no pseudo-labels: run the stage that makes them first") from None
    if found != fold:
        raise ValueError(
            f"{folder}: labels of models that held out fold {found}, not fold {fold}: they were trained on its masks. "
            f"Make labels for fold {fold}"
        )
