"""What a report sees of a training image: truth and out-of-fold prediction, of masks, of exclusive classes, of objects.

Void pixels are no part of either.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from pipeline.data.reader import VOID, VOID_OBJECT
from pipeline.ensemble import Drawer, Exclusive, Objects, PerClass, blender
from pipeline.postprocess import count_by_label


class Seen(NamedTuple):
    """One image, by the choice that was made without its fold. C are the card's classes: a border is none.

    `true` and `found` are for outlines: 0 is nothing, and all pixels of another number are one region.
    """

    values: np.ndarray  # (C, H, W) uint8, 255 · probability
    target: np.ndarray  # (C, H, W) 0 or 1, 255 where void
    masks: np.ndarray  # (C, H, W) 0 or 1, drawn
    true: np.ndarray  # (H, W) int
    found: np.ndarray  # (H, W) int
    said: str  # what is true and what was predicted, in few words

    @property
    def shares(self) -> np.ndarray:
        """The predicted share of each class, (C,)."""
        return self.masks.mean(axis=(1, 2))

    @property
    def counts(self) -> np.ndarray:
        """Of all classes, as `postprocess.count_by_label`, (2, 256)."""
        valid = self.target != VOID
        return count_by_label(self.values[valid], self.target[valid])


def see(drawer: Drawer, values: np.ndarray, target: np.ndarray) -> Seen:
    """An image of which `Oof.read` gives its members' values (M, C, H, W) and its target."""
    return VIEWERS[type(drawer)](drawer, values, target)


def _see_masks(drawer: PerClass, values: np.ndarray, target: np.ndarray) -> Seen:
    masks = drawer.masks(blender(values)) * (target != VOID)
    true, found = _combinations(target == 1), _combinations(masks == 1)
    said = f"true {(true > 0).mean():.1%}, predicted {(found > 0).mean():.1%}"
    return Seen(drawer.blended(blender(values)), target, masks, true, found, said)


def _combinations(masks: np.ndarray) -> np.ndarray:
    """(C, H, W) bool as (H, W): each combination of classes that overlap has a number of its own."""
    return np.tensordot(1 << np.arange(len(masks)), masks, axes=1)


def _see_classes(drawer: Exclusive, values: np.ndarray, target: np.ndarray) -> Seen:
    valid = target[0] != VOID
    masks = drawer.masks(blender(values)) * valid
    true, found = (np.where(valid, each.argmax(axis=0) + 1, 0) for each in (target, masks))
    right = (true == found)[valid].mean() if valid.any() else np.nan
    return Seen(drawer.blended(blender(values)), target, masks, true, found, f"{right:.1%} of its pixels right")


def _see_objects(drawer: Objects, values: np.ndarray, target: np.ndarray) -> Seen:
    labels = drawer.labels(blender(values)) * (target != VOID_OBJECT)
    values, true = (
        drawer.blended(blender(values))[:1],
        np.where(target == VOID_OBJECT, VOID, target > 0)[None].astype(np.uint8),
    )
    said = f"{np.unique(target[target > 0]).size} objects, {labels.max()} predicted"
    return Seen(values, true, (labels > 0).astype(np.uint8)[None], target, labels, said)


VIEWERS: dict[type, Callable[..., Seen]] = {PerClass: _see_masks, Exclusive: _see_classes, Objects: _see_objects}
