"""TIFF: pages, planes, tiles and strips, all of them or none.

tifffile fills with zeros what a file no longer holds, and stops at the last page that it finds. Here a page or a piece
that is missing refuses the file.
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
    damaged,
    known_orientation,
    refuse_colours,
    refuse_more_than_memory,
    refuse_more_than_packed,
)

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it warns of is refused here, in one line

# Colours that no screen has: what they look like depends on a profile, or on a convention.
STRANGE = {"SEPARATED", "CIELAB", "ICCLAB", "ITULAB", "CFA", "LOGL", "LOGLUV"}

JPEG = 7
FIRST = 8  # bytes of a file's header, before which no pixel lies
# Bytes of pixels that a compression packs into one byte at best; what is not listed has no bound.
PACKING = {
    1: 1,  # none
    5: 2731,  # LZW: a code of 12 bits for as many bytes as the table has entries, 4,096
    JPEG: 4096,  # Huffman coding spends a bit on 64 pixels of a channel at least; arithmetic coding less
    8: 1032,  # deflate
    32946: 1032,
    32773: 64,  # PackBits: two bytes for 128
}


def read_tiff(path: Path) -> Raster:
    """Channels of any number and order; pages of one size are channels too. Of a palette its colours."""
    with tifffile.TiffFile(path) as file:
        series = open_series(path, file)
        check_whole(path, file, series)
        page = series.keyframe
        pixels = np.ascontiguousarray(_as_seen(_rows_columns_channels(path, series), page, path))
        return Raster(pixels, has_alpha(series), orientation_of_page(page))


def read_tiff_indices(path: Path) -> Raster | None:
    """The indices of a palette, (H, W, 1); None of a TIFF without one."""
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


def open_series(path: Path, file: tifffile.TiffFile, level: int = 0) -> tifffile.TiffPageSeries:
    """The first image of a file, at a level of its pyramid.

    Raises:
        ImageError: for pages that are missing, colours that no screen has, a level that is not there.
    """
    _refuse_lost_pages(path, file)
    levels = file.series[0].levels
    if level >= len(levels):
        raise ImageError(f"{path}: level {level} of {len(levels)}: expected 0 to {len(levels) - 1}")
    series = levels[level]
    page = series.keyframe
    check_colours(path, page)
    if 0 in series.shape or page.planarconfig not in (1, 2):
        raise damaged(path, f"a TIFF of shape {series.shape}, planes {page.planarconfig}")
    if any(page is None for page in series.pages):
        raise damaged(path, "a TIFF some of whose pages lie in other files, or nowhere")
    mapped = can_be_mapped(series)
    for page in series.pages:
        _refuse_promises_of_page(path, page, series.keyframe, mapped=mapped)
    return series


def can_be_mapped(series: tifffile.TiffPageSeries) -> bool:
    """Whether all pixels lie in the file as they are in memory, one row behind the other."""
    page = series.keyframe
    return series.dataoffset is not None and not page.is_tiled and len(series.pages) == 1 and not has_planes(page)


def has_planes(page: tifffile.TiffPage) -> bool:
    """Whether each channel lies by itself."""
    return page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and page.samplesperpixel > 1


def _refuse_lost_pages(path: Path, file: tifffile.TiffFile) -> None:
    """Follow the chain of pages to its end: tifffile takes the pages before a break for all of them."""
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
        raise damaged(path, f"a TIFF whose pages end after {len(seen)}, where more are announced")


def _unpacked(handle: tifffile.FileHandle, form: str) -> int:
    return struct.unpack(form, handle.read(struct.calcsize(form)))[0]


def _refuse_promises_of_page(path: Path, page: tifffile.TiffPage, first: tifffile.TiffPage, *, mapped: bool) -> None:
    """Refuse a page whose tiles or strips are fewer than it needs, or too small for what they promise.

    Args:
        mapped: whether the page can be mapped, which takes no memory, however large its strips are.
    """
    needed = math.prod(first.chunked)
    if min(len(page.dataoffsets), len(page.databytecounts)) < needed:
        raise damaged(path, f"a TIFF of {len(page.dataoffsets)} pieces, {needed} are announced")
    counts = [count for count in page.databytecounts[:needed] if count]  # one of 0 bytes is left out: background
    places = zip(page.dataoffsets[:needed], page.databytecounts[:needed], strict=True)
    if any(count and offset < FIRST for offset, count in places):
        raise damaged(path, "a TIFF with pixels in its header")
    pixels = math.prod(first.chunks) if first.is_tiled else math.prod(first.shape) // max(1, needed)
    piece = pixels * first.bitspersample // 8
    packing = PACKING.get(first.compression)
    if packing is not None:
        refuse_more_than_packed(path, promised=piece * len(counts), stored=sum(counts), packing=packing * 1.01)
    if counts and not mapped:  # a piece is decoded at once, whatever part of the image it fills
        refuse_more_than_memory(path, piece)


def check_whole(path: Path, file: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> None:
    """Refuse an image that does not fit into memory, or of which a tile or strip is not wholly in the file."""
    refuse_more_than_memory(path, series.nbytes)
    if series.dataoffset is not None:
        _refuse_cut(path, file, [(series.dataoffset, series.nbytes)])
    for page in series.pages:
        pieces = list(zip(page.dataoffsets, page.databytecounts, strict=False))
        _refuse_cut(path, file, pieces)
        if series.keyframe.compression == JPEG:
            for offset, count in pieces:
                file.filehandle.seek(offset)
                refuse_damaged_jpeg(path, file.filehandle.read(count), series.keyframe)


def _refuse_cut(path: Path, file: tifffile.TiffFile, pieces: list[tuple[int, int]]) -> None:
    end = max((offset + count for offset, count in pieces), default=0)
    if end > file.filehandle.size:
        raise damaged(path, f"cut short, {file.filehandle.size} bytes are there, {end} announced")


def refuse_damaged_jpeg(path: Path, data: bytes, page: tifffile.TiffPage) -> None:
    """Refuse a JPEG tile or strip without its end, or of more pixels than its place: its decoder makes up the rest."""
    if not data:
        return
    if not data.rstrip(b"\0").endswith(b"\xff\xd9"):
        raise damaged(path, "JPEG data without their end")
    height, width = jpeg_size(data)
    most = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
    if height > most[0] or width > most[1]:
        raise damaged(path, f"JPEG data of {height} × {width} pixels, expected {most[0]} × {most[1]}")


def jpeg_size(data: bytes) -> tuple[int, int]:
    """Height and width that a JPEG stream announces.

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
    """Refuse a TIFF whose numbers are no brightness or colour of a screen.

    Raises:
        ImageError: with what it holds.
    """
    kind = tifffile.PHOTOMETRIC(page.photometric).name
    packed = "JP" in tifffile.COMPRESSION(page.compression).name  # JPEG's decoders turn YCbCr into RGB
    refuse_colours(path, kind, STRANGE if packed else {*STRANGE, "YCBCR"})
    if kind == "MINISWHITE" and page.dtype.kind not in "ub":
        raise ImageError(f"{path}: a TIFF whose 0 is white, of {page.dtype}: what is black? Expected whole numbers")


