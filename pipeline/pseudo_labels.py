"""Pseudo-labels: test images with masks that models gave them, as further training images.

Fold-safe: what trains fold k is labelled only by models that held fold k out. A model of another fold was trained on
fold k's masks, and its labels would carry them into the training that fold k is to judge.

    confidence   of a prediction in itself: the Dice that its own probabilities promise
    quantiles    of a confidence among those of the same model: models promise unequally much
    calibrate    what that is worth: the scores that such predictions had out of fold, and the confidence to ask for
    soft_label   1, 0, or void where the models do not know

A fold's labels are a folder: a prediction store whose values are 0, 1 and 255 (void), and beside it `labels.csv`
(image_id, confidence, score_expected), which is written last and says "done".

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

from pipeline.files import write_text
from pipeline.inference.prediction_store import MAX_VALUE, StoreWriter, start_store
from pipeline.metrics import VOID
from pipeline.postprocess import level
from pipeline.schema import read_json

log = logging.getLogger(__name__)
TABLE = "labels.csv"
COLUMNS = ["image_id", "confidence", "score_expected"]


def confidence(values: np.ndarray, threshold: float = 0.5) -> float:
    """The Dice that a mask may expect if pixels are as probable as they say.

        2 · sum(p · m) / (sum(p) + sum(m))    m: the mask at the threshold

    Where nothing is predicted, Dice is 1 on an empty image and 0 on any other, so the confidence is the probability
    that there is nothing. It is taken as 1 - max(p): the pixels of an object come and go together. (Were they
    independent, the product of all 1 - p would make a sure empty of 65,536 pixels at p = 1/255 impossible.)

    Args:
        threshold: 0 to 1, as the mask will be cut.

    Shapes:
        values: (H, W) uint8 in 0 … 255, as stored.
        returns: 0 to 1.

    >>> confidence(np.array([[255, 255], [0, 0]], dtype=np.uint8))
    1.0
    >>> confidence(np.array([[204, 0]], dtype=np.uint8))  # 2 · 0.8 / (0.8 + 1)
    0.888...
    """
    mask = values >= level(threshold)
    if not mask.any():
        return float(1 - values.max() / MAX_VALUE)
    probable = values.sum(dtype=np.int64) / MAX_VALUE
    overlap = values[mask].sum(dtype=np.int64) / MAX_VALUE
    return float(2 * overlap / (probable + np.count_nonzero(mask)))


def image_confidence(values: np.ndarray, threshold: float = 0.5) -> float:
    """The mean confidence over the classes of an image, (C, H, W) uint8."""
    return float(np.mean([confidence(channel, threshold) for channel in values]))


def expected_scores(confidences: np.ndarray, scores: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The score to expect at each confidence `at`: the isotonic (never falling) regression of OOF scores.

    Outside the confidences that were seen, the nearest one's.

    Shapes:
        confidences, scores: (N,) of OOF images; at: (M,); returns (M,).

    Raises:
        ValueError: for no image, lengths that differ, or a number that is not finite.
    """
    confidences, scores = np.asarray(confidences, dtype=float), np.asarray(scores, dtype=float)
    if confidences.shape != scores.shape or not len(confidences):
        raise ValueError(
            f"{len(confidences)} confidences and {len(scores)} scores of OOF images: expected one of each per image"
        )
    bad = np.flatnonzero(~np.isfinite(confidences) | ~np.isfinite(scores))
    if len(bad):
        raise ValueError(
            f"OOF image number {bad[0]} has confidence {confidences[bad[0]]} and score {scores[bad[0]]}: "
            f"leave out images that the metric is not defined on"
        )
    return IsotonicRegression(out_of_bounds="clip").fit(confidences, scores).predict(np.asarray(at, dtype=float))


def calibrate(confidences: np.ndarray, scores: np.ndarray, floor: float) -> float:
    """The least confidence to ask of a label, so that its expected score is `floor` or more; inf if none is so good.

    Calibrated on train, used on test: where the test images are of another kind, a confidence promises less. At the
    upper end few images decide, and the fit can reach a floor that only their luck reaches.

    Args:
        floor: of the competition's metric.

    Shapes:
        confidences, scores: (N,) of OOF images.

    Raises:
        ValueError: as `expected_scores`.
    """
    good = expected_scores(confidences, scores, confidences) >= floor - 1e-12
    return float(np.asarray(confidences)[good].min()) if good.any() else float("inf")


def quantiles(confidences: np.ndarray, among: np.ndarray) -> np.ndarray:
    """The share of a model's own OOF confidences that are no higher than each confidence, 0 to 1.

    Of five models of one config, one promised a Dice of .93 and the others .82 to .84, at the same score: a cut that
    the others agree on keeps nearly all of the first one's predictions. Places among the model's own confidences
    can be compared as long as the folds are equally hard, and they need no label.

    Shapes:
        confidences: (M,), among: (N,); returns (M,).

    >>> quantiles(np.array([0.1, 0.7, 0.9]), among=np.array([0.9, 0.3, 0.5, 0.7]))
    array([0.  , 0.75, 1.  ])
    """
    return np.searchsorted(np.sort(among), confidences, side="right") / len(among)


