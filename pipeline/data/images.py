"""Images and mask images as arrays whose values mean something: the network's 0 … 255, or a class.

What is eight bits wide stays as it is. Anything wider becomes float32 in 0 … 255, by the full range of its dtype, by a
window of its own units, or by its percentiles; a 16-bit image is never cut to eight.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.competition import Value
from pipeline.config import Config
from pipeline.data.formats import ImageError, read_indices, read_pixels, read_size
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

GREY = np.array([0.299, 0.587, 0.114])  # of red, green and blue: ITU-R 601, as Pillow weighs them
LOSSY = (".jpg", ".jpeg")
SHOWN = 4  # values that a refusal lists


@dataclass(frozen=True)
class Reader:
    """How a config wants its images.

    Args:
        channels: 1 (grey), 3 (colour), or as many as the files have.
        percentiles: of an image's values, stretched to 0 and 255; None leaves 8-bit values as they are.
        window: values in the file's own units that become 0 and 255; what lies outside is cut off.
        lenient: of images read by window, what cannot be decoded counts as 0 and is named in the log.
    """

    channels: int
    percentiles: tuple[float, float] | None = None
    window: tuple[float, float] | None = None
    lenient: bool = False

    @classmethod
    def of(cls, cfg: Config) -> "Reader":
        """That of a config."""
        return cls(cfg.model.in_channels, cfg.data.percentiles, cfg.data.window, cfg.data.skip_bad)

    def __call__(self, path: Path) -> np.ndarray:
        """The image as (H, W, channels): uint8 of an 8-bit file, else float32 in 0 … 255.

        Raises:
            ImageError: as `formats.read_pixels`; for another number of channels, and for values that have no range.
        """
        return self._meant(read_pixels(path), path)

    @contextmanager
    def windows(self, path: Path) -> Iterator["MeantWindows"]:
        """The image by window, for one that is too large to be read whole.

        Raises:
            ImageError: as `windows.open_windows`, and for percentiles, which are of the whole image.
        """
        if self.percentiles:
            raise ImageError(
                f"{path}: data.percentiles are of a whole image, and this is read by window: give a window"
            )
        with open_windows(path, lenient=self.lenient) as image:
            yield MeantWindows(self, image, path)

    def part(self, path: Path, box: Box) -> np.ndarray:
        """One window of the image, (h, w, channels).

        Raises:
            ImageError: as `windows`.
        """
        with self.windows(path) as image:
            return image.read(box)

    def _meant(self, pixels: np.ndarray, path: Path) -> np.ndarray:
        pixels = _with_channels(pixels, self.channels, path)
        if self.window:
            return _between(pixels, *self.window)
        if self.percentiles:
            return stretch(pixels, self.percentiles)
        return _by_dtype(pixels, path)

    def picture(self, path: Path) -> np.ndarray:
        """The image as people look at it, (H, W, 1 or 3) uint8: of a stack the middle channel."""
        image = self(path)
        return to_uint8(image if self.channels in (1, 3) else image[..., [self.channels // 2]])


class MeantWindows:
    """An image by window, as a reader wants its values."""

    def __init__(self, reader: Reader, image: Windows, path: Path):
        self._reader, self._image, self._path = reader, image, path
        self.shape = image.shape[:2]

    def read(self, box: Box) -> np.ndarray:
        """The pixels of a box that lies inside, (h, w, channels), uint8 or float32 in 0 … 255."""
        return self._reader._meant(self._image.read(box), self._path)


def read_image(path: Path, channels: int) -> np.ndarray:
    """An image by the range of its dtype: `Reader` without options.

    Raises:
        ImageError: as `Reader`.
    """
    return Reader(channels)(path)


def glance(path: Path, channels: int) -> np.ndarray:
    """An image of any kind to look at and to compare, (H, W, channels) uint8; channels: 1 or 3.

    What is wider than eight bits is stretched between its own percentiles 1 and 99.

    Raises:
        ImageError: if it cannot be read.
    """
    pixels = read_pixels(path)
    if pixels.shape[2] not in (1, 2, 3, 4):
        pixels = pixels[..., [pixels.shape[2] // 2]]  # the middle one of a stack
    pixels = _with_channels(pixels, channels, path)
    return pixels if pixels.dtype == np.uint8 else to_uint8(stretch(pixels, (1, 99)))


def stretch(image: np.ndarray, percentiles: tuple[float, float]) -> np.ndarray:
    """Values scaled so that two percentiles of the whole image, all channels together, become 0 and 255.

    Makes images of one kind alike that were exposed differently. A constant 8-bit image stays as it is, a constant one
    of another kind becomes 0.

    Shapes:
        image: (H, W, C); returned as uint8 of uint8, else as float32.
    """
    low, high = np.percentile(image, percentiles)
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


def _with_channels(pixels: np.ndarray, channels: int, path: Path) -> np.ndarray:
    found = pixels.shape[2]
    if found == channels:
        return pixels
    if found in (2, 4) and channels in (1, 3):  # the last one is alpha
        return _with_channels(pixels[..., :-1], channels, path)
    if found == 1 and channels == 3:
        return np.repeat(pixels, 3, axis=2)
    if found == 3 and channels == 1:
        return _grey(pixels)
    raise ImageError(f"{path}: {found} channels, expected {channels}: set model.in_channels = {found}")


def _grey(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).convert("L"))[..., None]
    grey = pixels.astype(np.float64) @ GREY
    return (np.rint(grey) if pixels.dtype.kind in "ui" else grey).astype(pixels.dtype)[..., None]


# ---------------------------------------------------------------------------------------------- masks


def read_mask(
    path: Path, name: str = "mask", above: float | None = None, *, void: Value | None = None, box: Box | None = None
) -> np.ndarray:
    """A mask image as (H, W) uint8, 0 or 1, and VOID where void; or one window of it.

    Without `above`, the file holds 0 and 1, or 0 and its dtype's white (255), beside void; of a palette whose first
    colour is black, indices 0 and 1. Anything else may be several classes, numbered objects or edges that JPEG has
    blurred, and is refused rather than guessed.

    Args:
        name: of the class, for what to write on the card.
        above: grey values above it are mask, whatever values there are.
        void: value of pixels that count for nothing: grey value, palette index, or colour.
        box: the window; None reads the whole image.

    Raises:
        ImageError: as `formats.read_pixels`; for other values, with what to write on the card.
    """
    if void is not None:
        return _mask_beside_void(path, name, above, void, box)
    colours = _without_alpha(_pixels(path, box), path)
    if above is not None:
        return (_with_channels(colours, 1, path)[..., 0] > above).astype(np.uint8)
    if _is_two_valued(colours):
        return (colours[..., 0] != 0).astype(np.uint8)
    indices = _indices(path, box)
    if indices is not None and _is_two_valued(indices) and not colours[indices[..., 0] == 0].any():
        return (indices[..., 0] != 0).astype(np.uint8)
    raise ImageError(f"{path}: {_other_values(colours, name)}")


def _mask_beside_void(path: Path, name: str, above: float | None, void: Value, box: Box | None) -> np.ndarray:
    codes = _codes(path, box, colours=isinstance(void, tuple))
    valid = ~(codes == np.atleast_1d(void)).all(axis=2)
    rest = codes[valid]
    if above is not None:
        drawn = _with_channels(codes, 1, path)[..., 0] > above
    elif not rest.size or _is_two_valued(rest):
        drawn = codes[..., 0] != 0
    else:
        raise ImageError(f"{path}: {_other_values(rest, name)}")
    return np.where(valid, drawn, VOID).astype(np.uint8)


def _pixels(path: Path, box: Box | None) -> np.ndarray:
    """The whole image, or one window of it."""
    if box is None:
        return read_pixels(path)
    with open_windows(path) as image:
        return image.read(box)


def _indices(path: Path, box: Box | None) -> np.ndarray | None:
    """Of a palette, as `_pixels`."""
    indices = read_indices(path)
    return indices if indices is None or box is None else indices[box.slices]


def _without_alpha(pixels: np.ndarray, path: Path) -> np.ndarray:
    colours = pixels[..., :-1] if pixels.shape[2] in (2, 4) else pixels  # alpha says nothing
    if colours.shape[2] not in (1, 3):
        raise ImageError(f"{path}: a mask of {pixels.shape[2]} channels: expected grey, a palette or colour")
    return colours


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
    return (
        f"a mask of values {', '.join(shown[:SHOWN])}{more}: expected 0 and 1, or 0 and 255. Say on the card which are "
        f"mask: [masks] values = {{ {key} = {usual} }}, or above = 127 (of JPEG, which blurs), or above = 0 (all but "
        f"0); or which count for nothing: void"
    )


def _written(value: np.ndarray) -> str:
    return f"{value[0]:g}" if len(value) == 1 else str(value.tolist())


def read_labels(
    path: Path, values: dict[Value, int], void: Value | None = None, *, box: Box | None = None
) -> np.ndarray:
    """A mask image of coded classes as (H, W) uint8 class numbers, VOID where void; or one window of it.

    Args:
        values: of a pixel (grey value, palette index, or colour) to the number of its class.
        void: value of pixels that count for nothing.

    Raises:
        ImageError: as `formats.read_pixels`; for a value that is not named, with its place.
    """
    codes = dict(values) if void is None else {**values, void: VOID}
    pixels = _codes(path, box, colours=any(isinstance(value, tuple) for value in codes))
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


def _codes(path: Path, box: Box | None, *, colours: bool) -> np.ndarray:
    """Colours (H, W, 3), or one value each (H, W, 1): of a palette its indices."""
    if not colours and (indices := _indices(path, box)) is not None:
        return indices
    pixels = _pixels(path, box)
    if colours:
        return _with_channels(pixels, 3, path)
    if pixels.shape[2] != 1:
        raise ImageError(f"{path}: {pixels.shape[2]} channels, and masks.values are single values: give colours")
    return pixels


def read_objects(path: Path, void: Value | None = None, *, box: Box | None = None) -> np.ndarray:
    """A label image, in which each value is an object, as (H, W) int32; or one window of it.

    0, or black, is the background, and stays 0. The others become 1, 2, … in ascending order: grey values of any depth,
    indices of a palette whose first colour is black, or colours. VOID_OBJECT where void.

    Raises:
        ImageError: as `formats.read_pixels`; for values that cannot be numbers of objects.
    """
    if path.suffix.lower() in LOSSY:
        raise ImageError(f"{path}: a label image as JPEG, which blurs values: save objects as PNG or TIFF")
    pixels, indices = _without_alpha(_pixels(path, box), path), _indices(path, box)
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
