"""The files of a data folder by their paths, from one walk through it."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from pipeline.competition import DRAFTED_SAMPLE
from pipeline.data.file_index import is_hidden, is_loop
from pipeline.data.medical import is_nifti_name, slices_of

TABLES, JSONS = (".csv",), (".json", ".jsonl", ".ndjson")
IMAGES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".dcm", ".dicom", ".npy"),
    *(".nii", ".nii.gz", ".jp2", ".j2k", ".avif", ".ppm", ".pgm", ".pbm", ".pnm"),
)
BY_LENGTH = tuple(sorted(IMAGES, key=len, reverse=True))  # a name that ends in several ends in the longest
T = TypeVar("T")


def readable(path: Path) -> Path:
    """A path that the image readers take: of a NIfTI volume that of its middle slice; any other path as it is.

    Raises:
        ImageError: for a damaged volume.
    """
    if not is_nifti_name(path):
        return path
    slices = list(slices_of(path).values())
    return slices[(len(slices) - 1) // 2]


def stem_of(path: str) -> str:
    """The name of a file without the suffix of an image.

    >>> stem_of("a/x.nii.gz"), stem_of("a/x_MPP-0.25.png")
    ('x', 'x_MPP-0.25')
    """
    name = path.rpartition("/")[2]
    ending = next((suffix for suffix in BY_LENGTH if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(ending)] if ending else name


class Listing(NamedTuple):
    """Paths of files below `root`, with "/" between folders, sorted."""

    root: Path
    images: tuple[str, ...]
    tables: tuple[str, ...]  # CSV
    jsons: tuple[str, ...]
    others: tuple[str, ...]
    folders: tuple[str, ...]  # empty ones too


def list_files(root: Path) -> Listing:
    """List all files below a folder; those of the operating system, and the sample submission of an earlier draft, are
    left out, links to folders are followed.

    Raises:
        ValueError: if there is no such folder, or no file in it.
    """
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder: give the folder of the competition's files, as DATA=folder")
    files, below = [], []
    for place, folders, names in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if not is_hidden(name) and not is_loop(Path(place, name))]
        start = "" if place == str(root) else f"{Path(place).relative_to(root).as_posix()}/"
        below += [start + name for name in folders]
        files += [start + name for name in names if not is_hidden(name) and name != DRAFTED_SAMPLE]
    if not files:
        raise ValueError(f"{root}: no file in this folder: put the competition's files there")
    kinds: dict[tuple[str, ...], list[str]] = {IMAGES: [], TABLES: [], JSONS: [], (): []}
    for path in sorted(files):
        kinds[next((kind for kind in (IMAGES, TABLES, JSONS) if path.lower().endswith(kind)), ())].append(path)
    return Listing(root, *map(tuple, kinds.values()), tuple(sorted(below)))


def spread(items: Sequence[T], count: int) -> list[T]:
    """At most `count` items, evenly spread over all of them, in their order."""
    if len(items) <= count or count == 1:
        return list(items[:count])
    return [items[number * (len(items) - 1) // (count - 1)] for number in range(count)]
