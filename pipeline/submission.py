"""Write and check a submission: rows in the sample's order, each mask decoded again and compared, atomically."""

import csv
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from pipeline.competition import Competition
from pipeline.data.tables import parse_rows, read_header, read_packed_objects, read_rows, read_table, sample_header
from pipeline.files import atomic_write
from pipeline.quoting import listed, shortened
from pipeline.rle import Dialect, RLEError, Runs, find_overlap

# From an image id to its masks, (C, H, W) uint8, or its instance labels, (H, W) int; None without a prediction.
MasksOf = Callable[[str], np.ndarray | None]
# From an image id and its instance labels (H, W), numbered from 1, to the confidence of each instance, (N,), 0 to 1.
ConfidencesOf = Callable[[str, np.ndarray], np.ndarray]

# From an image id to its height and width in pixels; None if unknown.
SizeOf = Callable[[str], tuple[int, int] | None]


class SubmissionSummary(NamedTuple):
    """Counts of a written submission."""

    rows: int
    empty: int  # masks without a pixel, of those below
    masks: int  # rows of the sample submission


def write_submission(
    path: Path,
    card: Competition,
    sample: Path,
    masks_of: MasksOf,
    confidences_of: ConfidencesOf | None = None,
    *,
    placeholders: bool = False,
) -> SubmissionSummary:
    """Write one row for each row of the sample, in its order, for an image or for an image and class.

    With instances, write a row for each object, or one row with the empty token for an image without objects. With
    the card's `packed_objects`, write one row for each image, with all its objects and their confidences.

    Rows are written one by one, so memory does not grow with their number.

    Args:
        path: the CSV to write.
        sample: the sample submission.
        masks_of: returns an image's masks or instance labels.
        confidences_of: returns the confidences of an image's objects; needed for `packed_objects`.
        placeholders: whether an image without a prediction gets the sample's own text, or else the empty token.

    Raises:
        ValueError: if the text of a mask does not decode to that mask, with the line. Nothing is written then.
    """
    texts_of = _object_texts(card, masks_of, confidences_of) if card.instances else _mask_texts(card, masks_of)
    return write_texts(path, card, sample, texts_of, placeholders=placeholders)


# From an image id, a class and the place of the row (for messages) to the texts of its rows; [] for an empty mask, None
# without a prediction.
TextsOf = Callable[[str, str, str], list[str] | None]


def write_texts(
    path: Path, card: Competition, sample: Path, texts_of: TextsOf, *, placeholders: bool = False
) -> SubmissionSummary:
    """As `write_submission`, of texts; that they are valid is not checked.

    Args:
        texts_of: returns the texts of the rows of an image and class.
    """
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
            shown = texts or [absent]
            writer.writerows([*cells[:place], text, *cells[place + 1 :]] for text in shown)
            written += len(shown)
            empty += all(text.strip() in ("", card.dialect.empty.strip()) for text in shown)
        file.flush()
        if not card.has_object_rows:
            check_keys(partial, card, table[card.columns.keys])
    return SubmissionSummary(written, empty, len(rows))


def _mask_texts(card: Competition, masks_of: MasksOf) -> TextsOf:
    number = {name: position for position, name in enumerate(card.classes)}
    masks_of = lru_cache(maxsize=1)(masks_of)  # consecutive rows of one image use one prediction

    def texts_of(image_id: str, label: str, where: str) -> list[str] | None:
        masks = masks_of(image_id)
        if masks is None:
            return None
        mask = masks[number[label]]
        return [encode_checked(mask, card.dialect, where)] if mask.any() else []

    return texts_of


def _object_texts(card: Competition, labels_of: MasksOf, confidences_of: ConfidencesOf | None) -> TextsOf:
    """A text for each object; with the card's `packed_objects`, one with all objects and their confidences."""

    def texts_of(image_id: str, _label: str, where: str) -> list[str] | None:
        labels = labels_of(image_id)
        texts = None if labels is None else _texts_of_objects(labels, card, f"{where}, image '{image_id}'")
        if not texts or not card.columns.packed_objects:
            return texts
        objects = [
            card.columns.packed_objects.replace("{confidence}", f"{confidence:.6f}").replace("{mask}", text)
            for text, confidence in zip(texts, confidences_of(image_id, labels), strict=True)
        ]
        return [" ".join(objects)]

    return texts_of


def _texts_of_objects(labels: np.ndarray, card: Competition, where: str) -> list[str]:
    """The RLE text of each instance of labels (H, W), in the order of the labels."""
    numbers = np.unique(labels[labels > 0])
    return [encode_checked((labels == number).astype(np.uint8), card.dialect, where) for number in numbers]


def sample_rows(card: Competition, sample: Path) -> pd.DataFrame:
    """The image and class of each row that a submission must have: `image_id`, `label`, `line`.

    A sample may repeat an id if masks have several rows; our submissions have one row per mask.

    Raises:
        FileNotFoundError, ValueError: as `tables.read_rows`.
    """
    rows = read_rows(sample, [card.columns], card.classes, rle=False)
    return rows.drop_duplicates(["image_id", "label"]) if card.several_rows or card.instances else rows


