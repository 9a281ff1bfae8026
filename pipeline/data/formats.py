"""File formats: decode image files to the values that are stored in them, without scaling or clipping.

The format is detected from the file's first bytes, not from its name. Each format has one strict reader: a damaged file
is refused, and no other reader is tried. Pillow reads the common formats; colours of more than 8 bits, which Pillow
reduces to 8, are read by OpenCV. TIFF, DICOM, NIfTI and .npy have their own readers. CMYK and other colours without one
fixed conversion to RGB are refused.
"""

import io
import math
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from pipeline.data.medical import is_nifti_name, read_dicom, read_dicom_header, read_nifti, read_nifti_header, slice_of
from pipeline.data.rasters import (
    Header,
    ImageError,
    Raster,
    check_declared_size,
    damaged,
    orientation_of,
    read_or_raise,
    refuse_colours,
)
from pipeline.data.tiff import read_tiff, read_tiff_header, read_tiff_indices
from pipeline.files import FAILED_DOWNLOADS, START
from pipeline.quoting import quoted

Image.MAX_IMAGE_PIXELS = None  # replaces Pillow's guard against decompression bombs by `check_declared_size`

UNSUPPORTED_MODES = {"CMYK", "LAB", "HSV"}  # Pillow's names of colours without one fixed conversion to RGB
ALPHA_MODES = {"LA": "LA", "La": "LA", "PA": "RGBA", "RGBA": "RGBA", "RGBa": "RGBA"}  # modes with alpha, and as read
DEEP_MODES = {"I": 4, "F": 4, "I;16": 2, "I;16B": 2, "I;16L": 2}  # bytes per pixel, if it is not one per channel

PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_TAIL = 1 << 17  # bytes at the end of a PNG that are searched for an EXIF block after the pixels
GREY, GREY_ALPHA = 0, 4  # PNG colour types; 2 and 6 are RGB without and with alpha, 3 is a palette
JP2_STREAM = b"\xff\x4f\xff\x51"  # a JPEG 2000 stream's first bytes


class Format(NamedTuple):
    """The functions that read one file format; they may raise anything."""

    read: Callable[[Path], Raster]
    header: Callable[[Path], Header]  # without decoding any pixel
    indices: Callable[[Path], Raster | None] = lambda path: None  # of a palette, (H, W, 1); None without one


# ---------------------------------------------------------------------------------------------- Pillow


class PillowFormat(NamedTuple):
    """A format that Pillow reads, with the functions of `Format`.

    Args:
        name: Pillow's name of the format.
        packing: highest possible ratio of decoded to stored bytes; None: no limit.
        check: raises for a file that Pillow would read only in part.
        bits: of a channel, for formats of which Pillow may keep only 8.
    """

    name: str
    packing: float | None = None
    check: Callable[[Path, bytes], None] = lambda path, content: None
    bits: Callable[[bytes], int] = lambda content: 8

    def read(self, path: Path) -> Raster:
        """The image, with a palette's colours in place of its indices; of several frames the first."""
        content = path.read_bytes()
        with self._open(path, io.BytesIO(content)) as image:
            orientation = orientation_of(_exif(image, content))
            self._check(path, content, image)
            if self.bits(content) > 8:
                pixels, alpha = _deep(path, content, image)
            else:
                image.load()
                pixels, alpha = _colours(image)
        return Raster(pixels if pixels.ndim == 3 else pixels[..., None], alpha, orientation)

    def header(self, path: Path) -> Header:
        """The header, without decoding any pixel."""
        with path.open("rb") as file, self._open(path, file) as image:
            file.seek(0)
            deep = self.bits(file.read(1 << 12)) > 8
            dtype = np.dtype(np.uint16) if deep else np.dtype(_dtype(image.mode))
            return Header(image.height, image.width, dtype, orientation_of(_exif(image, file)))

    def indices(self, path: Path) -> Raster | None:
        """The palette's indices, (H, W, 1); None without a palette."""
        with path.open("rb") as file, self._open(path, file) as image:
            if image.mode != "P":
                return None
            file.seek(0)
            content = file.read()
        with self._open(path, io.BytesIO(content)) as image:
            self._check(path, content, image)
            return Raster(np.asarray(image)[..., None], orientation=orientation_of(_exif(image, content)))

    def _check(self, path: Path, content: bytes, image: Image.Image) -> None:
        self.check(path, content)
        check_declared_size(path, declared=_decoded_bytes(image), stored=len(content), packing=self.packing)

    def _open(self, path: Path, file: BinaryIO) -> Image.Image:
        try:
            image = Image.open(file, formats=(self.name,))
        except UnidentifiedImageError:  # its message names the object in memory, not the file
            raise damaged(path, f"the header of a damaged {self.name}") from None
        refuse_colours(path, image.mode, UNSUPPORTED_MODES)
        return image


