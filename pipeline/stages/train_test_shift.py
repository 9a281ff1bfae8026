"""Whether test images differ from training images, by their statistics and by what a trained model predicts."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from pipeline.competition import Competition
from pipeline.config import Config
from pipeline.data.file_cache import FileCache
from pipeline.data.image_statistics import NAMES, compute_statistics
from pipeline.data.index import find_groups
from pipeline.data.reader import LARGE, Reader
from pipeline.data.sample import Sample, samples_of
from pipeline.duplicates import merge_groups_of_both
from pipeline.inference.prediction_store import PredictionStore
from pipeline.metrics import Scores
from pipeline.progress import track
from pipeline.report.overlays import PANELS, Panel, write_sheet
from pipeline.statistics.adversarial_validation import (
    AdversarialValidation,
    compare_images,
    too_few,
    weight_scores,
)
from pipeline.statistics.bootstrap import Interval, interval

MAX_IMAGES = 4000  # of each set that are compared, drawn with seed 0
NAMED = 3  # statistics in a sentence
LIKENESS_BINS = 5  # quantiles of the likeness that `folds.like_test` balances
VERSION = 1  # of the statistics, so that values kept by an older version are computed again
UNCERTAIN = 26, 229  # stored values from and up to which a probability is uncertain: .1 to .9


class TrainTestShift(NamedTuple):
    """The comparison of training with test images; without `found` the reason why there is none."""

    found: AdversarialValidation | None
    train_ids: Sequence[str] = ()  # of the compared images, in the order of `found.train`
    test_ids: Sequence[str] = ()
    missing: str = ""
    by_predictions: bool = False  # by the pixels and the predictions of a trained config; else by the pixels

    def __str__(self) -> str:
        """In a sentence: whether test images differ, and by what."""
        if self.found is None:
            return f"not compared with the training images: {self.missing}"
        by = "pixels and predictions" if self.by_predictions else "pixels"
        auc = (
            f"AUC {self.found.auc.mean:.2f}, {self.found.auc.low:.2f} to {self.found.auc.high:.2f}, of "
            f"{len(self.train_ids)} training and {len(self.test_ids)} test images by their {by}"
        )
        if not self.found.differ:
            return f"test images do not differ from training images by more than chance ({auc})"
        return f"test images differ ({auc}): {', '.join(map(str, self.found.differences[:NAMED]))}"

    def weighted(self, rows: pd.DataFrame, scores: Scores, optimism: float = 0.0) -> Interval | None:
        """The score of the training images weighted by their likeness to the test images, with its interval.

        Args:
            rows: of the scored images, with image_id and group.
            scores: in their order.
            optimism: as for `interval`.
        """
        if self.found is None:
            return None
        weight = rows["image_id"].map(dict(zip(self.train_ids, self.found.weights, strict=True)))
        compared = weight.notna().to_numpy()
        weighted = weight_scores(scores.take(compared), weight[compared].to_numpy())
        return interval(weighted, rows["group"].to_numpy()[compared], optimism=optimism)


class Predictions(NamedTuple):
    """The predictions of a trained config."""

    oof: PredictionStore
    test: Sequence[PredictionStore]  # of each fold's model


def find_shift(
    cfg: Config,
    card: Competition,
    index: pd.DataFrame,
    test_index: pd.DataFrame,
    pairs: pd.DataFrame | None,
    cache: FileCache,
    predictions: Predictions | None = None,
) -> TrainTestShift:
    """Compare training with test images, at most MAX_IMAGES of each.

    Args:
        index: the training images, with their groups.
        pairs: near-duplicates, which are held out together; None if they were not searched.
        cache: of the statistics.
        predictions: whose statistics are compared too.
    """
    if test_index.empty:
        return TrainTestShift(None, missing="there are no test images yet")
    train, test = map(_draw_sample, with_groups(card, index, test_index, pairs))
    for what, rows in (("test", test), ("training", train)):
        if reason := too_few(what, len(rows), rows["group"].nunique()):
            return TrainTestShift(None, missing=reason)
    if cfg.data.crops or max((rows["height"] * rows["width"]).max() for rows in (train, test)) > LARGE:
        return TrainTestShift(None, missing="the images are too large to be read whole")
    tables = [_statistics(rows, Reader.of(cfg, card), cache) for rows in (train, test)]
    cache.save()
    if predictions:
        predicted = _predicted_statistics(predictions, train["image_id"].tolist(), test["image_id"].tolist())
        tables = [pd.concat(pair, axis=1) for pair in zip(tables, predicted, strict=True)]
    found = compare_images(*tables, train["group"].tolist(), test["group"].tolist())
    ids = train["image_id"].tolist(), test["image_id"].tolist()
    return TrainTestShift(found, *ids, by_predictions=predictions is not None)


def _draw_sample(rows: pd.DataFrame) -> pd.DataFrame:
    ordered = rows.sort_values("image_id", ignore_index=True)
    if len(ordered) <= MAX_IMAGES:
        return ordered
    return ordered.sample(MAX_IMAGES, random_state=0).sort_values("image_id", ignore_index=True)


def with_groups(
    card: Competition, index: pd.DataFrame, test_index: pd.DataFrame, pairs: pd.DataFrame | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training and test images with groups of both, as the card's patterns say, and merged by near-duplicates.

    A classifier that has seen a training image would call a copy of it in the test set a training image.

    Args:
        index: the training images, with their groups.
        pairs: as for `find_shift`.
    """
    test_index = test_index.assign(group=_groups_of_test(card, test_index))
    groups = merge_groups_of_both(index, test_index, pairs)
    return index.assign(group=groups[0]), test_index.assign(group=groups[1])


