"""The fingerprint of a data set: what its images and masks are like, measured, as plain values.

Sizes, coverage and classes are those of all images, from headers and labels. Everything else is measured in at most
`image_measures.MAX_IMAGES` images, evenly spread over the ids, and fewer if they are large.

Source:
    A config that follows from a fingerprint of the data: Isensee et al., nnU-Net, 2021,
    https://doi.org/10.1038/s41592-020-01008-z.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from pipeline.competition import Competition
from pipeline.data.index import coverage_columns
from pipeline.data.labels import Labels
from pipeline.data.sample import META, samples_of
from pipeline.planning.image_measures import (
    ImageValues,
    ObjectSizes,
    describe_image,
    describe_objects,
    describe_picture,
    read_pixels,
    read_sample,
    spread,
    to_picture,
)
from pipeline.planning.neighbouring_slices import Neighbours, compare_neighbours
from pipeline.progress import track
from pipeline.statistics.adversarial_validation import compare_images, too_few
from pipeline.statistics.symmetry_probe import MIN_GROUPS, SymmetryProbe, probe_symmetries
from pipeline.symmetries import SYMMETRIES

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
        nonfinite: share of the images with NaN or infinite pixels, or with pixels of nodata_values.
        nodata_values: of pixels without a measurement; such pixels are in no other number.
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
    nodata_values: tuple[float, ...]
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
        test_index: of the test images; may be empty. Both with the column `compared_group`: of images that are held out
            together where training and test images are compared, see `compare_images`.
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
        raster, mask, instances = read_sample(sample, card, labels)
        images.append(describe_image(raster, mask, sample))
        objects.append(describe_objects(mask, instances))
    test = [
        describe_picture(to_picture(read_pixels(each, card, labels)[0]), each)
        for each in track(samples_of(test_rows), "fingerprint of test images")
    ]
    groups = train_index["group"].value_counts()
    coverage = train_index["coverage"].to_numpy()
    sizes = _object_sizes(objects)
    symmetries, symmetries_of = _find_symmetries(
        [each.picture for each in images], rows["group"].tolist(), sizes["thickness"]
    )
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
        **_intensities(images),
        channels=len(card.files.channels) or _most_frequent(each.channels for each in images),
        empty=float((coverage == 0).mean()),
        coverage=Quantiles.of(coverage[coverage > 0]),
        classes=_class_shares(card, train_index),
        **sizes,
        neighbours=compare_neighbours(card, train_index, labels),
        symmetries=symmetries,
        symmetries_of=symmetries_of,
        shift=_compare_with_test(
            [each.statistics for each in images], test, rows["compared_group"], test_rows["compared_group"]
        ),
        columns=_few_valued_columns(card, train_index),
    )


def _intensities(images: Sequence[ImageValues]) -> dict[str, Any]:
    """The fields of the fingerprint about the values of pixels."""
    masked = np.concatenate([each.masked for each in images])
    return {
        "dtype": _most_frequent(each.dtype for each in images),
        "equal_channels": float(np.mean([each.is_grey for each in images])),
        "lowest": Quantiles.of([each.low for each in images]),
        "highest": Quantiles.of([each.high for each in images]),
        "values": _percentiles(np.concatenate([each.values for each in images])),
        "masked_values": _percentiles(masked) if len(masked) else None,
        "nonfinite": float(np.mean([not each.is_finite for each in images])),
        "nodata_values": tuple(sorted({value for each in images for value in each.nodata_values})),
    }


def _object_sizes(objects: Sequence[ObjectSizes]) -> dict[str, Any]:
    """The fields of the fingerprint about objects, over the images that have one."""
    filled = [each for each in objects if len(each.diameter)]
    touching = [each.touching for each in filled if each.touching is not None]
    counts = [len(each.diameter) for each in filled]
    return {
        "objects": Quantiles.of(counts),
        "diameter": Quantiles.of([value for each in filled for value in each.diameter]),
        "extent": Quantiles.of([value for each in filled for value in each.extent]),
        "thickness": Quantiles.of([value for each in filled for value in each.thickness]),
        "touching": sum(touching) / sum(counts) if touching else None,
    }


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
