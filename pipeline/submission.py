"""The CSV for Kaggle: rows in the sample's order, each mask decoded back and compared, whole or not at all."""

import csv
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from pipeline.competition import Competition
from pipeline.data.tables import read_cells, read_rows, read_table
from pipeline.files import whole
from pipeline.rle import Dialect, RLEError

# From an image's id to its masks (C, H, W) uint8, or its objects (H, W), numbered; None: no prediction.
MaskOf = Callable[[str], np.ndarray | None]
# From an image's id and its objects (H, W), numbered from 1, to the confidence of each, (N,), 0 to 1.
ConfidencesOf = Callable[[str, np.ndarray], np.ndarray]

# From an image's id to its height and width; None: not known.
SizeOf = Callable[[str], tuple[int, int] | None]


class Summary(NamedTuple):
    """What a written submission holds."""

    rows: int
    empty: int


def write_submission(
    path: Path,
    card: Competition,
    sample: Path,
    masks_of: MaskOf,
    confidences_of: ConfidencesOf | None = None,
    *,
    placeholders: bool = False,
) -> Summary:
    """Write one row per row of the sample, in its order: of an image, or of an image and class.

    Of a card with instances, a row for each object of an image, and one with the empty token where there is none; or,
    by the card's `cell`, a row for each image with all its objects and their confidences.

    Rows are written as they are made, so memory does not grow with their number.

    Args:
        placeholders: what an image without prediction gets: the sample's own text, or else the empty token.

    Raises:
        ValueError: if the text of a mask does not decode to that mask, with the row; nothing is written.
    """
    if card.columns.cell:
        return _write_cells(path, card, sample, masks_of, confidences_of, placeholders=placeholders)
    if card.instances:
        return _write_instances(path, card, sample, masks_of, placeholders=placeholders)
    rows = sample_rows(card, sample)
    keys = read_table(sample, card.columns.keys)[card.columns.keys].loc[rows.index]
    absent = _texts_of_absent(card, sample, placeholders)
    number, empty = {name: position for position, name in enumerate(card.classes)}, 0
    masks_of = _last_one(masks_of)
    with whole(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*card.columns.keys, card.columns.rle])
        for line, (row, key) in enumerate(zip(rows.itertuples(), keys.itertuples(index=False), strict=True), start=2):
            masks = masks_of(row.image_id)
            mask = None if masks is None else masks[number[row.label]]
            text = absent[row.Index] if mask is None else encode_checked(mask, card.dialect, f"{path}: line {line}")
            empty += mask is None or not mask.any()
            writer.writerow([*key, text])
        file.flush()
        check_keys(partial, card, keys)
    return Summary(len(rows), empty)


def _texts_of_absent(card: Competition, sample: Path, placeholders: bool) -> pd.Series:
    """For each row of the sample, what stands for a mask that there is not."""
    if placeholders:
        return read_table(sample, [card.columns.rle])[card.columns.rle]
    return pd.Series(card.dialect.empty, index=read_table(sample, [card.columns.id]).index)


def _write_instances(path: Path, card: Competition, sample: Path, labels_of: MaskOf, *, placeholders: bool) -> Summary:
    ids, absent = sample_rows(card, sample)["image_id"], _texts_of_absent(card, sample, placeholders)
    rows = empty = 0
    with whole(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([card.columns.id, card.columns.rle])
        for place, image_id in ids.items():
            labels = labels_of(image_id)
            texts = _texts_of(labels, card, f"{path}: image '{image_id}'")
            none = absent[place] if labels is None else card.dialect.empty
            writer.writerows([image_id, text] for text in texts or [none])
            rows, empty = rows + max(1, len(texts)), empty + (not texts)
    return Summary(rows, empty)


def _write_cells(
    path: Path,
    card: Competition,
    sample: Path,
    labels_of: MaskOf,
    confidences_of: ConfidencesOf,
    *,
    placeholders: bool,
) -> Summary:
    columns = card.columns
    table, empty = read_table(sample, columns.header), 0
    absent = _texts_of_absent(card, sample, placeholders)
    with whole(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns.header)
        for place, row in zip(table.index, table[columns.header[:-1]].itertuples(index=False), strict=True):
            labels = labels_of(row[0])
            texts = _texts_of(labels, card, f"{path}: image '{row[0]}'")
            confidences = confidences_of(row[0], labels) if texts else ()
            objects = [
                columns.cell.replace("{confidence}", f"{confidence:.6f}").replace("{mask}", text)
                for text, confidence in zip(texts, confidences, strict=True)
            ]
            none = absent[place] if labels is None else card.dialect.empty
            writer.writerow([*row, " ".join(objects) or none])
            empty += not texts
    return Summary(len(table), empty)


def _texts_of(labels: np.ndarray | None, card: Competition, where: str) -> list[str]:
    """The text of each object, in the order of their numbers."""
    numbers = [] if labels is None else np.unique(labels[labels > 0])
    return [encode_checked((labels == number).astype(np.uint8), card.dialect, where) for number in numbers]


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


def check_submission(
    path: Path, card: Competition, sample: Path, size_of: Callable[[str], tuple[int, int] | None]
) -> None:
    """Refuse a CSV that Kaggle would: other columns or rows than the sample's, or a text that is no mask of its image.

    Args:
        size_of: rows of an image whose size is not known count as right.

    Raises:
        FileNotFoundError, ValueError: with the line.
    """
    expected = read_table(sample, card.columns.header)
    found = read_table(path, card.columns.header)
    if list(found) != list(expected):
        raise ValueError(f"{path}: columns {', '.join(found)}, the sample submission has {', '.join(expected)}")
    ids = sample_rows(card, sample)
    if card.instances and not card.columns.cell:
        _check_ids(path, card, set(ids["image_id"]))
    else:
        check_keys(path, card, expected[card.columns.keys].loc[ids.index])
    rows = read_cells(path, card.columns) if card.columns.cell else read_rows(path, [card.columns], card.classes)
    untouched = set(expected[card.columns.rle])
    for row in rows.itertuples():
        size = card.size or size_of(row.image_id)
        if size and row.rle not in untouched:
            _check_text(row.rle, card.dialect, size, f"{path}: line {row.line}")


def _check_ids(path: Path, card: Competition, expected: set[str]) -> None:
    strangers = sorted(set(read_table(path, [card.columns.id])[card.columns.id]) ^ expected)
    if strangers:
        raise ValueError(f"{path}: {len(strangers)} ids differ from the sample submission's, such as '{strangers[0]}'")


def _check_text(text: str, dialect: Dialect, size: tuple[int, int], where: str) -> None:
    try:
        dialect.decode(text, size)
    except RLEError as error:
        raise ValueError(f"{where}: {error}") from None


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
