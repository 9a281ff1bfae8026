"""Labels as masks: what the rows and mask images of a competition say of each pixel."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from pipeline.competition import Competition, Masks, Value
from pipeline.data.boundaries import boundary as boundary_of
from pipeline.data.reader import VOID, VOID_OBJECT, ImageError, read_labels, read_mask, read_objects
from pipeline.data.windows import Box
from pipeline.rle import Dialect, Runs


@dataclass(frozen=True)
class Labels:
    """How one card's labels are read.

    Args:
        classes: names, in the order of a mask's channels.
        exclusive: one class per pixel.
        size: height and width at which masks are submitted and scored; None: the image's.
        border: of instances, pixels: a channel of the pixels that lie so near to two of them; None: none.
        exif: turn mask images as their files say they are seen; else they are as stored.
    """

    classes: tuple[str, ...]
    dialect: Dialect
    exclusive: bool
    masks: Masks
    size: tuple[int, int] | None
    boundary: float | None = None
    exif: bool = True

    @classmethod
    def of(cls, card: Competition, boundary: float | None = None, *, exif: bool = True) -> "Labels":
        """Those of a card."""
        return cls(card.classes, card.dialect, card.exclusive, card.masks, card.size, boundary, exif)

    @property
    def channels(self) -> int:
        """Of a network that learns them."""
        return len(self.classes) + (self.boundary is not None)

    def read(self, row: object) -> np.ndarray:
        """What to train on: the mask of one row of the index.

        Shapes:
            returns: (H, W, C) uint8, 0 or 1, a channel per class, then that of borders if they are asked for; of
                exclusive classes (H, W, 1), the class's number. VOID where a pixel counts for nothing.

        Raises:
            ImageError, RLEError: for a label that cannot be read, and a mask of another size than its image.
        """
        if self.boundary is not None:
            labels = self.read_instances(row)
            masks = [(labels > 0).astype(np.uint8), boundary_of(np.maximum(labels, 0), self.boundary)]
            return np.where((labels == VOID_OBJECT)[..., None], VOID, np.stack(masks, axis=-1)).astype(np.uint8)
        if hasattr(row, "rle"):
            return self._decode(row, lambda text: self.decode(text, (row.height, row.width)))
        return self._union([self._read_file(path, row) for path in row.mask_paths], (row.height, row.width))

    @property
    def have_parts(self) -> bool:
        """Whether `read_part` can read them: borders between objects, and exclusive classes, it cannot."""
        return self.boundary is None and not self.exclusive

    def read_part(self, row: object, box: Box) -> np.ndarray:
        """As `read`, of one window: (h, w, C) uint8. Costs what the window's columns, or rows, cost.

        Args:
            row: of the index of images, with their whole height and width.
        """
        if hasattr(row, "rle"):
            return self._decode(row, lambda text: self._decode_part(text, (row.height, row.width), box))
        return self._union([self._read_file(path, row, box) for path in row.mask_paths], (box.height, box.width))

    def _decode(self, row: object, decode: Callable[[str], np.ndarray]) -> np.ndarray:
        """The masks of each class's text, (H, W, C); of void, what no mask of the class covers."""
        masks = np.stack([decode(text) for text in texts_of(row.rle)], axis=-1)
        if hasattr(row, "rle_void"):
            masks[(decode(row.rle_void)[..., None] == 1) & (masks == 0)] = VOID
        return masks

    def _decode_part(self, text: str, shape: tuple[int, int], box: Box) -> np.ndarray:
        lines = [runs_of(self.dialect, line, shape) for line in text.split("\n")]
        parts = [self.dialect.window(runs, shape, box.slices) for runs in lines]
        return np.bitwise_or.reduce(parts)

    def _read_file(self, path: Path, row: object, box: Box | None = None) -> np.ndarray:
        """One mask image, or one window of it, (h, w, C)."""
        if self.masks.objects:
            labels = _sized(read_objects(path, self.masks.void, box=box, exif=self.exif), path, row, box)
            return np.where(labels == VOID_OBJECT, VOID, labels > 0).astype(np.uint8)[..., None]
        if self.masks.values is None:
            mask = read_mask(path, self.classes[0], self.masks.above, void=self.masks.void, box=box, exif=self.exif)
            return _sized(mask, path, row, box)[..., None]
        numbers = read_labels(path, self._numbers(), self.masks.void, box=box, exif=self.exif)
        numbers = _sized(numbers, path, row, box)[..., None]
        return numbers if self.exclusive else one_hot(numbers, len(self.classes))

    def _union(self, masks: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
        """Of the files of one image: a pixel of any is masked; without a file, nothing is."""
        if len(masks) == 1:
            return masks[0]
        whole = np.zeros((*shape, len(self.classes)), dtype=np.uint8)
        for mask in masks:
            whole = np.where((whole == 1) | (mask == 1), 1, np.maximum(whole, mask))
        return whole.astype(np.uint8)

    def read_scored(self, row: object) -> np.ndarray:
        """What to score against: as `read`, but (C, H, W) with a channel per class, at the size of submitted masks.

        Of exclusive classes, void pixels are VOID in every channel. Borders between objects are a channel here too: an
        epoch that draws them better is a better one.
        """
        mask = self.read(row)
        channels = (one_hot(mask, len(self.classes)) if self.exclusive else mask).transpose(2, 0, 1)
        return np.ascontiguousarray(channels) if self.size is None else resize_masks(channels, self.size)

    def read_instances(self, row: object) -> np.ndarray:
        """The objects of one row of the index, (H, W) int32: 0 is background, 1, 2, … an object each.

        Where two overlap, which none should, the later one lies above. VOID_OBJECT where void.

        Raises:
            As `read`.
        """
        if hasattr(row, "rle"):
            objects = [self.dialect.decode(text, (row.height, row.width)) for text in row.rle.split("\n")]
            void = self.decode(row.rle_void, (row.height, row.width)) if hasattr(row, "rle_void") else None
        elif self.masks.objects and row.mask_paths:
            (path,) = row.mask_paths
            return _sized(read_objects(path, self.masks.void, exif=self.exif), path, row)
        else:
            objects = [self._read_file(path, row)[..., 0] for path in row.mask_paths]
            void = None
        labels = np.zeros((row.height, row.width), dtype=np.int32)
        for number, mask in enumerate(objects, start=1):
            labels[mask == 1] = number
        for mask in objects if void is None else [np.where(void, VOID, 0)]:
            labels[(mask == VOID) & (labels == 0)] = VOID_OBJECT
        return labels

    def decode(self, text: str, shape: tuple[int, int]) -> np.ndarray:
        """The union of the lines of a text, (H, W) uint8."""
        lines = text.split("\n")
        mask = self.dialect.decode(lines[0], shape)
        for line in lines[1:]:
            mask |= self.dialect.decode(line, shape)
        return mask

    def _numbers(self) -> dict[Value, int]:
        """The class of each value; that of the background, where there is one, is a number that no class has."""
        numbers = {value: self.classes.index(name) for name, value in self.masks.values.items()}
        background = 0 if self.masks.background is None else self.masks.background
        named = {*numbers, self.masks.void}
        if not self.exclusive and not named & {background, (0, 0, 0)}:
            numbers[background] = len(self.classes)
        return numbers


def texts_of(rle: str | tuple[str, ...]) -> list[str]:
    """The text of each class of one cell of the index."""
    return [rle] if isinstance(rle, str) else list(rle)


def _sized(mask: np.ndarray, path: Path, row: object, box: Box | None = None) -> np.ndarray:
    """The mask itself, if its size is that of its image, or of its window."""
    expected = (row.height, row.width) if box is None else (box.height, box.width)
    if mask.shape[:2] != expected:
        is_transposed = mask.shape[:2] == expected[::-1]
        turned = "; it is transposed: turn the mask or the image, or change data.exif" if is_transposed else ""
        raise ImageError(
            f"{path}: mask of {mask.shape[:2]}, its image {row.path} is ({row.height}, {row.width}): expected one size "
            f"(height, width){turned}"
        )
    return mask


@lru_cache(maxsize=256)
def runs_of(dialect: Dialect, text: str, shape: tuple[int, int]) -> Runs:
    """The runs of a text, which has megabytes for a large image and is asked for with each window of it."""
    return dialect.runs(text, shape)


def one_hot(numbers: np.ndarray, classes: int) -> np.ndarray:
    """Class numbers (H, W, 1) as masks (H, W, C) uint8; void stays 255 in every channel."""
    masks = (numbers == np.arange(classes)).astype(np.uint8)
    masks[numbers[..., 0] == VOID] = VOID
    return masks


def resize_masks(masks: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Masks (C, H, W) at another (height, width): a pixel is masked, or void, if most of what it covers is.

    What a competition does at the edges of a class is rarely said.
    """

    def most(where: np.ndarray) -> np.ndarray:
        return np.stack([_resize_share(each.astype(np.float32), size) for each in where]) > 0.5

    return np.where(most(masks == VOID), VOID, most(masks == 1)).astype(np.uint8)


def _resize_share(share: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W) float32 at another size. First the axes that shrink: cv2 averages over areas only where none grows."""
    for height, width in (np.minimum(share.shape, size), size):
        if share.shape != (height, width):
            share = cv2.resize(share, (int(width), int(height)), interpolation=cv2.INTER_AREA)
    return share