def _decoded_bytes(image: Image.Image) -> int:
    return image.width * image.height * DEEP_MODES.get(image.mode, len(image.getbands()))


def _dtype(mode: str) -> str:
    return {"1": "bool", "I": "i4", "F": "f4"}.get(mode, "u2" if mode.startswith("I;16") else "u1")


def _colours(image: Image.Image) -> tuple[np.ndarray, bool]:
    """The pixels of a decoded image, (H, W) or (H, W, C), and whether the last channel is alpha."""
    if image.mode == "P":
        alpha = "transparency" in image.info
        return np.asarray(image.convert("RGBA" if alpha else "RGB")), alpha
    if image.mode in ALPHA_MODES:
        return np.asarray(image.convert(ALPHA_MODES[image.mode])), True
    return np.asarray(image.convert("RGB") if image.mode in ("YCbCr", "RGBX") else image), False


def _deep(path: Path, content: bytes, image: Image.Image) -> tuple[np.ndarray, bool]:
    """Values of more than 8 bits, (H, W) or (H, W, C) uint16, and whether the last channel is alpha."""
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16 or pixels.shape[:2] != (image.height, image.width):
        raise damaged(path, "damaged pixels of 16 bits")
    if pixels.ndim == 2:
        return pixels, False
    if image.format == "PNG" and _png_colour(content) == GREY_ALPHA:
        return np.ascontiguousarray(pixels[..., [0, 3]]), True  # OpenCV repeats grey in three channels
    if pixels.shape[2] == 4 and image.mode in ALPHA_MODES:
        return cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA), True
    return cv2.cvtColor(pixels[..., :3], cv2.COLOR_BGR2RGB), False  # a transparent colour became alpha


def _exif(image: Image.Image, content: bytes | BinaryIO) -> bytes | None:
    """The EXIF block. In a PNG it may follow the pixels, which Pillow would have to decode to find it."""
    if image.format != "PNG":
        return image.info.get("exif")
    file = io.BytesIO(content) if isinstance(content, bytes) else content
    for kind, length in _png_chunks(file):
        if kind == b"eXIf":
            return file.read(length)
        if kind == b"IDAT":  # the pixels may have thousands of chunks: do not step through them
            break
    end = file.seek(0, io.SEEK_END)
    file.seek(max(0, end - PNG_TAIL))
    return _exif_in(file.read())


def _exif_in(tail: bytes) -> bytes | None:
    """The last EXIF block at the end of a PNG, found by its name and checksum; None without one."""
    place = tail.rfind(b"eXIf")
    length = int.from_bytes(tail[max(0, place - 4) : max(0, place)], "big")
    chunk, found = tail[place : place + 4 + length], tail[place + 4 + length : place + 8 + length]
    return chunk[4:] if place >= 4 and zlib.crc32(chunk) == int.from_bytes(found, "big") else None


# ---------------------------------------------------------------------------------------------- strictness


