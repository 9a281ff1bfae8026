"""File formats: an image's own values, whatever wrote them. Nothing is scaled here, nothing cut, and nothing half read.

Pillow reads what is usual: it refuses a file that was cut short, where OpenCV returns the part that was there. Of
colours beyond eight bits it would keep eight: these are OpenCV's. TIFF, DICOM and .npy have readers of their own; a
format more is an entry of FORMATS. Inks (CMYK) and other colours that have no one meaning on a screen are refused.
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
GREY_ALPHA, GREY = 4, 0  # a PNG's kinds of colour; 2 and 6 are RGB without and with alpha

# Which colours Pillow and TIFF may hold that are none: what they look like depends on a profile, or on a convention.
STRANGE_MODES = {"CMYK", "LAB", "HSV"}
STRANGE_TIFFS = {"SEPARATED", "CIELAB", "ICCLAB", "ITULAB", "CFA", "LOGL", "LOGLUV"}


class ImageError(ValueError):
    """An image file that is missing, cut short, or not of a kind that is read."""


class Format(NamedTuple):
    """Two ways into a file."""

    read: Callable[[Path], np.ndarray]  # (H, W, C), in the file's own dtype
    size: Callable[[Path], tuple[int, int]]  # height and width, from the header alone


def _read_usual(path: Path) -> np.ndarray:
    """PNG, JPEG, GIF (its first frame) and what else Pillow knows; a palette's colours, not its indices."""
    with Image.open(path) as image:
        _refuse_colours(path, image.mode, STRANGE_MODES)
        image.load()  # refuses what was cut short, before OpenCV reads what is left
        if (deep := _deep(path, image)) is not None:
            return deep
        if image.mode in ("P", "PA", "YCbCr"):
            return np.asarray(image.convert("RGB"))
        return _channels_last(np.asarray(image))


def _refuse_colours(path: Path, came: str, strange: set[str]) -> None:
    """CMYK and the like: Pillow's formula for them is a guess, and four channels would pass for RGB with alpha."""
    if came in strange:
        raise ImageError(f"{path}: colours of kind {came}: expected grey, a palette or RGB: save it as RGB")


def _deep(path: Path, image: Image.Image) -> np.ndarray | None:
    """The colours of more than eight bits, (H, W, C) uint16, which Pillow cuts to eight; None of others.

    Alpha stays the last channel, as in an image of eight bits.
    """
    colour = GREY
    if image.format == "PNG":
        with path.open("rb") as file:
            header = file.read(DEPTH + 2)
        colour = header[DEPTH + 1]
        if header[DEPTH : DEPTH + 1] != SIXTEEN or colour == GREY:  # grey alone is read as it is
            return None
    elif image.format not in ("PPM", "JPEG2000"):
        return None
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype == np.uint8:
        return None
    if pixels.ndim == 2:
        return pixels[..., None]
    if colour == GREY_ALPHA:
        return np.ascontiguousarray(pixels[..., [0, 3]])  # OpenCV repeats the grey to three channels
    return cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA if pixels.shape[2] == 4 else cv2.COLOR_BGR2RGB)


def _usual_size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.height, image.width


def _read_tiff(path: Path) -> np.ndarray:
    """Channels of any number and order; pages of one size are channels too. Of a palette its colours."""
    with tifffile.TiffFile(path) as file:
        series = file.series[0]
        check_tiff_colours(path, series.keyframe)
        pixels = _rows_columns_channels(path, series)
        return np.ascontiguousarray(_as_seen(pixels, series.keyframe, path))


def _rows_columns_channels(path: Path, series: tifffile.TiffPageSeries) -> np.ndarray:
    pixels = series.asarray()
    axes = [name for name, length in zip(series.axes, series.shape, strict=True) if length > 1 or name in "YX"]
    pixels = pixels.reshape([length for name, length in zip(series.axes, series.shape, strict=True) if name in axes])
    if axes.count("Y") != 1 or axes.count("X") != 1 or len(axes) > 3:
        raise ImageError(f"{path}: a TIFF of axes {series.axes}, {series.shape}: expected rows, columns, channels")
    others = [place for place, name in enumerate(axes) if name not in "YX"]
    return _channels_last(pixels.transpose(axes.index("Y"), axes.index("X"), *others))


def check_tiff_colours(path: Path, page: tifffile.TiffPage) -> None:
    """Refuse a TIFF whose numbers are no brightness or colour of a screen.

    Raises:
        ImageError: with what it holds.
    """
    kind = tifffile.PHOTOMETRIC(page.photometric).name
    _refuse_colours(path, kind, STRANGE_TIFFS)
    packed = "JP" in tifffile.COMPRESSION(page.compression).name  # JPEG's decoders turn YCbCr into RGB
    _refuse_colours(path, kind, set() if packed else {"YCBCR"})
    if kind == "MINISWHITE" and page.dtype.kind not in "ub":
        raise ImageError(f"{path}: a TIFF whose 0 is white, of {page.dtype}: what is black? Expected whole numbers")


def is_coded(page: tifffile.TiffPage) -> bool:
    """Whether a TIFF's numbers mean something else than brightness: indices of a palette, or 0 for white."""
    return page.photometric in (tifffile.PHOTOMETRIC.PALETTE, tifffile.PHOTOMETRIC.MINISWHITE)


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


def read_indices(path: Path) -> np.ndarray | None:
    """The indices of a palette image, (H, W, 1); None of an image without a palette.

    Raises:
        ImageError: as `read_pixels`.
    """
    return opened(path, _tiff_indices if _format(path) is TIFF else _usual_indices) if _may_index(path) else None


def _may_index(path: Path) -> bool:
    return _format(path) in (TIFF, USUAL)


def _usual_indices(path: Path) -> np.ndarray | None:
    with Image.open(path) as image:
        return np.asarray(image)[..., None] if image.mode == "P" else None


def _tiff_indices(path: Path) -> np.ndarray | None:
    with tifffile.TiffFile(path) as file:
        page = file.series[0].keyframe
        return page.asarray()[..., None] if page.photometric == tifffile.PHOTOMETRIC.PALETTE else None


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
