"""TIFF files. A file with a missing page, tile or strip is refused.

tifffile alone would fill missing parts with zeros, and ignore the pages after a break.
"""

import logging
import math
import struct
from pathlib import Path

import numpy as np
import tifffile

from pipeline.data.rasters import (
    ORIENTATION,
    Header,
    ImageError,
    Raster,
    check_memory,
    check_packing,
    damaged,
    known_orientation,
    refuse_colours,
)

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it warns about is an error here

# Colours without one fixed conversion to RGB: it depends on a profile, or on a convention.
UNSUPPORTED = {"SEPARATED", "CIELAB", "ICCLAB", "ITULAB", "CFA", "LOGL", "LOGLUV"}

JPEG = 7
HEADER_BYTES = 8  # at the start of a file, where no pixels can be
# Highest possible ratio of decoded to stored bytes by compression; others have no limit.
PACKING = {
    1: 1,  # none
    5: 2731,  # LZW: a code of 12 bits stands for up to 4,096 bytes, the entries of its table
    JPEG: 4096,  # Huffman coding needs at least a bit per 64 pixels of a channel; arithmetic coding less
    8: 1032,  # deflate
    32946: 1032,
    32773: 64,  # PackBits: two bytes for 128
}


def read_tiff(path: Path, at_least: tuple[int, int] | None = None) -> Raster:
    """Decode a TIFF, (H, W, C): pages of the same size are channels; a palette's colours replace its indices.

    Args:
        at_least: as `open_series`.

    Raises:
        ImageError: for a damaged or unsupported file.
    """
    with tifffile.TiffFile(path) as file:
        series = open_series(path, file, at_least)
        check_whole(path, file, series)
        page = series.keyframe
        pixels = np.ascontiguousarray(_resolve_palette(_rows_columns_channels(path, series), page, path))
        return Raster(pixels, has_alpha(series), orientation_of_page(page))


def read_tiff_indices(path: Path) -> Raster | None:
    """The palette's indices, (H, W, 1); None for a TIFF without a palette.

    Raises:
        ImageError: as `read_tiff`.
    """
    with tifffile.TiffFile(path) as file:
        series = open_series(path, file)
        page = series.keyframe
        if page.photometric != tifffile.PHOTOMETRIC.PALETTE:
            return None
        check_whole(path, file, series)
        return Raster(page.asarray()[..., None], orientation=orientation_of_page(page))


def read_tiff_header(path: Path) -> Header:
    """Height, width, dtype and orientation of a TIFF's first page, without its pixels."""
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        return Header(page.imagelength, page.imagewidth, page.dtype, orientation_of_page(page))


def open_series(
    path: Path, file: tifffile.TiffFile, at_least: tuple[int, int] | None = None
) -> tifffile.TiffPageSeries:
    """The first image of a file; of a pyramid, the full size or a level.

    Args:
        at_least: height and width in pixels: of a pyramid, the smallest level that is at least as large; None: the full
            size. An image that is stored rotated has no other level.

    Raises:
        ImageError: for missing pages, and unsupported colours.
    """
    _check_page_chain(path, file)
    series = file.series[0] if at_least is None else _smallest_level(file.series[0], at_least)
    page = series.keyframe
    check_colours(path, page)
    if 0 in series.shape or page.planarconfig not in (1, 2):
        raise damaged(path, f"a TIFF of shape {series.shape}, planes {page.planarconfig}")
    if any(page is None for page in series.pages):
        raise damaged(path, "a TIFF with pages that are missing, or in other files")
    mapped = can_be_mapped(series)
    for page in series.pages:
        _check_page(path, page, series.keyframe, mapped=mapped)
    return series


def _smallest_level(series: tifffile.TiffPageSeries, at_least: tuple[int, int]) -> tifffile.TiffPageSeries:
    """The smallest level of a pyramid that is at least of this height and width; the full size if there is none."""
    full = series.keyframe
    if orientation_of_page(full) != 1:
        return series
    fitting = [level for level in series.levels if _is_large(level, at_least) and _is_level_of(level, series)]
    return min(fitting, key=lambda level: level.keyframe.imagelength, default=series)


def _is_large(level: tifffile.TiffPageSeries, size: tuple[int, int]) -> bool:
    return level.keyframe.imagelength >= size[0] and level.keyframe.imagewidth >= size[1]


