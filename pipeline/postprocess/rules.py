"""The rules that turn one image's stored values into its mask."""

from typing import Annotated, NamedTuple

import cc3d
import numpy as np
from pydantic import Field

from pipeline.inference.prediction_store import MAX_VALUE
from pipeline.postprocess.shares import LEVELS, Histograms, Place, Pool, ShareOf, histogram_of, levels_of_shares
from pipeline.postprocess.threshold_counts import THRESHOLDS, level

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Rules(NamedTuple):
    """Post-processing of one class. A field with a default has no effect at its default. See `apply`."""

    threshold: Share  # on probabilities: pixels that reach it are the mask; with a share, the lowest that is used
    min_area: Count  # pixels; a smaller mask becomes empty
    min_component: Count = 0  # pixels; a smaller component is removed
    presence_threshold: Share = 0.0  # on probabilities, for presence_area; `threshold` where that is higher
    presence_area: Count = 0  # pixels; the mask becomes empty if fewer reach presence_threshold
    fill_holes: bool = False
    keep_largest: Annotated[int, Field(ge=1)] | None = None  # components
    gate: Share | None = None  # minimum probability, by an image-level head, that the image is not empty
    share: Positive | None = None  # of the pool's pixels, or expected foreground: see `with_threshold`
    share_of: ShareOf = "pixels"
    share_in: Pool = "image"  # the pool
    by_group: tuple[tuple[str, Share], ...] = ()  # groups with a threshold of their own in place of `threshold`

    @property
    def pooled(self) -> bool:
        """Whether the threshold depends on further images: those of the volume or of the test set."""
        return self.share is not None and self.share_in != "image"


def with_threshold(rules: Rules, histogram: np.ndarray) -> Rules:
    """The rules with a fixed threshold in place of the share.

    It is the threshold at which the mask's pixels in the pool are nearest to the share, and `threshold` where that is
    higher. 1 stands for an empty mask.

    Shapes:
        histogram: (256,) pixels of the pool by stored value.
    """
    if rules.share is None:
        return rules
    lowest = int(levels_of_shares(histogram, np.array([rules.share]), rules.share_of)[0])
    threshold = 1.0 if lowest == LEVELS else max(rules.threshold, float(THRESHOLDS[lowest - 1]))
    return rules._replace(threshold=threshold, share=None, share_of="pixels", share_in="image")


def at_place(rules: Rules, place: Place, histograms: Histograms | None = None) -> Rules:
    """The rules with the threshold of an image's group and pool; unchanged unless they are `pooled` or have `by_group`.

    A group without a threshold of its own, or none, has `threshold`.

    Args:
        histograms: of the pools; not used unless the rules are `pooled`.

    Raises:
        ValueError: as `Histograms.of`.
    """
    if rules.by_group:
        rules = rules._replace(threshold=dict(rules.by_group).get(place.group, rules.threshold), by_group=())
    return with_threshold(rules, histograms.of(rules.share_in, place)) if rules.pooled else rules


def with_gate(rules: Rules, image_value: int | None) -> Rules:
    """The rules without the gate, for an image whose image head's stored value is known: empty if it is below the gate.

    Args:
        image_value: 0 to 255; as in `Place.image_value`.

    Raises:
        ValueError: for a gate without a value.
    """
    is_open = _is_open(rules, None if image_value is None else image_value / MAX_VALUE)
    return rules._replace(gate=None) if is_open else Rules(threshold=1.0, min_area=0)


def format_groups(rules: Rules) -> str:
    """The groups with a threshold of their own, and each one's.

    >>> format_groups(Rules(0.5, 0, by_group=(("lung", 0.25), ("kidney", 0.5))))
    'lung 0.25, kidney 0.5'
    """
    return ", ".join(f"{group} {threshold:.4g}" for group, threshold in rules.by_group)


