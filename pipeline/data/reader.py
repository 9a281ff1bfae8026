"""Images and mask images as arrays whose values mean something: the network's 0 … 255, or a class.

What is eight bits wide stays as it is. Anything wider becomes float32 in 0 … 255, by the full range of its dtype, by a
window of its own units, or by its percentiles; a 16-bit image is never cut to eight.
"""

import functools
import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from pipeline.competition import Value
from pipeline.config import Config
from pipeline.data.formats import is_jpeg, read_indices, read_raster, read_size
from pipeline.data.rasters import ImageError
from pipeline.data.windows import Box, Windows, open_windows
from pipeline.metrics import VOID, VOID_OBJECT

__all__ = [
    "VOID",
    "VOID_OBJECT",
    "ImageError",
    "Reader",
    "encode_image",
    "glance",
    "read_image",
    "read_labels",
    "read_mask",
    "read_objects",
    "read_size",
    "stretch",
    "to_uint8",
    "write_image",
]

log = logging.getLogger(__name__)

GREY = np.array([0.299, 0.587, 0.114])  # of red, green and blue: ITU-R 601, as Pillow weighs them
SHOWN = 4  # values that a refusal lists
LARGE = 1 << 26  # pixels; a larger image is checked by window, BAND rows at a time
BAND = 1024