def _png_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Type and length of each chunk, with the file positioned at its data, up to IEND or the end of the file."""
    place = len(PNG_START)
    while True:
        file.seek(place)
        start = file.read(8)
        if len(start) < 8:
            return
        kind, length = start[4:], int.from_bytes(start[:4], "big")
        yield kind, length
        if kind == b"IEND":
            return
        place += 12 + length


def _check_png(path: Path, content: bytes) -> None:
    """Refuse a PNG without its end, or with a wrong checksum of header, palette or pixels."""
    file, kind = io.BytesIO(content), b""
    for kind, length in _png_chunks(file):
        data, found = file.read(length), file.read(4)
        needed = kind[:1].isupper()  # a critical chunk
        if len(found) < 4 or (needed and zlib.crc32(kind + data) != int.from_bytes(found, "big")):
            raise damaged(path, f"its chunk {kind.decode('latin-1')!r} is damaged")
    if kind != b"IEND":
        raise damaged(path, "a truncated PNG")


def _png_bits(content: bytes) -> int:
    """Bits per channel for OpenCV; Pillow reads grey of 16 bits correctly."""
    return 8 if _png_colour(content) == GREY else content[24]


def _png_colour(content: bytes) -> int:
    return content[25]


def _check_webp(path: Path, content: bytes) -> None:
    """Refuse a truncated WebP, and a lossy one whose size is wrong: it needs at least 3 bits per 256 pixels."""
    if int.from_bytes(content[4:8], "little") + 8 > len(content):
        raise damaged(path, "a truncated WebP")
    if content[12:16] == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack("<HH", content[26:30]))
        check_declared_size(path, declared=3 * width * height, stored=len(content), packing=4096)


def _jpeg2000_bits(content: bytes) -> int:
    """Bits of the first channel, which are 38 bytes after the first marker of the stream."""
    place = content.find(JP2_STREAM) + len(JP2_STREAM) + 38
    return (content[place] & 0x7F) + 1


def _check_bmp(path: Path, content: bytes) -> None:
    """Refuse an uncompressed BMP with missing rows, before Pillow allocates memory for them."""
    width, height = (abs(int.from_bytes(content[place : place + 4], "little", signed=True)) for place in (18, 22))
    packed = int.from_bytes(content[30:34], "little") in (1, 2)
    stride = (int.from_bytes(content[28:30], "little") * width + 31) // 32 * 4
    if not packed and int.from_bytes(content[14:18], "little") >= 40 and stride * height > len(content):
        raise damaged(path, f"a BMP of {len(content)} bytes, {stride * height} expected")


def _check_pnm(path: Path, content: bytes) -> None:
    """Refuse a file with missing pixels: Pillow checks their number, OpenCV, which reads more than 8 bits, does not."""
    if _pnm_bits(content) > 8:
        with Image.open(io.BytesIO(content), formats=("PPM",)) as image:
            check_declared_size(path, declared=_decoded_bytes(image), stored=len(content), packing=8)
            image.load()


def _pnm_bits(content: bytes) -> int:
    """16 for a PGM or PPM whose highest value is above 255, else 8."""
    words = re.sub(rb"#[^\n]*", b"", content[:1024]).split()[:4]
    deep = words[0] in (b"P2", b"P3", b"P5", b"P6") and len(words) == 4 and words[3].isdigit() and int(words[3]) > 255
    return 16 if deep else 8


# ---------------------------------------------------------------------------------------------- arrays


def _read_npy(path: Path) -> Raster:
    with path.open("rb") as file:
        shape, dtype = _npy_header(path, file)
        stored = path.stat().st_size - file.tell()
        declared = math.prod(shape) * dtype.itemsize
        check_declared_size(path, declared=declared, stored=stored, packing=1)
        if declared != stored:
            raise damaged(path, f"{stored} bytes of pixels, {declared} expected")
    pixels = np.load(path, allow_pickle=False).reshape(shape)
    return Raster(pixels if pixels.ndim == 3 else pixels[..., None])


def read_npy_header(path: Path) -> Header:
    """Height, width and dtype of a .npy file, without its pixels.

    Raises:
        ImageError: for an array that is no image.
    """
    with path.open("rb") as file:
        shape, dtype = _npy_header(path, file)
        return Header(shape[0], shape[1], dtype)


def _npy_header(path: Path, file: BinaryIO) -> tuple[tuple[int, ...], np.dtype]:
    """Shape, (H, W) or (H, W, C), and dtype; of (H, W, 1, C), as of masks of several annotators, without the 1."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.kind not in "buif":
        raise ImageError(f"{path}: an array of {dtype}: expected numbers")
    if len(shape) == 4 and shape[2] == 1:
        shape = (*shape[:2], shape[3])
    if len(shape) not in (2, 3) or min(shape) < 1:
        stack = ": save each image of a stack as a file of its own" if len(shape) > 3 else ""
        raise ImageError(f"{path}: an array of {shape}: expected (height, width) or (height, width, channels){stack}")
    return shape, dtype