def soft_label(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """1 where a pixel is `high` or more, 0 where below `low`, 255 (void, which no loss counts) between.

    Args:
        low, high: probabilities, 0 < low <= high <= 1; equal: no pixel is void.

    Shapes:
        values: any, uint8 in 0 … 255, as stored; returned likewise, 0, 1 or 255.
    """
    label = np.full_like(values, VOID)
    label[values < level(low)] = 0
    label[values >= level(high)] = 1
    return label


@dataclass(frozen=True)
class Labelling:
    """How predictions of one fold's models become labels; `calibrated` makes one that models of any confidence share.

    Args:
        confidences, scores: (N,) of OOF images, to calibrate on.
        floor: least expected score of a label.
        low, high: as in `soft_label`.
        threshold: at which a mask is cut to be judged; that of `scores`.
        own: (M,) confidences of the labelling models on the images that they held out; then a prediction's quantile
            among them is what is compared, and `confidences` are quantiles too. None: confidences as they are.
    """

    confidences: np.ndarray
    scores: np.ndarray
    floor: float
    low: float
    high: float
    threshold: float = 0.5
    own: np.ndarray | None = None

    def judge(self, predicted: Iterable[tuple[str, np.ndarray]]) -> Iterator[tuple[str, float, np.ndarray]]:
        """Id, confidence and label of each prediction that is good enough."""
        cut = calibrate(self.confidences, self.scores, self.floor)
        for image_id, values in predicted:
            sure = image_confidence(values, self.threshold)
            if self._placed(np.array([sure]))[0] >= cut:
                yield image_id, sure, soft_label(values, self.low, self.high)

    def expected(self, confidences: np.ndarray) -> np.ndarray:
        """The score to expect of predictions of these confidences, (M,) to (M,)."""
        return expected_scores(self.confidences, self.scores, self._placed(confidences))

    def _placed(self, confidences: np.ndarray) -> np.ndarray:
        return confidences if self.own is None else quantiles(confidences, self.own)

    def record(self) -> dict[str, Any]:
        """What the labels depend on beside the predictions, as plain values."""
        own = () if self.own is None else self.own
        calibration = np.concatenate([self.confidences, self.scores, own]).astype(np.float64)
        return {
            "floor": self.floor,
            "low": self.low,
            "high": self.high,
            "threshold": self.threshold,
            "calibration": hashlib.sha256(calibration.tobytes()).hexdigest()[:16],
        }


def calibrated(
    confidences: np.ndarray,
    scores: np.ndarray,
    fold_of: np.ndarray,
    fold: int | str,
    *,
    floor: float,
    low: float,
    high: float,
    threshold: float = 0.5,
) -> Labelling:
    """How the models that held `fold` out label for its training, calibrated on the OOF images of the other folds.

    Of the fold's own images the confidences serve, which need no label; its scores, which its training must not know,
    are not looked at. For "full", all images do both.

    Args:
        fold: to be trained.
        floor, low, high, threshold: as in `Labelling`.

    Shapes:
        confidences, scores, fold_of: (N,) of OOF images; a confidence is that of `image_confidence`.

    Raises:
        ValueError: if there is no OOF image of the fold, or of no other fold.
    """
    confidences, scores, fold_of = map(np.asarray, (confidences, scores, fold_of))
    everything = np.ones(len(fold_of), dtype=bool)
    own, others = (everything, everything) if fold == "full" else (fold_of == fold, fold_of != fold)
    if not own.any() or not others.any():
        raise ValueError(
            f"{own.sum()} OOF images of fold {fold} and {others.sum()} of others: labels for a fold need both. "
            f"Train the folds first"
        )
    places = np.empty(len(confidences))
    for each in np.unique(fold_of):
        places[fold_of == each] = quantiles(confidences[fold_of == each], confidences[fold_of == each])
    return Labelling(places[others], scores[others], floor, low, high, threshold, own=confidences[own])


def write_labels(
    folder: Path,
    fold: int | str,
    predicted: Iterable[tuple[str, np.ndarray]],
    labelling: Labelling,
    made_by: dict[str, Any],
) -> pd.DataFrame:
    """Label the test images that are good enough, for the training of one fold; goes on after a kill.

    Args:
        fold: that the models held out; or "full", for which any model may label.
        predicted: image id and (C, H, W) uint8 of test images, as stored.
        made_by: what else the labels depend on, such as the records of the weights; kept in `store.json`.

    Returns:
        the table that is written: image_id, confidence, score_expected, in order of `predicted`.
    """
    start_store(folder, {**made_by, **labelling.record(), "fold": fold})
    writer, rows = StoreWriter(folder), []
    for image_id, sure, label in labelling.judge(predicted):
        rows.append((image_id, sure))
        if image_id not in writer.done:
            writer.write(image_id, label)
    writer.flush()
    table = pd.DataFrame(rows, columns=COLUMNS[:2]).astype({"image_id": str, "confidence": float})
    table["score_expected"] = labelling.expected(table["confidence"].to_numpy()) if len(table) else 0.0
    if not len(table):
        log.warning(
            "fold %s: no test image is expected to score %.3f, so none is labelled: lower train.pseudo.floor",
            fold,
            labelling.floor,
        )
    write_text(folder / TABLE, table.to_csv(index=False))
    return table


def read_labels(folder: Path, fold: int | str) -> pd.DataFrame:
    """The table of a fold's labels.

    Raises:
        ValueError: if they were made for another fold, or are not done.
    """
    refuse_other_fold(folder, fold)
    if not (folder / TABLE).is_file():
        raise ValueError(f"{folder}: the labels are not done: run the stage that makes them again")
    return pd.read_csv(folder / TABLE, dtype={"image_id": str}, keep_default_na=False)


def refuse_other_fold(folder: Path, fold: int | str) -> None:
    """Labels serve the fold whose models made them, and no other.

    Raises:
        ValueError: if the folder was made for another fold, or holds no labels.
    """
    try:
        remedy = f"remove {folder}, and the same command labels again"
        found = read_json(folder / "store.json", remedy, dict).get("fold")
    except FileNotFoundError:
        raise ValueError(f"{folder}: no pseudo-labels there: make them first") from None
    if found != fold:
        raise ValueError(
            f"{folder}: labels by models that held out fold {found}, not fold {fold}: they have seen these images. "
            f"Make fold {fold}'s own"
        )
