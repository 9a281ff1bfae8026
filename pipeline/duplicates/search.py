"""The search for near-duplicates, whose table remembers of which images it is."""

import hashlib
import json
from pathlib import Path

import pandas as pd

from pipeline.data.reader import Reader
from pipeline.duplicates import find_duplicates
from pipeline.duplicates.table import write_duplicates
from pipeline.files import write_text
from pipeline.schema import JsonRecord, read_json


class Searched(JsonRecord):
    """The required fields of the record beside a table."""

    images: int
    ids: str  # digest of the parts and ids of the images


def search_duplicates(path: Path, images: pd.DataFrame, reader: Reader) -> None:
    """Search near-duplicates, and write the table and the record of the images.

    Args:
        path: of the table; the record has the same name with .json.
        images: an index with the column part, train or test.
    """
    write_duplicates(path, find_duplicates(images, reader))
    record = {"images": len(images), "ids": _digest(images)}
    write_text(path.with_suffix(".json"), json.dumps(record, indent=1) + "\n")


def searched_others(path: Path, images: pd.DataFrame) -> bool:
    """Whether a table is of other images than these; False without a record.

    Raises:
        ValueError: if the record is damaged.
    """
    record = path.with_suffix(".json")
    if not record.exists():
        return False
    return read_json(record, f"remove {path} and {record}", Searched)["ids"] != _digest(images)


def _digest(images: pd.DataFrame) -> str:
    names = sorted(f"{part}/{image_id}" for part, image_id in zip(images["part"], images["image_id"], strict=True))
    return hashlib.sha256("\n".join(names).encode()).hexdigest()
