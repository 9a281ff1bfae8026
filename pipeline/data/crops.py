"""Crops of training images that are too large to be read whole: an index of windows, without copies on disk."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from pipeline.config import Crops
from pipeline.data.labels import Labels
from pipeline.data.resize import UNCHANGED, Resize
from pipeline.data.sample import Sample, samples_of
from pipeline.data.soft_masks import harden
from pipeline.data.targets import target_window
from pipeline.data.windows import Box
from pipeline.progress import track


def crop_index(index: pd.DataFrame, labels: Labels, crops: Crops, resize: Resize = UNCHANGED) -> pd.DataFrame:
    """An index with one row per window of each image.

    A row is its image's row with the window in the column `box`, in pixels of the resized image, and coverage and
    `empty` of the window. height and width stay those of the file, which decoding needs. `train.balance = "empty"`
    draws windows with a mask as often as windows without.

    Raises:
        ImageError, RLEError: for a label that cannot be read.
    """
    found = [
        (position, *window)
        for position, sample in enumerate(track(samples_of(index), "windows of the training images"))
        for window in _windows(sample, labels, crops, resize)
    ]
    positions, boxes, coverage = zip(*found, strict=True)
    table = index.iloc[list(positions)].reset_index(drop=True)
    empty = np.where(np.array(coverage) == 0, "yes", "no")
    return table.assign(box=pd.Series(boxes, dtype=object), coverage=coverage, empty=empty)


def _windows(sample: Sample, labels: Labels, crops: Crops, resize: Resize) -> Iterator[tuple[Box, float]]:
    """The windows of an image, column by column, and the share of each that is masked, 0 to 1."""
    height, width = resize.target(sample.size)
    for boxes in _boxes_by_column((height, width), crops):
        whole = boxes[0]._replace(top=0, height=height)
        column = (harden(target_window(labels, sample, whole, resize)) == 1).any(axis=2)
        for box in boxes:
            yield box, float(column[box.top : box.top + box.height].mean())


def _boxes_by_column(size: tuple[int, int], crops: Crops) -> list[list[Box]]:
    """The windows of an image of a size (height, width): a list for each column of windows, from top to bottom."""
    high, wide = (min(crops.size, side) for side in size)
    tops, lefts = (window_starts(side, each, crops.stride) for side, each in zip(size, (high, wide), strict=True))
    return [[Box(top, left, high, wide) for top in tops] for left in lefts]


def count_windows(index: pd.DataFrame, crops: Crops, resize: Resize = UNCHANGED) -> int:
    """The number of rows of `crop_index`; no label is read."""
    sizes = zip(index["height"], index["width"], strict=True)
    columns = [boxes for size in sizes for boxes in _boxes_by_column(resize.target(size), crops)]
    return sum(map(len, columns))


def window_starts(length: int, size: int, stride: int) -> list[int]:
    """The first pixel of each window along one axis: a stride apart, the last window at the end of the axis.

    Args:
        length: of the axis, in pixels.
        size, stride: of the windows, in pixels; size is at most length.

    >>> window_starts(1000, 400, 250)
    [0, 250, 500, 600]
    """
    return [*range(0, length - size, stride), length - size]
