"""The only opener of image files.

Pillow reads them: it refuses a file that was cut short, where OpenCV returns the part that was there.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

Image.MAX_IMAGE_PIXELS = None  # Pillow's guard against bombs: competitions have larger images

# Modes whose values are 8 bits wide. A 16-bit or float image is refused instead of being cut to 8 bits.
EIGHT_BIT = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"}


class ImageError(ValueError):
    """An image file that is missing, cut short, or not of a kind that is read."""


@dataclass(frozen=True)
class Reader:
    """How a config wants its images.

    Args:
        channels: 1 or 3.
        percentiles: of an image's values, stretched to 0 and 255; None leaves the values as they are.
    """

    channels: int
    percentiles: tuple[float, float] | None = None

    def __call__(self, path: Path) -> np.ndarray:
        """The image as (H, W, channels) uint8.

        Raises:
            ImageError: as `read_image`.
        """
        image = read_image(path, self.channels)
        return stretch(image, self.percentiles) if self.percentiles else image


def stretch(image: np.ndarray, percentiles: tuple[float, float]) -> np.ndarray:
    """Values scaled so that two percentiles of the whole image, all channels together, become 0 and 255.

    Makes images of one kind alike that were exposed differently. A constant image stays as it is.

    Shapes:
        image: (H, W, C) uint8; returned likewise.
    """
    low, high = np.percentile(image, percentiles)
    if low == high:
        return image
    levels = np.clip((np.arange(256) - low) * (255 / (high - low)), 0, 255)
    return np.rint(levels).astype(np.uint8)[image]


def read_image(path: Path, channels: int) -> np.ndarray:
    """An image as (H, W, channels) uint8; grey is repeated to 3 channels, colour is made grey for 1.

    Raises:
        ImageError: with the path, if the file is missing, cut short, or not 8 bits per channel.
    """
    pixels = _decode(path, "L" if channels == 1 else "RGB")
    return pixels if pixels.ndim == 3 else pixels[..., None]


def read_mask(path: Path) -> np.ndarray:
    """A mask image as (H, W) uint8, 1 wherever the file is not 0.

    Raises:
        ImageError: as `read_image`.
    """
    return (_decode(path, "L") > 0).astype(np.uint8)


def read_labels(
    path: Path, values: dict[int | tuple[int, int, int], int], void: int | tuple[int, int, int] | None = None
) -> np.ndarray:
    """A mask image of coded classes as (H, W) uint8 class numbers, 255 where void.

    Args:
        values: of a pixel (grey value, palette index or colour) to the number of its class.
        void: value of pixels that count for nothing.

    Raises:
        ImageError: as `read_image`; for a value that is not named, with its place.
    """
    codes = dict(values) if void is None else {**values, void: 255}
    pixels = _decode_codes(path, colours=any(isinstance(value, tuple) for value in codes))
    numbers, named = np.zeros(pixels.shape[:2], np.uint8), np.zeros(pixels.shape[:2], bool)
    for value, number in codes.items():
        here = (pixels == np.asarray(value, dtype=pixels.dtype)).reshape(*pixels.shape[:2], -1).all(axis=-1)
        numbers[here], named[here] = number, True
    if not named.all():
        row, column = np.argwhere(~named)[0]
        raise ImageError(
            f"{path}: value {pixels[row, column].tolist()} at row {row}, column {column} ({(~named).sum()} pixels) is "
            f"not named in the card's masks.values"
        )
    return numbers


def _decode_codes(path: Path, *, colours: bool) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB") if colours else image)
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError) as error:
        raise ImageError(_why(path, error)) from None


def read_size(path: Path) -> tuple[int, int]:
    """Height and width, from the file's header alone.

    Raises:
        ImageError: if the file is missing or is no image.
    """
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError) as error:
        raise ImageError(_why(path, error)) from None


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


def _decode(path: Path, mode: str) -> np.ndarray:
    try:
        with Image.open(path) as image:
            if image.mode not in EIGHT_BIT:
                raise ImageError(
                    f"{path}: pixels of mode '{image.mode}', expected 8 bits per channel: convert the file"
                )
            return np.asarray(image.convert(mode))
    except ImageError:
        raise
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError) as error:
        raise ImageError(_why(path, error)) from None


def _why(path: Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{path}: no such image"
    if isinstance(error, UnidentifiedImageError):
        return f"{path}: not an image ({path.stat().st_size} bytes): get the file again"
    return f"{path}: cannot be read, {error}: get the file again, or leave out a bad image with --skip-bad"
