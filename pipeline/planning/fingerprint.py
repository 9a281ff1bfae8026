"""The fingerprint of a data set: what its images and masks are like, measured, as plain values.

Sizes, coverage and classes are those of all images, from headers and labels. Everything else is measured in at most
MAX_IMAGES images, evenly spread over the ids, and fewer if they are large.

Source:
    A config that follows from a fingerprint of the data: Isensee et al., nnU-Net, 2021,
    https://doi.org/10.1038/s41592-020-01008-z.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from pipeline.competition import Competition
from pipeline.data.boundaries import touching_boundary
from pipeline.data.formats import read_raster
from pipeline.data.image_statistics import compute_statistics
from pipeline.data.index import coverage_columns
from pipeline.data.intensity import percentile_normalize, to_uint8
from pipeline.data.labels import Labels
from pipeline.data.rasters import Raster
from pipeline.data.sample import META, Sample, samples_of
from pipeline.data.series import files_beside, place_of_id
from pipeline.data.soft_masks import harden
from pipeline.data.windows import Box, open_windows
from pipeline.progress import track
from pipeline.statistics.adversarial_validation import compare_images, too_few
from pipeline.statistics.symmetry_probe import MIN_GROUPS, SymmetryProbe, probe_symmetries
from pipeline.symmetries import SYMMETRIES

log = logging.getLogger(__name__)

MAX_IMAGES = 200  # that are decoded, of the training and of the test images
MAX_PIXELS = 2e8  # of all decoded images together, which takes seconds
MIN_IMAGES = 8  # that are decoded, however large they are
WHOLE = 1 << 24  # pixels; of a larger image the square of this size in the middle is measured
VALUES = 2000  # pixels of an image whose values are kept
PICTURE = 1024  # pixels; statistics that compare training with test images are those of a square in the middle
PAIRS = 40  # of neighbouring slices that are compared
TILE = 128  # pixels: the smallest part of an image that shows its texture
PLACES = 4  # parts of an image along each axis
PART_ACCURACY = 0.7  # from which on parts differ from their copies; they are not independent, so chance is not known
MAX_TILED = 30  # images whose parts are asked for their symmetries
FINE = 0.25  # thickness of masks as a share of a part's side, up to which a part shows what they depend on
MAX_COLUMN_VALUES = 5  # different values of a column whose values may be balanced over the folds
MIN_COLUMN_IMAGES = 10  # with each of them


class Quantiles(NamedTuple):
    """A measured value over images or objects."""

    smallest: float
    q10: float
    median: float
    q90: float
    largest: float

    @classmethod
    def of(cls, values: Sequence[float] | np.ndarray) -> "Quantiles | None":
        """The quantiles of some values; None without values."""
        if not len(values):
            return None
        return cls(*map(float, np.quantile(np.asarray(values, dtype=float), (0, 0.1, 0.5, 0.9, 1))))


class ClassShare(NamedTuple):
    """How frequent a class is."""

    name: str
    images: float  # share of the images that have it, 0 to 1
    pixels: float  # share of all pixels, the mean over images, 0 to 1


class Neighbours(NamedTuple):
    """How much neighbouring slices, or frames, have in common."""

    series: int  # number of volumes or videos
    slices: float  # of a series, the median
    correlation: float  # of the pixels of neighbouring slices, the median, -1 to 1
    overlap: float | None  # Dice of their masks, the mean; None if the neighbours have no masks


class Shift(NamedTuple):
    """How well a classifier tells test from training images."""

    auc: float  # one half by chance
    differ: bool  # more than chance explains
    differences: tuple[str, ...]  # the statistics that differ most, with both medians


@dataclass(frozen=True)
class Fingerprint:
    """What was measured. Sizes are in pixels, shares from 0 to 1, intensities in the units of the files.

    Args:
        images, test_images: numbers of all images.
        decoded: number of training images that were decoded.
        groups, largest_group: independent groups of training images, and the number of images in the largest.
        near_duplicates: pairs of images; None: not searched.
        sizes: number of different sizes of training images.
        shorter, longer: sides of the training images; test_shorter, test_longer those of the test images.
        dtype: of the files' values, the most frequent one.
        channels: of an image, the most frequent number, without transparency; with several files, their number.
        equal_channels: share of the images whose channels are all equal, 1 if they have one.
        lowest, highest: percentiles 1 and 99.8 of each image.
        values: percentiles .5 and 99.5 of all images together.
        masked_values: likewise, of the masked pixels alone; None without masks.
        nonfinite: share of the images with NaN or infinite pixels.
        empty: share of the images without a mask.
        coverage: masked share of the images that have a mask; None if none has one.
        classes: how frequent each class is.
        objects: number per image with a mask: objects of instances, else connected components of a class.
        diameter: of objects, that of a circle of the same area.
        extent: of objects, the longer side of the box around them.
        thickness: of masks, four times the mean distance to their outline: the width of a line, two thirds of the
            diameter of a disc.
        touching: share of the objects that touch another one; None if the labels are no instances.
        neighbours: None if images are in no series.
        symmetries: names of the symmetries of the square that the images have; None: too few images to tell.
        symmetries_of: what was asked for them, in words.
        shift: None: too few images to tell.
        columns: columns of the meta table with few values, and the number of images with each.
    """

    images: int
    test_images: int
    decoded: int
    groups: int
    largest_group: int
    near_duplicates: int | None
    sizes: int
    shorter: Quantiles
    longer: Quantiles
    test_shorter: Quantiles | None
    test_longer: Quantiles | None
    dtype: str
    channels: int
    equal_channels: float
    lowest: Quantiles
    highest: Quantiles
    values: tuple[float, float]
    masked_values: tuple[float, float] | None
    nonfinite: float
    empty: float
    coverage: Quantiles | None
    classes: tuple[ClassShare, ...]
    objects: Quantiles | None
    diameter: Quantiles | None
    extent: Quantiles | None
    thickness: Quantiles | None
    touching: float | None
    neighbours: Neighbours | None
    symmetries: tuple[str, ...] | None
    symmetries_of: str
    shift: Shift | None
    columns: tuple[tuple[str, dict[str, int]], ...]


class _Image(NamedTuple):
    """What is kept of a decoded training image."""

    dtype: str
    channels: int
    is_grey: bool
    low: float
    high: float
    values: np.ndarray
    masked: np.ndarray
    is_finite: bool
    picture: np.ndarray  # (H, W) uint8
    statistics: dict[str, float]


class _Objects(NamedTuple):
    """The objects of an image; empty arrays if there are none."""

    diameter: np.ndarray
    extent: np.ndarray
    thickness: np.ndarray
    touching: int | None


def measure(
    card: Competition,
    train_index: pd.DataFrame,
    test_index: pd.DataFrame,
    labels: Labels,
    near_duplicates: int | None = None,
) -> Fingerprint:
    """Measure the images and masks of a competition.

    Args:
        train_index: of the training images, as `read_index` makes it; groups may be merged by near-duplicates.
        test_index: of the test images, with their groups; may be empty.
        labels: the reader of the masks, without a channel of boundaries.
        near_duplicates: number of pairs; None if they were not searched.

    Raises:
        ImageError, RLEError: for an image or a mask that cannot be read.
    """
    rows = spread(train_index)
    test_rows = spread(test_index)
    samples = samples_of(rows)
    images, objects = [], []
    for sample in track(samples, "fingerprint of training images"):
        raster, mask, instances = _read(sample, card, labels)
        images.append(_describe_image(raster, mask, sample))
        objects.append(_describe_objects(mask, instances))
    test = [
        _statistics(_picture(_read_pixels(each, card, labels)[0]), each)
        for each in track(samples_of(test_rows), "fingerprint of test images")
    ]
    groups = train_index["group"].value_counts()
    masked = np.concatenate([each.masked for each in images])
    filled = [each for each in objects if len(each.diameter)]
    touching = [each.touching for each in filled if each.touching is not None]
    diameters = [value for each in filled for value in each.diameter]
    coverage = train_index["coverage"].to_numpy()
    thickness = Quantiles.of([value for each in filled for value in each.thickness])
    symmetries, symmetries_of = _find_symmetries([each.picture for each in images], rows["group"].tolist(), thickness)
    return Fingerprint(
        images=len(train_index),
        test_images=len(test_index),
        decoded=len(images),
        groups=len(groups),
        largest_group=int(groups.iloc[0]),
        near_duplicates=near_duplicates,
        sizes=len(train_index[["height", "width"]].drop_duplicates()),
        **_sides(train_index, ""),
        **_sides(test_index, "test_"),
        dtype=_most_frequent(each.dtype for each in images),
        channels=len(card.files.channels) or _most_frequent(each.channels for each in images),
        equal_channels=float(np.mean([each.is_grey for each in images])),
        lowest=Quantiles.of([each.low for each in images]),
        highest=Quantiles.of([each.high for each in images]),
        values=_percentiles(np.concatenate([each.values for each in images])),
        masked_values=_percentiles(masked) if len(masked) else None,
        nonfinite=float(np.mean([not each.is_finite for each in images])),
        empty=float((coverage == 0).mean()),
        coverage=Quantiles.of(coverage[coverage > 0]),
        classes=_class_shares(card, train_index),
        objects=Quantiles.of([len(each.diameter) for each in filled]),
        diameter=Quantiles.of(diameters),
        extent=Quantiles.of([value for each in filled for value in each.extent]),
        thickness=thickness,
        touching=sum(touching) / len(diameters) if touching else None,
        neighbours=_compare_neighbours(card, train_index, labels),
        symmetries=symmetries,
        symmetries_of=symmetries_of,
        shift=_compare_with_test([each.statistics for each in images], test, rows["group"], test_rows["group"]),
        columns=_few_valued_columns(card, train_index),
    )


def spread(index: pd.DataFrame) -> pd.DataFrame:
    """At most MAX_IMAGES rows, evenly spread over the ids; fewer if the images are large."""
    if index.empty:
        return index
    pixels = np.minimum(index["height"] * index["width"], WHOLE).mean()
    count = int(np.clip(MAX_PIXELS / pixels, MIN_IMAGES, MAX_IMAGES))
    places = np.unique(np.linspace(0, len(index) - 1, min(count, len(index))).round().astype(int))
    return index.sort_values("image_id").iloc[places]


# ---------------------------------------------------------------------------------------------- one image


def _read(sample: Sample, card: Competition, labels: Labels) -> tuple[Raster, np.ndarray, np.ndarray | None]:
    """A training image, its masks (H, W, C), and its instances (H, W) if the labels are such."""
    raster, box = _read_pixels(sample, card, labels)
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


def _read_pixels(sample: Sample, card: Competition, labels: Labels) -> tuple[Raster, Box | None]:
    """An image in the files' own values, and the window of it that was read; None: the whole image.

    Files of several channels are enlarged to one size.
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


