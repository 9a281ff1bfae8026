"""File formats: an image's own values, whatever wrote them. Nothing is scaled here, nothing cut, and nothing half read.

What a file is, its first bytes say, and not its name. Each format has one reader, which is strict: damaged files are
refused, and no other reader is tried on them. Pillow reads what is usual; colours of more than eight bits, of which it
keeps eight, are OpenCV's. TIFF, DICOM, NIfTI and .npy have readers of their own. Inks (CMYK) and other colours that
have no one meaning on a screen are refused.
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
    damaged,
    orientation_of,
    read_or_raise,
    refuse_colours,
    refuse_promises,
)
from pipeline.data.tiff import read_tiff, read_tiff_header, read_tiff_indices
from pipeline.quoting import quoted

Image.MAX_IMAGE_PIXELS = None  # Pillow's guard against bombs: `refuse_promises` is ours, and knows larger images

STRANGE_MODES = {"CMYK", "LAB", "HSV"}  # Pillow's names of colours that no screen has
ALPHA_MODES = {"LA": "LA", "La": "LA", "PA": "RGBA", "RGBA": "RGBA", "RGBa": "RGBA"}  # and those that end in alpha
DEEP_MODES = {"I": 4, "F": 4, "I;16": 2, "I;16B": 2, "I;16L": 2}  # bytes of a pixel, where it is not one of a channel

PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_TAIL = 1 << 17  # bytes at the end of a PNG in which an EXIF block behind the pixels is looked for
GREY, GREY_ALPHA = 0, 4  # a PNG's kinds of colour; 2 and 6 are RGB without and with alpha, 3 a palette
JP2_STREAM = b"\xff\x4f\xff\x51"  # a JPEG 2000 stream's first bytes


class Format(NamedTuple):
    """Ways into a file."""

    read: Callable[[Path], Raster]
    header: Callable[[Path], Header]  # without decoding anything
    indices: Callable[[Path], Raster | None] = lambda path: None  # of a palette, (H, W, 1)


# ---------------------------------------------------------------------------------------------- what Pillow reads


class Usual(NamedTuple):
    """A format of Pillow's.

    Args:
        names: Pillow's, of the readers that may be asked.
        packing: bytes of pixels that it packs into one byte at best; None: no bound.
        check: raises for a file that Pillow would read in part.
        bits: of a channel, where Pillow may keep eight of more.
    """

    names: tuple[str, ...]
    packing: float | None = None
    check: Callable[[Path, bytes], None] = lambda path, content: None
    bits: Callable[[bytes], int] = lambda content: 8

    def read(self, path: Path) -> Raster:
        """A picture's colours, of a palette too; of several frames the first."""
        content = path.read_bytes()
        with self._opened(path, io.BytesIO(content)) as image:
            orientation = orientation_of(_exif(image, content))
            self._check(path, content, image)
            if self.bits(content) > 8:
                pixels, alpha = _deep(path, content, image)
            else:
                image.load()
                pixels, alpha = _colours(image)
        return Raster(pixels if pixels.ndim == 3 else pixels[..., None], alpha, orientation)

    def header(self, path: Path) -> Header:
        with path.open("rb") as file, self._opened(path, file) as image:
            file.seek(0)
            deep = self.bits(file.read(1 << 12)) > 8
            dtype = np.dtype(np.uint16) if deep else np.dtype(_dtype(image.mode))
            return Header(image.height, image.width, dtype, orientation_of(_exif(image, file)))

    def indices(self, path: Path) -> Raster | None:
        """The indices of a palette; None of an image without one."""
        with path.open("rb") as file, self._opened(path, file) as image:
            if image.mode != "P":
                return None
            file.seek(0)
            content = file.read()
        with self._opened(path, io.BytesIO(content)) as image:
            self._check(path, content, image)
            return Raster(np.asarray(image)[..., None], orientation=orientation_of(_exif(image, content)))

    def _check(self, path: Path, content: bytes, image: Image.Image) -> None:
        self.check(path, content)
        refuse_promises(path, promised=_promised(image), stored=len(content), packing=self.packing)

    def _opened(self, path: Path, file: BinaryIO) -> Image.Image:
        try:
            image = Image.open(file, formats=self.names)
        except UnidentifiedImageError:  # names the object in memory, not the file
            raise damaged(path, f"the header of a damaged {self.names[0]}") from None
        refuse_colours(path, image.mode, STRANGE_MODES)
        return image


