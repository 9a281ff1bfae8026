"""Series of slices or frames, and the neighbours whose pixels become channels of an image (2.5D).

A card says how slices form series: by their ids (`volume_pattern`), by the files beside the image
(`files.slice_pattern`), or by the pages of the image's file (`files.frame`). Slices of NIfTI volumes and DICOM series
need no entry.

Neighbours are found by number. The step of a series is the smallest difference between its numbers. Where a number is
missing, the nearest slice that exists takes its place, the one towards the image if two are equally near; how many do
is logged. Beyond the ends of a series, the last slice is repeated, or the slices are mirrored at it.
"""

import logging
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.competition import Competition
from pipeline.config import Config, Neighbours
from pipeline.data.formats import is_dicom
from pipeline.data.medical import read_dicom_place, slice_of
from pipeline.data.rasters import ImageError
from pipeline.data.sample import Sample
from pipeline.quoting import shortened

log = logging.getLogger(__name__)
Finder = Callable[[Sample], Sample]  # adds the files of its neighbours to an image
log_once = lru_cache(maxsize=None)(log.warning)  # several stages of one command read the same series


@dataclass(frozen=True)
class Series:
    """Which slices are channels of an image.

    Args:
        card: its name, for messages.
        offsets: of each slice, ascending, with 0.
        border: beyond the ends of a series, "repeat" the last slice, or "reflect" the slices at it.
        volume_pattern: of ids: the series, and the number of the slice.
        slice_pattern: of file names: the number of the slice; the series are the files in one folder.
        frame: the page of the image's file that is the image itself; the series are the pages.
    """

    card: str = field(compare=False)
    offsets: tuple[int, ...]
    border: Literal["repeat", "reflect"] = "repeat"
    volume_pattern: str | None = None
    slice_pattern: str | None = None
    frame: int | None = None

    @classmethod
    def of(cls, cfg: Config, card: Competition) -> "Series | None":
        """The series of a card; None without `data.neighbours`, unless an image is one page of its file."""
        chosen, files = cfg.data.neighbours or Neighbours(offsets=0), card.files
        if cfg.data.neighbours is None and files.frame is None:
            return None
        of_ids = None if files.slice_pattern or files.frame is not None else card.volume_pattern
        return cls(card.name, chosen.each_offset, chosen.border, of_ids, files.slice_pattern, files.frame)

    @property
    def neighbours_are_images(self) -> bool:
        """Whether the neighbours of an image are images with ids too, not further files or pages."""
        return self.slice_pattern is None and self.frame is None

    def joined(self, sample: Sample, slices: Sequence[Sequence[Path]]) -> Sample:
        """The image with the files of each slice, in the order of the offsets."""
        sources = tuple(path for files in slices for path in files)
        return replace(sample, sources=sources, own_start=self.offsets.index(0) * len(sample.sources))

    def pages(self, count: int, path: Path) -> list[int]:
        """The pages of the image's file that are its channels.

        Args:
            count: number of pages of the file.

        Raises:
            ImageError: if the file has no page `frame`.
        """
        return neighbours_of(self.own_page(count, path), range(count), self.offsets, self.border)[0]

    def own_page(self, count: int, path: Path) -> int:
        """The page that is the image itself.

        Raises:
            ImageError: as `pages`.
        """
        if self.frame >= count:
            raise ImageError(f"{path}: {count} pages, but the card's files.frame is {self.frame} (from 0)")
        return self.frame

    def place(self, sample: Sample) -> tuple[str, int]:
        """The series of an image and its number there; only for series of images.

        Raises:
            ValueError: for an id that the card's `volume_pattern` does not match, and for a file that is no slice of a
                NIfTI volume or a DICOM series if the card has no pattern.
        """
        if self.volume_pattern:
            return place_of_id(sample.image_id, self.volume_pattern, self.card)
        if found := slice_of(sample.path):
            return str(found[0]), found[1]
        if is_dicom(sample.path):
            return read_dicom_place(sample.path)
        raise ValueError(
            f"data.neighbours: no series on the card {self.card}, and {sample.path} is no NIfTI slice or DICOM: set "
            f"volume_pattern = '(.+)_(\\d+)' (volume, slice number), files.slice_pattern or files.frame on the card"
        )


