"""The CSV for Kaggle: rows in the sample's order, each mask decoded back and compared, whole or not at all."""

import csv
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from pipeline.competition import Competition
from pipeline.data.tables import read_rows, read_table, runs_of_rows
from pipeline.files import whole
from pipeline.metrics import INSTANCE_METRICS, METRICS, VOLUME_METRICS, Counts, Scores, Volume, match
from pipeline.rle import Dialect, RLEError, Runs, area, overlap

# From an image's id to its masks (C, H, W) uint8, or its objects (H, W), numbered; None: no prediction.
MaskOf = Callable[[str], np.ndarray | None]


class Summary(NamedTuple):
    """What a written submission holds."""

    rows: int
    empty: int


def write_submission(path: Path, card: Competition, sample: Path, masks_of: MaskOf) -> Summary:
    """Write one row per row of the sample, in its order: of an image, or of an image and class.

    Of a card with instances, a row for each object of an image, and one with the empty token where there is none.

    Rows are written as they are made, so memory does not grow with their number.

    Raises:
        ValueError: if the text of a mask does not decode to that mask, with the row; nothing is written.
    """
    if card.instances:
        return _write_instances(path, card, sample, masks_of)
    rows = sample_rows(card, sample)
    keys = read_table(sample, card.columns.keys)[card.columns.keys].loc[rows.index]
    number, empty = {name: position for position, name in enumerate(card.classes)}, 0
    masks_of = _last_one(masks_of)
    with whole(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*card.columns.keys, card.columns.rle])
        for line, (row, key) in enumerate(zip(rows.itertuples(), keys.itertuples(index=False), strict=True), start=2):
            masks = masks_of(row.image_id)
            mask = None if masks is None else masks[number[row.label]]
            text = card.dialect.empty if mask is None else encode_checked(mask, card.dialect, f"{path}: line {line}")
            empty += mask is None or not mask.any()
            writer.writerow([*key, text])
        file.flush()
        check_keys(partial, card, keys)
    return Summary(len(rows), empty)


