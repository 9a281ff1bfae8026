"""The CSV for Kaggle: rows in the sample's order, each mask decoded back and compared, whole or not at all."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.competition import Competition
from pipeline.data.index import read_table
from pipeline.files import whole
from pipeline.metrics import mean_score
from pipeline.rle import Dialect, RLEError, Runs, area, overlap


class Summary(NamedTuple):
    """What a written submission holds."""

    rows: int
    empty: int


def write_submission(
    path: Path, card: Competition, sample: Path, mask_of: Callable[[str], np.ndarray | None]
) -> Summary:
    """Write one row per row of the sample, in its order.

    Rows are written as they are made, so memory does not grow with their number.

    Args:
        mask_of: from image id to mask (H, W) uint8, or None for an image that has no prediction.

    Raises:
        ValueError: if the text of a mask does not decode to that mask, with the row; nothing is written.
    """
    ids = read_table(sample, [card.columns.id])[card.columns.id]
    empty = 0
    with whole(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([card.columns.id, card.columns.rle])
        for line, image_id in enumerate(ids, start=2):
            mask = mask_of(image_id)
            text = card.dialect.empty if mask is None else encode_checked(mask, card.dialect, f"{path}: line {line}")
            empty += mask is None or not mask.any()
            writer.writerow([image_id, text])
        file.flush()
        check_ids(partial, card, list(ids))
    return Summary(len(ids), empty)


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


def check_ids(path: Path, card: Competition, ids: list[str]) -> None:
    """Refuse a CSV whose ids are not `ids`, in that order.

    Raises:
        ValueError: with the line of the first difference.
    """
    found = list(read_table(path, [card.columns.id], only=True)[card.columns.id])
    for line, (came, expected) in enumerate(zip(found, ids, strict=False), start=2):
        if came != expected:
            raise ValueError(f"{path}: line {line}: id '{came}', the sample submission has '{expected}' there")
    if len(found) != len(ids):
        raise ValueError(f"{path}: {len(found)} rows, the sample submission has {len(ids)}")


def score(card: Competition, submission: Path, solution: Path) -> tuple[float, int]:
    """The official metric of a submission against the truth, and the number of images.

    Pixels are counted on the runs themselves, so no image is needed.

    Raises:
        ValueError: if the ids differ, or a text does not decode, with file and line.
    """
    found, target = (_read_runs(path, card) for path in (submission, solution))
    strangers = sorted(found.keys() ^ target.keys())
    if strangers:
        raise ValueError(f"{submission} and {solution} differ in {len(strangers)} ids, the first is '{strangers[0]}'")
    counts = [(overlap(found[key], target[key]), area(found[key]), area(target[key])) for key in found]
    return mean_score(card.metric, counts), len(counts)


def _read_runs(path: Path, card: Competition) -> dict[str, Runs]:
    """The runs of each row of a CSV, by id."""
    table = read_table(path, [card.columns.id, card.columns.rle])
    runs: dict[str, Runs] = {}
    for line, image_id, text in zip(
        range(2, len(table) + 2), table[card.columns.id], table[card.columns.rle], strict=True
    ):
        if image_id in runs:
            raise ValueError(f"{path}: line {line}: id '{image_id}' repeats: expected one row per image")
        try:
            runs[image_id] = card.dialect.runs(text)
        except RLEError as error:
            raise ValueError(f"{path}: line {line}, id '{image_id}': {error}") from None
    return runs
