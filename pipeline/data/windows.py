"""Images too large to be held whole, read by window: only the tiles of the file that a window touches are decoded.

A TIFF of tiles is read so, at any level of its pyramid; pixels that lie in a file as they are (a TIFF without
compression, .npy) are mapped. What has to be decoded whole (PNG, JPEG) is, once.
"""

import logging
import math
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import product
from pathlib import Path
from threading import Lock
from typing import NamedTuple, Protocol

import numpy as np
import tifffile

from pipeline.data.formats import NPY, TIFF, format_of, read_npy_header, read_raster
from pipeline.data.rasters import QUOTED, ImageError, Raster, opened
from pipeline.data.tiff import (
    JPEG,
    can_be_mapped,
    has_alpha,
    has_planes,
    is_coded,
    open_series,
    orientation_of_page,
    refuse_damaged_jpeg,
)
from pipeline.quoting import first_line

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
    alpha: bool  # whether the file says that the last channel is transparency

    def read(self, box: Box) -> np.ndarray:
        """The pixels of a box that lies inside, (h, w, C) in the file's own dtype."""


class Whole:
    """An array as windows: in memory, or mapped; given in a dtype of its own if its bytes lie the other way round."""

    def __init__(self, pixels: np.ndarray, dtype: np.dtype | None = None, *, alpha: bool = False):
        self._pixels = pixels if pixels.ndim == 3 else pixels[..., None]
        self.shape, self.dtype, self.alpha = self._pixels.shape, dtype or pixels.dtype, alpha

    def read(self, box: Box) -> np.ndarray:
        return self._pixels[box.slices].astype(self.dtype)


class Guarded:
    """Windows whose reading raises nothing but ImageError, whatever a decoder makes of a damaged file."""

    def __init__(self, path: Path, image: Windows):
        self._path, self._image = path, image
        self.shape, self.dtype, self.alpha = image.shape, image.dtype, image.alpha

    def read(self, box: Box) -> np.ndarray:
        return opened(self._path, lambda _: self._image.read(box))


