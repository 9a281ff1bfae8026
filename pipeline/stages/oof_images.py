"""Target and out-of-fold prediction of one training image, for the report: of masks, exclusive classes or objects.

Void pixels belong to neither.
"""

from typing import NamedTuple

import numpy as np

from pipeline.ensemble.renderer import Renderer
from pipeline.metrics import VOID, VOID_OBJECT
from pipeline.postprocess.threshold_counts import count_by_label


class OofImage(NamedTuple):
    """One image with the masks of the rules that were chosen without its fold.

    C is the number of the card's classes; a boundary channel is not one of them. In the two region maps 0 is the
    background, and all pixels of another number are one region with its own outline.
    """

    values: np.ndarray  # (C, H, W) uint8, 255 · probability
    target: np.ndarray  # (C, H, W) uint8, 0 or 1, 255 where void
    masks: np.ndarray  # (C, H, W) 0 or 1, predicted
    target_regions: np.ndarray  # (H, W) int
    predicted_regions: np.ndarray  # (H, W) int
    summary: str  # target and prediction in a few words

    @property
    def coverage(self) -> np.ndarray:
        """The predicted masked share of each class, (C,) float, 0 to 1."""
        return self.masks.mean(axis=(1, 2))

    @property
    def counts(self) -> np.ndarray:
        """Pixels by label and stored value over all classes, (2, 256) int, as `threshold_counts.count_by_label`."""
        valid = self.target != VOID
        return count_by_label(self.values[valid], self.target[valid])


def make_oof_image(renderer: Renderer, values: np.ndarray, target: np.ndarray) -> OofImage:
    """Combine the members' values of an image, and apply the rules.

    Args:
        renderer: chosen without the image's fold.

    Shapes:
        values: (M, C, H, W) uint8, of M members, as `Oof.read` returns it.
        target: as `Oof.read` returns it, (C, H, W), or (H, W) of objects.
    """
    make = {"multilabel": _make_multilabel, "multiclass": _make_multiclass, "instances": _make_instances}[renderer.kind]
    return make(renderer, renderer.combine(values), target)


def _make_multilabel(renderer: Renderer, values: np.ndarray, target: np.ndarray) -> OofImage:
    masks = renderer.masks(values) * (target != VOID)
    true, predicted = _number_combinations(target == 1), _number_combinations(masks == 1)
    summary = f"true {(true > 0).mean():.1%}, predicted {(predicted > 0).mean():.1%}"
    return OofImage(values, target, masks, true, predicted, summary)


def _number_combinations(masks: np.ndarray) -> np.ndarray:
    """(C, H, W) bool as (H, W) int: each combination of overlapping classes has its own number."""
    return np.tensordot(1 << np.arange(len(masks)), masks, axes=1)


def _make_multiclass(renderer: Renderer, values: np.ndarray, target: np.ndarray) -> OofImage:
    valid = target[0] != VOID
    masks = renderer.masks(values) * valid
    true, predicted = (np.where(valid, each.argmax(axis=0) + 1, 0) for each in (target, masks))
    correct = (true == predicted)[valid].mean() if valid.any() else np.nan
    summary = f"{correct:.1%} of the pixels correct"
    return OofImage(values, target, masks, true, predicted, summary)


def _make_instances(renderer: Renderer, values: np.ndarray, target: np.ndarray) -> OofImage:
    labels = renderer.labels(values) * (target != VOID_OBJECT)
    true = np.where(target == VOID_OBJECT, VOID, target > 0)[None].astype(np.uint8)
    summary = f"{np.unique(target[target > 0]).size} objects, {labels.max()} predicted"
    return OofImage(values[:1], true, (labels > 0).astype(np.uint8)[None], target, labels, summary)
