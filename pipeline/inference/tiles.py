"""Sliding-window inference: large images are predicted in overlapping tiles, blended, and yielded strip by strip.

Along each axis the tiles are `stride` pixels apart and extend over both ends of the image by the same amount, where the
image is padded by reflection. Blending weights decrease towards the border of a tile, where the network sees the least
context. They are a product of one weight per axis, normalised along the axis, so the weights of each pixel sum to 1
without a weight map. A finished strip is yielded at once, so memory holds one strip, whatever the size of the image.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.config import Tiles
from pipeline.data.dataset import to_tensor
from pipeline.data.loader import collate
from pipeline.data.resize import WindowedImage
from pipeline.data.windows import Box

Predict = Callable[[Tensor], Tensor]  # (N, channels, size, size) to probs (N, C, size, size), on the CPU

MIN_WEIGHT = 1e-3  # as a share of the largest: the weight of a pixel that only one tile covers must not round to 0
BACKGROUND_STEP = 4  # pixels between the rows, and the columns, that are read to decide whether a tile is background


class TensorImage:
    """A `WindowedImage` of a tensor (channels, H, W) that is in memory."""

    def __init__(self, image: Tensor):
        self._image, self.shape = image, tuple(image.shape[-2:])

    def read(self, box: Box) -> np.ndarray:
        """The pixels of a box, (h, w, channels), of the tensor's dtype."""
        return self._image[(slice(None), *box.slices)].permute(1, 2, 0).numpy()


class TilePlacement(NamedTuple):
    """The position of a tile along one axis, and its blending weights along it."""

    start: int  # first pixel; negative if the tile extends over the beginning of the image
    weights: np.ndarray  # (size,) float32, 0 outside the image


def gaussian(size: int) -> np.ndarray:
    """A Gaussian with a standard deviation of an eighth of the tile: (size,) weights in (0, 1].

    Source:
        nnU-Net, https://arxiv.org/abs/1904.08128.
    """
    offset = np.arange(size) - (size - 1) / 2
    return np.maximum(np.exp(-0.5 * (offset / (size / 8)) ** 2), MIN_WEIGHT)


