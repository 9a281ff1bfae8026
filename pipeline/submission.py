"""The CSV for Kaggle: rows in the sample's order, each mask decoded back and compared, whole or not at all."""

import csv
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from pipeline.competition import Competition
from pipeline.data.tables import read_header, read_packed_objects, read_rows, read_table, sample_header
from pipeline.files import atomic_write
from pipeline.quoting import listed, shortened
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
    masks: int  # of which each may be empty: rows of the sample submission


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
    by the card's `packed_objects`, a row for each image with all its objects and their confidences.

    Rows are written as they are made, so memory does not grow with their number.

    Args:
        placeholders: what an image without prediction gets: the sample's own text, or else the empty token.

    Raises:
        ValueError: if the text of a mask does not decode to that mask, with the row; nothing is written.
    """
    if card.columns.packed_objects:
        texts_of = _cells_of(card, masks_of, confidences_of)
    elif card.instances:
        texts_of = _objects_of(card, masks_of)
    else:
        texts_of = _masks_of(card, masks_of)
    header, rows = sample_header(sample, card.columns), sample_rows(card, sample)
    table = read_table(sample, card.columns.header).loc[rows.index]
    place = list(table).index(card.columns.rle)
    written = empty = 0
    with atomic_write(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        for row, cells in zip(rows.itertuples(), table.itertuples(index=False, name=None), strict=True):
            texts = texts_of(row.image_id, row.label, f"{path}: line {written + 2}")
            absent = cells[place] if texts is None and placeholders else card.dialect.empty
            writer.writerows([*cells[:place], text, *cells[place + 1 :]] for text in texts or [absent])
            written, empty = written + max(1, len(texts or ())), empty + (not texts)
        file.flush()
        if not card.instances or card.columns.packed_objects:
            check_keys(partial, card, table[card.columns.keys])
    return Summary(written, empty, len(rows))


# From an image, a class and where it is written to the texts of the row, or rows; none for an empty mask, None without
# a prediction.
TextsOf = Callable[[str, str, str], list[str] | None]


def _masks_of(card: Competition, masks_of: MaskOf) -> TextsOf:
    number = {name: position for position, name in enumerate(card.classes)}
    masks_of = lru_cache(maxsize=1)(masks_of)  # asked once for rows of one image that follow each other

    def texts_of(image_id: str, label: str, where: str) -> list[str] | None:
        masks = masks_of(image_id)
        if masks is None:
            return None
        mask = masks[number[label]]
        return [encode_checked(mask, card.dialect, where)] if mask.any() else []

    return texts_of


def _objects_of(card: Competition, labels_of: MaskOf) -> TextsOf:
    def texts_of(image_id: str, _label: str, where: str) -> list[str] | None:
        labels = labels_of(image_id)
        return None if labels is None else _texts_of(labels, card, f"{where}, image '{image_id}'")

    return texts_of


def _cells_of(card: Competition, labels_of: MaskOf, confidences_of: ConfidencesOf) -> TextsOf:
    """All objects of an image in one text, with their confidences."""

    def texts_of(image_id: str, _label: str, where: str) -> list[str] | None:
        labels = labels_of(image_id)
        texts = None if labels is None else _texts_of(labels, card, f"{where}, image '{image_id}'")
        if not texts:
            return texts
        objects = [
            card.columns.packed_objects.replace("{confidence}", f"{confidence:.6f}").replace("{mask}", text)
            for text, confidence in zip(texts, confidences_of(image_id, labels), strict=True)
        ]
        return [" ".join(objects)]

    return texts_of


def _texts_of(labels: np.ndarray, card: Competition, where: str) -> list[str]:
    """The text of each object, in the order of their numbers."""
    numbers = np.unique(labels[labels > 0])
    return [encode_checked((labels == number).astype(np.uint8), card.dialect, where) for number in numbers]


def sample_rows(card: Competition, sample: Path) -> pd.DataFrame:
    """Image and class of each row that a submission must have: image_id, label, line.

    A sample may repeat an id where masks have several rows; ours have one.
    """
    rows = read_rows(sample, [card.columns], card.classes, rle=False)
    return rows.drop_duplicates(["image_id", "label"]) if card.several_rows or card.instances else rows


def read_masks(path: Path, card: Competition) -> pd.DataFrame:
    """The masks of a submission: image_id, rle, line; of objects that share their image's row, a row for each.

    Raises:
        FileNotFoundError, ValueError: as `tables.read_rows` and `tables.read_packed_objects`.
    """
    if card.columns.packed_objects:
        return read_packed_objects(path, card.columns, card.dialect.empty)
    return read_rows(path, [card.columns], card.classes)


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
    header, expected = sample_header(sample, card.columns), read_table(sample, card.columns.header)
    found = read_table(path, card.columns.header)
    if (came := read_header(path)) != header:
        raise ValueError(f"{path}: columns {listed(came)}, the sample submission has {listed(header)}")
    ids = sample_rows(card, sample)
    if card.instances and not card.columns.packed_objects:
        _check_ids(path, found[card.columns.id], expected[card.columns.id])
    else:
        check_keys(path, card, expected[card.columns.keys].loc[ids.index])
    untouched = set(expected[card.columns.rle])
    for row in read_masks(path, card).itertuples():
        size = card.size or size_of(row.image_id)
        if size and row.rle not in untouched:
            _check_text(row.rle, card.dialect, size, f"{path}: line {row.line}")


def _check_ids(path: Path, found: pd.Series, expected: pd.Series) -> None:
    strangers = sorted(set(found) ^ set(expected))
    if strangers:
        raise ValueError(
            f"{path}: {len(strangers)} ids differ from the sample submission's, such as '{shortened(strangers[0])}'"
        )


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
            one, other = map(shortened, names)
            raise ValueError(f"{path}: line {line}: id '{one}', the sample submission has '{other}' there")
    if len(found) != len(keys):
        raise ValueError(f"{path}: {len(found)} rows, the sample submission has {len(keys)}")
