"""Outlines of objects, from a file with a JSON per line, as rows of RLE: no other module knows this format."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from pipeline.data.file_index import as_id
from pipeline.data.reader import AS_SEEN, ImageError, Reader
from pipeline.quoting import quoted, shortened
from pipeline.rle import Dialect

OUTSIDE = 0.1  # share of an image's side by which a point may lie outside of it: annotators draw over the edge
LEAST_POINTS = 3  # of an outline


def read_polygons(
    path: Path, images: Mapping[str, Path], classes: Sequence[str], dialect: Dialect, reader: Reader = AS_SEEN
) -> pd.DataFrame:
    """A row for each object: image_id, label, rle, line; an image without one has one row, whose rle is blank.

    A line of the file: {"id": "x", "annotations": [{"type": "vessel", "coordinates": [[[x, y], …], …]}, …]}. The rings
    of one object are filled by the even-odd rule, so a ring within a ring is a hole; their own pixels belong to them.
    What a ring has outside of the image is cut off.

    Args:
        images: the file of each id; lines of other ids are left out.
        classes: the types that count; objects of others are left out.
        reader: as the config wants its images: turned or as stored.

    Raises:
        FileNotFoundError: with what to do.
        ValueError: for a line that is no such JSON, repeats an id, or has an outline that is none, with its number.
    """
    rows, line_of = [], {}
    for number, text in _lines(path):
        where = f"{path}: line {number}"
        image_id, objects = _read_line(text, where)
        if image_id in line_of:
            line = line_of[image_id]
            raise ValueError(f"{where}: id '{shortened(image_id)}' repeats that of line {line}: expected one line each")
        line_of[image_id] = number
        if image_id not in images:
            continue
        shape = size_or_none(images[image_id], reader)
        found = [
            (label, dialect.encode(_fill(rings, shape, where)))
            for label, rings in objects
            if shape is not None and label in classes
        ]
        rows += [(image_id, label, rle, number) for label, rle in found or [(classes[0], "")]]
    return pd.DataFrame(rows, columns=["image_id", "label", "rle", "line"])


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, with their numbers from 1."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file: put the competition's files into {path.parent}/")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text in UTF-8: {error}") from None
    if '"categories"' in text and '"images"' in text:
        raise ValueError(f"{path}: one COCO JSON, and no JSON per line: name it in files.train_coco")
    return ((number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip())


def _read_line(text: str, where: str) -> tuple[str, list[tuple[str, list[np.ndarray]]]]:
    """The id, and each object's type and rings, (N, 2), x before y."""
    try:
        line = json.loads(text)
        return as_id(str(line["id"])), [(each["type"], _rings(each["coordinates"])) for each in line["annotations"]]
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(
            f'{where}: expected {{"id": …, "annotations": [{{"type": …, "coordinates": [[[x, y], …]]}}]}}: '
            f"{quoted(error)}"
        ) from None


def _rings(coordinates: list) -> list[np.ndarray]:
    rings = [np.array(ring, dtype=np.float64) for ring in coordinates]
    if not rings or any(ring.ndim != 2 or ring.shape[1] != 2 for ring in rings):
        raise ValueError("a ring is a list of [x, y]")
    return rings


def check_outline(points: np.ndarray, shape: tuple[int, int], where: str) -> None:
    """Refuse an outline that is none, or one of another image.

    Shapes:
        points: (N, 2), x before y, in pixels.

    Raises:
        ValueError: beginning with `where`, for fewer than three points, and for a point that is not finite or lies far
            outside of the image.
    """
    if len(points) < LEAST_POINTS:
        raise ValueError(f"{where}: an outline of {len(points)} points: expected {LEAST_POINTS} or more")
    height, width = shape
    share = points / (width, height)
    inside = (share >= -OUTSIDE) & (share <= 1 + OUTSIDE)  # NaN is not
    if not inside.all():
        x, y = points[~inside.all(axis=1)][0]
        raise ValueError(
            f"{where}: the point ({x:g}, {y:g}) lies far outside of its image of {width}×{height} (width×height): are "
            f"the outlines of this image, and at its size?"
        )


def size_or_none(path: Path, reader: Reader) -> tuple[int, int] | None:
    """Height and width of an image; None of one that cannot be read, which is refused, or skipped, where it is."""
    try:
        return reader.size(path)
    except ImageError:
        return None


def _fill(rings: list[np.ndarray], shape: tuple[int, int], where: str) -> np.ndarray:
    for ring in rings:
        check_outline(ring, shape, where)
    whole = [ring.round().astype(np.int32) for ring in rings]
    return cv2.fillPoly(np.zeros(shape, dtype=np.uint8), whole, 1)
