"""The official metric of a submission, computed from the runs of submission and solution, without any image."""

from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.competition import Competition
from pipeline.data.series import place_of_id
from pipeline.data.tables import parse_rows, read_packed_objects, read_rows, read_table
from pipeline.metrics import (
    Counts,
    Scores,
    Volume,
    instance_metric,
    match,
    pairwise_iou,
    pixel_metric,
    ranked_metric,
    volume_metric,
)
from pipeline.rle import RLEError, Runs, area, find_overlap, no_runs, overlap, union, without


def score(card: Competition, submission: Path, solution: Path) -> tuple[float, int]:
    """Compute the official metric of a submission, and the number of images.

    Args:
        submission: the CSV to score.
        solution: the CSV with the true masks.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if the rows of the files differ, a text cannot be decoded (with file and line), or the metric is
            undefined because no pixel counts.
    """
    value, images = _score(card, submission, solution)
    if np.isnan(value):
        raise ValueError(f"{solution}: {card.metric} is undefined: no pixel of its {images} images counts")
    return value, images


def _score(card: Competition, submission: Path, solution: Path) -> tuple[float, int]:
    if card.columns.packed_objects:
        return _score_packed(card, submission, solution)
    if card.scores_volumes:
        return _score_volumes(card, submission, solution)
    ids, scores = image_scores(card, submission, solution)
    return scores.mean(), len(ids)


def image_scores(card: Competition, submission: Path, solution: Path) -> tuple[list[str], Scores]:
    """The images of a solution, and what each adds to a metric of pixels or of objects without confidences.

    Raises:
        FileNotFoundError, ValueError: as `score`; ValueError for another metric, which is no mean over images.
    """
    if card.columns.packed_objects or card.scores_volumes:
        raise ValueError(f"metric '{card.metric}' has no scores of single images: expected one of pixels or objects")
    if card.instances:
        return _instance_scores(card, submission, solution)
    found, target = (_read_runs(path, card) for path in (submission, solution))
    _check_same_ids(*({_shown(card, *key) for key in each} for each in (found, target)), submission, solution)
    ignored = _ignored_runs(solution, card)
    counts = {}
    for key, runs in target.items():
        # A pixel of the class counts, even if it is in a row of ignored pixels too, as in training.
        skipped = without(ignored.get(key[0], NO_RUNS), runs)
        counts[key] = overlap(found[key], runs), area(found[key]) - overlap(found[key], skipped), area(runs)
    images = list(dict.fromkeys(key[0] for key in counts))
    table = np.array([[counts.get((image, name), NO_ROW) for name in card.classes] for image in images])
    scores = pixel_metric(card.metric).scores(Counts(*np.moveaxis(table, -1, 0)))
    has_row = table[..., 0] >= 0
    return images, Scores(scores.numerator * has_row, scores.denominator * has_row)


def _check_same_ids(found: Set[str], target: Set[str], submission: Path, solution: Path) -> None:
    """Raise ValueError if submission and solution have different ids."""
    unexpected = sorted(found ^ target)
    if unexpected:
        raise ValueError(f"{submission} and {solution} differ in {len(unexpected)} ids, the first is '{unexpected[0]}'")


def _instance_scores(card: Competition, submission: Path, solution: Path) -> tuple[list[str], Scores]:
    found, target = (_read_instances(path, card) for path in (submission, solution))
    _check_same_ids(found.keys(), target.keys(), submission, solution)
    metric, scores = instance_metric(card.metric), []
    for image_id, runs in target.items():
        pixels = max((int(ends[-1]) for _, ends in [*runs, *found[image_id]] if len(ends)), default=0)
        labels = _label_pixels(found[image_id], pixels, f"{submission}: image '{image_id}'")
        scores.append(metric(match(labels, _label_pixels(runs, pixels, f"{solution}: image '{image_id}'"))))
    return list(target), Scores.from_values(scores)


