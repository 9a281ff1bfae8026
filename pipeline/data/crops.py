"""Windows of training images that are too large to be read whole: an index of them, and no copies on disk."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from pipeline.config import Crops
from pipeline.data.dataset import rows_of
from pipeline.data.labels import Labels
from pipeline.data.windows import Box
from pipeline.progress import track


def crop_index(index: pd.DataFrame, labels: Labels, crops: Crops) -> pd.DataFrame:
    """A row per window of each image: its image's row, with height, width, coverage and `empty` of the window.

    `box` is its place, `image` its image's row, and `train.balance = "empty"` draws windows with something in them as
    often as those without.

    Raises:
        ImageError, RLEError: for a label that cannot be read.
    """
    found = [
        (position, row, *window)
        for position, row in enumerate(track(rows_of(index), "windows of the training images"))
        for window in _windows(row, labels, crops)
    ]
    positions, images, boxes, coverage = zip(*found, strict=True)
    table = index.iloc[list(positions)].reset_index(drop=True)
    return table.assign(
        image=pd.Series(images, dtype=object),
        box=pd.Series(boxes, dtype=object),
        height=[box.height for box in boxes],
        width=[box.width for box in boxes],
        coverage=coverage,
        empty=np.where(np.array(coverage) == 0, "yes", "no"),
    )


def _windows(row: object, labels: Labels, crops: Crops) -> Iterator[tuple[Box, float]]:
    """The windows of an image, column by column, and the share of each that is masked."""
    high, wide = min(crops.size, row.height), min(crops.size, row.width)
    for left in starts(row.width, wide, crops.stride):
        column = (labels.read_part(row, Box(0, left, row.height, wide)) == 1).any(axis=2)
        for top in starts(row.height, high, crops.stride):
            yield Box(top, left, high, wide), float(column[top : top + high].mean())


def starts(length: int, size: int, stride: int) -> list[int]:
    """Where windows begin: a stride apart, the last one at the end.

    >>> starts(1000, 400, 250)
    [0, 250, 500, 600]
    """
    return [*range(0, length - size, stride), length - size]
