"""File formats: an image's own values, whatever wrote them. Nothing is scaled here, and nothing half read.

Pillow reads what is usual: it refuses a file that was cut short, where OpenCV returns the part that was there. TIFF,
DICOM and .npy have readers of their own; a format more is an entry of FORMATS.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
import tifffile
from PIL import Image, UnidentifiedImageError

if TYPE_CHECKING:
    from pydicom import FileDataset

Image.MAX_IMAGE_PIXELS = None  # Pillow's guard against bombs: competitions have larger images

# What a reader names when a package that it takes pixels apart with is not here, and what to install then.
DECODERS = {
    "imagecodecs": "imagecodecs",  # tifffile, for LZW, JPEG and more
    "missing dependencies": "pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg",  # pydicom, for lossless JPEG and more
}

DEPTH, SIXTEEN = 24, b"\x10"  # place of a PNG's bits per channel, and sixteen of them


class ImageError(ValueError):
    """An image file that is missing, cut short, or not of a kind that is read."""


class Format(NamedTuple):
    """Two ways into a file."""

    read: Callable[[Path], np.ndarray]  # (H, W, C), in the file's own dtype
    size: Callable[[Path], tuple[int, int]]  # height and width, from the header alone


def _read_usual(path: Path) -> np.ndarray:
    """PNG, JPEG, GIF (its first frame) and what else Pillow knows; a palette's colours, not its indices."""
    with Image.open(path) as image:
        if image.format == "PNG" and _is_deep(path):
            image.load()  # refuses what was cut short, before OpenCV reads what is left
            return _channels_last(cv2.cvtColor(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), cv2.COLOR_BGR2RGB))
        if image.mode in ("P", "PA", "CMYK", "YCbCr"):
            return np.asarray(image.convert("RGB"))
        return _channels_last(np.asarray(image))


def _is_deep(path: Path) -> bool:
    """Whether a PNG has sixteen bits in each of several channels, which Pillow would cut to eight."""
    with path.open("rb") as file:
        header = file.read(DEPTH + 2)
    colour = header[DEPTH + 1]  # 0 is grey, 2 colour, and 4 or 6 with alpha
    return header[DEPTH : DEPTH + 1] == SIXTEEN and colour == 2


def _usual_size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.height, image.width


def _read_tiff(path: Path) -> np.ndarray:
    """Channels of any number and order; pages of one size are channels too."""
    with tifffile.TiffFile(path) as file:
        series = file.series[0]
        pixels = series.asarray()
        axes = [name for name, length in zip(series.axes, series.shape, strict=True) if length > 1 or name in "YX"]
    pixels = pixels.reshape([length for name, length in zip(series.axes, series.shape, strict=True) if name in axes])
    if axes.count("Y") != 1 or axes.count("X") != 1 or len(axes) > 3:
        raise ImageError(f"{path}: a TIFF of axes {series.axes}, {series.shape}: expected rows, columns, channels")
    others = [place for place, name in enumerate(axes) if name not in "YX"]
    return np.ascontiguousarray(_channels_last(pixels.transpose(axes.index("Y"), axes.index("X"), *others)))


def _tiff_size(path: Path) -> tuple[int, int]:
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        return page.imagelength, page.imagewidth


def _read_dicom(path: Path) -> np.ndarray:
    """After the rescale slope and intercept, if there are any; MONOCHROME1 turned so that more is brighter."""
    header = _dicom(path)
    if "PixelData" not in header:
        raise ImageError(f"{path}: a DICOM without pixel data: get the file again, or leave it out with --skip-bad")
    stored = header.pixel_array
    if stored.ndim != 2:
        raise ImageError(f"{path}: a DICOM of shape {stored.shape}: expected one grey picture (rows, columns)")
    from pydicom.pixels import apply_modality_lut

    rescaled = "RescaleSlope" in header and (header.RescaleSlope, header.RescaleIntercept) != (1, 0)
    pixels = apply_modality_lut(stored, header).astype(np.float32) if rescaled else stored
    if header.PhotometricInterpretation == "MONOCHROME1":
        pixels = pixels.max() + pixels.min() - pixels if rescaled else (1 << header.BitsStored) - 1 - pixels
    return pixels.astype(stored.dtype if not rescaled else np.float32)[..., None]


def _dicom_size(path: Path) -> tuple[int, int]:
    header = _dicom(path, stop_before_pixels=True, specific_tags=["Rows", "Columns"])
    if "Rows" not in header:
        raise ImageError(f"{path}: a DICOM without an image: get the file again, or leave it out with --skip-bad")
    return header.Rows, header.Columns


def _dicom(path: Path, **options: object) -> "FileDataset":
    """A DICOM, by a package that is loaded for such a file only: it takes a quarter of a second, and may be missing."""
    try:
        from pydicom import dcmread
        from pydicom.errors import InvalidDicomError
    except ImportError:
        raise ImageError(f"{path}: a DICOM, which takes a package that is not here: pip install pydicom") from None
    try:
        return dcmread(path, **options)
    except InvalidDicomError as error:
        raise UnidentifiedImageError(path) from error


def _read_npy(path: Path) -> np.ndarray:
    return _channels_last(np.load(path, allow_pickle=False))


def _npy_size(path: Path) -> tuple[int, int]:
    shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
    return shape[0], shape[1]


def _channels_last(pixels: np.ndarray) -> np.ndarray:
    return pixels if pixels.ndim == 3 else pixels[..., None]


USUAL = Format(_read_usual, _usual_size)
TIFF = Format(_read_tiff, _tiff_size)
FORMATS = {
    ".tif": TIFF,
    ".tiff": TIFF,
    ".dcm": Format(_read_dicom, _dicom_size),
    ".npy": Format(_read_npy, _npy_size),
}


def read_pixels(path: Path) -> np.ndarray:
    """An image's own values, (H, W, C) in the file's own dtype.

    Raises:
        ImageError: with the path, if the file is missing, cut short, or none of these formats.
    """
    pixels = opened(path, _format(path).read)
    if pixels.ndim != 3 or 0 in pixels.shape:
        raise ImageError(f"{path}: an array of {pixels.shape}: expected (height, width) or (height, width, channels)")
    return pixels


def read_size(path: Path) -> tuple[int, int]:
    """Height and width, from the file's header alone.

    Raises:
        ImageError: if the file is missing or is no image.
    """
    return opened(path, _format(path).size)


def _format(path: Path) -> Format:
    return FORMATS.get(path.suffix.lower(), USUAL)


def opened(path: Path, read: Callable) -> object:
    """What `read` makes of a file.

    Raises:
        ImageError: whatever goes wrong, with the path and what to do.
    """
    try:
        return read(path)
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError(f"{path}: no such image") from None
    except (UnidentifiedImageError, tifffile.TiffFileError) as error:
        raise ImageError(f"{path}: not an image ({path.stat().st_size} bytes): get the file again") from error
    except Exception as error:  # libraries raise all kinds on a damaged file; none may end a night
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ImageError(f"{path}: cannot be read, {reason}: {_remedy(reason)}") from error


def _remedy(reason: str) -> str:
    """What helps against a reader's complaint: another copy, unless the file is sound and a decoder is missing."""
    for complaint, packages in DECODERS.items():
        if complaint in reason:
            return f"pip install {packages}"
    return "get the file again, or leave out a bad image with --skip-bad"