def _is_level_of(level: tifffile.TiffPageSeries, series: tifffile.TiffPageSeries) -> bool:
    """Whether a level shows the same picture, with the same channels and values: tifffile does not check OME-TIFF."""
    page, full = level.keyframe, series.keyframe
    one, other = page.imagelength * full.imagewidth, page.imagewidth * full.imagelength
    alike = ("dtype", "samplesperpixel", "photometric", "extrasamples")
    return (
        len(level.pages) == len(series.pages)
        and all(getattr(page, name) == getattr(full, name) for name in alike)
        and abs(one - other) <= full.imagelength + full.imagewidth  # sides are rounded to a pixel
    )


def can_be_mapped(series: tifffile.TiffPageSeries) -> bool:
    """Whether the pixels can be memory-mapped: uncompressed, in one block, row by row."""
    page = series.keyframe
    return series.dataoffset is not None and not page.is_tiled and len(series.pages) == 1 and not has_planes(page)


def has_planes(page: tifffile.TiffPage) -> bool:
    """Whether each channel is stored in its own plane."""
    return page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and page.samplesperpixel > 1


def _check_page_chain(path: Path, file: tifffile.TiffFile) -> None:
    """Follow the chain of pages to its end: tifffile ignores the pages after a break."""
    form, handle = file.tiff, file.filehandle
    handle.seek(form.offsetsize if form.offsetsize == 8 else 4)
    offset, seen = _unpacked(handle, form.offsetformat), set()
    while offset and offset not in seen and len(seen) < len(file.pages):
        seen.add(offset)
        handle.seek(offset)
        tags = _unpacked(handle, form.tagnoformat)
        handle.seek(offset + form.tagnosize + tags * form.tagsize)
        offset = _unpacked(handle, form.offsetformat)
    if offset and offset not in seen:
        raise damaged(path, f"a TIFF with {len(seen)} readable pages and a broken link to the next one")


def _unpacked(handle: tifffile.FileHandle, form: str) -> int:
    return struct.unpack(form, handle.read(struct.calcsize(form)))[0]


def _check_page(path: Path, page: tifffile.TiffPage, first: tifffile.TiffPage, *, mapped: bool) -> None:
    """Refuse a page with too few tiles or strips, or with too little data for its size.

    Args:
        mapped: whether the page can be memory-mapped, which needs no memory for its strips.
    """
    needed = math.prod(first.chunked)
    if min(len(page.dataoffsets), len(page.databytecounts)) < needed:
        raise damaged(path, f"a TIFF of {len(page.dataoffsets)} tiles or strips, {needed} expected")
    counts = [count for count in page.databytecounts[:needed] if count]  # a tile of 0 bytes is omitted: background
    places = zip(page.dataoffsets[:needed], page.databytecounts[:needed], strict=True)
    if any(count and offset < HEADER_BYTES for offset, count in places):
        raise damaged(path, "a TIFF with pixels in its header")
    pixels = math.prod(first.chunks) if first.is_tiled else math.prod(first.shape) // max(1, needed)
    piece = pixels * first.bitspersample // 8
    packing = PACKING.get(first.compression)
    if packing is not None:
        check_packing(path, declared=piece * len(counts), stored=sum(counts), packing=packing * 1.01)
    if counts and not mapped:  # a tile or strip is decoded at once, however large
        check_memory(path, piece)