def apply(values: np.ndarray, rules: Rules, image_prob: float | None = None) -> np.ndarray:
    """The mask of one image and class, by these rules in this order:

        1. gate                 the mask is empty if image_prob is below it
        2. presence             the mask is empty if fewer than presence_area pixels reach presence_threshold, or
                                `threshold` where that is higher
        3. threshold            pixels that reach it are the mask; a share is of this image's pixels
        4. min_component        removes smaller components
        5. keep_largest         keeps that many components; of equal ones the first from the top
        6. min_area             empties a mask that is smaller in total
        7. fill_holes           adds the background that the mask encloses

    All areas are therefore areas before holes are filled, as in the searches. Pixels that touch at a side or a corner
    belong to one component (8-connectivity: 8 in cc3d, 2 in scikit-image). A hole is background from which no path
    over sides (4-connectivity) leads to the border of the image.

    Some metrics score an empty mask on an empty image as 1, and a single false positive pixel as 0. Rules 1, 2 and 6
    decide whether an image is empty: the gate by an image-level head, the triplet (threshold, presence_threshold,
    presence_area) by the most confident pixels, the minimum area by the mask itself.

    Args:
        image_prob: probability of the image-level head, 0 to 1; required for a gate.

    Shapes:
        values: (H, W) uint8, 0 … 255.
        returns: (H, W) uint8, 0 or 1.

    Raises:
        ValueError: for a gate without image_prob, keep_largest below 1, a share of further images, or by_group.

    Source:
        The triplet: first place of SIIM-ACR pneumothorax, https://github.com/sneddy/pneumothorax-segmentation.
        The gate, and both minimum areas (total 600 to 2000 pixels, component 150): first place of Severstal,
        https://www.kaggle.com/c/severstal-steel-defect-detection/discussion/114254.
    """
    if rules.pooled:
        raise ValueError(f"a share of the {rules.share_in} is no threshold of one image: call at_place first")
    if rules.by_group:
        raise ValueError("thresholds by group need the image's group: call at_place first")
    if rules.share is not None:
        rules = with_threshold(rules, histogram_of(values))
    if not _is_present(values, rules, image_prob):
        return np.zeros(values.shape, dtype=np.uint8)
    mask = (values >= level(rules.threshold)).astype(np.uint8)
    if rules.min_component > 1 or rules.keep_largest is not None:
        mask = _keep_components(mask, rules.min_component, rules.keep_largest)
    if np.count_nonzero(mask) < rules.min_area:
        return np.zeros_like(mask)
    return _fill_holes(mask) if rules.fill_holes else mask


def _is_present(values: np.ndarray, rules: Rules, image_prob: float | None) -> bool:
    """Whether rules 1 and 2 allow a mask that is not empty."""
    if not _is_open(rules, image_prob):
        return False
    if rules.presence_area <= 0:
        return True
    presence_level = level(max(rules.presence_threshold, rules.threshold))
    return np.count_nonzero(values >= presence_level) >= rules.presence_area


def _is_open(rules: Rules, image_prob: float | None) -> bool:
    """Whether the gate allows a mask that is not empty."""
    if rules.gate is None:
        return True
    if image_prob is None:
        raise ValueError(
            f"gate {rules.gate} without image_prob: pass the probability of the image-level head, or rules "
            f"without a gate"
        )
    return image_prob >= rules.gate


def _keep_components(mask: np.ndarray, min_component: int, keep_largest: int | None) -> np.ndarray:
    if keep_largest is not None and keep_largest < 1:
        raise ValueError(f"keep_largest is {keep_largest}: expected 1 or more components, or None for all of them")
    labels = label_components(mask, connectivity=8)
    areas = np.bincount(labels.ravel())
    areas[0] = 0  # the background is no component
    kept = areas >= max(min_component, 1)
    if keep_largest is not None:
        kept[np.argsort(-areas, kind="stable")[keep_largest:]] = False
    return kept[labels].astype(np.uint8)


def _fill_holes(mask: np.ndarray) -> np.ndarray:
    """The mask, and all background without a path over sides to the border of the image."""
    background = np.pad(1 - mask, 1, constant_values=1)  # joins all background at the border into one component
    labels = label_components(background, connectivity=4)
    return (labels != labels[0, 0])[1:-1, 1:-1].astype(np.uint8)


def label_components(mask: np.ndarray, connectivity: int) -> np.ndarray:
    """Number the components of a (H, W) mask from 1 by their first pixel, row by row; 0 is the background.

    The mask is passed as uint8: for bool, and for binary_image=True, cc3d 4.1.1 with connectivity 8 reads past the
    border of an image with an odd side, and joins or invents components there. It is passed in row-major order: cc3d
    would number a column-major mask by columns.
    """
    return cc3d.connected_components(np.ascontiguousarray(mask, dtype=np.uint8), connectivity=connectivity)


def keep_labels(labels: np.ndarray, min_area: int) -> np.ndarray:
    """Remove labels of fewer than min_area pixels, and number the others from 1 by their first pixel, row by row.

    Shapes:
        labels: (H, W) int, 0 is the background.
        returns: (H, W) int32.
    """
    pixels = labels.ravel()
    areas = np.bincount(pixels)
    first = np.zeros(areas.size, dtype=np.int64)
    first[pixels[::-1]] = np.arange(pixels.size)[::-1]  # the last of several writes stays: a label's first pixel
    kept = np.flatnonzero(areas >= max(min_area, 1))  # 1: a number without a pixel is no label
    kept = kept[kept > 0]
    numbers = np.zeros(areas.size, dtype=np.int32)
    numbers[kept[first[kept].argsort()]] = np.arange(1, kept.size + 1)
    return numbers[labels]
