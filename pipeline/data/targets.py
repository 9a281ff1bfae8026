"""Training targets: masks at the size at which the network sees their images.

A pixel of a resized mask is masked if at least half of it is, counted without its ignored part; where an axis grows,
"half" is of the bilinear mean. That alone would lose an object smaller than half a pixel, and thin lines. So a pixel
that contains the centre of a masked pixel is masked too, unless it, or one of its eight neighbours, is masked by the
first rule. A mask that is not empty therefore stays so, and the outlines of larger objects stay where they are. Small
objects that are closer to each other than a pixel merge.

A soft mask keeps its shares: a pixel's share is the mean over the part of it that is not ignored.

A pixel is ignored (VOID) if more than half of it is and the second rule does not mask it. Exclusive classes compete: a
pixel gets the class with the largest share, and by the second rule it may get a class that has fewer pixels in the
mask. The boundary channel is a mask like the others: the width that `data.boundary` sets is in pixels of the file.
"""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

from pipeline.data.labels import Labels
from pipeline.data.resize import Resampling, Resize
from pipeline.data.sample import Sample
from pipeline.data.soft_masks import harden, join_void, split_void
from pipeline.data.windows import Box
from pipeline.metrics import VOID

TIE = 1e-4  # weights are float32: shares that differ by less are equal
Share = Callable[[np.ndarray], np.ndarray]  # from (h, w) bool or float32 of the mask to the mean of each resized pixel
NEIGHBOURS = np.ones((3, 3), np.uint8)


def read_target(labels: Labels, sample: Sample, resize: Resize) -> np.ndarray:
    """The training target of a sample at the network's size; of a crop, its window of the resized mask.

    Shapes:
        returns: (H, W, C), values as `Labels.read`.

    Raises:
        ImageError, RLEError: as `Labels.read`.
    """
    if sample.box:
        return target_window(labels, sample, sample.box, resize)
    return resize_mask(labels.read(sample), resize.target(sample.size), exclusive=labels.exclusive)


def target_window(labels: Labels, sample: Sample, box: Box, resize: Resize) -> np.ndarray:
    """One window of a sample's resized mask, which equals that of the whole resized mask.

    Args:
        box: in pixels of the resized image; the sample's own box is not looked at.

    Shapes:
        returns: (box.height, box.width, C), values as `Labels.read`.

    Raises:
        ImageError, RLEError: as `Labels.read`.
    """
    target = resize.target(sample.size)
    if target == sample.size:
        return labels.window(sample, box)
    resampling = Resampling(sample.size, target)
    place = resampling.source_box(_with_neighbours(box, target))
    return _resize(labels.window(sample, place), resampling, place, box, exclusive=labels.exclusive)


def resize_mask(mask: np.ndarray, target: tuple[int, int], *, exclusive: bool) -> np.ndarray:
    """A whole mask at another size.

    Args:
        exclusive: the mask holds numbers of classes, else 0 and 1.

    Shapes:
        mask: (H, W, C) uint8, soft ones float32, VOID where ignored; returned as (*target, C).
    """
    source = mask.shape[:2]
    if source == target:
        return mask
    whole = Box(0, 0, *source)
    return _resize(mask, Resampling(source, target), whole, Box(0, 0, *target), exclusive=exclusive)


def _with_neighbours(box: Box, size: tuple[int, int]) -> Box:
    """The box and the pixels around it, inside an image of `size`."""
    top, left = max(0, box.top - 1), max(0, box.left - 1)
    bottom, right = min(box.top + box.height + 1, size[0]), min(box.left + box.width + 1, size[1])
    return Box(top, left, bottom - top, right - left)


def _resize(mask: np.ndarray, resampling: Resampling, place: Box, box: Box, *, exclusive: bool) -> np.ndarray:
    """A box of the resized mask, from the pixels `place` of the mask."""
    area = _with_neighbours(box, resampling.target)
    inside = Box(box.top - area.top, box.left - area.left, box.height, box.width).slices

    def share(where: np.ndarray) -> np.ndarray:
        """The masked share of each pixel of the area, from (h, w) to (H, W)."""
        return resampling.resize(where.astype(np.float32)[..., None], place, area)[..., 0]

    if exclusive:
        return _resize_classes(mask[..., 0], share, resampling, place, area)[inside][..., None]
    if mask.dtype == np.float32:
        channels = [_resize_shares(mask[..., each], share) for each in range(mask.shape[2])]
    else:
        channels = [_resize_channel(mask[..., each], share, resampling, place, area) for each in range(mask.shape[2])]
    return np.stack(channels, axis=-1)[inside]


