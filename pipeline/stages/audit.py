"""The stage `audit`: near-duplicate images, those in different folds and the leak they cause; training against test."""

from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pandas as pd

from pipeline.config import Config
from pipeline.data.intensity import percentile_normalize
from pipeline.data.reader import Reader
from pipeline.data.sample import Sample, samples_of
from pipeline.data.tables import read_table
from pipeline.duplicates import merge_groups
from pipeline.report.overlays import PANELS, Panel, write_sheet
from pipeline.stages.preparing import (
    Paths,
    check,
    compare_with_test,
    find_all_duplicates,
    index_test_images,
    index_training_images,
    make_context,
    make_data,
    read_extra,
    scores_at_half,
)
from pipeline.stages.train_test_shift import TrainTestShift, draw_extremes
from pipeline.stages.training import oof_of
from pipeline.statistics.bootstrap import Difference, paired
from pipeline.symmetries import SYMMETRIES

PICTURE_SIZE = 256  # pixels a side of each picture in the sheet


class AuditReport(NamedTuple):
    """What the stage `audit` found."""

    pairs: pd.DataFrame  # kind, parts (train, test, or train and test) and number of pairs
    images: int
    groups: int  # of training images, after groups with a near-duplicate pair are merged
    largest: int  # number of images of the largest group
    split_pairs: int | None  # pairs of training images in different folds; None if there are no folds yet
    folds: Path
    table: Path
    sheet: Path | None  # pictures of pairs of each kind; None without pairs
    extra: list[dict[str, Any]]  # as `ExtraSets.counts` returns them
    shift: TrainTestShift
    extremes: Path | None  # pictures of the images most and least like the other set's; None without a comparison


def audit(cfg: Config) -> AuditReport:
    """Find near-duplicates among training and test images, and draw some of them; and those of extra sets among both.

    Writes: folds/<name>.duplicates.csv, whose pairs new folds keep together; reports/<name>-duplicates.png; with
    `data.extra`, folds/<name>.extra-<digest>.csv; if there are enough test images, reports/<name>-like-test.png
    """
    card = check(cfg)
    paths = Paths(cfg, card)
    make_data(card, paths)
    reader = Reader.of(cfg, card)
    index = index_training_images(cfg, card, paths)
    pairs = find_all_duplicates(cfg, card, paths, index)
    sizes = merge_groups(index, pairs).value_counts()
    parts = pairs["first_part"].where(pairs["first_part"] == pairs["second_part"], "train and test")
    counts = pairs.assign(parts=parts).groupby(["kind", "parts"]).size().rename("pairs").reset_index()
    sheet = Path("reports") / f"{paths.folds.stem}-duplicates.png" if len(pairs) else None
    test = index_test_images(cfg, card, paths)
    if sheet:
        _draw_sheet(sheet, pairs, {"train": _by_id(index), "test": _by_id(test)}, reader)
    split_pairs = _count_split_pairs(paths.folds, pairs)
    extra = read_extra(cfg, card, paths, index).counts(_folds_or_none(paths.folds)) if cfg.data.extra else []
    shift = compare_with_test(cfg, card, paths, index, test)
    extremes = Path("reports") / f"{paths.folds.stem}-like-test.png" if shift.found else None
    if extremes:
        draw_extremes(extremes, shift, index, test, reader)
    return AuditReport(
        counts,
        len(index),
        len(sizes),
        int(sizes.iloc[0]),
        split_pairs,
        paths.folds,
        paths.duplicates,
        sheet,
        extra,
        shift,
        extremes,
    )


def _folds_or_none(path: Path) -> pd.DataFrame | None:
    return read_table(path, ["image_id", "fold"]).astype({"fold": int}) if path.exists() else None


def _by_id(index: pd.DataFrame) -> dict[str, Sample]:
    return {sample.image_id: sample for sample in samples_of(index)}


