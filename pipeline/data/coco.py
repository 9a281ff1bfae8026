"""Reads objects from one JSON in COCO's format, as rows of RLE."""

import codecs
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, PositiveInt, ValidationError

from pipeline.data.file_index import normalize_id
from pipeline.data.polygons import check_outline, size_or_none
from pipeline.data.reader import DEFAULT_READER, Reader
from pipeline.quoting import shortened
from pipeline.rle import Dialect, RLEError, mask_of_counts
from pipeline.schema import did_you_mean

log = logging.getLogger(__name__)

VOID_LABEL = ""  # label of rows whose pixels are ignored: no class has this name


class Image(BaseModel):
    """An entry of `images`."""

    id: int | str
    file_name: str
    height: PositiveInt
    width: PositiveInt

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width, in pixels."""
        return self.height, self.width


class Category(BaseModel):
    """An entry of `categories`."""

    id: int | str
    name: str


class Annotation(BaseModel):
    """An entry of `annotations`: one object, or a crowd of objects."""

    id: int | str | None = None
    image_id: int | str
    category_id: int | str
    segmentation: Any = None
    iscrowd: bool = False


class Coco(BaseModel):
    """The content of the file; entries may have more keys than these."""

    images: list[Image]
    categories: list[Category]
    annotations: list[Annotation]


def read_coco(
    path: Path,
    folder: Path,
    files: Mapping[str, Path],
    classes: Sequence[str],
    dialect: Dialect,
    reader: Reader = DEFAULT_READER,
    *,
    suffix: str = "",
    void: str | None = None,
) -> pd.DataFrame:
    """One row per object: image_id, label, rle, line (0). An image without an object has one row with a blank rle.

    A pixel belongs to a polygon if its centre is inside; an object's polygons are united, so COCO has no holes.
    Polygons are clipped to the image. Runs may be compressed. The pixels of a crowd are ignored: their label is
    VOID_LABEL; but if all objects are crowds, as some tools export masks, they are objects. Objects without a polygon
    of three points or more are left out, and counted in the log.

    Args:
        folder: of the images.
        files: the file of each id, in that folder or below it. Images of the JSON are matched by their path, or by
            their name if it is unique. Images without a file are left out, unless they have objects.
        classes: categories to read; objects of others are left out.
        reader: of the config: sizes depend on whether images are rotated by EXIF.
        suffix: of file names; it is removed from the id of an image without a file.
        void: category whose pixels are ignored.

    Raises:
        FileNotFoundError: without the file, with what to do.
        ValueError: for a file that is no such JSON, and an invalid entry, with its place in the file.
    """
    found = _load(path)
    image_ids = _image_ids(path, found.images, folder, files)
    wanted = [*classes, *filter(None, [void])]
    labels = _labels(path, found.categories, wanted)
    _count_without_area(path, found, labels, wanted)
    only_crowds = all(each.iscrowd for each in found.annotations)
    annotations, rows = _by_image(path, found, labels), []
    for image in found.images:
        image_id, objects = image_ids.get(image.id), []
        if image_id is not None:
            _check_size(path, image, size_or_none(image_id, files[image_id], reader))
            for where, each in annotations[image.id]:
                if (label := labels[each.category_id]) in wanted:
                    label = VOID_LABEL if (each.iscrowd and not only_crowds) or label == void else label
                    objects.append((label, dialect.encode(_mask(each.segmentation, image.shape, where))))
        elif annotations[image.id]:  # a missing file is reported later, as for a row of a CSV
            image_id = normalize_id(PurePosixPath(image.file_name).name.removesuffix(suffix))
        else:
            continue
        rows += [(image_id, label, rle, 0) for label, rle in objects or [(classes[0], "")]]
    return pd.DataFrame(rows, columns=["image_id", "label", "rle", "line"])


def _count_without_area(path: Path, found: Coco, labels: Mapping[int | str, str], wanted: Sequence[str]) -> None:
    """Log how many objects have no area and are left out: annotation tools leave such entries behind.

    Raises:
        ValueError: if no object is left.
    """
    asked = [each for each in found.annotations if labels.get(each.category_id) in wanted]
    empty = sum(_is_without_area(each.segmentation) for each in asked)
    if empty:
        what = f"{path}: {empty} of {len(asked)} objects have no polygon of 3 points or more"
        if empty == len(asked):
            raise ValueError(f"{what}: no mask is left")
        log.warning("%s: left out", what)


def _is_without_area(segmentation: Any) -> bool:
    return isinstance(segmentation, list) and not _polygons(segmentation)


def _polygons(segmentation: list[Any]) -> list[Any]:
    """The polygons without those of no, one or two points."""
    return [each for each in segmentation if not (isinstance(each, list) and _is_short(each))]


def _is_short(polygon: list[Any]) -> bool:
    return len(polygon) in (0, 2, 4) and all(isinstance(number, int | float) for number in polygon)


Entry = tuple[str, Annotation]  # its place in the file, for messages, and its content


def _by_image(path: Path, found: Coco, labels: Mapping[int | str, str]) -> dict[int | str, list[Entry]]:
    """The annotations of each image that have an area.

    Raises:
        ValueError: for an annotation of an unknown image or category.
    """
    entries: dict[int | str, list[Entry]] = {image.id: [] for image in found.images}
    for number, each in enumerate(found.annotations):
        if _is_without_area(each.segmentation):
            continue
        where = f"{path}: annotations.{number}" + ("" if each.id is None else f" (id {shortened(each.id, 20)})")
        if each.image_id not in entries or each.category_id not in labels:
            ids = f"image_id {shortened(each.image_id, 20)}, category_id {shortened(each.category_id, 20)}"
            raise ValueError(f"{where}: {ids}: expected ids of this file's images and categories")
        entries[each.image_id].append((where, each))
    return entries


def _check_size(path: Path, image: Image, size: tuple[int, int] | None) -> None:
    if size not in (None, image.shape):
        raise ValueError(
            f"{path}: image '{shortened(image.file_name)}' is {image.shape} in the JSON, its file is {size} (height, "
            f"width): are the labels of this file, and at its size?"
        )


def _load(path: Path) -> Coco:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file: put the competition's files into {path.parent}/")
    try:
        return Coco.model_validate_json(path.read_bytes().removeprefix(codecs.BOM_UTF8))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ValueError(
            f"{path}: {place}{': ' * bool(place)}{shortened(first['msg'])}: expected COCO's JSON, with images (id, "
            f"file_name, height, width), categories (id, name) and annotations"
        ) from None


def _image_ids(path: Path, images: Sequence[Image], folder: Path, files: Mapping[str, Path]) -> dict[int | str, str]:
    """Our id of each image that has a file, by its id in the JSON.

    Raises:
        ValueError: for an image that is listed twice.
    """
    by_path = {normalize_id(file.relative_to(folder).as_posix()): image_id for image_id, file in files.items()}
    names = pd.Series({image_id: normalize_id(file.name) for image_id, file in files.items()}, dtype=object)
    by_name = {name: image_id for image_id, name in names.drop_duplicates(keep=False).items()}
    found: dict[int | str, str | None] = {}
    taken: set[str] = set()
    for number, image in enumerate(images):
        name = normalize_id(image.file_name.replace("\\", "/").removeprefix("./"))
        image_id = by_path.get(name) or by_name.get(PurePosixPath(name).name)
        if image.id in found or image_id in taken:
            which = f"images.{number} (id {shortened(image.id, 20)}, '{shortened(image.file_name)}')"
            raise ValueError(f"{path}: {which} is listed twice: expected one entry for each image")
        found[image.id] = image_id
        taken |= {image_id} - {None}
    return {key: image_id for key, image_id in found.items() if image_id is not None}


def _labels(path: Path, categories: Sequence[Category], wanted: Sequence[str]) -> dict[int | str, str]:
    """The name of each category, by its id.

    Raises:
        ValueError: for a class without a category: all its masks would be empty.
    """
    names = {category.id: category.name for category in categories}
    for name in wanted:
        if name not in names.values():
            raise ValueError(f"{path}: no category '{shortened(name)}'. {did_you_mean(name, names.values())}")
    return names


def _mask(segmentation: Any, shape: tuple[int, int], where: str) -> np.ndarray:
    """The mask of one annotation, (H, W) uint8, 0 or 1, from polygons or runs.

    Raises:
        ValueError: for a segmentation that is neither, or not of this shape; it begins with `where`.
    """
    if isinstance(segmentation, list):
        mask = np.zeros(shape, dtype=np.uint8)
        for polygon in _polygons(segmentation):
            mask |= fill(_points(polygon, shape, where), shape)
        return mask
    if isinstance(segmentation, dict) and {"counts", "size"} <= set(segmentation):
        if segmentation["size"] != list(shape):
            raise ValueError(f"{where}: runs of size {shortened(segmentation['size'])}, the image's is {list(shape)}")
        try:
            return mask_of_counts(segmentation["counts"], shape)
        except RLEError as error:
            raise ValueError(f"{where}: {error}") from None
    raise ValueError(
        f"{where}: segmentation is {shortened(segmentation)}: expected polygons [[x, y, x, y, …], …], or runs "
        f'{{"size": [height, width], "counts": …}}'
    )


def _points(polygon: Any, shape: tuple[int, int], where: str) -> np.ndarray:
    """The points of a polygon, (N, 2) float64, x before y."""
    try:
        numbers = np.array(polygon, dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        numbers = np.zeros(())
    if numbers.ndim != 1 or len(numbers) % 2:
        raise ValueError(f"{where}: a polygon {shortened(polygon)}: expected numbers x, y, x, y, …")
    check_outline(numbers.reshape(-1, 2), shape, where)
    return numbers.reshape(-1, 2)


def fill(points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The pixels whose centres are inside a polygon, by the even-odd rule.

    Pixel (x, y) spans x to x + 1 and y to y + 1, so that a square from 10 to 30 has 20 × 20 pixels. In each row whose
    centre an edge crosses, the edge flips all pixels to its right.

    Args:
        shape: height and width of the image in pixels.

    Shapes:
        points: (N, 2), x before y, in pixels; the polygon is clipped to the image.
        returns: (H, W) uint8, 0 or 1.
    """
    height, width = shape
    ends = np.stack([points, np.roll(points, -1, axis=0)])  # (2, N, 2)
    ends = np.take_along_axis(ends, np.argsort(ends[..., 1:], axis=0, kind="stable"), axis=0)  # the upper end first
    (left, top), (right, bottom) = ends[0].T, ends[1].T
    first, last = (np.clip(np.ceil(each - 0.5), 0, height).astype(int) for each in (top, bottom))
    edge = np.repeat(np.arange(len(points)), last - first)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(last - first) - last, last - first)
    share = (row + 0.5 - top[edge]) / (bottom - top)[edge]
    crossing = left[edge] + share * (right - left)[edge]
    column = np.clip(np.ceil(crossing - 0.5), 0, width).astype(int)
    mask = np.zeros(shape, dtype=np.uint8)
    if edge.size:  # work on the polygon's bounding box only: a large image may have many polygons
        above, before = row.min(), column.min()
        flips = np.zeros((row.max() - above + 1, column.max() - before + 1), dtype=np.int64)
        np.add.at(flips, (row - above, column - before), 1)
        part = flips[:, :-1].cumsum(axis=1) % 2
        mask[above : above + part.shape[0], before : before + part.shape[1]] = part
    return mask
