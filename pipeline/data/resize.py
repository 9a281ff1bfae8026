"""The size at which the network sees an image, whatever the size of its file.

An axis that shrinks is resized by area: a pixel is the mean of the part of the axis that it covers. An axis that grows
is resized bilinearly. The weights of a pixel depend on its place in the whole image and are computed in whole numbers,
so a box that is resized alone equals the same box of the whole resized image, bit for bit.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from pipeline import config
from pipeline.data.windows import Box

BAND = 64  # rows that are resized at once: their float32 values stay in the processor's cache


@dataclass(frozen=True)
class Resize:
    """The size of a config: from the size of a file to that of the network's image.

    Args:
        size: None: the file's own.
        scale: further factor of both axes, as of `predict.scale`.
    """

    size: config.Size | None = None
    scale: float = 1.0

    def target(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the network's image, at least one pixel.

        Args:
            size: height and width of the file, in pixels.

        >>> Resize(config.Size(longest=768)).target((256, 1600))
        (123, 768)
        """
        height, width = (max(1, int(length * self.scale + 0.5)) for length in self._unscaled(size))
        return height, width

    def _unscaled(self, size: tuple[int, int]) -> tuple[float, float]:
        wanted = self.size
        if wanted is None:
            return size
        if wanted.exact:
            return wanted.exact
        if wanted.longest:
            factor = wanted.longest / max(size)
        elif wanted.shortest:
            factor = wanted.shortest / min(size)
        else:
            factor = wanted.factor
        return size[0] * factor, size[1] * factor


UNCHANGED = Resize()  # images keep the size of their files


class Resampling(NamedTuple):
    """The resizing of one image; boxes of the resized image are computed from boxes of the source.

    Args:
        source, target: height and width in pixels.
    """

    source: tuple[int, int]
    target: tuple[int, int]

    def source_box(self, box: Box) -> Box:
        """The pixels of the source that the pixels of a box of the target depend on."""
        rows, columns = (self._taps(axis, box).indices for axis in (0, 1))
        top, left = int(rows.min()), int(columns.min())
        return Box(top, left, int(rows.max()) + 1 - top, int(columns.max()) + 1 - left)

    def resize(self, pixels: np.ndarray, place: Box, box: Box) -> np.ndarray:
        """A box of the target.

        Args:
            place: the box of the source that the pixels are of; it contains `source_box(box)`.

        Shapes:
            pixels: (place.height, place.width, C) uint8 or float32.
            returns: (box.height, box.width, C) of the same dtype; uint8 is rounded to the nearest.
        """
        down, across = self._taps(0, box).shifted(place.top), self._taps(1, box).shifted(place.left)
        resized = np.empty((box.height, box.width, pixels.shape[2]), pixels.dtype)
        for start in range(0, box.height, BAND):
            rows = slice(start, start + BAND)
            values = across.apply(down.part(rows).apply(pixels, axis=0), axis=1)
            resized[rows] = np.rint(values) if pixels.dtype == np.uint8 else values
        return resized

    def _taps(self, axis: int, box: Box) -> "Taps":
        start, length = (box.top, box.height) if axis == 0 else (box.left, box.width)
        return taps(start, start + length, self.source[axis], self.target[axis])


class Taps(NamedTuple):
    """Along one axis, the pixels of the source that each pixel of the target is a weighted mean of.

    Shapes:
        indices: (pixels, taps) int; weights: (pixels, taps) float32, each row sums to 1.
    """

    indices: np.ndarray
    weights: np.ndarray

    def shifted(self, first: int) -> "Taps":
        """The taps in a part of the source that begins at pixel `first`."""
        return self._replace(indices=self.indices - first)

    def part(self, pixels: slice) -> "Taps":
        """The taps of some pixels of the target."""
        return Taps(self.indices[pixels], self.weights[pixels])

    def apply(self, values: np.ndarray, axis: int) -> np.ndarray:
        """The weighted means along an axis of (H, W, C), as float32."""
        shape = [-1 if each == axis else 1 for each in range(values.ndim)]
        total: np.ndarray | None = None
        for indices, weights in zip(self.indices.T, self.weights.T, strict=True):
            # A part of the taps may be 0 in one box and not in another: adding them does not change the sum.
            part = values.take(indices, axis) * weights.reshape(shape)
            total = part if total is None else np.add(total, part, out=total)
        return total


def taps(start: int, stop: int, source: int, target: int) -> Taps:
    """The taps of pixels `start` to `stop` of an axis that is resized from `source` to `target` pixels."""
    pixel = np.arange(start, stop)[:, None]
    if target < source:  # pixel i covers i · source to (i + 1) · source, if a pixel of the source is `target` long
        indices = pixel * source // target + np.arange(-(-source // target) + 1)
        ends = np.minimum((pixel + 1) * source, (indices + 1) * target)
        weights = np.maximum(0, ends - np.maximum(pixel * source, indices * target)) / source
    else:  # between the centres of two pixels; beyond the first and the last, both are the same pixel
        first, rest = np.divmod((2 * pixel + 1) * source - target, 2 * target)
        indices = first + np.arange(2)
        weights = np.hstack([2 * target - rest, rest]) / (2 * target)
    return Taps(indices.clip(0, source - 1), weights.astype(np.float32))


def resize_image(pixels: np.ndarray, target: tuple[int, int]) -> np.ndarray:
    """A whole image at another size.

    Shapes:
        pixels: (H, W, C) uint8 or float32; returned as (*target, C), of the same dtype.
    """
    source = pixels.shape[:2]
    if source == target:
        return pixels
    return Resampling(source, target).resize(pixels, Box(0, 0, *source), Box(0, 0, *target))


class WindowedImage(Protocol):
    """An image whose boxes can be read."""

    shape: tuple[int, int]  # height and width

    def read(self, box: Box) -> np.ndarray:
        """The pixels of a box inside the image, (h, w, channels), uint8 or float32 in 0 … 255."""


class ResizedWindows:
    """An image at another size, read box by box: neither the source nor the result is ever whole in memory.

    Args:
        image: at the size of its file, or of a level of its pyramid.

    Attributes:
        shape: height and width of the resized image in pixels.
    """

    def __init__(self, image: WindowedImage, target: tuple[int, int]):
        self._image, self.shape = image, target
        self._resampling = Resampling(image.shape, target)

    def read(self, box: Box) -> np.ndarray:
        """The pixels of a box of the resized image, which equal those of the whole resized image.

        Shapes:
            returns: (box.height, box.width, channels), uint8 or float32 in 0 … 255.
        """
        bands = range(box.top, box.top + box.height, BAND)
        return np.concatenate(
            [self._band(box._replace(top=top, height=min(BAND, box.top + box.height - top))) for top in bands]
        )

    def _band(self, box: Box) -> np.ndarray:
        place = self._resampling.source_box(box)
        return self._resampling.resize(self._image.read(place), place, box)