@dataclass(frozen=True)
class Reader:
    """How a config wants its images.

    Args:
        channels: 1 (grey), 3 (colour), or as many as the files have.
        percentiles: of an image's values, stretched to 0 and 255; None leaves 8-bit values as they are.
        window: values in the file's own units that become 0 and 255; what lies outside is cut off.
        lenient: of images read by window, what cannot be decoded counts as 0 and is named in the log.
        exif: turn images as their files say they are seen; else they are as stored.
        nodata: of pixels that are no finite number: "refuse" the image, or make them "zero" (black, once the values
            are 0 … 255) or the "mean" of the others in their channel.
    """

    channels: int = 3
    percentiles: tuple[float, float] | None = None
    window: tuple[float, float] | None = None
    lenient: bool = False
    exif: bool = True
    nodata: Literal["refuse", "zero", "mean"] = "refuse"

    @classmethod
    def of(cls, cfg: Config) -> "Reader":
        """That of a config."""
        data = cfg.data
        return cls(cfg.model.in_channels, data.percentiles, data.window, data.skip_bad, data.exif, data.nodata)

    def __call__(self, path: Path) -> np.ndarray:
        """The image as (H, W, channels): uint8 of an 8-bit file, else float32 in 0 … 255.

        Raises:
            ImageError: as `formats.read_raster`; for another number of channels, for values that have no range, and
                for pixels that are no finite number.
        """
        pixels, alpha, _ = read_raster(path, exif=self.exif)
        return self._meant(pixels, path, alpha=alpha)

    def size(self, path: Path) -> tuple[int, int]:
        """Height and width of the image, from the file's header.

        Raises:
            ImageError: as `formats.read_header`.
        """
        return read_size(path, exif=self.exif)

    def own_values(self, path: Path) -> np.ndarray:
        """The image as its file has it, (H, W, C) in the file's own dtype.

        Raises:
            ImageError: as `__call__`, but for values that have no range.
        """
        pixels, alpha, _ = read_raster(path, exif=self.exif)
        self._refuse_channels(pixels.shape[2], path, alpha=alpha)
        self._holes(pixels, path)
        return pixels

    def _refuse_channels(self, found: int, path: Path, *, alpha: bool) -> None:
        _with_channels(np.zeros((1, 1, found), np.uint8), self.channels, path, alpha=alpha)

    def check(self, path: Path) -> tuple[int, int]:
        """Height and width, after decoding all of the image; a large one by window, as it will be read.

        Raises:
            ImageError: as `own_values`, and as `windows`.
        """
        height, width = self.size(path)
        if height * width <= LARGE:
            self.own_values(path)
            return height, width
        with open_windows(path, lenient=self.lenient, exif=self.exif) as image:
            self._refuse_channels(image.shape[2], path, alpha=image.alpha)
            for top in range(0, height, BAND):
                box = Box(top, 0, min(BAND, height - top), width)
                self._holes(image.read(box), path, box)
        return height, width

    @contextmanager
    def windows(self, path: Path) -> Iterator["MeantWindows"]:
        """The image by window, for one that is too large to be read whole.

        Raises:
            ImageError: as `windows.open_windows`, and for percentiles and means, which are of the whole image.
        """
        if self.percentiles or self.nodata == "mean":
            key, instead = ("percentiles", "a window") if self.percentiles else ('nodata = "mean"', '"zero"')
            raise ImageError(f"{path}: data.{key} is of a whole image, and this is read by window: give {instead}")
        with open_windows(path, lenient=self.lenient, exif=self.exif) as image:
            yield MeantWindows(self, image, path)

    def part(self, path: Path, box: Box) -> np.ndarray:
        """One window of the image, (h, w, channels).

        Raises:
            ImageError: as `windows`.
        """
        with self.windows(path) as image:
            return image.read(box)

    def _meant(self, pixels: np.ndarray, path: Path, box: Box | None = None, *, alpha: bool) -> np.ndarray:
        pixels = _with_channels(pixels, self.channels, path, alpha=alpha)
        holes = self._holes(pixels, path, box)
        if self.window:
            meant = _between(pixels, *self.window)
        elif self.percentiles:
            meant = stretch(pixels, self.percentiles)
        else:
            meant = _by_dtype(pixels, path)
        return meant if holes is None else _filled(meant, holes, self.nodata)

    def _holes(self, pixels: np.ndarray, path: Path, box: Box | None = None) -> np.ndarray | None:
        """Where pixels are no finite number, (H, W, C) bool; None if all are.

        Raises:
            ImageError: if such are refused, with how many there are and where the first one is.
        """
        if pixels.dtype.kind != "f":
            return None
        with np.errstate(over="ignore"):
            holes = ~np.isfinite(pixels.astype(np.float32, copy=False))
        if not holes.any():
            return None
        if self.nodata == "refuse":
            row, column, _ = np.argwhere(holes)[0]
            top, left = (box.top, box.left) if box else (0, 0)
            where = " of this window" if box else ""
            raise ImageError(
                f"{path}: {holes.any(axis=2).sum()} of {holes[..., 0].size} pixels{where} are no finite number "
                f"({pixels[holes][0]}), the first at row {row + top}, column {column + left}: set data.nodata = "
                f'"zero" or "mean", or leave the image out with --skip-bad'
            )
        return holes

    def picture(self, path: Path) -> np.ndarray:
        """The image as people look at it, (H, W, 1 or 3) uint8: of a stack the middle channel."""
        image = self(path)
        return to_uint8(image if self.channels in (1, 3) else image[..., [self.channels // 2]])

    def glance(self, path: Path, channels: int) -> np.ndarray:
        """An image of any kind to look at and to compare, (H, W, channels) uint8; channels: 1 or 3.

        What is wider than eight bits is stretched between its own percentiles 1 and 99.

        Raises:
            ImageError: if it cannot be read, or has pixels that are refused.
        """
        pixels, alpha, _ = read_raster(path, exif=self.exif)
        if alpha:
            pixels = pixels[..., :-1]
        self._holes(pixels, path)  # in whichever channel
        if pixels.shape[2] not in (1, 3):
            pixels = pixels[..., [pixels.shape[2] // 2]]  # the middle one of a stack
        pixels = _with_channels(pixels, channels, path, alpha=False)
        holes = self._holes(pixels, path)
        if pixels.dtype in (bool, np.uint8):
            return _by_dtype(pixels, path)
        seen = stretch(pixels, (1, 99))
        return to_uint8(seen if holes is None else _filled(seen, holes, self.nodata))


class MeantWindows:
    """An image by window, as a reader wants its values."""

    def __init__(self, reader: Reader, image: Windows, path: Path):
        self._reader, self._image, self._path = reader, image, path
        self.shape = image.shape[:2]

    def read(self, box: Box) -> np.ndarray:
        """The pixels of a box that lies inside, (h, w, channels), uint8 or float32 in 0 … 255."""
        return self._reader._meant(self._image.read(box), self._path, box, alpha=self._image.alpha)


AS_SEEN = Reader()  # turned as EXIF says; pixels that are no finite number are refused


def read_image(path: Path, channels: int) -> np.ndarray:
    """An image by the range of its dtype: `Reader` without options.

    Raises:
        ImageError: as `Reader`.
    """
    return Reader(channels)(path)


def glance(path: Path, channels: int) -> np.ndarray:
    """As `Reader.glance`, without options."""
    return AS_SEEN.glance(path, channels)


def _filled(pixels: np.ndarray, holes: np.ndarray, nodata: str) -> np.ndarray:
    """Values in 0 … 255 in which the holes are black, or the mean of the rest of their channel (0 without a rest)."""
    filled = np.where(holes, np.float32(0), pixels)
    if nodata == "mean":
        rest = (~holes).sum(axis=(0, 1))
        means = filled.sum(axis=(0, 1), dtype=np.float64) / np.maximum(rest, 1)
        filled = np.where(holes, means.astype(np.float32), filled)
    return filled


def stretch(image: np.ndarray, percentiles: tuple[float, float]) -> np.ndarray:
    """Values scaled so that two percentiles of the whole image, all channels together, become 0 and 255.

    Values that are no finite number do not count, and stay none. Makes images of one kind alike that were exposed
    differently. A constant 8-bit image stays as it is, a constant one of another kind becomes 0.

    Shapes:
        image: (H, W, C); returned as uint8 of uint8, else as float32.
    """
    if image.dtype == bool:
        image = image.astype(np.uint8) * 255
    finite = image[np.isfinite(image)] if image.dtype.kind == "f" else image
    low, high = np.percentile(finite, percentiles) if finite.size else (0, 0)
    if image.dtype != np.uint8:
        return _between(image, low, high) if low < high else np.zeros(image.shape, np.float32)
    if low == high:
        return image
    levels = np.clip((np.arange(256) - low) * (255 / (high - low)), 0, 255)
    return np.rint(levels).astype(np.uint8)[image]


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Values in 0 … 255 as whole numbers, for people to look at."""
    return image if image.dtype == np.uint8 else np.rint(image).astype(np.uint8)


def _between(pixels: np.ndarray, low: float, high: float) -> np.ndarray:
    """float32: low becomes 0, high 255, and what lies outside is cut off."""
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    with np.errstate(over="ignore", invalid="ignore"):  # of values that are none
        return np.clip((pixels.astype(np.float32) - low) * np.float32(255 / (high - low)), 0, 255)


def _by_dtype(pixels: np.ndarray, path: Path) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == bool:
        return pixels.astype(np.uint8) * 255
    if pixels.dtype.kind == "u":
        return pixels.astype(np.float32) * np.float32(255 / np.iinfo(pixels.dtype).max)
    raise ImageError(
        f"{path}: values of {pixels.dtype}, {pixels.min():g} to {pixels.max():g}, have no range of their own: set "
        f"data.window = [low, high] in these units, or data.percentiles = [1, 99]"
    )


def _with_channels(pixels: np.ndarray, channels: int, path: Path, *, alpha: bool) -> np.ndarray:
    found = pixels.shape[2]
    if found == channels:
        return pixels
    if alpha:
        return _with_channels(pixels[..., :-1], channels, path, alpha=False)
    if found == 1 and channels == 3:
        return np.repeat(pixels, 3, axis=2)
    if found == 3 and channels == 1:
        return _grey(pixels)
    raise ImageError(f"{path}: {found} channels, expected {channels}: set model.in_channels = {found}")


def _grey(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).convert("L"))[..., None]
    with np.errstate(invalid="ignore"):  # of values that are no finite number, which come out as none
        grey = pixels.astype(np.float64) @ GREY
    return (np.rint(grey) if pixels.dtype.kind in "ui" else grey).astype(pixels.dtype)[..., None]


# ---------------------------------------------------------------------------------------------- masks


def read_mask(
    path: Path,
    name: str = "mask",
    above: float | None = None,
    *,
    void: Value | None = None,
    box: Box | None = None,
    exif: bool = True,
) -> np.ndarray:
    """A mask image as (H, W) uint8, 0 or 1, and VOID where void; or one window of it.

    Without `above`, the file holds 0 and 1, or 0 and its dtype's white (255), beside void; of a palette whose first
    colour is black, indices 0 and 1. Anything else may be several classes, numbered objects or edges that JPEG has
    blurred, and is refused rather than guessed. If all colours are one and the file is not opaque, the mask is what is
    not transparent, as a brush on a layer leaves it.

    Args:
        name: of the class, for what to write on the card.
        above: grey values above it are mask, whatever values there are; of one bit, white is 255.
        void: value of pixels that count for nothing: grey value, palette index, or colour.
        box: the window; None reads the whole image.
        exif: as `formats.read_raster`.

    Raises:
        ImageError: as `formats.read_raster`; for other values, with what to write on the card.
    """
    if void is not None:
        return _mask_beside_void(path, name, above, void, box, exif=exif)
    pixels = _mask_values(path, box, exif=exif)
    if pixels.shape[2] not in (1, 3):
        raise ImageError(f"{path}: a mask of {pixels.shape[2]} channels: expected grey, a palette or colour")
    if above is not None:
        return _above(pixels, above, path).astype(np.uint8)
    if _is_two_valued(pixels):
        return (pixels[..., 0] != 0).astype(np.uint8)
    indices = _indices(path, box, exif=exif)
    if indices is not None and _is_two_valued(indices) and not pixels[indices[..., 0] == 0].any():
        return (indices[..., 0] != 0).astype(np.uint8)
    raise ImageError(f"{path}: {_other_values(pixels, name)}")


def _mask_beside_void(
    path: Path, name: str, above: float | None, void: Value, box: Box | None, *, exif: bool
) -> np.ndarray:
    codes = _codes(path, box, colours=isinstance(void, tuple), exif=exif)
    valid = ~(codes == np.atleast_1d(void)).all(axis=2)
    rest = codes[valid]
    if above is not None:
        drawn = _above(codes, above, path)
    elif not rest.size or _is_two_valued(rest):
        drawn = codes[..., 0] != 0
    else:
        raise ImageError(f"{path}: {_other_values(rest, name)}")
    return np.where(valid, drawn, VOID).astype(np.uint8)


def _above(pixels: np.ndarray, above: float, path: Path) -> np.ndarray:
    """Where grey values lie above a value, (H, W) bool; of one bit, white is 255."""
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    if pixels.dtype.kind == "f" and np.isnan(pixels).any():  # above nothing: it would be background
        row, column, _ = np.argwhere(np.isnan(pixels))[0]
        raise ImageError(f"{path}: a mask that is not a number at row {row}, column {column}: expected grey values")
    return _with_channels(pixels, 1, path, alpha=False)[..., 0] > above


def _mask_values(path: Path, box: Box | None, *, exif: bool) -> np.ndarray:
    """What of a mask image's channels is the mask: its colours, or its alpha where the colours say nothing."""
    pixels, alpha = _pixels(path, box, exif=exif)
    if not alpha:
        return pixels
    whole = pixels if box is None else read_raster(path, exif=exif).pixels  # a window may show one colour of several
    opacity = whole[..., -1:]
    opaque = np.iinfo(opacity.dtype).max if opacity.dtype.kind == "u" else 1
    if _is_constant(whole[..., :-1]) and (opacity != opaque).any():
        _say_once_of_alpha(path.parent)
        return pixels[..., -1:]
    return pixels[..., :-1]


@functools.cache
def _say_once_of_alpha(folder: Path) -> None:
    log.warning("%s: masks of one colour that are not opaque: what is not transparent is read as mask", folder)


def _is_constant(pixels: np.ndarray) -> bool:
    return bool((pixels == pixels[0, 0]).all())


def _pixels(path: Path, box: Box | None, *, exif: bool) -> tuple[np.ndarray, bool]:
    """The whole image or one window of it, and whether its last channel is alpha."""
    if box is None:
        return read_raster(path, exif=exif)[:2]
    with open_windows(path, exif=exif) as image:
        return image.read(box), image.alpha


def _indices(path: Path, box: Box | None, *, exif: bool) -> np.ndarray | None:
    """Of a palette, as `_pixels`."""
    indices = read_indices(path, exif=exif)
    return indices if indices is None or box is None else indices[box.slices]


def _is_two_valued(pixels: np.ndarray) -> bool:
    """Whether all is 0 and 1, or 0 and white, in all channels alike."""
    high = pixels.max()
    white = np.iinfo(pixels.dtype).max if pixels.dtype.kind == "u" else 255
    grey = pixels[..., :1]
    return high in (0, 1, 255, white) and bool(((grey == 0) | (grey == high)).all() and (pixels == grey).all())


def _other_values(colours: np.ndarray, name: str) -> str:
    """What came, what was expected, and what to write on the card."""
    if colours.shape[-1] == 1:
        values, often = np.unique(colours, return_counts=True)  # one NaN for all, unlike that of rows
        values = values[:, None]
    else:
        values, often = np.unique(colours.reshape(-1, 3), axis=0, return_counts=True)
    shown = [_written(value) for value in values]
    usual = _written(values[np.where(values.any(axis=1), often, 0).argmax()])
    key = name if name.replace("-", "_").isidentifier() else f'"{name}"'
    more = f", … ({len(shown)} in all, to {shown[-1]})" if len(shown) > SHOWN else ""
    blurred = "above = 127 (of JPEG, which blurs), or " if colours.max() > 127 else ""  # else no pixel is above it
    return (
        f"a mask of values {', '.join(shown[:SHOWN])}{more}: expected 0 and 1, or 0 and 255. Say on the card which are "
        f"mask: [masks] values = {{ {key} = {usual} }}, or {blurred}above = 0 (all but 0); or which count for "
        f"nothing: void"
    )


def _written(value: np.ndarray) -> str:
    return f"{value[0]:g}" if len(value) == 1 else str(value.tolist())


def read_labels(
    path: Path, values: dict[Value, int], void: Value | None = None, *, box: Box | None = None, exif: bool = True
) -> np.ndarray:
    """A mask image of coded classes as (H, W) uint8 class numbers, VOID where void; or one window of it.

    Args:
        values: of a pixel (grey value, palette index, or colour) to the number of its class.
        void: value of pixels that count for nothing.

    Raises:
        ImageError: as `formats.read_raster`; for a value that is not named, with its place.
    """
    codes = dict(values) if void is None else {**values, void: VOID}
    pixels = _codes(path, box, colours=any(isinstance(value, tuple) for value in codes), exif=exif)
    numbers, named = np.zeros(pixels.shape[:2], np.uint8), np.zeros(pixels.shape[:2], bool)
    for value, number in codes.items():
        here = (pixels == np.atleast_1d(value)).all(axis=2)
        numbers[here], named[here] = number, True
    if not named.all():
        row, column = np.argwhere(~named)[0]
        came = pixels[row, column].tolist()
        raise ImageError(
            f"{path}: value {came[0] if len(came) == 1 else came} at row {row}, column {column} ({(~named).sum()} "
            f"pixels) is none of the card's: name it in masks.values, or as masks.void"
        )
    return numbers


def _codes(path: Path, box: Box | None, *, colours: bool, exif: bool) -> np.ndarray:
    """Colours (H, W, 3), or one value each (H, W, 1): of a palette its indices."""
    if not colours and (indices := _indices(path, box, exif=exif)) is not None:
        return indices
    pixels, alpha = _pixels(path, box, exif=exif)
    if alpha:
        pixels, opacity = pixels[..., :-1], pixels[..., -1:]
        if _is_constant(pixels) and not _is_constant(opacity):
            raise ImageError(f"{path}: labels of one colour, only alpha varies: expected a colour or value per class")
    if colours:
        return _with_channels(pixels, 3, path, alpha=False)
    if pixels.shape[2] != 1:
        raise ImageError(f"{path}: {pixels.shape[2]} channels, and masks.values are single values: give colours")
    return pixels


def read_objects(path: Path, void: Value | None = None, *, box: Box | None = None, exif: bool = True) -> np.ndarray:
    """A label image, in which each value is an object, as (H, W) int32; or one window of it.

    0, or black, is the background, and stays 0. The others become 1, 2, … in ascending order: grey values of any depth,
    indices of a palette whose first colour is black, or colours. VOID_OBJECT where void.

    Raises:
        ImageError: as `formats.read_raster`; for values that cannot be numbers of objects.
    """
    if is_jpeg(path):
        raise ImageError(f"{path}: a label image as JPEG, which blurs values: save objects as PNG or TIFF")
    pixels, indices = _mask_values(path, box, exif=exif), _indices(path, box, exif=exif)
    if pixels.shape[2] not in (1, 3):
        raise ImageError(f"{path}: a label image of {pixels.shape[2]} channels: expected grey, a palette or colour")
    here = np.zeros(pixels.shape[:2], bool)
    if void is not None:
        codes = pixels if indices is None or isinstance(void, tuple) else indices
        here = (codes == np.atleast_1d(void)).all(axis=2)
    if indices is not None and pixels[(indices[..., 0] == 0) & ~here].any():
        raise ImageError(
            f"{path}: objects as a palette whose first colour is not black: expected index 0 as background"
        )
    numbers = _numbers(pixels if indices is None else indices, path)
    numbers[here] = 0
    values, labels = np.unique(numbers, return_inverse=True)
    labels = labels.reshape(numbers.shape).astype(np.int32) + np.int32(values[0] != 0)
    labels[here] = VOID_OBJECT
    return labels


def _numbers(pixels: np.ndarray, path: Path) -> np.ndarray:
    """One whole number, 0 or more, for each pixel (H, W): a grey value, or a colour's three in one."""
    if (pixels == pixels[..., :1]).all():
        pixels = pixels[..., :1]
    with np.errstate(invalid="ignore"):  # of values that are no number, which differ from any
        numbers = pixels.astype(np.int64)
    if (numbers != pixels).any() or numbers.min() < 0 or (pixels.shape[2] == 3 and pixels.dtype != np.uint8):
        raise ImageError(
            f"{path}: a label image of {pixels.dtype}, {pixels.min():g} to {pixels.max():g}: expected whole "
            f"numbers from 0, the background, or colours of 8 bits"
        )
    return numbers @ (1 << 8 * np.arange(pixels.shape[2])[::-1])


# ---------------------------------------------------------------------------------------------- writing


def write_image(path: Path, pixels: np.ndarray) -> None:
    """Write (H, W) or (H, W, 3) uint8 in the format that the path's suffix names."""
    Image.fromarray(pixels).save(path)


def encode_image(pixels: np.ndarray, format: str, quality: int) -> bytes:
    """(H, W) or (H, W, 3) uint8 as the bytes of an image file.

    Args:
        format: as Pillow names it, such as "WEBP".
        quality: 1 (small) to 100, for formats that lose some.
    """
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, quality=quality)
    return buffer.getvalue()
