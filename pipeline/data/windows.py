"""Images too large to be held whole, read by window: only the tiles of the file that a window touches are decoded.

A TIFF of tiles is read so, at any level of its pyramid; pixels that lie in a file as they are (a TIFF without
compression, .npy) are mapped. What has to be decoded whole (PNG, JPEG) is, once.
"""

import logging
import tempfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from threading import Lock
from typing import NamedTuple, Protocol

import numpy as np
import tifffile

from pipeline.data.formats import FORMATS, TIFF, ImageError, check_tiff_colours, is_coded, opened, read_pixels

log = logging.getLogger(__name__)

KEPT = 192 << 20  # bytes of decoded tiles that stay: the next column of windows overlaps the last one


class Box(NamedTuple):
    """A rectangle of an image's pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Its rows and columns."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


class Windows(Protocol):
    """An image of which parts can be had."""

    shape: tuple[int, int, int]  # height, width, channels
    dtype: np.dtype

    def read(self, box: Box) -> np.ndarray:
        """The pixels of a box that lies inside, (h, w, C) in the file's own dtype."""


class Whole:
    """An array as windows: in memory, or mapped; given in a dtype of its own if its bytes lie the other way round."""

    def __init__(self, pixels: np.ndarray, dtype: np.dtype | None = None):
        self._pixels = pixels if pixels.ndim == 3 else pixels[..., None]
        self.shape, self.dtype = self._pixels.shape, dtype or pixels.dtype

    def read(self, box: Box) -> np.ndarray:
        return self._pixels[box.slices].astype(self.dtype)