class NeighbourFinder:
    """Adds the files of its neighbours to a sample.

    Args:
        every: all images whose files may be neighbours, with their own files alone.

    Attributes:
        gaps: of each sample with a neighbour whose number is missing, the id and these numbers.
    """

    def __init__(self, series: Series | None, every: Iterable[Sample]):
        self._series, self.gaps = series, dict[str, list[int]]()
        self._volumes: dict[str, dict[int, Sample]] = {}
        self._repeated: dict[tuple[str, int], Sample] = {}
        if series is not None and series.neighbours_are_images:
            for sample in every:
                with suppress(ValueError):  # an image that is in no series is no neighbour
                    self._add(sample, *series.place(sample))
        self._numbers = {volume: sorted(slices) for volume, slices in self._volumes.items()}

    def _add(self, sample: Sample, volume: str, number: int) -> None:
        if self._volumes.setdefault(volume, {}).setdefault(number, sample) is not sample:
            self._repeated[volume, number] = sample

    def __call__(self, sample: Sample) -> Sample:
        """The sample with the files of each slice, in the order of the offsets.

        Raises:
            ValueError: if it is in no series, or another image has the same number in it.
        """
        if self._series is None or self._series.frame is not None:
            return sample
        if self._series.slice_pattern:
            slices = list(zip(*(self._files_beside(path, sample) for path in sample.sources), strict=True))
        else:
            slices = [each.sources for each in self.slices(sample)]
        return self._series.joined(sample, slices)

    def slices(self, sample: Sample) -> list[Sample]:
        """The image at each offset from a sample; only for series of images.

        Raises:
            ValueError: as `__call__`.
        """
        volume, number = self._series.place(sample)
        slices = self._volumes[volume]
        if other := self._repeated.get((volume, number)):
            raise ValueError(
                f"card {self._series.card}: '{shortened(slices[number].image_id)}' and '{shortened(other.image_id)}' "
                f"are both slice {number} of '{shortened(volume)}': expected one slice per number"
            )
        return [slices[each] for each in self._neighbours(number, self._numbers[volume], sample)]

    def _files_beside(self, path: Path, sample: Sample) -> list[Path]:
        pattern = self._series.slice_pattern
        files = files_beside(path.parent, pattern)
        own = next((number for number, file in files.items() if file == path), None)
        if own is None:
            raise ValueError(
                f"{path}: the card's files.slice_pattern '{shortened(pattern)}' does not match this name: expected the "
                f"slice's number in its group"
            )
        return [files[number] for number in self._neighbours(own, sorted(files), sample)]

    def _neighbours(self, own: int, numbers: Sequence[int], sample: Sample) -> list[int]:
        chosen, missing = neighbours_of(own, numbers, self._series.offsets, self._series.border)
        if missing:
            self.gaps[sample.image_id] = missing
        return chosen


def with_neighbours(samples: Sequence[Sample], series: Series, every: Iterable[Sample]) -> list[Sample]:
    """The samples with the files of their neighbours; how many numbers are missing is logged.

    Args:
        every: as for `NeighbourFinder`.

    Raises:
        ValueError: as `NeighbourFinder`.
    """
    finder = NeighbourFinder(series, every)
    found = [finder(sample) for sample in samples]
    if finder.gaps:
        image_id, missing = next(iter(finder.gaps.items()))
        log_once(
            "%d of %d slices have neighbours whose number is missing, the first is '%s' (number %s): the nearest slice "
            "takes its place",
            len(finder.gaps),
            len(samples),
            shortened(image_id),
            ", ".join(map(str, missing)),
        )
    return found


def place_of_id(image_id: str, pattern: str, card: str) -> tuple[str, int]:
    """The volume, or video, and the number of a slice, from its id.

    Args:
        pattern: with two groups, the volume and the number.
        card: its name, for messages.

    Raises:
        ValueError: if the pattern does not match, or its second group is no number.
    """
    match = re.fullmatch(pattern, image_id)
    if not match or None in match.groups() or not match[2].isdecimal():
        raise ValueError(f"card {card}: volume_pattern '{pattern}' does not match the id '{shortened(image_id)}'")
    return match[1], int(match[2])


def neighbours_of(own: int, numbers: Sequence[int], offsets: Sequence[int], border: str) -> tuple[list[int], list[int]]:
    """The number of the slice at each offset, and the numbers that are missing within the series.

    Args:
        own: number of the slice itself, one of `numbers`.
        numbers: of all slices of the series, ascending.

    >>> neighbours_of(2, [1, 2, 5, 6], [-2, -1, 0, 1, 2], "repeat")
    ([1, 1, 2, 2, 5], [3, 4])
    >>> neighbours_of(10, [10, 20, 30], [-2, -1, 0, 1, 2], "reflect")
    ([30, 20, 10, 20, 30], [])
    """
    step = int(np.diff(numbers).min()) if len(numbers) > 1 else 1
    first, last = numbers[0], numbers[-1]
    chosen, missing = [], []
    for offset in offsets:
        wanted = own + offset * step
        if border == "reflect" and first < last:
            folded = (wanted - first) % (2 * (last - first))
            wanted = first + min(folded, 2 * (last - first) - folded)
        wanted = min(max(wanted, first), last)
        nearest = _nearest(wanted, numbers, own)
        chosen.append(nearest)
        missing += [wanted] if nearest != wanted else []
    return chosen, missing


def _nearest(wanted: int, numbers: Sequence[int], own: int) -> int:
    """The nearest number; of two at the same distance, the one nearer to `own`."""
    place = bisect_left(numbers, wanted)
    return min(numbers[max(0, place - 1) : place + 1], key=lambda number: (abs(number - wanted), abs(number - own)))


@lru_cache(maxsize=256)
def files_beside(folder: Path, pattern: str) -> Mapping[int, Path]:
    """The slices in a folder by their number.

    Args:
        pattern: of the files' names; its group is the number.

    Raises:
        ValueError: for two files with the same number.
    """
    files: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        match = re.fullmatch(pattern, path.name)
        if match and match[1] and match[1].isdecimal() and (other := files.setdefault(int(match[1]), path)) != path:
            raise ValueError(f"{path} and {other} are both slice {int(match[1])}: expected one file per number")
    return files
