"""Values of image files as values in 0 … 255, and their channels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.data.rasters import ImageError

# Values of pixels without a measurement in satellite images, where a file does not say another one.
NODATA_VALUES = (-32768.0, -9999.0, float(np.finfo(np.float32).min))
GREY = np.array([0.299, 0.587, 0.114])  # weights of red, green and blue: ITU-R 601, as in Pillow


def find_nodata_values(pixels: np.ndarray) -> list[float]:
    """Those of NODATA_VALUES that an image of any shape has; an image of 8 bits has none."""
    return [] if pixels.dtype in (bool, np.uint8) else [value for value in NODATA_VALUES if (pixels == value).any()]


def mark_nodata(pixels: np.ndarray, values: Sequence[float]) -> np.ndarray:
    """The pixels as they are, or as float32 with NaN where they have one of the values."""
    found = np.isin(pixels, values) if values else np.array(False)
    return np.where(found, np.float32(np.nan), pixels.astype(np.float32)) if found.any() else pixels


def without_nodata(pixels: np.ndarray, values: Sequence[float] = ()) -> np.ndarray:
    """The pixels with the median of the others in place of NODATA_VALUES and of the values; of 8 bits as they are."""
    found = np.isin(pixels, (*NODATA_VALUES, *values)) if pixels.dtype not in (bool, np.uint8) else np.array(False)
    if not found.any() or found.all():
        return pixels
    return np.where(found, np.nanmedian(pixels[~found]), pixels).astype(pixels.dtype)


def fill_nonfinite(pixels: np.ndarray, nonfinite: np.ndarray, nodata: str) -> np.ndarray:
    """Scaled values with 0 at the non-finite pixels, or the mean of their channel's finite ones (0 if there are none).

    Shapes:
        pixels: (H, W, C) in 0 … 255; nonfinite: (H, W, C) bool; returned float32 like pixels.
    """
    filled = np.where(nonfinite, np.float32(0), pixels)
    if nodata == "mean":
        finite = (~nonfinite).sum(axis=(0, 1))
        means = filled.sum(axis=(0, 1), dtype=np.float64) / np.maximum(finite, 1)
        filled = np.where(nonfinite, means.astype(np.float32), filled)
    return filled


def percentile_normalize(image: np.ndarray, percentiles: tuple[float, float]) -> np.ndarray:
    """Scale values so that two percentiles of the whole image, over all channels, become 0 and 255.

    It makes images alike that were exposed differently. Non-finite values are ignored and stay non-finite. A constant
    8-bit image stays as it is; a constant image of another dtype becomes 0.

    Args:
        percentiles: the lower and the upper one, 0 to 100.

    Shapes:
        image: (H, W, C); returned as uint8 for uint8 or bool, else as float32 in 0 … 255.
    """
    if image.dtype == bool:
        image = image.astype(np.uint8) * 255
    finite = image[np.isfinite(image)] if image.dtype.kind == "f" else image
    low, high = np.percentile(finite, percentiles).tolist() if finite.size else (0, 0)
    if image.dtype != np.uint8:
        return scale_range(image, low, high) if low < high else np.zeros(image.shape, np.float32)
    if low == high:
        return image
    levels = np.clip((np.arange(256) - low) * (255 / (high - low)), 0, 255)
    return np.rint(levels).astype(np.uint8)[image]


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Values in 0 … 255 rounded to uint8, for display; the shape stays."""
    return image if image.dtype == np.uint8 else np.rint(image).astype(np.uint8)


def scale_range(pixels: np.ndarray, low: float, high: float) -> np.ndarray:
    """Scale low to 0 and high to 255, as float32; values outside are clipped."""
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    with np.errstate(over="ignore", invalid="ignore"):  # non-finite values are replaced later
        scaled = pixels.astype(np.float32)
        scaled -= low
        scaled *= np.float32(255 / (high - low))
        return np.clip(scaled, 0, 255, out=scaled)


def scale_by_dtype(pixels: np.ndarray, path: Path | str) -> np.ndarray:
    """Scale by the full range of the dtype to 0 … 255: uint8 stays, wider unsigned integers become float32."""
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == bool:
        return pixels.astype(np.uint8) * 255
    if pixels.dtype.kind == "u":
        return pixels.astype(np.float32) * np.float32(255 / np.iinfo(pixels.dtype).max)
    raise ImageError(
        f"{path}: values of {pixels.dtype}, {pixels.min():g} to {pixels.max():g}, have no known range: set "
        f"data.window = [low, high] in these units, or data.percentiles = [1, 99]"
    )


def with_channels(pixels: np.ndarray, channels: int, path: Path, *, alpha: bool) -> np.ndarray:
    """Convert (H, W, C) to the asked number of channels: drop alpha, repeat grey, or average colours to grey.

    Raises:
        ImageError: if none of these gives it.
    """
    found = pixels.shape[2]
    if found == channels:
        return pixels
    if alpha:
        return with_channels(pixels[..., :-1], channels, path, alpha=False)
    if found == 1 and channels == 3:
        return np.repeat(pixels, 3, axis=2)
    if found == 3 and channels == 1:
        return to_grey(pixels)
    raise ImageError(f"{path}: {found} channels, expected {channels}: set model.in_channels = {found}")


def to_grey(pixels: np.ndarray) -> np.ndarray:
    """Colours (H, W, 3) as grey (H, W, 1) of the same dtype."""
    if pixels.dtype == np.uint8:
        return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).convert("L"))[..., None]
    with np.errstate(invalid="ignore"):  # a colour with a non-finite value gives a non-finite grey
        grey = pixels.astype(np.float64) @ GREY
    return (np.rint(grey) if pixels.dtype.kind in "ui" else grey).astype(pixels.dtype)[..., None]
