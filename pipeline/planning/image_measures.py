"""What is measured in one training or test image: its values, and the sizes of its objects."""

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd

from pipeline.competition import Competition
from pipeline.data.boundaries import touching_boundary
from pipeline.data.formats import read_raster
from pipeline.data.image_statistics import compute_statistics
from pipeline.data.intensity import (
    find_nodata_values,
    mark_nodata,
    percentile_normalize,
    to_uint8,
    without_nodata,
)
from pipeline.data.labels import Labels
from pipeline.data.rasters import Raster
from pipeline.data.sample import Sample
from pipeline.data.soft_masks import harden
from pipeline.data.windows import Box, open_windows

MAX_IMAGES = 200  # that are decoded, of the training and of the test images
MAX_PIXELS = 2e8  # of all decoded images together, which takes seconds
MIN_IMAGES = 8  # that are decoded, however large they are
WHOLE = 1 << 24  # pixels; of a larger image the square of this size in the middle is measured
VALUES = 2000  # pixels of an image whose values are kept
PICTURE = 1024  # pixels; statistics that compare training with test images are those of a square in the middle


class ImageValues(NamedTuple):
    """What is kept of a decoded training image; intensities are in the file's units."""

    dtype: str
    channels: int  # without transparency
    is_grey: bool  # all channels are equal
    low: float  # percentile 1
    high: float  # percentile 99.8
    values: np.ndarray  # (N,) float64, of some pixels the mean of their channels
    masked: np.ndarray  # (N,), likewise of masked pixels
    is_finite: bool
    nodata_values: tuple[float, ...]  # of pixels without a measurement; such pixels are not in the fields above
    picture: np.ndarray  # (H, W) uint8
    statistics: dict[str, float]  # as `describe_picture`


class ObjectSizes(NamedTuple):
    """The objects of an image, in pixels, as `Fingerprint` describes them; empty arrays if there are none."""

    diameter: np.ndarray  # (objects,)
    extent: np.ndarray  # (objects,)
    thickness: np.ndarray  # (classes with a mask,)
    touching: int | None  # number of objects; None if the labels are no instances


def spread(index: pd.DataFrame) -> pd.DataFrame:
    """At most MAX_IMAGES rows, evenly spread over the ids; fewer if the images are large."""
    if index.empty:
        return index
    pixels = np.minimum(index["height"] * index["width"], WHOLE).mean()
    count = int(np.clip(MAX_PIXELS / pixels, MIN_IMAGES, MAX_IMAGES))
    places = np.unique(np.linspace(0, len(index) - 1, min(count, len(index))).round().astype(int))
    return index.sort_values("image_id").iloc[places]


def read_sample(sample: Sample, card: Competition, labels: Labels) -> tuple[Raster, np.ndarray, np.ndarray | None]:
    """A training image, its masks (H, W, C), and its instances (H, W) if the labels are such.

    Raises:
        ImageError, RLEError: for an image or a mask that cannot be read.
    """
    raster, box = read_pixels(sample, card, labels)
    if box is not None and labels.supports_windows and not card.instances:
        mask = harden(labels.window(sample, box))
    else:
        mask = labels.read_mask(sample)
        mask = mask if box is None else mask[box.slices]
    instances = None
    if card.instances:
        instances = np.maximum(labels.read_instances(sample), 0)
        instances = instances if box is None else instances[box.slices]
    return raster, labels.by_class(mask), instances


def read_pixels(sample: Sample, card: Competition, labels: Labels) -> tuple[Raster, Box | None]:
    """An image in the files' own values, and the window of it that was read; None: the whole image.

    Files of several channels are enlarged to one size.

    Raises:
        ImageError: for an image that cannot be read.
    """
    height, width = sample.size
    box = None
    if height * width > WHOLE:
        side = int(WHOLE**0.5)
        rows, columns = min(side, height), min(side, width)
        box = Box((height - rows) // 2, (width - columns) // 2, rows, columns)
    rasters = [_read_file(path, box, labels) for path in sample.sources]
    if card.files.frame is not None:
        rasters = [each._replace(pixels=each.pixels[..., [card.files.frame]]) for each in rasters]
    if len(rasters) == 1:
        return rasters[0], box
    shape = max(each.pixels.shape[:2] for each in rasters)
    planes = [cv2.resize(each.pixels[..., 0].astype(np.float32), shape[::-1]) for each in rasters]
    return Raster(np.stack(planes, axis=2).astype(rasters[0].pixels.dtype)), box


def _read_file(path: Path, box: Box | None, labels: Labels) -> Raster:
    if box is None:
        return read_raster(path, exif=labels.exif)
    with open_windows(path, exif=labels.exif) as image:
        return Raster(image.read(box), image.alpha)


def describe_image(raster: Raster, mask: np.ndarray, sample: Sample) -> ImageValues:
    """What is kept of an image and its masks (H, W, C), of 0, 1 or VOID."""
    pixels = raster.pixels[..., :-1] if raster.alpha else raster.pixels
    pixels = pixels.astype(np.uint8) if pixels.dtype == bool else pixels  # of which there are no percentiles
    dtype, nodata_values = str(pixels.dtype), find_nodata_values(pixels)
    pixels = mark_nodata(pixels, nodata_values)
    flat = pixels.reshape(-1, pixels.shape[2])
    is_finite = pixels.dtype.kind != "f" or bool(np.isfinite(pixels).all())
    is_masked = (mask == 1).any(axis=2).ravel()
    finite = flat if is_finite else flat[np.isfinite(flat).all(axis=1)]
    low, high = np.percentile(finite, (1, 99.8)) if finite.size else (0.0, 0.0)
    picture = to_picture(raster)
    return ImageValues(
        dtype,
        pixels.shape[2],
        bool((pixels == pixels[..., :1]).all()) if is_finite else pixels.shape[2] == 1,
        float(low),
        float(high),
        _some(finite),
        _some(flat[is_masked]) if len(is_masked) == len(flat) else np.empty(0),
        is_finite,
        tuple(nodata_values),
        picture[..., 0] if picture.shape[2] == 1 else cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY),
        describe_picture(picture, sample),
    )


