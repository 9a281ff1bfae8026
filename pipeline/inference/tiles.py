"""Images larger than the network's input: predicted tile by tile, blended, and given strip by strip.

Along each axis tiles lie `stride` pixels apart and stand out over both ends by the same amount, where the image is
reflected. A tile's weights fall off towards its border, where the network has seen least of what surrounds a pixel;
they are a product of one weight per axis, which are normalised along the axis. So those of a pixel sum to one, without
a sum being kept for each pixel, and what is done with is handed on: memory holds a strip, however large the image.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from pipeline.config import Tiles
from pipeline.data.dataset import to_tensor
from pipeline.data.windows import Box

Predict = Callable[[Tensor], Tensor]  # (N, channels, size, size) to probs (N, C, size, size), on the CPU
Along = Literal["column", "row"]  # what strips consist of

LEAST = 1e-3  # of the highest weight: where a pixel lies in one tile only, it must not be lost in rounding
COARSE = 4  # every so many pixels, in both directions, are enough to see whether a tile is empty


class Pixels(Protocol):
    """An image that is read by window, as `data.reader.Reader` wants its values."""

    shape: tuple[int, int]

    def read(self, box: Box) -> np.ndarray:
        """The pixels of a box, (h, w, channels), uint8 or float32 in 0 … 255."""


class Whole:
    """A tensor (channels, H, W) as such an image."""

    def __init__(self, image: Tensor):
        self._image, self.shape = image, tuple(image.shape[-2:])

    def read(self, box: Box) -> np.ndarray:
        return self._image[(slice(None), *box.slices)].permute(1, 2, 0).numpy()


class Span(NamedTuple):
    """A tile's place along one axis."""

    start: int  # negative where the tile stands out over the beginning
    weights: np.ndarray  # (size,) float32, 0 outside the image


def gaussian(size: int) -> np.ndarray:
    """A bell with a standard deviation of an eighth of the tile, as nnU-Net blends: https://arxiv.org/abs/1904.08128."""
    offset = np.arange(size) - (size - 1) / 2
    return np.maximum(np.exp(-0.5 * (offset / (size / 8)) ** 2), LEAST)