def _resize_shares(mask: np.ndarray, share: Share) -> np.ndarray:
    """One channel of a soft mask, 0 … 1 and VOID, (h, w) to (H, W) float32."""
    return join_void(*map(share, split_void(mask)))


def _resize_channel(mask: np.ndarray, share: Share, resampling: Resampling, place: Box, area: Box) -> np.ndarray:
    """One channel of 0, 1 and VOID, (h, w) to (H, W)."""
    void = share(mask == VOID) if (mask == VOID).any() else np.zeros((area.height, area.width), np.float32)
    ignored, half = void > 0.5 + TIE, (1 - void) / 2
    masked = ~ignored & (share(mask == 1) > half - TIE)
    thin = _centres(mask == 1, resampling, place, area) & ~_near(masked)
    return np.where(masked | thin, 1, np.where(ignored, VOID, 0)).astype(np.uint8)


def _resize_classes(mask: np.ndarray, share: Share, resampling: Resampling, place: Box, area: Box) -> np.ndarray:
    """Numbers of classes and VOID, (h, w) to (H, W)."""
    numbers, counts = np.unique(mask[mask != VOID], return_counts=True)
    if not len(numbers):
        return np.full((area.height, area.width), VOID, np.uint8)
    shares = np.stack([share(mask == number) for number in numbers])
    largest = numbers[np.argmax(np.rint(shares / TIE), axis=0)]  # of equal shares, that of the lowest number
    first = np.where(share(mask == VOID) > 0.5 + TIE, VOID, largest).astype(np.uint8)
    pixels = np.full(256, mask.size + 1)  # of each class in the mask; ignored pixels give way to every class
    pixels[numbers] = counts
    resized = first.copy()
    for number in numbers:
        thin = _centres(mask == number, resampling, place, area) & ~_near(first == number)
        resized[thin & (pixels[resized] > pixels[number])] = number
    return resized


def _centres(where: np.ndarray, resampling: Resampling, place: Box, area: Box) -> np.ndarray:
    """Whether a pixel of the area contains the centre of a pixel of `where`, (H, W) bool."""
    found = np.zeros((area.height, area.width), bool)
    rows, columns = (
        (2 * (each + first) + 1) * new // (2 * old) - start
        for each, first, start, old, new in zip(
            np.nonzero(where), place[:2], area[:2], resampling.source, resampling.target, strict=True
        )
    )
    inside = (rows >= 0) & (rows < area.height) & (columns >= 0) & (columns < area.width)
    found[rows[inside], columns[inside]] = True
    return found


def _near(masked: np.ndarray) -> np.ndarray:
    """Whether a pixel or one of its eight neighbours is masked, (H, W) bool."""
    return cv2.dilate(masked.astype(np.uint8), NEIGHBOURS) == 1


class SmallObjects(NamedTuple):
    """The objects (8-connected pixels of a channel or class) that cover less than one pixel of the network's image."""

    small: int
    total: int
    only_small: bool  # the mask has objects, and all of them are small


def small_objects(mask: np.ndarray, target: tuple[int, int], *, exclusive: bool) -> SmallObjects:
    """Count the objects of a mask that cover less than one pixel at another size.

    Shapes:
        mask: (H, W, C), as `Labels.read` returns it; of soft masks, those that they stand for are counted.
    """
    mask = harden(mask)
    if exclusive:
        channels = [mask[..., 0] == number for number in np.unique(mask) if number != VOID]
    else:
        channels = [mask[..., each] == 1 for each in range(mask.shape[2])]
    stats = [cv2.connectedComponentsWithStats(each.astype(np.uint8), connectivity=8)[2] for each in channels]
    areas = np.concatenate([each[1:, cv2.CC_STAT_AREA] for each in stats]) if stats else np.zeros(0)
    (height, width), (rows, columns) = mask.shape[:2], target
    small = int((areas * rows * columns < height * width).sum())
    return SmallObjects(small, len(areas), 0 < small == len(areas))