def _promised(image: Image.Image) -> int:
    return image.width * image.height * DEEP_MODES.get(image.mode, len(image.getbands()))


def _dtype(mode: str) -> str:
    return {"1": "bool", "I": "i4", "F": "f4"}.get(mode, "u2" if mode.startswith("I;16") else "u1")


def _colours(image: Image.Image) -> tuple[np.ndarray, bool]:
    """The pixels of a decoded image, and whether alpha is the last channel."""
    if image.mode == "P":
        alpha = "transparency" in image.info
        return np.asarray(image.convert("RGBA" if alpha else "RGB")), alpha
    if image.mode in ALPHA_MODES:
        return np.asarray(image.convert(ALPHA_MODES[image.mode])), True
    return np.asarray(image.convert("RGB") if image.mode in ("YCbCr", "RGBX") else image), False


def _deep(path: Path, content: bytes, image: Image.Image) -> tuple[np.ndarray, bool]:
    """Colours of more than eight bits, (H, W, C) uint16, and whether alpha is the last channel."""
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16 or pixels.shape[:2] != (image.height, image.width):
        raise damaged(path, "damaged pixels of 16 bits")
    if pixels.ndim == 2:
        return pixels, False
    if image.format == "PNG" and _png_colour(content) == GREY_ALPHA:
        return np.ascontiguousarray(pixels[..., [0, 3]]), True  # OpenCV repeats the grey to three channels
    if pixels.shape[2] == 4 and image.mode in ALPHA_MODES:
        return cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA), True
    return cv2.cvtColor(pixels[..., :3], cv2.COLOR_BGR2RGB), False  # a fourth one: a colour that is transparent


def _exif(image: Image.Image, content: bytes | BinaryIO) -> bytes | None:
    """An EXIF block; of a PNG it may stand behind the pixels, which Pillow would decode to get there."""
    if image.format != "PNG":
        return image.info.get("exif")
    file = io.BytesIO(content) if isinstance(content, bytes) else content
    for kind, length in _png_chunks(file):
        if kind == b"eXIf":
            return file.read(length)
        if kind == b"IDAT":  # may be in thousands of chunks: to step through them is to read the whole file
            break
    end = file.seek(0, io.SEEK_END)
    file.seek(max(0, end - PNG_TAIL))
    return _exif_in(file.read())


def _exif_in(tail: bytes) -> bytes | None:
    """The last EXIF block in the end of a PNG, by its name and check sum."""
    place = tail.rfind(b"eXIf")
    length = int.from_bytes(tail[max(0, place - 4) : max(0, place)], "big")
    chunk, found = tail[place : place + 4 + length], tail[place + 4 + length : place + 8 + length]
    return chunk[4:] if place >= 4 and zlib.crc32(chunk) == int.from_bytes(found, "big") else None


# ---------------------------------------------------------------------------------------------- strictness


def _png_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Kind and length of each chunk, with the file at its first byte, up to the end chunk or the end of the file."""
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
    """Refuse a PNG without its end, or with a check sum of header, palette or pixels that does not hold."""
    file, kind = io.BytesIO(content), b""
    for kind, length in _png_chunks(file):
        data, found = file.read(length), file.read(4)
        needed = kind[:1].isupper()  # whether the picture needs it
        if len(found) < 4 or (needed and zlib.crc32(kind + data) != int.from_bytes(found, "big")):
            raise damaged(path, f"its chunk {kind.decode('latin-1')!r} is damaged")
    if kind != b"IEND":
        raise damaged(path, "a PNG that is cut short")


def _png_bits(content: bytes) -> int:
    """Bits of a channel; grey of sixteen is read by Pillow as it is."""
    return 8 if _png_colour(content) == GREY else content[24]


def _png_colour(content: bytes) -> int:
    return content[25]


def _check_webp(path: Path, content: bytes) -> None:
    """Refuse one that is cut short; and of one that loses some, which spends 3 bits on 256 pixels, a false size."""
    if int.from_bytes(content[4:8], "little") + 8 > len(content):
        raise damaged(path, "a WebP that is cut short")
    if content[12:16] == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack("<HH", content[26:30]))
        refuse_promises(path, promised=3 * width * height, stored=len(content), packing=4096)


def _jpeg2000_bits(content: bytes) -> int:
    """Bits of the first channel, which stand 38 bytes behind the stream's first marker."""
    place = content.find(JP2_STREAM) + len(JP2_STREAM) + 38
    return (content[place] & 0x7F) + 1


