"""Labels as masks: what the rows and mask images of a competition say of each pixel."""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from pipeline.competition import Competition, Masks, Value
from pipeline.data.borders import border as borders_of
from pipeline.data.images import VOID, read_labels, read_mask, read_mask_part
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
    """

    classes: tuple[str, ...]
    dialect: Dialect
    exclusive: bool
    masks: Masks
    size: tuple[int, int] | None
    border: float | None = None

    @classmethod
    def of(cls, card: Competition, border: float | None = None) -> "Labels":
        """Those of a card."""
        return cls(card.classes, card.dialect, card.exclusive, card.masks, card.size, border)

    @property
    def channels(self) -> int:
        """Of a network that learns them."""
        return len(self.classes) + (self.border is not None)

    def read(self, row: object) -> np.ndarray:
        """What to train on: the mask of one row of the index.

        Shapes:
            returns: (H, W, C) uint8, 0 or 1, a channel per class, then that of borders if they are asked for; of
                exclusive classes (H, W, 1), the class's number. 255 is void.

        Raises:
            ImageError, RLEError: for a label that cannot be read.
        """
        if self.border is not None:
            labels = self.read_instances(row)
            return np.stack([(labels > 0).astype(np.uint8), borders_of(labels, self.border)], axis=-1)
        if hasattr(row, "rle"):
            texts = [row.rle] if isinstance(row.rle, str) else row.rle
            return np.stack([self.decode(text, (row.height, row.width)) for text in texts], axis=-1)
        if self.masks.values is None:
            return read_mask(row.mask_path, self.classes[0], self.masks.above)[..., None]
        numbers = read_labels(row.mask_path, self._numbers(), void=self.masks.void)[..., None]
        return numbers if self.exclusive else one_hot(numbers, len(self.classes))

    @property
    def have_parts(self) -> bool:
        """Whether `read_part` can read them: of objects and of coded classes it cannot."""
        return self.border is None and not self.exclusive and self.masks.values is None

    def read_part(self, row: object, box: Box) -> np.ndarray:
        """As `read`, of one window: (h, w, C) uint8. Costs what the window's columns, or rows, cost.

        Args:
            row: of the index of images, with their whole height and width.
        """
        if not hasattr(row, "rle"):
            return read_mask_part(row.mask_path, box, self.classes[0], self.masks.above)[..., None]
        texts = [row.rle] if isinstance(row.rle, str) else row.rle
        return np.stack([self._decode_part(text, (row.height, row.width), box) for text in texts], axis=-1)

    def _decode_part(self, text: str, shape: tuple[int, int], box: Box) -> np.ndarray:
        lines = [runs_of(self.dialect, line, shape) for line in text.split("\n")]
        parts = [self.dialect.window(runs, shape, box.slices) for runs in lines]
        return np.bitwise_or.reduce(parts)

    def read_scored(self, row: object) -> np.ndarray:
        """What to score against: as `read`, but (C, H, W) with a channel per class, at the size of submitted masks.

        Void pixels are 255 in every channel. Borders between objects are a channel here too: an epoch that draws them
        better is a better one.
        """
        mask = self.read(row)
        channels = (one_hot(mask, len(self.classes)) if self.exclusive else mask).transpose(2, 0, 1)
        return np.ascontiguousarray(channels) if self.size is None else resize_masks(channels, self.size)

    def read_instances(self, row: object) -> np.ndarray:
        """The objects of one row of the index, (H, W) int32: 0 is background, 1, 2, … an object each.

        Where two overlap, which none should, the later one lies above.
        """
        labels = np.zeros((row.height, row.width), dtype=np.int32)
        for number, text in enumerate(row.rle.split("\n"), start=1):
            labels[self.dialect.decode(text, labels.shape) == 1] = number
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
        if not self.exclusive and background not in numbers and (0, 0, 0) not in numbers:
            numbers[background] = len(self.classes)
        return numbers


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
    """Masks (C, H, W) at another (height, width): a pixel is masked if most of what it covers is.

    Void counts as unmasked; what a competition does at the edges of a class is rarely said.
    """
    shares = [cv2.resize((mask == 1).astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA) for mask in masks]
    return (np.stack(shares) > 0.5).astype(np.uint8)