def _some(pixels: np.ndarray) -> np.ndarray:
    """At most VALUES finite values, evenly spread over the pixels: the mean of their channels, (N,) float64."""
    step = max(1, len(pixels) // VALUES)
    values = pixels[::step].mean(axis=1, dtype=np.float64)
    return values[np.isfinite(values)]


def to_picture(raster: Raster) -> np.ndarray:
    """The image in 8 bits, (H, W, 1 or 3) uint8: of another number of channels the middle one."""
    pixels = raster.pixels[..., :-1] if raster.alpha else raster.pixels
    if pixels.shape[2] not in (1, 3):
        pixels = pixels[..., [pixels.shape[2] // 2]]
    if pixels.dtype != np.uint8:
        pixels = to_uint8(np.nan_to_num(percentile_normalize(without_nodata(pixels), (1, 99)), posinf=255, neginf=0))
    return pixels


def describe_picture(picture: np.ndarray, sample: Sample) -> dict[str, float]:
    """The statistics by which training and test images are compared: of a picture, (H, W, C) uint8, and its size."""
    top, left = (max(0, (side - PICTURE) // 2) for side in picture.shape[:2])
    middle = np.ascontiguousarray(picture[top : top + PICTURE, left : left + PICTURE])
    height, width = sample.size
    return compute_statistics(middle) | {"height": height, "width": width, "height / width": height / width}


def describe_objects(mask: np.ndarray, instances: np.ndarray | None) -> ObjectSizes:
    """The sizes of the objects of an image.

    Shapes:
        mask: (H, W, C) of 0, 1 or VOID.
        instances: (H, W) int, 0 is background; None: objects are the connected components of each class.
    """
    planes = [np.ascontiguousarray((plane == 1).astype(np.uint8)) for plane in np.moveaxis(mask, 2, 0)]
    if instances is None:
        boxes = [cv2.connectedComponentsWithStats(plane, connectivity=8)[2][1:] for plane in planes if plane.any()]
        stats = np.concatenate(boxes) if boxes else np.zeros((0, 5), int)
        area = stats[:, cv2.CC_STAT_AREA]
        extent = stats[:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]].max(axis=1)
        touching = None
    else:
        area, extent = _instance_sizes(instances)
        near = touching_boundary(instances, 1.0) > 0
        touching = len(np.setdiff1d(np.unique(instances[near]), [0]))
    thickness = [4 * _mean_distance(plane) for plane in planes if plane.any()]
    return ObjectSizes(2 * np.sqrt(area / np.pi), extent, np.array(thickness), touching)


def _instance_sizes(instances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Area and the longer side of the box of each instance, in pixels."""
    rows, columns = np.nonzero(instances)
    numbers = np.unique(instances[rows, columns], return_inverse=True)[1]
    count = int(numbers.max()) + 1 if len(numbers) else 0
    sides = []
    for places in (rows, columns):
        first, last = np.full(count, np.iinfo(int).max), np.zeros(count, int)
        np.minimum.at(first, numbers, places)
        np.maximum.at(last, numbers, places)
        sides.append(last - first + 1)
    return np.bincount(numbers, minlength=count), np.maximum(*sides)


def _mean_distance(plane: np.ndarray) -> float:
    """The mean distance of masked pixels to the outline, which runs between pixels, as does that of the image."""
    padded = cv2.copyMakeBorder(plane, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1][plane > 0]
    return float(np.maximum(np.minimum(distance, max(plane.shape)) - 0.5, 0.25).mean())
