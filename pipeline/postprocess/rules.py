"""The rules that turn one image's stored values into its mask."""

from typing import Annotated, NamedTuple

import cc3d
import numpy as np
from pydantic import Field

from pipeline.postprocess.threshold_counts import level

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]


class Cut(NamedTuple):
    """What turns stored values into a mask. Fields with a default do nothing unless they are given."""

    threshold: Share  # on probabilities: draws the mask
    min_area: Count  # pixels; a smaller mask becomes empty
    min_component: Count = 0  # pixels; a smaller component is removed
    presence_threshold: Share = 0.0  # on probabilities; counts for presence_area where it is above `threshold`
    presence_area: Count = 0  # pixels that must reach it, or the mask is empty
    fill_holes: bool = False
    keep_largest: Annotated[int, Field(ge=1)] | None = None  # components
    gate: Share | None = None  # least probability, by an image-level head, that there is anything at all


def apply(values: np.ndarray, cut: Cut, image_prob: float | None = None) -> np.ndarray:
    """The mask of one image and class, by these rules in this order:

        1. gate                 empty if image_prob is below it
        2. presence             empty if fewer than presence_area pixels reach presence_threshold, or
                                `threshold` where that is higher
        3. threshold            draws the mask
        4. min_component        removes smaller components
        5. keep_largest         removes all but so many; of equal ones, it keeps the first from the top
        6. min_area             empties what is smaller in total
        7. fill_holes           adds the background that the mask encloses

    All areas are thus areas of what the threshold drew, as the searches count them. Pixels that touch at a side or
    a corner are one component (8-connectivity: 8 to cc3d, 2 to scikit-image); a hole is background from which no
    path over sides leads out of the image, which is the same border seen from the other side.

    A metric that scores an empty mask on an empty image as 1, and a single false pixel as 0, asks first whether there
    is anything, and only then where. Rules 1, 2 and 6 answer that: they are this project's prior for images with
    nothing. A gate asks a head of its own, the triplet (threshold, presence_threshold, presence_area) the surest
    pixels, and the smallest area the mask itself.

    Args:
        image_prob: of the image-level head, 0 to 1; needed for a gate.

    Shapes:
        values: (H, W) uint8, 0 … 255.
        returns: (H, W) uint8, 0 or 1.

    Raises:
        ValueError: for a gate without image_prob, or keep_largest below 1.

    Source:
        The triplet: first place of SIIM-ACR pneumothorax, https://github.com/sneddy/pneumothorax-segmentation.
        The gate, and both smallest areas (total 600 to 2000 pixels, component 150): first place of Severstal,
        https://www.kaggle.com/c/severstal-steel-defect-detection/discussion/114254.
    """
    if not _is_anything_there(values, cut, image_prob):
        return np.zeros(values.shape, dtype=np.uint8)
    mask = (values >= level(cut.threshold)).astype(np.uint8)
    if cut.min_component > 1 or cut.keep_largest is not None:
        mask = _keep_components(mask, cut.min_component, cut.keep_largest)
    if np.count_nonzero(mask) < cut.min_area:
        return np.zeros_like(mask)
    return _fill_holes(mask) if cut.fill_holes else mask


def _is_anything_there(values: np.ndarray, cut: Cut, image_prob: float | None) -> bool:
    if cut.gate is not None:
        if image_prob is None:
            raise ValueError(f"gate {cut.gate} without image_prob: give the image-level head's, or a cut without gate")
        if image_prob < cut.gate:
            return False
    if cut.presence_area <= 0:
        return True
    surest = level(max(cut.presence_threshold, cut.threshold))
    return np.count_nonzero(values >= surest) >= cut.presence_area


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
    """The mask and all background that does not reach the border of the image over sides."""
    background = np.pad(1 - mask, 1, constant_values=1)  # joins what touches the border into one component
    labels = label_components(background, connectivity=4)
    return (labels != labels[0, 0])[1:-1, 1:-1].astype(np.uint8)


def label_components(mask: np.ndarray, connectivity: int) -> np.ndarray:
    """The components of a (H, W) mask, numbered from 1 by their first pixel, row by row; 0 is the background.

    Of uint8 and not of bool: cc3d 4.1.1's path for bool (and for binary_image=True), where `connectivity` is 8, reads
    past the border of an image with an odd side, and joins or invents components there. Of rows: it would number a
    column-major mask by columns.
    """
    return cc3d.connected_components(np.ascontiguousarray(mask, dtype=np.uint8), connectivity=connectivity)