def _groups_of_test(card: Competition, test_index: pd.DataFrame) -> pd.Series:
    """The group of each test image. One that only a table of the training images names is not known of it."""
    try:
        return test_index["image_id"] if card.group_column else find_groups(test_index, card)
    except ValueError:  # the pattern is of the training images' ids
        return test_index["image_id"]


def _statistics(rows: pd.DataFrame, reader: Reader, cache: FileCache) -> pd.DataFrame:
    """The statistics of each image as the network sees it, at the size of its file; a column for each of NAMES."""

    def compute(sample: Sample) -> list[float]:
        return list(compute_statistics(reader.picture(sample)).values())

    what = f"statistics {VERSION}, {reader}"
    samples = track(samples_of(rows), "statistics of images")
    values = [cache.get(what, sample.sources, partial(compute, sample)) for sample in samples]
    return pd.DataFrame(values, columns=list(NAMES))


def _predicted_statistics(
    predictions: Predictions, train_ids: Sequence[str], test_ids: Sequence[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Statistics of the probabilities: of each training image out of fold, of each test image by one fold's model.

    The mean of all models would be smoother than one model's and tell test from training images: folds take turns.
    """
    train = [
        summarize_prediction(predictions.oof.read(image_id))
        for image_id in track(train_ids, "statistics of predictions")
    ]
    stores = predictions.test
    test = [
        summarize_prediction(stores[number % len(stores)].read(image_id)) for number, image_id in enumerate(test_ids)
    ]
    return pd.DataFrame(train), pd.DataFrame(test)


def summarize_prediction(values: np.ndarray) -> dict[str, float]:
    """Statistics of probabilities, stored as (C, H, W) uint8; shares of pixels and classes, 0 to 1."""
    uncertain = ((values >= UNCERTAIN[0]) & (values <= UNCERTAIN[1])).mean()
    predicted = (values >= 128).mean()
    return {
        "predicted share": float(predicted),
        "uncertain share": float(uncertain),
        "uncertain by predicted share": float(uncertain / (predicted + 1e-3)),
        "highest probability": float(values.max()) / 255,
    }


def bin_likeness(shift: TrainTestShift, image_ids: pd.Series, count: int) -> pd.Series:
    """The quantile bin of each image's likeness to the test images, as text: "1", the least like them, and so on.

    Images that were not compared have a bin of their own.

    Args:
        count: of folds; each bin should hold that many images or more.
    """
    bins = min(LIKENESS_BINS, max(1, len(shift.train_ids) // count))
    rank = pd.Series(shift.found.train).rank(method="first").to_numpy() - 1
    number = (rank * bins // len(rank)).astype(int) + 1
    return image_ids.map(dict(zip(shift.train_ids, map(str, number), strict=True))).fillna("not compared")


def draw_extremes(
    path: Path, shift: TrainTestShift, index: pd.DataFrame, test_index: pd.DataFrame, reader: Reader
) -> None:
    """Draw the training images most and least like the test images, and the test images least like those."""
    train = pd.Series(shift.found.train, index=shift.train_ids).sort_values(kind="stable")
    test = pd.Series(shift.found.test, index=shift.test_ids).sort_values(kind="stable")
    chosen = {
        "training images most like the test images, with the probability of being one": (train[::-1], index),
        "training images least like the test images": (train, index),
        "test images least like the training images": (test[::-1], test_index),
    }
    rows = {}
    for title, (probability, table) in chosen.items():
        shown = probability.head(PANELS)
        samples = {sample.image_id: sample for sample in samples_of(table[table["image_id"].isin(shown.index)])}
        rows[title] = [
            Panel(f"{value:.2f}  {image_id[:10]}", reader.picture(samples[image_id]), masks=None)
            for image_id, value in shown.items()
        ]
    write_sheet(path, rows)