def _count_split_pairs(path: Path, pairs: pd.DataFrame) -> int | None:
    """The number of pairs of training images in different folds; None if there is no file of folds."""
    if not path.exists():
        return None
    fold = read_table(path, ["image_id", "fold"]).set_index("image_id")["fold"]
    known = pairs["first"].isin(fold.index) & pairs["second"].isin(fold.index)  # images skipped as bad are in no fold
    within = pairs[known & (pairs["first_part"] == "train") & (pairs["second_part"] == "train")]
    return int((within["first"].map(fold) != within["second"].map(fold)).sum())


def _draw_sheet(path: Path, pairs: pd.DataFrame, samples: dict[str, dict[str, Sample]], reader: Reader) -> None:
    """Write a sheet with a row for each kind of pair, from the highest score to the lowest."""
    rows, percentiles = {}, reader.percentiles or (0, 100)
    for kind, of_kind in pairs.sort_values("score", ascending=False, kind="stable").groupby("kind"):
        shown = of_kind.iloc[np.unique(np.linspace(0, len(of_kind) - 1, PANELS).astype(int))]
        title = f"{kind}: {len(of_kind)} pairs, from the highest score to the lowest"
        rows[title] = [
            Panel(
                f"{row.score:.2f}  {row.first[:8]}, {row.second[:8]} ({row.second_part})",
                _pair_picture(
                    percentile_normalize(reader.preview(samples[row.first_part][row.first], channels=3), percentiles),
                    percentile_normalize(reader.preview(samples[row.second_part][row.second], channels=3), percentiles),
                    row,
                ),
                masks=None,
            )
            for row in shown.itertuples()
        ]
    write_sheet(path, rows)


def _pair_picture(first: np.ndarray, second: np.ndarray, pair: object) -> np.ndarray:
    """One picture (H, W, 3) of a pair: neighbours joined at their seam; others next to each other, aligned."""
    if pair.kind == "neighbour":
        if min(pair.down, pair.right) < 0:
            first, second = second, first
        return np.concatenate([first, second], axis=0 if pair.down else 1)
    turned = np.stack([SYMMETRIES[pair.view](second[..., channel]) for channel in range(3)], axis=2)
    first, turned = (
        cv2.resize(np.ascontiguousarray(image), (PICTURE_SIZE, PICTURE_SIZE), interpolation=cv2.INTER_AREA)
        for image in (first, turned)
    )
    return np.concatenate([first, np.full((PICTURE_SIZE, PICTURE_SIZE // 32, 3), 255, np.uint8), turned], axis=1)


class LeakInflation(NamedTuple):
    """The OOF scores of a random split and of one that keeps groups together."""

    random: float  # OOF score of the random split at threshold .5
    grouped: float  # the same, of the split that keeps groups and near-duplicates together
    difference: Difference  # random − grouped, image by image, with an interval over groups
    images: int


def measure_inflation(cfg: Config) -> LeakInflation:
    """Measure how much a leak inflates the CV score: train on a random and a grouped split, and compare OOF scores.

    Writes: runs/<config>/ and runs/<config>_random/; folds/<name>_random.csv

    Raises:
        ValueError: if every training image is a group of its own: both splits would be the same.
    """
    grouped = make_context(cfg)
    if grouped.index["group"].is_unique:
        raise ValueError(
            f"{grouped.card.name}: no two training images are in one group, by columns.group or "
            f"{grouped.paths.duplicates}: a random split has no leak, so there is no inflation to measure"
        )
    name = f"{grouped.paths.folds.stem}_random"
    ungrouped = cfg.folds.model_copy(update={"name": name, "grouped": False})
    random = make_context(cfg.model_copy(update={"name": f"{cfg.name}_random", "folds": ungrouped}))
    scores = []
    for split in (random, grouped):
        oof_of(split)
        scores.append(scores_at_half(split, grouped.index))
    difference = paired(*scores, grouped.index["group"].to_numpy())
    return LeakInflation(scores[0].mean(), scores[1].mean(), difference, len(grouped.index))
