"""The official metric of a submission against a solution, counted on the runs of both: no image is needed."""

from collections.abc import Iterator, Set
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.competition import Competition
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
from pipeline.rle import RLEError, Runs, area, overlap


def score(card: Competition, submission: Path, solution: Path) -> tuple[float, int]:
    """The official metric of a submission against the truth, and the number of images.

    Pixels are counted on the runs themselves, so no image is needed.

    Raises:
        ValueError: if the rows differ, or a text does not decode, with file and line; if nothing counts.
    """
    value, images = _score(card, submission, solution)
    if np.isnan(value):
        raise ValueError(f"{solution}: {card.metric} is not defined on it: nothing in its {images} images counts")
    return value, images


def _score(card: Competition, submission: Path, solution: Path) -> tuple[float, int]:
    if card.columns.packed_objects:
        return _score_ranked(card, submission, solution)
    if card.instances:
        return _score_instances(card, submission, solution)
    if card.volume_pattern:
        return _score_volumes(card, submission, solution)
    found, target = (_read_runs(path, card) for path in (submission, solution))
    strangers = sorted(found.keys() ^ target.keys())
    if strangers:
        raise ValueError(
            f"{submission} and {solution} differ in {len(strangers)} ids, the first is '{', '.join(strangers[0])}'"
        )
    void = _void_runs(solution, card)
    counts = {
        key: (overlap(found[key], runs), area(found[key]) - overlap(found[key], void.get(key[0], NOWHERE)), area(runs))
        for key, runs in target.items()
    }
    images = list(dict.fromkeys(key[0] for key in counts))
    table = np.array([[counts.get((image, *rest), NOT_ASKED) for rest in _rests(card)] for image in images])
    scores = pixel_metric(card.metric).scores(Counts(*np.moveaxis(table, -1, 0)))
    asked = table[..., 0] >= 0
    return Scores(scores.numerator * asked, scores.denominator * asked).mean(), len(images)


def _refuse_strangers(found: Set[str], target: Set[str], submission: Path, solution: Path) -> None:
    strangers = sorted(found ^ target)
    if strangers:
        raise ValueError(f"{submission} and {solution} differ in {len(strangers)} ids, the first is '{strangers[0]}'")


def _score_instances(card: Competition, submission: Path, solution: Path) -> tuple[float, int]:
    found, target = (_read_instances(path, card) for path in (submission, solution))
    _refuse_strangers(found.keys(), target.keys(), submission, solution)
    metric, scores = instance_metric(card.metric), []
    for image_id, runs in target.items():
        pixels = max((int(ends[-1]) for _, ends in [*runs, *found[image_id]] if len(ends)), default=0)
        labels = _paint_labels(found[image_id], pixels, f"{submission}: image '{image_id}'")
        scores.append(metric(match(labels, _paint_labels(runs, pixels, f"{solution}: image '{image_id}'"))))
    return float(np.mean(scores)), len(scores)


def _score_ranked(card: Competition, submission: Path, solution: Path) -> tuple[float, int]:
    """Of objects with a confidence; those of one image may overlap. The confidences of the solution mean nothing."""
    found, target = (_read_ranked(path, card) for path in (submission, solution))
    _refuse_strangers(found.keys(), target.keys(), submission, solution)
    images = ((_iou(runs, target[key][1]), confidences) for key, (confidences, runs) in found.items())
    return ranked_metric(card.metric)(images), len(found)


def _read_ranked(path: Path, card: Competition) -> dict[str, tuple[np.ndarray, list[Runs]]]:
    """The confidences (N,) and runs of each image's objects."""
    rows = read_packed_objects(path, card.columns, card.dialect.empty)
    rows["runs"] = parse_rows(rows, path, card.dialect)
    there = rows["runs"].map(lambda runs: len(runs[0]) > 0)
    return {
        image_id: (objects["confidence"].to_numpy()[there[objects.index]], objects["runs"][there].tolist())
        for image_id, objects in rows.groupby("image_id", sort=False)
    }


def _iou(found: list[Runs], target: list[Runs]) -> np.ndarray:
    """Of each object with each true one, (P, T)."""
    shared = np.array([[overlap(one, other) for other in target] for one in found]).reshape(len(found), len(target))
    return pairwise_iou(shared, *(np.array([area(runs) for runs in each]) for each in (found, target)))


