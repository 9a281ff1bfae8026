"""Images that are too large to be held in memory, read window by window.

Of a tiled TIFF, only the tiles that a window touches are decoded. Uncompressed pixels (a
TIFF without compression, .npy) are memory-mapped. Other formats (PNG, JPEG) are decoded whole, once (`unpacked.py`).
"""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache, partial
from itertools import product
from pathlib import Path
from threading import Lock
from typing import NamedTuple, Protocol

import numpy as np
import tifffile

from pipeline.data.formats import NPY, TIFF, format_of, read_npy_header, read_raster
from pipeline.data.rasters import QUOTED, ImageError, read_or_raise
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
from pipeline.data.unpacked import Decoded, Unpacked, unpacking
from pipeline.quoting import first_line

log = logging.getLogger(__name__)

CACHE_BYTES = 192 << 20  # decoded tiles that are kept: the next column of windows overlaps the last one


class Box(NamedTuple):
    """A rectangle of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """The rows and columns of the box, to index an array (H, W, …)."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


class Windows(Protocol):
    """An open image whose windows can be read."""

    shape: tuple[int, int, int]  # height, width, channels
    dtype: np.dtype
    alpha: bool  # whether the file declares its last channel as transparency

    def read(self, box: Box) -> np.ndarray:
        """The pixels of a box inside the image, (box.height, box.width, C) in the file's own dtype.

        Raises:
            ImageError: for what cannot be decoded.
        """


class ArrayReader:
    """Windows of an array in memory or of a memory map.

    Args:
        pixels: (H, W) or (H, W, C).
        dtype: of what is read, if it differs from the array's in byte order.
        alpha: whether the last channel is transparency.
    """

    def __init__(self, pixels: np.ndarray, dtype: np.dtype | None = None, *, alpha: bool = False):
        self._pixels = pixels if pixels.ndim == 3 else pixels[..., None]
        self.shape, self.dtype, self.alpha = self._pixels.shape, dtype or pixels.dtype, alpha

    def read(self, box: Box) -> np.ndarray:
        """As `Windows.read`."""
        return self._pixels[box.slices].astype(self.dtype)


class GuardedReader:
    """Windows whose `read` raises only ImageError, whatever a decoder raises for a damaged file."""

    def __init__(self, path: Path, image: Windows):
        self._path, self._image = path, image
        self.shape, self.dtype, self.alpha = image.shape, image.dtype, image.alpha

    def read(self, box: Box) -> np.ndarray:
        """As `Windows.read`."""
        return read_or_raise(self._path, lambda _: self._image.read(box))


