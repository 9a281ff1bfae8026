"""Decoded arrays in a folder, for files of which no part can be decoded alone: PNG, JPEG, TIFF in strips.

A training on windows of such an image would decode the whole image for each window. Here it is decoded once, by the
process that needs it first; every later window, of any worker and epoch, is read from a memory map.
"""

import hashlib
import math
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.data.rasters import ImageError
from pipeline.files import atomic_write, file_lock, remove_orphans, temporary_name

NAME = "unpacked"


class Decoded(NamedTuple):
    """An array that is decoded part by part along its first axis."""

    shape: tuple[int, ...]
    dtype: np.dtype
    parts: Iterable[np.ndarray]

    @classmethod
    def whole(cls, array: np.ndarray) -> "Decoded":
        """An array that is already in memory."""
        return cls(array.shape, array.dtype, [array])


@dataclass(frozen=True)
class Unpacked:
    """A folder of decoded arrays.

    Args:
        folder: exists until the end of the training.
    """

    folder: Path

    def open(self, path: Path, key: object, decode: Callable[[], Decoded]) -> np.ndarray:
        """The memory map of an array, which cannot be written to; the array is decoded if it is missing.

        Args:
            path: the file that it is decoded from, for messages.
            key: what it is; its text names it.

        Raises:
            ImageError: as `decode`; if the disk has not enough space.
        """
        target = self.folder / f"{hashlib.sha256(repr(key).encode()).hexdigest()[:32]}.npy"
        if not target.exists():
            with file_lock(target.with_suffix(".lock"), str(path)):
                if not target.exists():
                    self._write(path, target, decode())
        return np.load(target, mmap_mode="r", allow_pickle=False)

    def _write(self, path: Path, target: Path, decoded: Decoded) -> None:
        nbytes, free = math.prod(decoded.shape) * decoded.dtype.itemsize, shutil.disk_usage(self.folder).free
        if nbytes > free:
            raise ImageError(
                f"{path}: windows are read from a decoded copy of {nbytes >> 20} MiB, but only {free >> 20} MiB are "
                f"free in {self.folder.parent}: free some space, or set TMPDIR to another folder"
            )
        with atomic_write(target) as partial, partial.open("wb") as file:
            header = {
                "descr": np.lib.format.dtype_to_descr(decoded.dtype),
                "fortran_order": False,
                "shape": decoded.shape,
            }
            np.lib.format.write_array_header_1_0(file, header)
            for part in decoded.parts:
                file.write(np.ascontiguousarray(part, decoded.dtype).data)


@contextmanager
def unpacking() -> Iterator[Unpacked]:
    """A folder for decoded arrays in the system's temporary folder (TMPDIR), which is removed at the end of the block.

    Folders of killed processes are removed first.
    """
    parent = Path(tempfile.gettempdir())
    remove_orphans(parent, f".{NAME}.*.part")
    folder = parent / temporary_name(NAME)
    folder.mkdir()
    try:
        yield Unpacked(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