# ---------------------------------------------------------------------------------------------- detection


TIFF = Format(read_tiff, read_tiff_header, read_tiff_indices)
DICOM = Format(read_dicom, read_dicom_header)
NPY = Format(_read_npy, read_npy_header)
NIFTI = Format(read_nifti, read_nifti_header)
JPEG = PillowFormat("JPEG", packing=4096)
JPEG2000 = PillowFormat("JPEG2000", bits=_jpeg2000_bits)

# By a regular expression for the first bytes. The limits of deflate, LZW and JPEG are those of `tiff.PACKING`.
FORMATS = {
    rb"\x89PNG\r\n\x1a\n": PillowFormat("PNG", packing=8 * 1032, check=_check_png, bits=_png_bits),
    rb"\xff\xd8\xff": JPEG,
    rb"(II\*\0|MM\0\*|II\+\0|MM\0\+)": TIFF,
    rb".{128}DICM": DICOM,
    rb"\x93NUMPY": NPY,
    rb"GIF8[79]a": PillowFormat("GIF", packing=2731),
    rb"BM": PillowFormat("BMP", check=_check_bmp),
    rb"RIFF....WEBP": PillowFormat("WEBP", check=_check_webp),
    rb"(\0\0\0\x0cjP  |\xff\x4f\xff\x51)": JPEG2000,
    rb"....ftyp(avif|avis)": PillowFormat("AVIF"),
    rb"P[1-6fF][\s#]": PillowFormat("PPM", packing=8, check=_check_pnm, bits=_pnm_bits),
}

# Files that are no images, by their first bytes: what they are, and what to do.
NOT_IMAGES = {
    **FAILED_DOWNLOADS,
    rb"PK\x03\x04": "a ZIP archive: unpack it",
    rb"\x1f\x8b": "a gzip archive: unpack it",
    rb"\x89HDF": "HDF5: save its images as .npy or TIFF",
    rb"....ftyp(heic|heix|mif1|msf1)": "HEIC: save it as PNG or JPEG",
    rb"8BPS": "a Photoshop file: save it as PNG or TIFF",
}


BY_CONTENT = {"PNG", "JPEG", "MPO", "TIFF", "GIF", "BMP", "DIB", "WEBP", "JPEG2000", "AVIF", "PPM"}  # Pillow's names
PROGRAMS = {"EPS"}  # Pillow would start Ghostscript to execute the file


@lru_cache(maxsize=1)
def _formats_by_suffix() -> dict[str, PillowFormat]:
    """Pillow's other formats by suffix: some, such as TGA, cannot be detected by their first bytes."""
    Image.init()
    extensions = Image.registered_extensions().items()
    return {suffix: PillowFormat(name) for suffix, name in extensions if name not in BY_CONTENT | PROGRAMS}