def _write_instances(path: Path, card: Competition, sample: Path, labels_of: MaskOf) -> Summary:
    ids = sample_rows(card, sample)["image_id"]
    rows = empty = 0
    with whole(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([card.columns.id, card.columns.rle])
        for image_id in ids:
            labels = labels_of(image_id)
            numbers = [] if labels is None else np.unique(labels[labels > 0])
            texts = [
                encode_checked((labels == number).astype(np.uint8), card.dialect, f"{path}: image '{image_id}'")
                for number in numbers
            ]
            writer.writerows([image_id, text] for text in texts or [card.dialect.empty])
            rows, empty = rows + max(1, len(texts)), empty + (not texts)
    return Summary(rows, empty)


def sample_rows(card: Competition, sample: Path) -> pd.DataFrame:
    """Image and class of each row that a submission must have: image_id, label, line.

    A sample may repeat an id where masks have several rows; ours have one.
    """
    rows = read_rows(sample, [card.columns], card.classes, rle=False)
    return rows.drop_duplicates(["image_id", "label"]) if card.several_rows or card.instances else rows


def _last_one(masks_of: MaskOf) -> MaskOf:
    """The same, but asked once for rows of one image that follow each other."""
    return lru_cache(maxsize=1)(masks_of)


def encode_checked(mask: np.ndarray, dialect: Dialect, where: str) -> str:
    """The mask's text, after decoding it back.

    Raises:
        ValueError: if what comes back is another mask.
    """
    text = dialect.encode(mask)
    try:
        back = dialect.decode(text, mask.shape)
    except RLEError as error:
        raise ValueError(f"{where}: the text written cannot be read back: {error}") from None
    if not np.array_equal(back, mask):
        raise ValueError(
            f"{where}: the text written decodes to a mask that differs in {np.count_nonzero(back != mask)} pixels"
        )
    return text


def check_keys(path: Path, card: Competition, keys: pd.DataFrame) -> None:
    """Refuse a CSV whose ids (and classes) are not `keys`, in that order.

    Raises:
        ValueError: with the line of the first difference.
    """
    found = read_table(path, card.columns.keys, only=True)[card.columns.keys]
    for line, (came, expected) in enumerate(zip(found.to_numpy(), keys.to_numpy(), strict=False), start=2):
        if (came != expected).any():
            names = [", ".join(each) for each in (came, expected)]
            raise ValueError(f"{path}: line {line}: id '{names[0]}', the sample submission has '{names[1]}' there")
    if len(found) != len(keys):
        raise ValueError(f"{path}: {len(found)} rows, the sample submission has {len(keys)}")


def score(card: Competition, submission: Path, solution: Path) -> tuple[float, int]:
    """The official metric of a submission against the truth, and the number of images.

    Pixels are counted on the runs themselves, so no image is needed.

    Raises:
        ValueError: if the rows differ, or a text does not decode, with file and line.
    """
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
    scores = METRICS[card.metric].scores(Counts(*np.moveaxis(table, -1, 0)))
    asked = table[..., 0] >= 0
    return Scores(scores.gained * asked, scores.possible * asked).mean(), len(images)


def _score_instances(card: Competition, submission: Path, solution: Path) -> tuple[float, int]:
    found, target = (_read_instances(path, card) for path in (submission, solution))
    strangers = sorted(found.keys() ^ target.keys())
    if strangers:
        raise ValueError(f"{submission} and {solution} differ in {len(strangers)} ids, the first is '{strangers[0]}'")
    metric, scores = INSTANCE_METRICS[card.metric], []
    for image_id, runs in target.items():
        pixels = max((int(ends[-1]) for _, ends in [*runs, *found[image_id]] if len(ends)), default=0)
        labels = _paint_labels(found[image_id], pixels, f"{submission}: image '{image_id}'")
        scores.append(metric(match(labels, _paint_labels(runs, pixels, f"{solution}: image '{image_id}'"))))
    return float(np.mean(scores)), len(scores)


def _score_volumes(card: Competition, submission: Path, solution: Path) -> tuple[float, int]:
    """Of whole volumes: the solution has columns `height` and `width` too, as a mask's place in its slice counts."""
    found, target = (read_rows(path, [card.columns], card.classes) for path in (submission, solution))
    sizes = read_table(solution, ["height", "width"])[["height", "width"]].astype(int)
    both = target.assign(height=sizes["height"], width=sizes["width"]).merge(
        found, on=["image_id", "label"], how="outer", suffixes=("", "_found"), indicator=True
    )
    strangers = both[both["_merge"] != "both"]
    if len(strangers):
        raise ValueError(
            f"{submission} and {solution} differ in {len(strangers)} rows, the first is image "
            f"'{strangers['image_id'].iloc[0]}', class '{strangers['label'].iloc[0]}'"
        )
    volumes = (_read_volume(card, rows, submission, solution) for rows in by_volume(both, card))
    return VOLUME_METRICS[card.metric](volumes), both["image_id"].nunique()


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
    for image_id, runs in zip(rows["image_id"], runs_of_rows(rows, path, card.dialect), strict=True):
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
    if card.void_rows is None:
        return {}
    rows = read_rows(solution, [card.columns], [*card.classes, card.void_rows])
    of_void = rows[rows["label"] == card.void_rows]
    return dict(zip(of_void["image_id"], runs_of_rows(of_void, solution, card.dialect), strict=True))


NOT_ASKED = (-1, 0, 0)  # counts of a class that the solution does not ask for in an image


def _rests(card: Competition) -> list[tuple[str, ...]]:
    """What follows the image in the key of each class."""
    return [(name,) for name in card.classes] if len(card.classes) > 1 else [()]


def _read_runs(path: Path, card: Competition) -> dict[tuple[str, ...], Runs]:
    """The runs of each row of a CSV, by image, and class where there are several."""
    rows = read_rows(path, [card.columns], [*card.classes, *([card.void_rows] if card.void_rows else [])])
    rows = rows[rows["label"].isin(card.classes)]
    keys = list(
        rows[["image_id", "label"] if len(card.classes) > 1 else ["image_id"]].itertuples(index=False, name=None)
    )
    again = rows.duplicated(["image_id", "label"])
    if again.any():
        place = int(again.argmax())
        shown = ", ".join(keys[place])
        raise ValueError(f"{path}: line {rows['line'].iloc[place]}: id '{shown}' repeats: expected one row per mask")
    return dict(zip(keys, runs_of_rows(rows, path, card.dialect), strict=True))