def is_coded(page: tifffile.TiffPage) -> bool:
    """Whether a TIFF's numbers mean something else than brightness: indices of a palette, or 0 for white."""
    return page.photometric in (tifffile.PHOTOMETRIC.PALETTE, tifffile.PHOTOMETRIC.MINISWHITE)


def has_alpha(series: tifffile.TiffPageSeries) -> bool:
    """Whether the file says that the last channel is transparency: ExtraSamples 1 or 2. Else it is one more band."""
    page = series.keyframe
    alone = len(series.pages) == 1 and page.samplesperpixel > 1
    return alone and bool(page.extrasamples) and page.extrasamples[-1] in (1, 2)


def orientation_of_page(page: tifffile.TiffPage) -> int:
    """The orientation that a page's tag asks for, 1 to 8; 1 without one."""
    return known_orientation(page.tags.valueof(ORIENTATION, 1))


def _as_seen(pixels: np.ndarray, page: tifffile.TiffPage, path: Path) -> np.ndarray:
    """A palette's colours in place of its indices; what counts from white turned so that more is brighter."""
    if page.photometric == tifffile.PHOTOMETRIC.PALETTE:
        if pixels.shape[2] > 1:
            raise ImageError(f"{path}: {pixels.shape[2]} pages of a palette's indices: expected one")
        colours = page.colormap.T  # (indices, 3), in sixteen bits
        narrow = (colours % 257 == 0).all() or (colours % 256 == 0).all()  # eight bits, repeated or with zeros behind
        return (colours >> 8).astype(np.uint8)[pixels[..., 0]] if narrow else colours[pixels[..., 0]]
    if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
        return ~pixels if pixels.dtype == bool else ((1 << page.bitspersample) - 1 - pixels).astype(pixels.dtype)
    return pixels
