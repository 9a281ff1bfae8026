"""Outlines of objects, from a file with a JSON per line, as rows of RLE: the rest of the house knows no third form."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from pipeline.data.images import AS_SEEN, Reader
from pipeline.rle import Dialect


def read_polygons(
    path: Path, images: Mapping[str, Path], classes: Sequence[str], dialect: Dialect, reader: Reader = AS_SEEN
) -> pd.DataFrame:
    """A row for each object: image_id, label, rle, line; an image without one has one row, whose rle is blank.

    A line of the file: {"id": "x", "annotations": [{"type": "vessel", "coordinates": [[[x, y], …], …]}, …]}. The rings
    of one object are filled by the even-odd rule, so a ring within a ring is a hole; their own pixels belong to them.

    Args:
        images: the file of each id; lines of other ids are left out.
        classes: the types that count; objects of others are left out.
        reader: as the config wants its images: turned or as stored.

    Raises:
        FileNotFoundError: with what to do.
        ValueError: for a line that is no such JSON, with its number.
        ImageError: for an image without a readable size.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file: put the competition's files into {path.parent}/")
    rows = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        image_id, objects = _read_line(text, f"{path}: line {number}")
        if image_id not in images:
            continue
        shape = reader.size(images[image_id])
        found = [(label, dialect.encode(_fill(rings, shape))) for label, rings in objects if label in classes]
        rows += [(image_id, label, rle, number) for label, rle in found or [(classes[0], "")]]
    return pd.DataFrame(rows, columns=["image_id", "label", "rle", "line"])


def _read_line(text: str, where: str) -> tuple[str, list[tuple[str, list[np.ndarray]]]]:
    """The id, and each object's type and rings, (N, 2) int32, x before y."""
    try:
        line = json.loads(text)
        return line["id"], [(each["type"], _rings(each["coordinates"])) for each in line["annotations"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f'{where}: expected {{"id": …, "annotations": [{{"type": …, "coordinates": [[[x, y], …]]}}]}}: {error!r}'
        ) from None


def _rings(coordinates: list) -> list[np.ndarray]:
    rings = [np.array(ring, dtype=np.float64).round().astype(np.int32) for ring in coordinates]
    if any(ring.ndim != 2 or ring.shape[1] != 2 for ring in rings):
        raise ValueError("a ring is a list of [x, y]")
    return rings


def _fill(rings: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    return cv2.fillPoly(np.zeros(shape, dtype=np.uint8), rings, 1)