class TiledReader:
    """Windows of a TIFF, read by its tiles or strips; pages and planes of the same size are channels.

    Args:
        path: for messages.
        series: its pages.
        lenient: tiles that cannot be decoded become zeros and are logged; else they are an error.

    Attributes:
        tile_height, tile_width: of a tile or strip, in pixels.
        tile: decodes a tile by page and number; the last tiles are cached.
    """

    def __init__(self, path: Path, series: tifffile.TiffPageSeries, *, lenient: bool):
        self._path, self._pages, self._lenient = path, list(series.pages), lenient
        page = self._first = series.keyframe
        self._planes = page.samplesperpixel if has_planes(page) else 1
        self._samples = page.samplesperpixel // self._planes
        self.shape = (page.imagelength, page.imagewidth, len(self._pages) * page.samplesperpixel)
        self.dtype, self.alpha = page.dtype, has_alpha(series)
        strip = (min(page.rowsperstrip, page.imagelength), page.imagewidth)
        self.tile_height, self.tile_width = (page.tilelength, page.tilewidth) if page.is_tiled else strip
        self._rows = -(-page.imagelength // self.tile_height)
        self._columns = -(-page.imagewidth // self.tile_width)
        self._lock = Lock()  # of the file
        tile_bytes = self.tile_height * self.tile_width * self._samples * self.dtype.itemsize
        self.tile = lru_cache(maxsize=CACHE_BYTES // tile_bytes)(self._decode)

    def read(self, box: Box) -> np.ndarray:
        """As `Windows.read`."""
        pixels = np.zeros((box.height, box.width, self.shape[2]), self.dtype)
        high, wide = self.tile_height, self.tile_width
        rows = range(box.top // high, -(-(box.top + box.height) // high))
        columns = range(box.left // wide, -(-(box.left + box.width) // wide))
        layers = product(range(len(self._pages)), range(self._planes))
        for (layer, (page, plane)), row, column in product(enumerate(layers), rows, columns):
            tile = self.tile(page, (plane * self._rows + row) * self._columns + column)
            if tile is not None:
                first = layer * self._samples
                _paste(tile, (row * high, column * wide), pixels[..., first : first + self._samples], box)
        return pixels

    def _decode(self, page: int, number: int) -> np.ndarray | None:
        """A decoded tile, (h, w, samples); None for a tile that the file omits, which is background."""
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
            return self._check_tile(tile, number)
        except Exception as error:  # decoders raise exceptions of many types
            return self._handle_error(number, error)

    def _check_tile(self, tile: np.ndarray, number: int) -> np.ndarray:
        """Return a tile that covers its part of the image, and refuse another one."""
        row, column = self._first_pixel(number)
        needed = min(self.tile_height, self.shape[0] - row), min(self.tile_width, self.shape[1] - column)
        if tile.ndim != 3 or tile.shape[2] != self._samples or tile.shape[0] < needed[0] or tile.shape[1] < needed[1]:
            raise ValueError(f"{tile.shape} were decoded, {(*needed, self._samples)} expected")
        return tile

    def _first_pixel(self, number: int) -> tuple[int, int]:
        """Row and column of a tile's first pixel."""
        row, column = divmod(number % (self._rows * self._columns), self._columns)
        return row * self.tile_height, column * self.tile_width

    def _handle_error(self, number: int, error: Exception) -> None:
        row, column = self._first_pixel(number)
        height, width, _ = self.shape
        reason = first_line(error, QUOTED) or type(error).__name__
        what = (
            f"{self._path}: rows {row} to {min(row + self.tile_height, height)}, columns {column} to "
            f"{min(column + self.tile_width, width)} cannot be read ({reason})"
        )
        if not self._lenient:
            advice = "get the file again, or read these pixels as 0 with SKIP_BAD=1 (make) or --skip-bad"
            raise ImageError(f"{what}: {advice}") from error
        log.warning("%s: these pixels are read as 0", what)


def _paste(tile: np.ndarray, corner: tuple[int, int], pixels: np.ndarray, box: Box) -> None:
    """Copy the overlap of a tile and a box into the box's pixels.

    Args:
        corner: row and column of the tile's first pixel in the image.
    """
    top, left = corner[0] - box.top, corner[1] - box.left  # of the tile, in the box
    target = pixels[max(top, 0) : top + tile.shape[0], max(left, 0) : left + tile.shape[1]]
    row, column = max(-top, 0), max(-left, 0)
    target[:] = tile[row : row + target.shape[0], column : column + target.shape[1]]


@contextmanager
def open_windows(
    path: Path,
    *,
    lenient: bool = False,
    exif: bool = True,
    at_least: tuple[int, int] | None = None,
    unpacked: Unpacked | None = None,
) -> Iterator[Windows]:
    """Open an image to read it window by window, until the block ends.

    Args:
        lenient: parts of a TIFF that cannot be decoded are read as 0, and logged with their place.
        exif: as `formats.read_raster`; an image that is stored rotated is decoded whole.
        at_least: as `tiff.open_series`, for a TIFF: boxes are in pixels of that level of a pyramid.
        unpacked: keeps the pixels of an image that has to be decoded whole; None: it is decoded at each call.

    Raises:
        ImageError: as `formats.read_raster`; and while windows are read, for what cannot be decoded.
    """
    with ExitStack() as files:
        options = _Options(lenient, exif, at_least, unpacked)
        yield GuardedReader(path, read_or_raise(path, lambda path: _open(path, files, options)))


class _Options(NamedTuple):
    """As for `open_windows`."""

    lenient: bool
    exif: bool
    at_least: tuple[int, int] | None
    unpacked: Unpacked | None


def can_read_windows(path: Path, *, exif: bool = True) -> bool:
    """Whether a part of the image can be read without decoding all of it.

    Raises:
        ImageError: as `open_windows`.
    """
    form = format_of(path)
    if form is not TIFF:
        return form is NPY

    def is_tiled_or_mapped(path: Path) -> bool:
        with tifffile.TiffFile(path) as file:
            series = open_series(path, file)
            return not _is_read_whole(series, exif) and (series.keyframe.is_tiled or can_be_mapped(series))

    return read_or_raise(path, is_tiled_or_mapped)


def _open(path: Path, files: ExitStack, options: _Options) -> Windows:
    """The image by window; the files that it needs are closed with `files`."""
    form = format_of(path)
    if form is TIFF:
        file = files.enter_context(tifffile.TiffFile(path))
        return _open_tiff(path, open_series(path, file, options.at_least), files, options)
    if form is NPY:
        read_npy_header(path)
        pixels = np.load(path, mmap_mode="r", allow_pickle=False)
        pixels = pixels[:, :, 0] if pixels.ndim == 4 else pixels
        return ArrayReader(pixels, pixels.dtype.newbyteorder("="))
    return _read_whole(path, options)


def _read_whole(path: Path, options: _Options) -> ArrayReader:
    if options.unpacked is None:
        raster = read_raster(path, exif=options.exif)
        return ArrayReader(raster.pixels, alpha=raster.alpha)
    pixels = options.unpacked.open(path, (path, options.exif), partial(_unpack, path, options.exif))
    return ArrayReader(pixels[:-1], alpha=bool(pixels[-1].any()))


def _unpack(path: Path, exif: bool) -> Decoded:
    """The pixels of an image, and below them a row of ones if its last channel is alpha, else of zeros."""
    pixels, alpha, _ = read_raster(path, exif=exif)
    return Decoded((len(pixels) + 1, *pixels.shape[1:]), pixels.dtype, [pixels, np.full_like(pixels[:1], alpha)])


def _is_read_whole(series: tifffile.TiffPageSeries, exif: bool) -> bool:
    """Whether no part of a TIFF can be decoded alone, however it is divided."""
    page = series.keyframe
    rotated = exif and orientation_of_page(page) != 1
    pixels = len(series.pages) * page.imagelength * page.imagewidth * page.samplesperpixel
    return is_coded(page) or rotated or pixels != series.size


def _open_tiff(path: Path, series: tifffile.TiffPageSeries, files: ExitStack, options: _Options) -> Windows:
    page = series.keyframe
    if page.tiledepth > 1 or page.imagedepth > 1:
        raise ImageError(f"{path}: a TIFF of volumes, {series.shape}: expected rows, columns, channels")
    if _is_read_whole(series, options.exif):
        return _read_whole(path, options)
    tiled = TiledReader(path, series, lenient=options.lenient)
    files.callback(tiled.tile.cache_clear)
    if page.is_tiled:
        return tiled
    if can_be_mapped(series):
        dtype = np.dtype(page.parent.byteorder + page.dtype.char)
        mapped = np.memmap(path, dtype, "r", series.dataoffset, tiled.shape)
        return ArrayReader(mapped, tiled.dtype, alpha=tiled.alpha)
    unpacked = options.unpacked or files.enter_context(unpacking())
    if options.unpacked is None:
        log.warning("%s: a TIFF without tiles: decoded into a file in %s", path, unpacked.folder.parent)
    key = (path, "strips", options.lenient, options.at_least)
    pixels = unpacked.open(path, key, lambda: Decoded(tiled.shape, tiled.dtype, _strips(tiled)))
    return ArrayReader(pixels, alpha=tiled.alpha)


def _strips(image: TiledReader) -> Iterator[np.ndarray]:
    """The pixels of a TIFF in strips, which span its width: each column of windows would decode all of them again."""
    height, width, _ = image.shape
    for top in range(0, height, image.tile_height):
        yield image.read(Box(top, 0, min(image.tile_height, height - top), width))