def _score_packed(card: Competition, submission: Path, solution: Path) -> tuple[float, int]:
    """Score objects with confidences, which may overlap. The confidences of the solution have no effect."""
    found, target = (_read_packed(path, card) for path in (submission, solution))
    _check_same_ids(found.keys(), target.keys(), submission, solution)
    images = ((_pairwise_iou(runs, target[key][1]), confidences) for key, (confidences, runs) in found.items())
    return ranked_metric(card.metric)(images), len(found)


def _read_packed(path: Path, card: Competition) -> dict[str, tuple[np.ndarray, list[Runs]]]:
    """By image, the confidences (N,) and the runs of its objects."""
    rows = read_packed_objects(path, card.columns, card.dialect.empty)
    rows["runs"] = parse_rows(rows, path, card.dialect)
    there = rows["runs"].map(lambda runs: len(runs[0]) > 0)
    return {
        image_id: (objects["confidence"].to_numpy()[there[objects.index]], objects["runs"][there].tolist())
        for image_id, objects in rows.groupby("image_id", sort=False)
    }


def _pairwise_iou(found: list[Runs], target: list[Runs]) -> np.ndarray:
    """The IoU of each predicted with each true object, (P, T)."""
    shared = np.array([[overlap(one, other) for other in target] for one in found]).reshape(len(found), len(target))
    return pairwise_iou(shared, *(np.array([area(runs) for runs in each]) for each in (found, target)))


def _score_volumes(card: Competition, submission: Path, solution: Path) -> tuple[float, int]:
    """Score volumes. The solution needs columns `height` and `width`, since the position of a pixel counts."""
    found, target = (_read_mask_rows(path, card) for path in (submission, solution))
    keys = (each[["image_id", "label"]].itertuples(index=False) for each in (found, target))
    _check_same_ids(*({_shown(card, *key) for key in each} for each in keys), submission, solution)
    sized = target.assign(**_read_sizes(solution))
    both = sized.merge(found, on=["image_id", "label"], suffixes=("", "_found"))
    volumes = (_read_volume(card, rows, submission, solution) for rows in by_volume(both, card))
    return volume_metric(card.metric)(volumes), both["image_id"].nunique()


def _read_sizes(solution: Path) -> dict[str, pd.Series]:
    """The height and width of each row's slice, in pixels."""
    table = read_table(solution, ["height", "width"])
    sizes = {side: pd.to_numeric(table[side], errors="coerce") for side in ("height", "width")}
    for side, values in sizes.items():
        wrong = values.isna() | (values < 1) | (values % 1 != 0)
        if wrong.any():
            line = int(wrong.argmax()) + 2
            raise ValueError(
                f"{solution}: line {line}: {side} '{table[side].iloc[line - 2]}': expected pixels, such as 512"
            )
    return sizes


def by_volume(rows: pd.DataFrame, card: Competition) -> Iterator[pd.DataFrame]:
    """The rows of each volume, with its slices in ascending order of their number.

    Raises:
        ValueError: if the card's `volume_pattern` does not match an id.
    """
    places = [place_of_id(image_id, card.volume_pattern, card.name) for image_id in rows["image_id"]]
    numbered = rows.assign(volume=[volume for volume, _ in places], slice=[number for _, number in places])
    for _, volume in numbered.groupby("volume"):
        yield volume.sort_values("slice", kind="stable")