def check_whole(path: Path, file: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> None:
    """Refuse an image that does not fit into memory, or with a truncated tile or strip.

    Raises:
        ImageError: with the reason.
    """
    check_memory(path, series.nbytes)
    if series.dataoffset is not None:
        _check_end(path, file, [(series.dataoffset, series.nbytes)])
    for page in series.pages:
        pieces = list(zip(page.dataoffsets, page.databytecounts, strict=False))
        _check_end(path, file, pieces)
        if series.keyframe.compression == JPEG:
            for offset, count in pieces:
                file.filehandle.seek(offset)
                refuse_damaged_jpeg(path, file.filehandle.read(count), series.keyframe)


def _check_end(path: Path, file: tifffile.TiffFile, pieces: list[tuple[int, int]]) -> None:
    end = max((offset + count for offset, count in pieces), default=0)
    if end > file.filehandle.size:
        raise damaged(path, f"truncated: {file.filehandle.size} bytes, {end} expected")


def refuse_damaged_jpeg(path: Path, data: bytes, page: tifffile.TiffPage) -> None:
    """Refuse a JPEG tile or strip that is truncated or too large: decoders invent the missing pixels.

    Raises:
        ImageError: with the reason.
    """
    if not data:
        return
    if not data.rstrip(b"\0").endswith(b"\xff\xd9"):
        raise damaged(path, "JPEG data without their end")
    height, width = jpeg_size(data)
    most = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
    if height > most[0] or width > most[1]:
        raise damaged(path, f"JPEG data of {height} × {width} pixels, expected {most[0]} × {most[1]}")


def jpeg_size(data: bytes) -> tuple[int, int]:
    """Height and width in the header of a JPEG stream, in pixels.

    Raises:
        ValueError: without a frame.
    """
    place = 2
    while place + 9 <= len(data) and data[place] == 0xFF:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return struct.unpack(">HH", data[place + 5 : place + 9])
        place += 2 + length
    raise ValueError("JPEG data without a frame")


def _rows_columns_channels(path: Path, series: tifffile.TiffPageSeries) -> np.ndarray:
    pixels = series.asarray()
    axes = [name for name, length in zip(series.axes, series.shape, strict=True) if length > 1 or name in "YX"]
    pixels = pixels.reshape([length for name, length in zip(series.axes, series.shape, strict=True) if name in axes])
    if axes.count("Y") != 1 or axes.count("X") != 1 or len(axes) > 3:
        raise ImageError(f"{path}: a TIFF of axes {series.axes}, {series.shape}: expected rows, columns, channels")
    others = [place for place, name in enumerate(axes) if name not in "YX"]
    pixels = pixels.transpose(axes.index("Y"), axes.index("X"), *others)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def check_colours(path: Path, page: tifffile.TiffPage) -> None:
    """Refuse a TIFF whose values are neither grey, a palette nor RGB.

    Raises:
        ImageError: with the kind of its colours.
    """
    kind = tifffile.PHOTOMETRIC(page.photometric).name
    packed = "JP" in tifffile.COMPRESSION(page.compression).name  # JPEG's decoders turn YCbCr into RGB
    refuse_colours(path, kind, UNSUPPORTED if packed else {*UNSUPPORTED, "YCBCR"})
    if kind == "MINISWHITE" and page.dtype.kind not in "ub":
        raise ImageError(f"{path}: a TIFF whose 0 is white, of {page.dtype}: what is black? Expected whole numbers")


def is_coded(page: tifffile.TiffPage) -> bool:
    """Whether a TIFF's values are not brightness: indices of a palette, or 0 for white."""
    return page.photometric in (tifffile.PHOTOMETRIC.PALETTE, tifffile.PHOTOMETRIC.MINISWHITE)


def has_alpha(series: tifffile.TiffPageSeries) -> bool:
    """Whether the last channel is declared as transparency (ExtraSamples 1 or 2), and is not just another band."""
    page = series.keyframe
    alone = len(series.pages) == 1 and page.samplesperpixel > 1
    return alone and bool(page.extrasamples) and page.extrasamples[-1] in (1, 2)


def orientation_of_page(page: tifffile.TiffPage) -> int:
    """The orientation in a page's tag, 1 to 8; 1 without a tag."""
    return known_orientation(page.tags.valueof(ORIENTATION, 1))


def _resolve_palette(pixels: np.ndarray, page: tifffile.TiffPage, path: Path) -> np.ndarray:
    """Replace a palette's indices by its colours, and invert values of which 0 is white."""
    if page.photometric == tifffile.PHOTOMETRIC.PALETTE:
        if pixels.shape[2] > 1:
            raise ImageError(f"{path}: {pixels.shape[2]} pages of a palette's indices: expected one")
        colours = page.colormap.T  # (indices, 3), in sixteen bits
        narrow = (colours % 257 == 0).all() or (colours % 256 == 0).all()  # 8 bits, repeated or followed by zeros
        return (colours >> 8).astype(np.uint8)[pixels[..., 0]] if narrow else colours[pixels[..., 0]]
    if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
        return ~pixels if pixels.dtype == bool else ((1 << page.bitspersample) - 1 - pixels).astype(pixels.dtype)
    return pixels
