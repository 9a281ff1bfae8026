"""Masks from a sample's labels: RLE texts or mask images, as the card describes them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from pipeline.competition import Competition, Masks, Value
from pipeline.data.boundaries import touching_boundary
from pipeline.data.mask_files import read_labels, read_mask, read_objects
from pipeline.data.reader import ImageError
from pipeline.data.sample import Sample
from pipeline.data.soft_masks import combine, harden, read_annotators, read_shares
from pipeline.data.unpacked import Decoded, Unpacked
from pipeline.data.windows import Box, can_read_windows
from pipeline.metrics import VOID, VOID_OBJECT
from pipeline.rle import Dialect, Runs


@dataclass(frozen=True)
class Labels:
    """Reads the labels of a card's samples.

    Args:
        classes: their names, in the order of a mask's channels.
        dialect: how RLE texts are written.
        exclusive: one class per pixel.
        masks: how the values of mask images are read.
        size: height and width at which masks are submitted and scored, in pixels; None: those of the image.
        boundary: adds a channel of the pixels that are within this many pixels of two objects; None: no such channel.
        exif: rotate mask images as their EXIF orientation says; else they are read as stored.
        annotators: how the masks of several annotators are combined, as `soft_masks.combine` takes it; None: several
            rows or files of an image are parts of one mask.
        unpacked: keeps the masks of files that have to be decoded whole for each window; None: they are not kept.
    """

    classes: tuple[str, ...]
    dialect: Dialect
    exclusive: bool
    masks: Masks
    size: tuple[int, int] | None
    boundary: float | None = None
    exif: bool = True
    annotators: Literal["mean", "majority", "union"] | None = None
    unpacked: Unpacked | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, card: Competition, boundary: float | None = None, *, exif: bool = True) -> "Labels":
        """The labels of a card."""
        options = card.classes, card.dialect, card.exclusive, card.masks, card.size, boundary, exif
        return cls(*options, annotators=card.annotators)

    @property
    def channels(self) -> int:
        """Output channels of a network that learns these labels."""
        return len(self.channel_names)

    @property
    def channel_names(self) -> tuple[str, ...]:
        """The name of each of these channels."""
        return self.classes if self.boundary is None else (*self.classes, "boundary")

    @property
    def scored_channels(self) -> int:
        """Channels of `read_scored`."""
        return len(self.classes) if self.exclusive else self.channels

    @property
    def supports_windows(self) -> bool:
        """Whether `window` can read them: it cannot read boundaries between objects and exclusive classes."""
        return self.boundary is None and not self.exclusive

    @property
    def is_soft(self) -> bool:
        """Whether targets are shares, see `soft_masks`, instead of 0 and 1."""
        return self.masks.soft or self.annotators == "mean"

    def read(self, sample: Sample) -> np.ndarray:
        """The training target of a sample; of a crop, its window of the mask.

        Shapes:
            returns: (H, W, C) uint8, 0 or 1, one channel per class, then that of the boundaries if there is one; for
                exclusive classes (H, W, 1), the number of the class; for soft masks float32, 0 … 1. VOID (255) where a
                pixel is ignored.

        Raises:
            ImageError, RLEError: for a label that cannot be read, and a mask of another size than its image.
        """
        if sample.box:
            return self.window(sample, sample.box)
        if self.boundary is not None:
            labels = self.read_instances(sample)
            masks = [(labels > 0).astype(np.uint8), touching_boundary(np.maximum(labels, 0), self.boundary)]
            return np.where((labels == VOID_OBJECT)[..., None], VOID, np.stack(masks, axis=-1)).astype(np.uint8)
        if sample.rle is not None:
            return self._decode_classes(sample, lambda text: self.decode(text, sample.size))
        return self._join_files(sample)

    def read_mask(self, sample: Sample) -> np.ndarray:
        """The target of a sample, as `read`, with a soft mask as the mask that it stands for, uint8 (`harden`)."""
        return harden(self.read(sample))

    def window(self, sample: Sample, box: Box) -> np.ndarray:
        """One window of a sample's mask; it costs as much as decoding the columns, or rows, of the window.

        Args:
            box: in pixels of the whole image; the sample's own box is not looked at.

        Shapes:
            returns: (box.height, box.width, C) uint8, values as in `read`.

        Raises:
            ImageError, RLEError: as `read`.
        """
        if sample.rle is not None:
            return self._decode_classes(sample, lambda text: self._decode_window(text, sample.size, box))
        if self.unpacked is None or all(can_read_windows(path, exif=self.exif) for path in sample.mask_paths):
            return self._join_files(sample, box)
        path, key = sample.mask_paths[0], ("mask", sample.mask_paths, self)
        whole = self.unpacked.open(path, key, lambda: Decoded.whole(self._join_files(sample)))
        return np.array(whole[box.slices])

    def _decode_classes(self, sample: Sample, decode: Callable[[str], np.ndarray]) -> np.ndarray:
        """The mask of each class's text, (H, W, C); ignored pixels are VOID unless a mask covers them.

        Each line is an annotator's, if the card has them. The class with the most lines tells how many there are; those
        without a line mask nothing of a class.
        """
        if self.annotators:
            lines = [text.split("\n") for text in sample.rle]
            most = max(map(len, lines))
            masks = [combine([decode(line) for line in each], self.annotators, most) for each in lines]
        else:
            masks = [decode(text) for text in sample.rle]
        masks = np.stack(masks, axis=-1)
        if sample.rle_void is not None:
            masks[(decode(sample.rle_void)[..., None] == 1) & (masks == 0)] = VOID
        return masks

    def _decode_window(self, text: str, shape: tuple[int, int], box: Box) -> np.ndarray:
        lines = [parse_runs(self.dialect, line, shape) for line in text.split("\n")]
        windows = [self.dialect.window(runs, shape, box.slices) for runs in lines]
        return np.bitwise_or.reduce(windows)

    def _join_files(self, sample: Sample, box: Box | None = None) -> np.ndarray:
        """The target of a sample's mask images, or one window of it; empty without an image."""
        shape = sample.size if box is None else (box.height, box.width)
        if sample.mask_classes is not None:
            files = zip(sample.mask_paths, sample.mask_classes, strict=True)
            return self._union([self._read_class(path, number, sample, box) for path, number in files], shape)
        if not self.annotators:
            return self._union([self._read_file(path, sample, box) for path in sample.mask_paths], shape)
        masks = [mask for path in sample.mask_paths for mask in self._read_annotators(path, sample, box)]
        return combine(masks or [np.zeros((*shape, len(self.classes)), np.uint8)], self.annotators)

    def _read_annotators(self, path: Path, sample: Sample, box: Box | None) -> list[np.ndarray]:
        """The masks in one file, (h, w, C) each: of one annotator, or a plane for each."""
        is_array = not (self.masks.values or self.masks.soft)
        planes = read_annotators(path, box=box, exif=self.exif) if is_array else None
        if planes is None:
            return [self._read_file(path, sample, box)]
        return [_check_size(plane, path, sample, box) for plane in planes]

    def _read_file(self, path: Path, sample: Sample, box: Box | None = None) -> np.ndarray:
        """One mask image, or one window of it, (h, w, C) uint8; soft ones float32."""
        if self.masks.soft:
            shares = read_shares(path, self.masks.void, box=box, exif=self.exif)
            return _check_size(shares, path, sample, box)[..., None]
        if self.masks.objects:
            labels = read_objects(path, self.masks.void, box=box, exif=self.exif)
            labels = _check_size(labels, path, sample, box)
            return np.where(labels == VOID_OBJECT, VOID, labels > 0).astype(np.uint8)[..., None]
        if self.masks.values is None:
            mask = read_mask(path, self.classes[0], self.masks.above, void=self.masks.void, box=box, exif=self.exif)
            return _check_size(mask, path, sample, box)[..., None]
        numbers = self.read_numbers(path, box)
        numbers = _check_size(numbers, path, sample, box)[..., None]
        return numbers if self.exclusive else one_hot(numbers, len(self.classes))

    def _read_class(self, path: Path, number: int, sample: Sample, box: Box | None = None) -> np.ndarray:
        """The mask image of one class, or one window of it, (h, w, C) uint8; the other classes are 0."""
        name, void = self.classes[number], self.masks.void
        mask = read_mask(path, name, self.masks.above, void=void, box=box, exif=self.exif)
        target = np.zeros((*_check_size(mask, path, sample, box).shape, len(self.classes)), np.uint8)
        target[..., number] = mask
        return target

    def _union(self, masks: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
        """The union of an image's mask files, (H, W, C) uint8; empty without a file."""
        if len(masks) == 1:
            return masks[0]
        union = np.zeros((*shape, len(self.classes)), dtype=np.uint8)
        for mask in masks:
            union = np.where((union == 1) | (mask == 1), 1, np.maximum(union, mask))
        return union.astype(np.uint8)

    def by_class(self, mask: np.ndarray) -> np.ndarray:
        """A mask as the one of each class, (H, W, C): exclusive classes, which are read as numbers, become C masks."""
        return one_hot(mask, len(self.classes)) if self.exclusive else mask

    def read_scored(self, sample: Sample) -> np.ndarray:
        """The mask that predictions are scored against, at the size of submitted masks.

        The boundary channel is scored too: an epoch that predicts boundaries better is a better epoch.

        Shapes:
            returns: (C, H, W) uint8, 0 or 1, VOID where ignored; exclusive classes have one channel each here, and
                an ignored pixel is VOID in all of them.

        Raises:
            ImageError, RLEError: as `read`.
        """
        mask = self.read_mask(sample)
        channels = self.by_class(mask).transpose(2, 0, 1)
        if self.size is None:
            return np.ascontiguousarray(channels)
        return resize_masks(channels, self.size, exclusive=self.exclusive)

    def read_instances(self, sample: Sample) -> np.ndarray:
        """The objects of a sample. Where two overlap, which they should not, the later one covers the earlier one.

        Shapes:
            returns: (H, W) int32: 0 is background, 1, 2, … an object each, VOID_OBJECT (-1) where ignored.

        Raises:
            ImageError, RLEError: as `read`.
        """
        void = None
        if sample.rle is not None:
            (text,) = sample.rle
            objects = [self.dialect.decode(line, sample.size) for line in text.split("\n")]
            void = None if sample.rle_void is None else self.decode(sample.rle_void, sample.size)
        elif self.masks.objects and sample.mask_paths:
            (path,) = sample.mask_paths
            return _check_size(read_objects(path, self.masks.void, exif=self.exif), path, sample)
        else:
            objects = [self._read_file(path, sample)[..., 0] for path in sample.mask_paths]
        labels = np.zeros(sample.size, dtype=np.int32)
        for number, mask in enumerate(objects, start=1):
            labels[mask == 1] = number
        for mask in objects if void is None else [np.where(void, VOID, 0)]:
            labels[(mask == VOID) & (labels == 0)] = VOID_OBJECT
        return labels

    def decode(self, text: str, shape: tuple[int, int]) -> np.ndarray:
        """The union of the masks of a text's lines.

        Args:
            shape: height and width in pixels.

        Shapes:
            returns: (H, W) uint8, 0 or 1.

        Raises:
            RLEError: for a text that cannot be decoded at this size.
        """
        lines = text.split("\n")
        mask = self.dialect.decode(lines[0], shape)
        for line in lines[1:]:
            mask |= self.dialect.decode(line, shape)
        return mask

    def read_numbers(self, path: Path, box: Box | None = None) -> np.ndarray:
        """The class of each pixel of a mask image, or of one window of it, by the card's `masks.values`.

        Shapes:
            returns: (H, W) uint8: a class, VOID (255), or the number after the last class for the background.

        Raises:
            ImageError: as `mask_files.read_labels`.
        """
        return read_labels(path, self._number_of_value(), self.masks.void, box=box, exif=self.exif)

    def _number_of_value(self) -> dict[Value, int]:
        """The class of each value; the background, where it is no class, gets the number after the last class."""
        numbers = {value: self.classes.index(name) for name, value in self.masks.values.items()}
        background = 0 if self.masks.background is None else self.masks.background
        listed = {*numbers, self.masks.void}
        if not self.exclusive and not listed & {background, (0, 0, 0)}:
            numbers[background] = len(self.classes)
        return numbers


def _check_size(mask: np.ndarray, path: Path, sample: Sample, box: Box | None = None) -> np.ndarray:
    """Return the mask if it has the size of its image, or of its window.

    Raises:
        ImageError: if it has another size, with both.
    """
    expected = sample.size if box is None else (box.height, box.width)
    if mask.shape[:2] != expected:
        is_transposed = mask.shape[:2] == expected[::-1]
        turn = "; it is transposed: rotate the mask or the image, or change data.exif"
        advice = turn if is_transposed else ": resize the masks to their images, by the nearest neighbour"
        raise ImageError(
            f"{path}: mask of {mask.shape[:2]}, its image {sample.path} is {sample.size}: expected one size "
            f"(height, width){advice}"
        )
    return mask


@lru_cache(maxsize=256)
def parse_runs(dialect: Dialect, text: str, shape: tuple[int, int]) -> Runs:
    """The runs of a text, cached: the text of a large image has megabytes and is needed for each of its windows.

    Raises:
        RLEError: for a text that cannot be decoded at this size.
    """
    return dialect.runs(text, shape)


def one_hot(numbers: np.ndarray, classes: int) -> np.ndarray:
    """Class numbers as one mask per class; VOID stays VOID in every channel.

    Shapes:
        numbers: (H, W, 1) uint8; returned as (H, W, classes) uint8.
    """
    masks = (numbers == np.arange(classes)).astype(np.uint8)
    masks[numbers[..., 0] == VOID] = VOID
    return masks


def resize_masks(masks: np.ndarray, size: tuple[int, int], *, exclusive: bool) -> np.ndarray:
    """Masks at another size: a pixel is VOID if more than half of the area that it covers is.

    Of the other pixels, one is masked if more than half of its area that is not VOID is; of exclusive classes, it
    belongs to the one with the largest area, of equal ones to the first.

    Competitions rarely document how they resize masks; at the edges of a class this may differ from theirs.

    Args:
        size: height and width in pixels.
        exclusive: each pixel that is not VOID is in one mask.

    Shapes:
        masks: (C, H, W) uint8, 0, 1 or VOID; returned likewise at the new size.
    """

    def shares(where: np.ndarray) -> np.ndarray:
        return np.stack([_resize_share(each.astype(np.float32), size) for each in where])

    masked, void = shares(masks == 1), shares(masks == VOID)
    largest = masked.argmax(axis=0) == np.arange(len(masks))[:, None, None]
    chosen = largest if exclusive else masked > (1 - void) / 2
    return np.where(void > 0.5, VOID, chosen).astype(np.uint8)


def _resize_share(share: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W) float32 at another size. Axes that shrink go first: cv2 averages over areas only if no axis grows."""
    for height, width in (np.minimum(share.shape, size), size):
        if share.shape != (height, width):
            share = cv2.resize(share, (int(width), int(height)), interpolation=cv2.INTER_AREA)
    return share
