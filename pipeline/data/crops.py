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
    high, wide = min(crops.size, height), min(crops.size, width)
    for left in window_starts(width, wide, crops.stride):
        column = (harden(target_window(labels, sample, Box(0, left, height, wide), resize)) == 1).any(axis=2)
        for top in window_starts(height, high, crops.stride):
            yield Box(top, left, high, wide), float(column[top : top + high].mean())


def count_windows(index: pd.DataFrame, crops: Crops, resize: Resize = UNCHANGED) -> int:
    """The number of rows of `crop_index`; no label is read."""
    sizes = [resize.target(size) for size in zip(index["height"], index["width"], strict=True)]
    starts = [[window_starts(side, min(crops.size, side), crops.stride) for side in size] for size in sizes]
    return sum(len(rows) * len(columns) for rows, columns in starts)


def window_starts(length: int, size: int, stride: int) -> list[int]:
    """The first pixel of each window along one axis: a stride apart, the last window at the end of the axis.

    Args:
        length: of the axis, in pixels.
        size, stride: of the windows, in pixels; size is at most length.

    >>> window_starts(1000, 400, 250)
    [0, 250, 500, 600]
    """
    return [*range(0, length - size, stride), length - size]