def _score_volumes(card: Competition, submission: Path, solution: Path) -> tuple[float, int]:
    """Of whole volumes: the solution has columns `height` and `width` too, as a mask's place in its slice counts."""
    found, target = (_rows_once(path, card) for path in (submission, solution))
    both = target.assign(**_sizes(solution)).merge(
        found, on=["image_id", "label"], how="outer", suffixes=("", "_found"), indicator=True
    )
    strangers = both[both["_merge"] != "both"]
    if len(strangers):
        raise ValueError(
            f"{submission} and {solution} differ in {len(strangers)} rows, the first is image "
            f"'{strangers['image_id'].iloc[0]}', class '{strangers['label'].iloc[0]}'"
        )
    volumes = (_read_volume(card, rows, submission, solution) for rows in by_volume(both, card))
    return volume_metric(card.metric)(volumes), both["image_id"].nunique()


def _sizes(solution: Path) -> dict[str, pd.Series]:
    """Height and width of each row's slice, in pixels."""
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
    """The rows of each volume, its slices in rising order of their number."""
    parts = rows["image_id"].str.extract(f"^{card.volume_pattern}$")
    if parts.isna().any(axis=None):
        stranger = rows["image_id"][parts.isna().any(axis=1)].iloc[0]
        raise ValueError(f"card {card.name}: volume_pattern '{card.volume_pattern}' does not match the id '{stranger}'")
    numbered = rows.assign(volume=parts[0], slice=parts[1].astype(int))
    for _, volume in numbered.groupby("volume"):
        yield volume.sort_values("slice", kind="stable")


def _read_volume(card: Competition, rows: pd.DataFrame, submission: Path, solution: Path) -> Volume:
    """Predicted and true masks of a volume, (D, C, H, W)."""
    number = {name: position for position, name in enumerate(card.classes)}
    slices = {image_id: place for place, image_id in enumerate(dict.fromkeys(rows["image_id"]))}
    shape = int(rows["height"].iloc[0]), int(rows["width"].iloc[0])
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
    """The runs of each object, by image."""
    rows = read_rows(path, [card.columns], card.classes)
    objects: dict[str, list[Runs]] = {}
    for image_id, runs in zip(rows["image_id"], parse_rows(rows, path, card.dialect), strict=True):
        objects.setdefault(image_id, []).append(runs)
    return objects


def _paint_labels(objects: list[Runs], pixels: int, where: str) -> np.ndarray:
    """Objects as numbers, in the dialect's order of pixels: where each pixel lies in the image does not matter.

    Raises:
        ValueError: if two objects overlap, which the competitions refuse.
    """
    labels = np.zeros(pixels, dtype=np.int32)
    for number, (starts, ends) in enumerate(objects, start=1):
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            if labels[start:end].any():
                raise ValueError(f"{where}: objects {labels[start:end].max()} and {number} overlap: a pixel has one")
            labels[start:end] = number
    return labels


NOWHERE: Runs = (np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))


def _void_runs(solution: Path, card: Competition) -> dict[str, Runs]:
    """The pixels of each image that count for nothing."""
    if card.ignore_class is None:
        return {}
    rows = read_rows(solution, [card.columns], [*card.classes, card.ignore_class])
    of_void = rows[rows["label"] == card.ignore_class]
    return dict(zip(of_void["image_id"], parse_rows(of_void, solution, card.dialect), strict=True))


NOT_ASKED = (-1, 0, 0)  # counts of a class that the solution does not ask for in an image


def _rests(card: Competition) -> list[tuple[str, ...]]:
    """What follows the image in the key of each class."""
    return [(name,) for name in card.classes] if len(card.classes) > 1 else [()]


def _read_runs(path: Path, card: Competition) -> dict[tuple[str, ...], Runs]:
    """The runs of each row of a CSV, by image, and class where there are several."""
    rows = _rows_once(path, card)
    keys = rows[_keys(card)].itertuples(index=False, name=None)
    return dict(zip(keys, parse_rows(rows, path, card.dialect), strict=True))


def _keys(card: Competition) -> list[str]:
    """What tells the rows of a CSV apart."""
    return ["image_id", "label"] if len(card.classes) > 1 else ["image_id"]


def _rows_once(path: Path, card: Competition) -> pd.DataFrame:
    """The rows of a CSV but for those of void.

    Raises:
        ValueError: for two rows of one mask.
    """
    rows = read_rows(path, [card.columns], [*card.classes, *([card.ignore_class] if card.ignore_class else [])])
    rows = rows[rows["label"].isin(card.classes)]
    again = rows[rows.duplicated(["image_id", "label"])]
    if len(again):
        shown = ", ".join(again[_keys(card)].iloc[0])
        raise ValueError(f"{path}: line {again['line'].iloc[0]}: id '{shown}' repeats: expected one row per mask")
    return rows