def empty_rows(card: Competition, header: Sequence[str], image_id: str) -> pd.DataFrame:
    """The rows of an image without a mask, with the columns of `header`: one per class, or one if rows are objects."""
    columns, rows = card.columns, []
    for name in card.classes:
        row = dict.fromkeys(header, "") | {columns.rle: card.dialect.empty, columns.id: image_id}
        if columns.id_separator:
            row[columns.id] = f"{image_id}{columns.id_separator}{name}"
        rows.append(row | ({columns.label: name} if columns.label else {}))
    return pd.DataFrame(rows, columns=list(header))


def write_empty_sample(path: Path, card: Competition, ids: Sequence[str]) -> None:
    """Write a sample submission with the card's columns, in which the masks of all images are empty.

    Args:
        ids: of the test images; none: the header only.
    """
    rows = [empty_rows(card, card.columns.header, image_id) for image_id in ids]
    with atomic_write(path) as partial_csv:
        table = pd.concat(rows) if rows else pd.DataFrame(columns=card.columns.header)
        table.to_csv(partial_csv, index=False, lineterminator="\n")


def read_masks(path: Path, card: Competition) -> pd.DataFrame:
    """The masks of a submission: `image_id`, `rle`, `line`. Packed objects get a row each.

    Raises:
        FileNotFoundError, ValueError: as `tables.read_rows` and `tables.read_packed_objects`.
    """
    if card.columns.packed_objects:
        return read_packed_objects(path, card.columns, card.dialect.empty)
    return read_rows(path, [card.columns], card.classes)


def encode_checked(mask: np.ndarray, dialect: Dialect, where: str) -> str:
    """The RLE text of a mask (H, W), after a check that it decodes to the same mask.

    Args:
        where: the file and line, for the message.

    Raises:
        ValueError: if it does not.
    """
    text = dialect.encode(mask)
    try:
        back = dialect.decode(text, mask.shape)
    except RLEError as error:
        raise ValueError(f"{where}: the encoded text cannot be decoded: {error}") from None
    if not np.array_equal(back, mask):
        raise ValueError(
            f"{where}: the encoded text decodes to a mask that differs in {np.count_nonzero(back != mask)} pixels"
        )
    return text


def check_given(path: Path, option: str) -> None:
    """Raise FileNotFoundError if the submission that an option names does not exist."""
    if path.is_file():
        return
    other = Path("submissions") / path.name
    meant = f"{other} exists" if other.is_file() else "expected the path of a submission"
    raise FileNotFoundError(f"{option}: {path}: no such file: {meant}")


def check_submission(path: Path, card: Competition, sample: Path, size_of: SizeOf) -> None:
    """Check a CSV as Kaggle does: its columns and rows must be those of the sample, and its texts valid masks.

    Args:
        size_of: returns the size of an image. The masks of an image of unknown size are not checked.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if the CSV is wrong, or two objects of an image share a pixel, with the line.
    """
    header, expected = sample_header(sample, card.columns), read_table(sample, card.columns.header)
    found = read_table(path, card.columns.header)
    if (came := read_header(path)) != header:
        raise ValueError(f"{path}: columns {listed(came)}, but the sample submission has {listed(header)}")
    ids = sample_rows(card, sample)
    if card.has_object_rows:
        _check_ids(path, found[card.columns.id], expected[card.columns.id])
    else:
        check_keys(path, card, expected[card.columns.keys].loc[ids.index])
    untouched = set(expected[card.columns.rle])
    for image_id, rows in read_masks(path, card).groupby("image_id", sort=False):
        size = card.size or size_of(image_id)
        written = rows[~rows["rle"].isin(untouched)]
        if size and len(written):
            runs = parse_rows(written, path, card.dialect, [size] * len(written))
            if card.has_object_rows:
                _check_overlap(runs, written["line"].tolist(), f"{path}: image '{shortened(image_id)}'")


def _check_ids(path: Path, found: pd.Series, expected: pd.Series) -> None:
    unexpected = sorted(set(found) ^ set(expected))
    if unexpected:
        raise ValueError(
            f"{path}: {len(unexpected)} ids differ from the sample submission's, such as '{shortened(unexpected[0])}'"
        )


def _check_overlap(objects: Sequence[Runs], lines: Sequence[int], where: str) -> None:
    if shared := find_overlap(objects):
        one, other = (lines[number] for number in shared)
        raise ValueError(f"{where}: the objects of lines {one} and {other} overlap: expected one object per pixel")


def check_keys(path: Path, card: Competition, keys: pd.DataFrame) -> None:
    """Check that the ids (and classes) of a CSV are `keys`, in that order.

    Args:
        keys: the expected columns of `card.columns.keys`.

    Raises:
        ValueError: if they are not, with the line of the first difference.
    """
    found = read_table(path, card.columns.keys, only=True)[card.columns.keys]
    for line, (came, expected) in enumerate(zip(found.to_numpy(), keys.to_numpy(), strict=False), start=2):
        if (came != expected).any():
            names = [", ".join(each) for each in (came, expected)]
            one, other = map(shortened, names)
            raise ValueError(f"{path}: line {line}: id '{one}', but the sample submission has '{other}' there")
    if len(found) != len(keys):
        raise ValueError(f"{path}: {len(found)} rows, but the sample submission has {len(keys)}")