class Chunks:
    """A level of a TIFF, by the tiles or strips that it is cut into; pages and planes of one size are channels.

    Args:
        lenient: what cannot be decoded becomes zeros and is named in the log; else it is an error.
    """

    def __init__(self, path: Path, series: tifffile.TiffPageSeries, *, lenient: bool):
        self._path, self._pages, self._lenient = path, list(series.pages), lenient
        page = self._first = series.keyframe
        self._planes = page.samplesperpixel if has_planes(page) else 1
        self._samples = page.samplesperpixel // self._planes
        self.shape = (page.imagelength, page.imagewidth, len(self._pages) * page.samplesperpixel)
        self.dtype, self.alpha = page.dtype, has_alpha(series)
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
        try:
            offset, size = frame.dataoffsets[number], frame.databytecounts[number]
            if not size:
                return None
            with self._lock:
                file = frame.parent.filehandle
                file.seek(offset)
                data = file.read(size)
            if len(data) < size:
                raise ValueError(f"{len(data)} of {size} bytes are there")
            if self._first.compression == JPEG:
                refuse_damaged_jpeg(self._path, data, self._first)
            tile = self._first.decode(data, number, jpegtables=frame.jpegtables)[0][0]
            return self._checked(tile, number)
        except Exception as error:  # decoders raise all kinds
            return self._bad(number, error)

    def _checked(self, tile: np.ndarray, number: int) -> np.ndarray:
        """A tile that fills its part of the image."""
        row, column = self._place(number)
        needed = min(self.high, self.shape[0] - row), min(self.wide, self.shape[1] - column)
        if tile.ndim != 3 or tile.shape[2] != self._samples or tile.shape[0] < needed[0] or tile.shape[1] < needed[1]:
            raise ValueError(f"{tile.shape} were decoded, {(*needed, self._samples)} expected")
        return tile

    def _place(self, number: int) -> tuple[int, int]:
        """Row and column of a tile's first pixel."""
        row, column = divmod(number % (self._down * self._across), self._across)
        return row * self.high, column * self.wide

    def _bad(self, number: int, error: Exception) -> None:
        row, column = self._place(number)
        height, width, _ = self.shape
        what = (
            f"{self._path}: rows {row} to {min(row + self.high, height)}, columns {column} to "
            f"{min(column + self.wide, width)} cannot be read ({first_line(error, QUOTED) or type(error).__name__})"
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
def open_windows(path: Path, level: int = 0, *, lenient: bool = False, exif: bool = True) -> Iterator[Windows]:
    """An image to be read by window, until the block ends.

    Args:
        level: of a TIFF's pyramid; 0 is the full size.
        lenient: what of a TIFF cannot be decoded counts as 0, with a line in the log that says where.
        exif: as `formats.read_raster`; an image that is stored turned is read whole.

    Raises:
        ImageError: as `formats.read_raster`; for a level that the file does not have; and while reading, for whatever
            cannot be decoded.
    """
    with ExitStack() as files:
        yield Guarded(path, opened(path, lambda path: _windows(path, files, level, lenient, exif)))


def _windows(path: Path, files: ExitStack, level: int, lenient: bool, exif: bool) -> Windows:
    """The image by window; what it needs open is closed with `files`."""
    form = format_of(path)
    if form is TIFF:
        file = files.enter_context(tifffile.TiffFile(path))
        return _of_tiff(path, file, files, level, lenient, exif)
    if level:
        raise ImageError(f"{path}: level {level} of a file without levels: only a TIFF has some")
    if form is NPY:
        read_npy_header(path)
        pixels = np.load(path, mmap_mode="r", allow_pickle=False)
        return Whole(pixels, pixels.dtype.newbyteorder("="))
    return _whole(read_raster(path, exif=exif))


def _whole(raster: Raster) -> Whole:
    return Whole(raster.pixels, alpha=raster.alpha)


def _of_tiff(path: Path, file: tifffile.TiffFile, files: ExitStack, level: int, lenient: bool, exif: bool) -> Windows:
    series = open_series(path, file, level)
    page = series.keyframe
    if page.tiledepth > 1 or page.imagedepth > 1:
        raise ImageError(f"{path}: a TIFF of volumes, {series.shape}: expected rows, columns, channels")
    chunks = Chunks(path, series, lenient=lenient)
    turned = exif and orientation_of_page(page) != 1
    if is_coded(page) or turned or math.prod(chunks.shape) != series.size:
        if level:
            raise ImageError(f"{path}: level {level} of a TIFF that is read whole (a palette, 0 for white, or turned)")
        return _whole(read_raster(path, exif=exif))
    if page.is_tiled:
        return chunks
    if can_be_mapped(series):
        kind = np.dtype(page.parent.byteorder + page.dtype.char)
        mapped = np.memmap(path, kind, "r", series.dataoffset, chunks.shape)
        return Whole(mapped, chunks.dtype, alpha=chunks.alpha)
    return Whole(files.enter_context(_unpacked(path, chunks)), alpha=chunks.alpha)


@contextmanager
def _unpacked(path: Path, strips: Chunks) -> Iterator[np.ndarray]:
    """The pixels in a file of their own until the block ends.

    Strips go from border to border: to read a column of windows would decode all of them, once for each column.
    """
    height, width, channels = strips.shape
    size = height * width * channels * strips.dtype.itemsize
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if size > free:
        raise ImageError(
            f"{path}: a TIFF without tiles: it takes a temporary file of {size >> 20} MiB, {free >> 20} are free"
        )
    log.warning("%s: a TIFF without tiles: unpacked, into %d MiB of a temporary file", path, size >> 20)
    with tempfile.NamedTemporaryFile() as file:
        for top in range(0, height, strips.high):
            file.write(strips.read(Box(top, 0, min(strips.high, height - top), width)).tobytes())
        file.flush()
        yield np.memmap(file.name, strips.dtype, "r", 0, strips.shape)