def _describe_image(raster: Raster, mask: np.ndarray, sample: Sample) -> _Image:
    pixels = raster.pixels[..., :-1] if raster.alpha else raster.pixels
    pixels = pixels.astype(np.uint8) if pixels.dtype == bool else pixels  # of which there are no percentiles
    flat = pixels.reshape(-1, pixels.shape[2])
    is_finite = pixels.dtype.kind != "f" or bool(np.isfinite(pixels).all())
    is_masked = (mask == 1).any(axis=2).ravel()
    finite = flat if is_finite else flat[np.isfinite(flat).all(axis=1)]
    low, high = np.percentile(finite, (1, 99.8)) if finite.size else (0.0, 0.0)
    picture = _picture(raster)
    return _Image(
        str(pixels.dtype),
        pixels.shape[2],
        bool((pixels == pixels[..., :1]).all()) if is_finite else pixels.shape[2] == 1,
        float(low),
        float(high),
        _some(finite),
        _some(flat[is_masked]) if len(is_masked) == len(flat) else np.empty(0),
        is_finite,
        picture[..., 0] if picture.shape[2] == 1 else cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY),
        _statistics(picture, sample),
    )


def _some(pixels: np.ndarray) -> np.ndarray:
    """At most VALUES finite values, evenly spread over the pixels: the mean of their channels, (N,) float64."""
    step = max(1, len(pixels) // VALUES)
    values = pixels[::step].mean(axis=1, dtype=np.float64)
    return values[np.isfinite(values)]


def _picture(raster: Raster) -> np.ndarray:
    """The image in 8 bits, (H, W, 1 or 3) uint8: of another number of channels the middle one."""
    pixels = raster.pixels[..., :-1] if raster.alpha else raster.pixels
    if pixels.shape[2] not in (1, 3):
        pixels = pixels[..., [pixels.shape[2] // 2]]
    if pixels.dtype != np.uint8:
        pixels = to_uint8(np.nan_to_num(percentile_normalize(pixels, (1, 99)), posinf=255, neginf=0))
    return pixels


def _statistics(picture: np.ndarray, sample: Sample) -> dict[str, float]:
    top, left = (max(0, (side - PICTURE) // 2) for side in picture.shape[:2])
    middle = np.ascontiguousarray(picture[top : top + PICTURE, left : left + PICTURE])
    height, width = sample.size
    return compute_statistics(middle) | {"height": height, "width": width, "height / width": height / width}


def _describe_objects(mask: np.ndarray, instances: np.ndarray | None) -> _Objects:
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
    return _Objects(2 * np.sqrt(area / np.pi), extent, np.array(thickness), touching)


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


# ---------------------------------------------------------------------------------------------- all images


def _sides(index: pd.DataFrame, prefix: str) -> dict[str, Quantiles | None]:
    sides = index[["height", "width"]] if len(index) else pd.DataFrame({"height": [], "width": []})
    return {f"{prefix}shorter": Quantiles.of(sides.min(axis=1)), f"{prefix}longer": Quantiles.of(sides.max(axis=1))}


def _most_frequent(values: Iterable[Any]) -> Any:
    return Counter(values).most_common(1)[0][0]


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, (0.5, 99.5)) if len(values) else (0.0, 0.0)
    return float(low), float(high)


def _class_shares(card: Competition, index: pd.DataFrame) -> tuple[ClassShare, ...]:
    columns = coverage_columns(card.classes)
    return tuple(
        ClassShare(name, float((index[column] > 0).mean()), float(index[column].mean()))
        for name, column in zip(card.classes, columns, strict=True)
    )


def _find_symmetries(
    pictures: Sequence[np.ndarray], groups: Sequence[object], thickness: Quantiles | None
) -> tuple[tuple[str, ...] | None, str]:
    """The symmetries that hold, and of what.

    Where masks are fine, parts of the images decide if these are few, or if not all symmetries hold in whole images:
    slices of one volume show one scene, whose layout tells it from its copies, though its texture has no direction.
    Parts of the same place are held out together.
    """
    count = len(set(groups))
    whole, what = None, f"{_counted(count, 'independent image')}"
    if count >= MIN_GROUPS:
        whole = tuple(each.symmetry for each in _probe(pictures, groups) if each.holds)
        if len(whole) == len(SYMMETRIES) - 1:
            return whole, what
    step = max(1, len(pictures) // MAX_TILED)
    tiles = [tile for picture in pictures[::step] for tile in _tiles(picture).items()]
    side = float(np.median([len(tile) for _, tile in tiles])) if tiles else 0.0
    if len({place for place, _ in tiles}) < PLACES**2 or thickness is None or thickness.median > side * FINE:
        return whole, what
    probes = _probe([tile for _, tile in tiles], [place for place, _ in tiles])
    names = tuple(each.symmetry for each in probes if each.accuracy < PART_ACCURACY)
    return names, f"{len(tiles)} parts of {_counted(len(pictures[::step]), 'image')}"


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _tiles(picture: np.ndarray) -> dict[str, np.ndarray]:
    """The squares of a picture by their place in it, PLACES along its shorter side; none if they are below TILE."""
    side = min(picture.shape) // PLACES
    if side < TILE:
        return {}
    return {
        f"{row}, {column}": picture[row * side :, column * side :][:side, :side]
        for row in range(PLACES)
        for column in range(PLACES)
    }


def _probe(pictures: Sequence[np.ndarray], groups: Sequence[object]) -> list[SymmetryProbe]:
    with threadpool_limits(1):  # more are slower for so little, and the result does not depend on their number
        return probe_symmetries([each[..., None] for each in pictures], groups)


def _compare_with_test(
    train: list[dict[str, float]], test: list[dict[str, float]], train_groups: pd.Series, test_groups: pd.Series
) -> Shift | None:
    for what, rows, groups in (("training", train, train_groups), ("test", test, test_groups)):
        if too_few(what, len(rows), groups.nunique()):
            return None
    found = compare_images(pd.DataFrame(train), pd.DataFrame(test), train_groups.tolist(), test_groups.tolist())
    return Shift(found.auc.mean, found.differ, tuple(map(str, found.differences[:3])))


def _few_valued_columns(card: Competition, index: pd.DataFrame) -> tuple[tuple[str, dict[str, int]], ...]:
    found = []
    for column in map(str, index):
        if column.startswith(META) and column != META + str(card.group_column):
            counts = index[column].value_counts()
            if 2 <= len(counts) <= MAX_COLUMN_VALUES and counts.min() >= MIN_COLUMN_IMAGES:
                found.append((column.removeprefix(META), {str(key): int(value) for key, value in counts.items()}))
    return tuple(found)


# ---------------------------------------------------------------------------------------------- slices


def _compare_neighbours(card: Competition, index: pd.DataFrame, labels: Labels) -> Neighbours | None:
    """How alike neighbouring slices are; None without series."""
    files = card.files
    if files.frame is not None or files.slice_pattern:
        return _compare_files(card, index)
    if not card.volume_pattern:
        return None
    places = [place_of_id(each, card.volume_pattern, card.name) for each in index["image_id"]]
    table = index.assign(volume=[each[0] for each in places], number=[each[1] for each in places])
    table = table.sort_values(["volume", "number"], ignore_index=True)
    step = table.groupby("volume")["number"].diff()
    follows = table.index[step == step.groupby(table["volume"]).transform("min")]
    chosen = follows[np.unique(np.linspace(0, len(follows) - 1, min(PAIRS, len(follows))).round().astype(int))]
    pairs = [samples_of(table.iloc[[number - 1, number]]) for number in chosen] if len(follows) else []
    correlations, overlaps = [], []
    for pair in track(pairs, "neighbouring slices"):
        rasters, masks, _ = zip(*(_read(sample, card, labels) for sample in pair), strict=True)
        if masks[0].shape == masks[1].shape and rasters[0].pixels.shape == rasters[1].pixels.shape:
            correlations.append(_correlation(*(_picture(each)[..., 0] for each in rasters)))
            first, second = (mask == 1 for mask in masks)
            overlaps += [2 * (first & second).sum() / total] if (total := first.sum() + second.sum()) else []
    if not correlations:
        return None
    sizes = table["volume"].value_counts()
    overlap = float(np.mean(overlaps)) if overlaps else None
    return Neighbours(len(sizes), float(sizes.median()), float(np.median(correlations)), overlap)


def _compare_files(card: Competition, index: pd.DataFrame) -> Neighbours | None:
    """As `_compare_neighbours`, of slices that are pages of the image's file, or files beside it."""
    correlations, counts = [], []
    for sample in samples_of(spread(index))[:PAIRS]:
        path, frame = sample.path, card.files.frame
        if frame is not None:
            pages = read_raster(path).pixels
            slices = [pages[..., number] for number in range(pages.shape[2])]
            own = frame
        else:
            beside = files_beside(path.parent, card.files.slice_pattern)
            numbers = sorted(beside)
            own = next((place for place, number in enumerate(numbers) if beside[number] == path), None)
            slices = numbers
        if own is None or len(slices) < 2:
            continue
        other = own + 1 if own + 1 < len(slices) else own - 1
        if frame is None:
            slices = {place: read_raster(beside[numbers[place]]).pixels[..., 0] for place in (own, other)}
        counts.append(len(numbers) if frame is None else len(slices))
        correlations.append(_correlation(slices[own], slices[other]))
    if not correlations:
        return None
    return Neighbours(len(index), float(np.median(counts)), float(np.median(correlations)), None)


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    first, second = (each.ravel()[:: max(1, each.size // 100_000)].astype(np.float64) for each in (first, second))
    if first.std() == 0 or second.std() == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])
