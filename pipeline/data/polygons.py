"""Reads outlines of objects from a file with one JSON object per line, as rows of RLE."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from pipeline.data.file_index import normalize_id
from pipeline.data.reader import DEFAULT_READER, ImageError, Reader
from pipeline.data.sample import Sample
from pipeline.quoting import quoted, shortened
from pipeline.rle import Dialect

MARGIN = 0.1  # share of an image's side by which a point may be outside: annotators draw over the edge
MIN_POINTS = 3  # of an outline


def read_polygons(
    path: Path, images: Mapping[str, Path], classes: Sequence[str], dialect: Dialect, reader: Reader = DEFAULT_READER
) -> pd.DataFrame:
    """One row per object: image_id, label, rle, line. An image without an object has one row with a blank rle.

    A line of the file: {"id": "x", "annotations": [{"type": "vessel", "coordinates": [[[x, y], …], …]}, …]}. The rings
    of one object are filled by the even-odd rule, so that a ring within a ring is a hole; the pixels of the rings are
    part of the object. Rings are clipped to the image.

    Args:
        images: the file of each id; lines of other ids are left out.
        classes: types of objects; objects of other types are left out.
        reader: of the config: sizes depend on whether images are rotated by EXIF.

    Raises:
        FileNotFoundError: without the file, with what to do.
        ValueError: for a line that is no such JSON, repeats an id, or has an invalid outline, with its number.
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
        shape = size_or_none(image_id, images[image_id], reader)
        found = [
            (label, dialect.encode(_fill(rings, shape, where)))
            for label, rings in objects
            if shape is not None and label in classes
        ]
        rows += [(image_id, label, rle, number) for label, rle in found or [(classes[0], "")]]
    return pd.DataFrame(rows, columns=["image_id", "label", "rle", "line"])


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, with their numbers from 1.

    Raises:
        FileNotFoundError, ValueError: without the file; for a file that is no text, or one COCO JSON.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file: put the competition's files into {path.parent}/")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text in UTF-8: {error}: save it as UTF-8") from None
    if '"categories"' in text and '"images"' in text:
        raise ValueError(f"{path}: one COCO JSON, expected one JSON per line: set it as files.train_coco")
    return ((number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip())


def _read_line(text: str, where: str) -> tuple[str, list[tuple[str, list[np.ndarray]]]]:
    """The id, and the type and rings of each object; a ring is (N, 2) float64, x before y, in pixels."""
    try:
        line = json.loads(text)
        objects = [(each["type"], _rings(each["coordinates"])) for each in line["annotations"]]
        return normalize_id(str(line["id"])), objects
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
    """Refuse an outline with fewer than three points, or with a point far outside of the image.

    Args:
        shape: height and width of the image in pixels.
        where: the start of the error message.

    Shapes:
        points: (N, 2), x before y, in pixels.

    Raises:
        ValueError: for such an outline, and for a point that is not finite.
    """
    if len(points) < MIN_POINTS:
        raise ValueError(f"{where}: an outline of {len(points)} points: expected {MIN_POINTS} or more")
    height, width = shape
    share = points / (width, height)
    inside = (share >= -MARGIN) & (share <= 1 + MARGIN)  # false for NaN
    if not inside.all():
        x, y = points[~inside.all(axis=1)][0]
        raise ValueError(
            f"{where}: the point ({x:g}, {y:g}) is far outside of its image of {width}×{height} (width×height): are "
            f"the outlines of this image, and at its size?"
        )


def size_or_none(image_id: str, path: Path, reader: Reader) -> tuple[int, int] | None:
    """Height and width of an image; None if it cannot be read: the index refuses or skips it later."""
    try:
        return reader.size(Sample(image_id, (path,)))
    except ImageError:
        return None


def _fill(rings: list[np.ndarray], shape: tuple[int, int], where: str) -> np.ndarray:
    """The mask of an object's rings, (H, W) uint8, 0 or 1."""
    for ring in rings:
        check_outline(ring, shape, where)
    whole = [ring.round().astype(np.int32) for ring in rings]
    return cv2.fillPoly(np.zeros(shape, dtype=np.uint8), whole, 1)