def format_of(path: Path) -> Format | PillowFormat:
    """The format of a file, by its first bytes, or by its suffix for formats without such.

    Raises:
        ImageError: for a file that is no image.
        OSError: for a missing file.
    """
    if slice_of(path):
        return NIFTI
    with path.open("rb") as file:
        start = file.read(START)
    for magic, form in FORMATS.items():
        if re.match(magic, start, re.DOTALL):
            return form
    if start and is_nifti_name(path):
        return NIFTI
    for magic, what in NOT_IMAGES.items():
        if re.match(magic, start, re.DOTALL):
            raise ImageError(f"{path}: not an image but {what}")
    if start and (form := _formats_by_suffix().get(path.suffix.lower())):
        return form
    raise ImageError(f"{path}: not an image ({path.stat().st_size} bytes): get the file again")


# ---------------------------------------------------------------------------------------------- public functions


def read_raster(path: Path, *, exif: bool = True, at_least: tuple[int, int] | None = None) -> Raster:
    """Decode an image file.

    Args:
        exif: rotate the image as the file's orientation says; else it is as stored.
        at_least: as `tiff.open_series`, for a TIFF.

    Returns:
        the pixels, (H, W, C) in the file's own dtype, and whether the last channel is alpha.

    Raises:
        ImageError: with the path, for a file that is missing, damaged, or of no supported format.
    """
    raster = read_or_raise(path, lambda path: _read(path, at_least))
    pixels = raster.pixels
    if pixels.ndim != 3 or 0 in pixels.shape or pixels.dtype.kind not in "buif":
        raise ImageError(f"{path}: an array of {pixels.shape}, {pixels.dtype}: expected rows, columns, channels")
    native = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    raster = raster._replace(pixels=native, alpha=raster.alpha and pixels.shape[2] > 1)
    return raster.rotated() if exif else raster


def _read(path: Path, at_least: tuple[int, int] | None) -> Raster:
    form = format_of(path)
    return read_tiff(path, at_least) if form is TIFF else form.read(path)


def is_jpeg(path: Path) -> bool:
    """Whether a file is a JPEG, whose values are blurred.

    Raises:
        ImageError: for a missing file, and one of no supported format.
    """
    return read_or_raise(path, format_of) is JPEG


def is_dicom(path: Path) -> bool:
    """Whether a file is a DICOM.

    Raises:
        ImageError: as `is_jpeg`.
    """
    return read_or_raise(path, format_of) is DICOM


def read_pixels(path: Path, *, exif: bool = True) -> np.ndarray:
    """The pixels of `read_raster`, (H, W, C) in the file's own dtype.

    Raises:
        ImageError: as `read_raster`.
    """
    return read_raster(path, exif=exif).pixels


def read_header(path: Path, *, exif: bool = True) -> Header:
    """Size, dtype and orientation of an image, without decoding its pixels: fast for large images too.

    Args:
        exif: give the size after the rotation that the orientation asks for; else all is as stored.

    Raises:
        ImageError: for a missing file, one of no supported format, and one without a valid size.
    """
    header = read_or_raise(path, _header)
    return header.rotated() if exif else header


def _header(path: Path) -> Header:
    header = format_of(path).header(path)
    if not all(isinstance(side, int) and side > 0 for side in header[:2]):
        raise damaged(path, f"an image of {quoted(header.height)} × {quoted(header.width)} pixels")
    return header


def read_size(path: Path, *, exif: bool = True) -> tuple[int, int]:
    """Height and width of an image in pixels.

    Args:
        exif: as `read_header`.

    Raises:
        ImageError: as `read_header`.
    """
    return read_header(path, exif=exif)[:2]


def read_indices(path: Path, *, exif: bool = True) -> np.ndarray | None:
    """The indices of a palette image, (H, W, 1); None for an image without a palette.

    Args:
        exif: as `read_raster`.

    Raises:
        ImageError: as `read_raster`.
    """
    raster = read_or_raise(path, lambda path: format_of(path).indices(path))
    if raster is None:
        return None
    return (raster.rotated() if exif else raster).pixels