def pyramid(size: int) -> np.ndarray:
    """Weights proportional to the distance from the border of the tile: (size,) in (0, 1]."""
    return np.minimum(np.arange(1, size + 1), np.arange(size, 0, -1)) / ((size + 1) // 2)


def flat(size: int) -> np.ndarray:
    """Equal weights: (size,) ones."""
    return np.ones(size)


WINDOWS = {"gaussian": gaussian, "pyramid": pyramid, "flat": flat}


def tile_positions(length: int, tiles: Tiles) -> list[TilePlacement]:
    """The tiles along an axis of `length` pixels, from the first to the last; the weights of each pixel sum to 1."""
    count = max(1, -(-(length - tiles.overlap) // tiles.stride))
    before = ((count - 1) * tiles.stride + tiles.size - length) // 2
    starts = [number * tiles.stride - before for number in range(count)]
    window, total = WINDOWS[tiles.window](tiles.size), np.zeros(length)
    for start in starts:
        inside = _inside(start, tiles.size, length)
        total[inside] += window[_shifted(inside, -start)]
    return [TilePlacement(start, _weights(start, window, total)) for start in starts]


def _weights(start: int, window: np.ndarray, total: np.ndarray) -> np.ndarray:
    weights, inside = np.zeros(len(window), np.float32), _inside(start, len(window), len(total))
    weights[_shifted(inside, -start)] = window[_shifted(inside, -start)] / total[inside]
    return weights


def _inside(start: int, size: int, length: int) -> slice:
    """The pixels of a tile that are inside the image."""
    return slice(max(0, start), min(start + size, length))


def _shifted(part: slice, by: int) -> slice:
    return slice(part.start + by, part.stop + by)


def predict_strips(predict: Predict, image: WindowedImage, tiles: Tiles, batch_size: int) -> Iterator[Tensor]:
    """The probabilities of an image, in adjacent strips of whole columns, from left to right.

    A thread reads the pixels of the next strip while one is predicted.

    Args:
        predict: from images to probabilities; it gets batches of tiles.
        batch_size: tiles at once.

    Shapes:
        yields: (C, H, w) float32.
    """
    height, width = image.shape
    down, across = tile_positions(height, tiles), tile_positions(width, tiles)
    strip = _Strip(height, tiles)
    with ThreadPoolExecutor(1) as executor:
        future = executor.submit(_read, image, tiles, across[0], down)
        for position, following in zip(across, [*across[1:], None], strict=True):
            pixels = future.result()
            if following:
                future = executor.submit(_read, image, tiles, following, down)
            for batch in _batches(pixels, down, tiles, batch_size, strip):
                probs = predict(collate([to_tensor(tile) for _, tile in batch]))
                for (tile_down, _), each in zip(batch, probs, strict=True):
                    strip.add(each, tile_down, position)
            yield strip.pop_finished(position.start, following.start if following else width)


def _read(image: WindowedImage, tiles: Tiles, column: TilePlacement, down: Sequence[TilePlacement]) -> np.ndarray:
    """The pixels of all tiles of one column of tiles, padded by reflection where they extend over the image."""
    height, width = image.shape
    inside = _inside(column.start, tiles.size, width)
    pixels = image.read(Box(0, inside.start, height, inside.stop - inside.start))
    vertical = (-down[0].start, down[-1].start + tiles.size - height)
    horizontal = (inside.start - column.start, column.start + tiles.size - inside.stop)
    padding = (vertical, horizontal, (0, 0))
    return np.pad(pixels, padding, mode="reflect") if np.any(padding) else pixels


def _batches(
    pixels: np.ndarray, down: Sequence[TilePlacement], tiles: Tiles, batch_size: int, strip: "_Strip"
) -> Iterator[list[tuple[TilePlacement, np.ndarray]]]:
    """Batches of the tiles of a strip, with their positions, without background tiles.

    The first tile of the image is never skipped, and is a batch by itself: it shows how many classes there are.
    """
    batch: list[tuple[TilePlacement, np.ndarray]] = []
    for position in down:
        start = position.start - down[0].start
        tile = pixels[start : start + tiles.size]
        if strip.knows_classes and _is_background(tile, tiles.background):
            continue
        batch.append((position, tile))
        if len(batch) == batch_size or not strip.knows_classes:
            yield batch
            batch = []
    if batch:
        yield batch


def _is_background(tile: np.ndarray, min_std: float) -> bool:
    """Whether the standard deviation of a tile's brightness is below `min_std`."""
    return min_std > 0 and tile[::BACKGROUND_STEP, ::BACKGROUND_STEP].mean(axis=2).std() < min_std


class _Strip:
    """The sum of weighted tiles over the pixels that later tiles may still change."""

    def __init__(self, height: int, tiles: Tiles):
        self._height, self._tiles = height, tiles
        self._sum: Tensor | None = None  # the number of classes is unknown until the first tile

    @property
    def knows_classes(self) -> bool:
        return self._sum is not None

    def add(self, probs: Tensor, down: TilePlacement, across: TilePlacement) -> None:
        """Add the probabilities (C, size, size) of a tile."""
        if self._sum is None:
            self._sum = probs.new_zeros((len(probs), self._height, self._tiles.size))
        inside = _inside(down.start, self._tiles.size, self._height)
        part = _shifted(inside, -down.start)
        self._sum[:, inside] += probs[:, part] * torch.from_numpy(np.outer(down.weights[part], across.weights))

    def pop_finished(self, start: int, until: int) -> Tensor:
        """The columns before `until`, which no later tile changes; the others move to the beginning of the strip.

        Args:
            start: of the strip in the image.
        """
        first, overlap = max(0, -start), self._tiles.overlap
        finished = self._sum[:, :, first : until - start].clone()
        remaining = self._sum[:, :, self._tiles.stride : self._tiles.size].clone()
        self._sum.zero_()[:, :, :overlap] = remaining
        return finished