def pyramid(size: int) -> np.ndarray:
    """In proportion to the distance from the tile's border."""
    return np.minimum(np.arange(1, size + 1), np.arange(size, 0, -1)) / ((size + 1) // 2)


def flat(size: int) -> np.ndarray:
    """All alike."""
    return np.ones(size)


WINDOWS = {"gaussian": gaussian, "pyramid": pyramid, "flat": flat}


def lay(length: int, tiles: Tiles) -> list[Span]:
    """The tiles along an axis of so many pixels; the weights of each pixel sum to one."""
    count = max(1, -(-(length - tiles.overlap) // tiles.stride))
    before = ((count - 1) * tiles.stride + tiles.size - length) // 2
    starts = [number * tiles.stride - before for number in range(count)]
    window, total = WINDOWS[tiles.window](tiles.size), np.zeros(length)
    for start in starts:
        inside = _inside(start, tiles.size, length)
        total[inside] += window[_shifted(inside, -start)]
    return [Span(start, _weights(start, window, total)) for start in starts]


def _weights(start: int, window: np.ndarray, total: np.ndarray) -> np.ndarray:
    weights, inside = np.zeros(len(window), np.float32), _inside(start, len(window), len(total))
    weights[_shifted(inside, -start)] = window[_shifted(inside, -start)] / total[inside]
    return weights


def _inside(start: int, size: int, length: int) -> slice:
    """What of a tile lies in the image."""
    return slice(max(0, start), min(start + size, length))


def _shifted(part: slice, by: int) -> slice:
    return slice(part.start + by, part.stop + by)


def predict_strips(
    predict: Predict, image: Pixels, tiles: Tiles, batch_size: int, along: Along = "column"
) -> Iterator[Tensor]:
    """The probabilities of an image, in strips that lie beside each other: of whole columns, from left to right.

    The next strip's pixels are read while one is predicted.

    Args:
        batch_size: tiles at once.
        along: "row" gives strips of whole rows, from top to bottom.

    Shapes:
        yields: (C, H, w) float32, or (C, h, W).
    """
    axis = 1 if along == "column" else 0  # that strips follow each other on
    spans, across = lay(image.shape[axis], tiles), lay(image.shape[1 - axis], tiles)
    strip = _Strip(image.shape, tiles, axis)
    with ThreadPoolExecutor(1) as ahead:
        coming = ahead.submit(_read, image, tiles, axis, spans[0], across)
        for span, following in zip(spans, [*spans[1:], None], strict=True):
            pixels = coming.result()
            if following:
                coming = ahead.submit(_read, image, tiles, axis, following, across)
            for batch in _batches(pixels, across, tiles, axis, batch_size, strip):
                probs = predict(torch.stack([to_tensor(tile) for _, tile in batch]))
                for (place, _), each in zip(batch, probs, strict=True):
                    strip.add(each, span, place)
            yield strip.finished(span.start, following.start if following else image.shape[axis])


def _read(image: Pixels, tiles: Tiles, axis: int, span: Span, across: Sequence[Span]) -> np.ndarray:
    """The pixels of all tiles that lie at one place along the axis, reflected where they stand out."""
    length, width = image.shape[axis], image.shape[1 - axis]
    inside = _inside(span.start, tiles.size, length)
    size = inside.stop - inside.start
    box = Box(0, inside.start, width, size) if axis == 1 else Box(inside.start, 0, size, width)
    added = [(inside.start - span.start, span.start + tiles.size - inside.stop)]
    added.insert(1 - axis, (-across[0].start, across[-1].start + tiles.size - width))
    pixels = image.read(box)
    return np.pad(pixels, [*added, (0, 0)], mode="reflect") if np.any(added) else pixels


def _batches(
    pixels: np.ndarray, across: Sequence[Span], tiles: Tiles, axis: int, batch_size: int, strip: "_Strip"
) -> Iterator[list[tuple[Span, np.ndarray]]]:
    """The tiles of what was read, with their places, without those that are empty."""
    batch: list[tuple[Span, np.ndarray]] = []
    for place in across:
        start = place.start - across[0].start
        tile = pixels[start : start + tiles.size] if axis == 1 else pixels[:, start : start + tiles.size]
        if strip.knows_classes and _is_background(tile, tiles.background):
            continue
        batch.append((place, tile))
        if len(batch) == batch_size or not strip.knows_classes:
            yield batch
            batch = []
    if batch:
        yield batch


def _is_background(tile: np.ndarray, spread: float) -> bool:
    """Whether a tile's brightness has a standard deviation of less than `spread`."""
    return spread > 0 and tile[::COARSE, ::COARSE].mean(axis=2).std() < spread


class _Strip:
    """The sum of weighted tiles over the pixels that the next tiles may still change."""

    def __init__(self, shape: tuple[int, int], tiles: Tiles, axis: int):
        self._tiles, self._axis = tiles, axis
        self._shape = (shape[0], tiles.size) if axis == 1 else (tiles.size, shape[1])
        self._sum: Tensor | None = None  # until the first tile it is not known how many classes there are

    @property
    def knows_classes(self) -> bool:
        return self._sum is not None

    def add(self, probs: Tensor, span: Span, place: Span) -> None:
        """Add a tile's probabilities (C, size, size), at a place across the strip."""
        if self._sum is None:
            self._sum = probs.new_zeros((len(probs), *self._shape))
        inside = _inside(place.start, self._tiles.size, self._shape[1 - self._axis])
        part = _shifted(inside, -place.start)
        across, along = place.weights[part], span.weights
        if self._axis == 1:
            self._sum[:, inside] += probs[:, part] * torch.from_numpy(np.outer(across, along))
        else:
            self._sum[:, :, inside] += probs[:, :, part] * torch.from_numpy(np.outer(along, across))

    def finished(self, start: int, until: int) -> Tensor:
        """What no later tile changes, of a strip that begins at `start`; the rest moves to its beginning."""
        axis = self._axis + 1  # after the classes
        first = max(0, -start)
        done = self._sum.narrow(axis, first, until - start - first).clone()
        rest = self._tiles.overlap
        kept = self._sum.narrow(axis, self._tiles.stride, rest).clone()
        self._sum.zero_().narrow(axis, 0, rest).copy_(kept)
        return done