def _read_volume(card: Competition, rows: pd.DataFrame, submission: Path, solution: Path) -> Volume:
    """The predicted and the true masks of a volume, (D, C, H, W) uint8 each."""
    number = {name: position for position, name in enumerate(card.classes)}
    slices = {image_id: place for place, image_id in enumerate(dict.fromkeys(rows["image_id"]))}
    shape = int(rows["height"].iloc[0]), int(rows["width"].iloc[0])
    other = rows[(rows["height"] != shape[0]) | (rows["width"] != shape[1])]
    if len(other):
        first = other.iloc[0]
        raise ValueError(
            f"{solution}: line {first['line']}, id '{first['image_id']}': height and width {first['height']} and "
            f"{first['width']}, other slices of its volume have {shape[0]} and {shape[1]}: expected one size"
        )
    masks = np.zeros((2, len(slices), len(number), *shape), dtype=np.uint8)
    for row in rows.itertuples():
        for part, (text, line, path) in enumerate(
            ((row.rle_found, row.line_found, submission), (row.rle, row.line, solution))
        ):
            try:
                masks[part, slices[row.image_id], number[row.label]] = card.dialect.decode(text, shape)
            except RLEError as error:
                raise ValueError(f"{path}: line {line}, id '{row.image_id}': {error}") from None
    return masks[0], masks[1]


def _read_instances(path: Path, card: Competition) -> dict[str, list[Runs]]:
    """By image, the runs of its objects."""
    rows = read_rows(path, [card.columns], card.classes)
    objects: dict[str, list[Runs]] = {}
    for image_id, runs in zip(rows["image_id"], parse_rows(rows, path, card.dialect), strict=True):
        objects.setdefault(image_id, []).append(runs)
    return objects


def _label_pixels(objects: list[Runs], pixels: int, where: str) -> np.ndarray:
    """Instance labels, (pixels,) int32, in the dialect's pixel order: the metric does not depend on positions.

    Raises:
        ValueError: if two objects overlap, which these competitions do not allow.
    """
    if shared := find_overlap(objects):
        raise ValueError(f"{where}: objects {shared[0] + 1} and {shared[1] + 1} overlap: expected one object per pixel")
    labels = np.zeros(pixels, dtype=np.int32)
    for number, (starts, ends) in enumerate(objects, start=1):
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            labels[start:end] = number
    return labels


NO_RUNS: Runs = no_runs()


def _ignored_runs(solution: Path, card: Competition) -> dict[str, Runs]:
    """By image, the runs of the pixels that the metric ignores."""
    if card.ignore_class is None:
        return {}
    rows = read_rows(solution, [card.columns], [*card.classes, card.ignore_class])
    return _union_by(rows[rows["label"] == card.ignore_class], ["image_id"], solution, card)


def _union_by(rows: pd.DataFrame, keys: list[str], path: Path, card: Competition) -> dict[Any, Runs]:
    """The union of the runs of all rows with the same keys."""
    runs: dict[Any, list[Runs]] = {}
    names = rows[keys].itertuples(index=False, name=None)
    for name, each in zip(names, parse_rows(rows, path, card.dialect), strict=True):
        runs.setdefault(name if len(keys) > 1 else name[0], []).append(each)
    return {name: union(each) for name, each in runs.items()}


NO_ROW = (-1, 0, 0)  # counts of a class that has no row in the solution for an image


def _read_runs(path: Path, card: Competition) -> dict[tuple[str, str], Runs]:
    """The runs of each row of a CSV, by image id and class."""
    return _union_by(_read_mask_rows(path, card), ["image_id", "label"], path, card)


def _shown(card: Competition, image_id: str, label: str) -> str:
    """What identifies a row, for messages: its image, and its class if the card has several."""
    return f"{image_id}, {label}" if len(card.classes) > 1 else image_id


def _read_mask_rows(path: Path, card: Competition) -> pd.DataFrame:
    """The rows of a CSV without those of the ignored class.

    Raises:
        ValueError: if a mask has two rows, and the card has no `several_rows`.
    """
    rows = read_rows(path, [card.columns], [*card.classes, *([card.ignore_class] if card.ignore_class else [])])
    rows = rows[rows["label"].isin(card.classes)]
    again = rows[rows.duplicated(["image_id", "label"])]
    if len(again) and not card.several_rows:
        shown = _shown(card, *again[["image_id", "label"]].iloc[0])
        raise ValueError(f"{path}: line {again['line'].iloc[0]}: id '{shown}' repeats: expected one row per mask")
    return rows
