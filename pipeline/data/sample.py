"""One row of the index as a typed, picklable value: what functions of a single image take."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.data.windows import Box

META = "meta."  # prefix of the index's columns that come from the card's meta table: no name of theirs can collide


@dataclass(frozen=True)
class Sample:
    """One image, or one window of it, and where its labels are.

    Args:
        image_id: the id in the competition's tables.
        sources: the files that hold the image's pixels: one per channel of the card's `files.channels`, else one; with
            neighbours, those of each slice, in the order of the offsets.
        size: height and width of the whole image in pixels; None if it was not measured.
        rle: the text of each class's mask, a row of the table per line; None if the labels are no RLE.
        rle_void: likewise, the pixels that are ignored; None if the card has no such class.
        mask_paths: the mask images: none is an empty mask, several are objects or parts of one mask; None if the labels
            are no mask images.
        mask_classes: the number of the class that each of these files shows; None if each shows all classes.
        line: line of the labels' file that the image's first row begins at; 0 if it has none.
        box: the window that is read; None for the whole image.
        own_start: position in `sources` of the first file of the image itself. With two channels and the slices 4, 5
            and 6 around image 5, sources are 4a 4b 5a 5b 6a 6b, and own_start is 2.
    """

    image_id: str
    sources: tuple[Path, ...]
    size: tuple[int, int] | None = None
    rle: tuple[str, ...] | None = None
    rle_void: str | None = None
    mask_paths: tuple[Path, ...] | None = None
    mask_classes: tuple[int, ...] | None = None
    line: int = 0
    box: Box | None = None
    own_start: int = 0

    @classmethod
    def from_file(cls, path: Path) -> "Sample":
        """The sample of a file that is in no index; its id is the file's name without the extension."""
        return cls(path.stem, (path,))

    @property
    def path(self) -> Path:
        """The image's own file, of its first channel."""
        return self.sources[self.own_start]


def samples_of(index: pd.DataFrame) -> list[Sample]:
    """The rows of an index, in its order.

    Args:
        index: with image_id and path; other columns of the index, and cells of them, may be missing.
    """
    rows = index.to_dict("records")
    return [_sample_of({name: cell for name, cell in row.items() if cell == cell}) for row in rows]  # NaN is missing


def _sample_of(row: Mapping[str, Any]) -> Sample:
    return Sample(
        row["image_id"],
        row.get("sources", (row["path"],)),
        (row["height"], row["width"]) if "height" in row else None,
        texts_of(row["rle"]) if "rle" in row else None,
        row.get("rle_void"),
        row.get("mask_paths"),
        row.get("mask_classes"),
        row.get("line", 0),
        row.get("box"),
        int(row.get("own_start", 0)),  # tables that were joined have floats
    )


def texts_of(rle: str | tuple[str, ...]) -> tuple[str, ...]:
    """The text of each class, from a cell of the index's column rle: with a single class the cell is its text.

    >>> texts_of("1 2")
    ('1 2',)
    """
    return (rle,) if isinstance(rle, str) else rle