class Chunks:
    """A level of a TIFF, by the tiles or strips that it is cut into; pages and planes of one size are channels.

    Args:
        lenient: what cannot be decoded becomes zeros and is named in the log; else it is an error.
    """

    def __init__(self, path: Path, series: tifffile.TiffPageSeries, *, lenient: bool):
        self._path, self._pages, self._lenient = path, list(series.pages), lenient
        page = self._first = series.keyframe
        self._planes = page.samplesperpixel if _has_planes(page) else 1
        self._samples = page.samplesperpixel // self._planes
        self.shape = (page.imagelength, page.imagewidth, len(self._pages) * page.samplesperpixel)
        self.dtype = page.dtype
        strip = (min(page.rowsperstrip, page.imagelength), page.imagewidth)
        self.high, self.wide = (page.tilelength, page.tilewidth) if page.is_tiled else strip
        self._down, self._across = -(-page.imagelength // self.high), -(-page.imagewidth // self.wide)
        self._kept: OrderedDict[tuple[int, int], np.ndarray | None] = OrderedDict()
        self._bytes, self._lock = 0, Lock()

    def read(self, box: Box) -> np.ndarray:
        pixels = np.zeros((box.height, box.width, self.shape[2]), self.dtype)
        high, wide = self.high, self.wide
        rows = range(box.top // high, -(-(box.top + box.height) // high))
        columns = range(box.left // wide, -(-(box.left + box.width) // wide))
        layers = product(range(len(self._pages)), range(self._planes))
        for (layer, (page, plane)), row, column in product(enumerate(layers), rows, columns):
            tile = self._tile(page, (plane * self._down + row) * self._across + column)
            if tile is not None:
                first = layer * self._samples
                _paste(tile, (row * high, column * wide), pixels[..., first : first + self._samples], box)
        return pixels

    def _tile(self, page: int, number: int) -> np.ndarray | None:
        """A decoded tile, (h, w, samples); None for one that the file leaves out, which is background."""
        key = (page, number)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        tile = self._decode(page, number)
        with self._lock:
            self._kept[key] = tile
            self._bytes += 0 if tile is None else tile.nbytes
            while self._bytes > KEPT:
                _, oldest = self._kept.popitem(last=False)
                self._bytes -= 0 if oldest is None else oldest.nbytes
        return tile

    def _decode(self, page: int, number: int) -> np.ndarray | None:
        frame = self._pages[page]
        offset, size = frame.dataoffsets[number], frame.databytecounts[number]
        if not size:
            return None
        try:
            with self._lock:
                file = frame.parent.filehandle
                file.seek(offset)
                data = file.read(size)
            if len(data) < size:
                raise ValueError(f"{len(data)} of {size} bytes are there")
            return self._first.decode(data, number, jpegtables=frame.jpegtables)[0][0]
        except Exception as error:  # decoders raise all kinds
            return self._bad(number, error)

    def _bad(self, number: int, error: Exception) -> None:
        row, column = divmod(number % (self._down * self._across), self._across)
        height, width, _ = self.shape
        what = (
            f"{self._path}: rows {row * self.high} to {min((row + 1) * self.high, height)}, columns "
            f"{column * self.wide} to {min((column + 1) * self.wide, width)} cannot be read ({error})"
        )
        if not self._lenient:
            raise ImageError(f"{what}: get the file again, or go on without them with --skip-bad") from error
        log.warning("%s: they count as 0", what)


def _paste(tile: np.ndarray, corner: tuple[int, int], pixels: np.ndarray, box: Box) -> None:
    """Copy what a tile and a box share into the box's pixels."""
    top, left = corner[0] - box.top, corner[1] - box.left  # of the tile, in the box
    here = pixels[max(top, 0) : top + tile.shape[0], max(left, 0) : left + tile.shape[1]]
    row, column = max(-top, 0), max(-left, 0)
    here[:] = tile[row : row + here.shape[0], column : column + here.shape[1]]


@contextmanager
def open_windows(path: Path, level: int = 0, *, lenient: bool = False) -> Iterator[Windows]:
    """An image to be read by window, until the block ends.

    Args:
        level: of a TIFF's pyramid; 0 is the full size.
        lenient: what of a TIFF cannot be decoded counts as 0, with a line in the log that says where.

    Raises:
        ImageError: as `formats.read_pixels`; for a level that the file does not have; and while reading, for a tile
            that cannot be decoded.
    """
    form = FORMATS.get(path.suffix.lower())
    if level and form is not TIFF:
        raise ImageError(f"{path}: level {level} of a file without levels: only a TIFF has some")
    if form is TIFF:
        with opened(path, tifffile.TiffFile) as file:
            yield from _of_tiff(path, file, level, lenient)
    elif path.suffix.lower() == ".npy":
        yield Whole(opened(path, lambda path: np.load(path, mmap_mode="r", allow_pickle=False)))
    else:
        yield Whole(read_pixels(path))


def _of_tiff(path: Path, file: tifffile.TiffFile, level: int, lenient: bool) -> Iterator[Windows]:
    levels = file.series[0].levels
    if level >= len(levels):
        raise ImageError(f"{path}: level {level} of {len(levels)}: expected 0 to {len(levels) - 1}")
    series = levels[level]
    page = series.keyframe
    if page.tiledepth > 1 or page.imagedepth > 1:
        raise ImageError(f"{path}: a TIFF of volumes, {series.shape}: expected rows, columns, channels")
    check_tiff_colours(path, page)
    if is_coded(page):
        if level:
            raise ImageError(f"{path}: level {level} of a TIFF of a palette, or whose 0 is white: expected level 0")
        yield Whole(read_pixels(path))
        return
    chunks = Chunks(path, series, lenient=lenient)
    if page.is_tiled:
        yield chunks
    elif series.dataoffset is not None and len(series.pages) == 1 and not _has_planes(page):
        kind = np.dtype(page.parent.byteorder + page.dtype.char)
        yield Whole(np.memmap(path, kind, "r", series.dataoffset, chunks.shape), chunks.dtype)
    else:
        with _unpacked(path, chunks) as pixels:
            yield Whole(pixels)


def _has_planes(page: tifffile.TiffPage) -> bool:
    return page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and page.samplesperpixel > 1


@contextmanager
def _unpacked(path: Path, strips: Chunks) -> Iterator[np.ndarray]:
    """The pixels in a file of their own until the block ends.

    Strips go from border to border: to read a column of windows would decode all of them, once for each column.
    """
    height, width, channels = strips.shape
    size = height * width * channels * strips.dtype.itemsize
    log.warning("%s: a TIFF without tiles: unpacked, into %d MiB of a temporary file", path, size >> 20)
    with tempfile.NamedTemporaryFile() as file:
        for top in range(0, height, strips.high):
            file.write(strips.read(Box(top, 0, min(strips.high, height - top), width)).tobytes())
        file.flush()
        yield np.memmap(file.name, strips.dtype, "r", 0, strips.shape)