def _check_bmp(path: Path, content: bytes) -> None:
    """Refuse one without compression whose rows are not all there, before Pillow makes room for them."""
    width, height = (abs(int.from_bytes(content[place : place + 4], "little", signed=True)) for place in (18, 22))
    packed = int.from_bytes(content[30:34], "little") in (1, 2)
    stride = (int.from_bytes(content[28:30], "little") * width + 31) // 32 * 4
    if not packed and int.from_bytes(content[14:18], "little") >= 40 and stride * height > len(content):
        raise damaged(path, f"a BMP of {len(content)} bytes, {stride * height} announced")


def _check_pnm(path: Path, content: bytes) -> None:
    """Refuse one whose pixels are not all there: Pillow counts them, and OpenCV, which reads deep ones, does not."""
    if _pnm_bits(content) > 8:
        with Image.open(io.BytesIO(content), formats=("PPM",)) as image:
            refuse_promises(path, promised=_promised(image), stored=len(content), packing=8)
            image.load()


def _pnm_bits(content: bytes) -> int:
    """Of a PGM or PPM by its highest value; others have eight."""
    words = re.sub(rb"#[^\n]*", b"", content[:1024]).split()[:4]
    deep = words[0] in (b"P2", b"P3", b"P5", b"P6") and len(words) == 4 and words[3].isdigit() and int(words[3]) > 255
    return 16 if deep else 8


# ---------------------------------------------------------------------------------------------- arrays


def _read_npy(path: Path) -> Raster:
    with path.open("rb") as file:
        shape, dtype = _npy_header(path, file)
        stored = path.stat().st_size - file.tell()
        promised = math.prod(shape) * dtype.itemsize
        refuse_promises(path, promised=promised, stored=stored, packing=1)
        if promised != stored:
            raise damaged(path, f"{stored} bytes of pixels, {promised} announced")
    pixels = np.load(path, allow_pickle=False)
    return Raster(pixels if pixels.ndim == 3 else pixels[..., None])


def read_npy_header(path: Path) -> Header:
    """Height, width and dtype of an array file, without its pixels."""
    with path.open("rb") as file:
        shape, dtype = _npy_header(path, file)
        return Header(shape[0], shape[1], dtype)


def _npy_header(path: Path, file: BinaryIO) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.kind not in "buif":
        raise ImageError(f"{path}: an array of {dtype}: expected numbers")
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise ImageError(f"{path}: an array of {shape}: expected (height, width) or (height, width, channels)")
    return shape, dtype


# ---------------------------------------------------------------------------------------------- which format


def _usual(*names: str, **options: object) -> Format:
    usual = Usual(names, **options)
    return Format(usual.read, usual.header, usual.indices)


TIFF = Format(read_tiff, read_tiff_header, read_tiff_indices)
DICOM = Format(read_dicom, read_dicom_header)
NPY = Format(_read_npy, read_npy_header)
NIFTI = Format(read_nifti, read_nifti_header)
JPEG = _usual("JPEG", packing=4096)
JPEG2000 = _usual("JPEG2000", bits=_jpeg2000_bits)

# By the first bytes, as a regular expression. What deflate, LZW and JPEG pack at best: as in `tiff.PACKING`.
FORMATS = {
    rb"\x89PNG\r\n\x1a\n": _usual("PNG", packing=8 * 1032, check=_check_png, bits=_png_bits),
    rb"\xff\xd8\xff": JPEG,
    rb"(II\*\0|MM\0\*|II\+\0|MM\0\+)": TIFF,
    rb".{128}DICM": DICOM,
    rb"\x93NUMPY": NPY,
    rb"GIF8[79]a": _usual("GIF", packing=2731),
    rb"BM": _usual("BMP", check=_check_bmp),
    rb"RIFF....WEBP": _usual("WEBP", check=_check_webp),
    rb"(\0\0\0\x0cjP  |\xff\x4f\xff\x51)": JPEG2000,
    rb"....ftyp(avif|avis)": _usual("AVIF"),
    rb"P[1-6fF][\s#]": _usual("PPM", packing=8, check=_check_pnm, bits=_pnm_bits),
}
START = 160  # bytes of a file that tell its format

# Files that are no image here, and what they are.
OTHERS = {
    rb"version https://git-lfs": "a pointer of Git LFS: get the file itself (git lfs pull)",
    rb"\s*<(!DOCTYPE|!doctype|html|HTML|\?xml)": "a web page or XML: get the file again",
    rb"PK\x03\x04": "a ZIP archive: unpack it",
    rb"\x1f\x8b": "a gzip archive: unpack it",
    rb"\x89HDF": "HDF5: save its images as .npy or TIFF",
    rb"....ftyp(heic|heix|mif1|msf1)": "HEIC: save it as PNG or JPEG",
    rb"8BPS": "a Photoshop file: save it as PNG or TIFF",
}


BY_CONTENT = {"PNG", "JPEG", "MPO", "TIFF", "GIF", "BMP", "DIB", "WEBP", "JPEG2000", "AVIF", "PPM"}  # Pillow's names
PROGRAMS = {"EPS"}  # a file that Pillow would run


@lru_cache(maxsize=1)
def _nameless() -> dict[str, Format]:
    """By suffix: what else Pillow reads, of which some, such as TGA, have no first bytes of their own."""
    Image.init()
    named = Image.registered_extensions().items()
    return {suffix: _usual(name) for suffix, name in named if name not in BY_CONTENT | PROGRAMS}


def format_of(path: Path) -> Format:
    """By a file's first bytes; of a format that has none, by the suffix.

    Raises:
        ImageError: for a file that is no image.
        OSError: for a file that is not there.
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
    for magic, what in OTHERS.items():
        if re.match(magic, start, re.DOTALL):
            raise ImageError(f"{path}: not an image but {what}")
    if start and (form := _nameless().get(path.suffix.lower())):
        return form
    raise ImageError(f"{path}: not an image ({path.stat().st_size} bytes): get the file again")


# ---------------------------------------------------------------------------------------------- what others call


def read_raster(path: Path, *, exif: bool = True) -> Raster:
    """An image's own values, (H, W, C) in the file's own dtype, and whether the file calls the last channel alpha.

    Args:
        exif: turn the picture as the file says it is seen; else it is as stored.

    Raises:
        ImageError: with the path, if the file is missing, damaged, or none of these formats.
    """
    raster = read_or_raise(path, lambda path: format_of(path).read(path))
    pixels = raster.pixels
    if pixels.ndim != 3 or 0 in pixels.shape or pixels.dtype.kind not in "buif":
        raise ImageError(f"{path}: an array of {pixels.shape}, {pixels.dtype}: expected rows, columns, channels")
    native = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    raster = raster._replace(pixels=native, alpha=raster.alpha and pixels.shape[2] > 1)
    return raster.as_seen() if exif else raster


def is_jpeg(path: Path) -> bool:
    """Whether a file is JPEG, which blurs values.

    Raises:
        ImageError: as `read_raster`.
    """
    return read_or_raise(path, format_of) is JPEG


def read_pixels(path: Path, *, exif: bool = True) -> np.ndarray:
    """As `read_raster`, the pixels alone."""
    return read_raster(path, exif=exif).pixels


def read_header(path: Path, *, exif: bool = True) -> Header:
    """What the file says of its image, without decoding anything; costs as much for a large image as for a small one.

    Raises:
        ImageError: if the file is missing or is no image.
    """
    header = read_or_raise(path, _header)
    return header.as_seen() if exif else header


def _header(path: Path) -> Header:
    header = format_of(path).header(path)
    if not all(isinstance(side, int) and side > 0 for side in header[:2]):
        raise damaged(path, f"an image of {quoted(header.height)} × {quoted(header.width)} pixels")
    return header


def read_size(path: Path, *, exif: bool = True) -> tuple[int, int]:
    """Height and width, as `read_header`."""
    return read_header(path, exif=exif)[:2]


def read_indices(path: Path, *, exif: bool = True) -> np.ndarray | None:
    """The indices of a palette image, (H, W, 1); None of an image without a palette.

    Raises:
        ImageError: as `read_raster`.
    """
    raster = read_or_raise(path, lambda path: format_of(path).indices(path))
    if raster is None:
        return None
    return (raster.as_seen() if exif else raster).pixels
