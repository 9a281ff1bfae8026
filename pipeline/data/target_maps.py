"""Maps that some losses need beside the target: distances and skeletons of the augmented mask.

The data set makes them in its worker processes, after augmentation and mixing, so they fit the mask that the network
learns. Distances are in pixels of the network's image, between the centres of pixels. Ignored pixels (VOID) belong to
neither masked nor other pixels, and nothing is measured to them.
"""

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from scipy.ndimage import distance_transform_edt, find_objects
from skimage.morphology import skeletonize

REACH = 64  # pixels; `object_distance` is infinite beyond it
# The last digits of OpenCV's distances differ from call to call. Their squares are rounded to whole numbers in
# images of up to this side; for larger ones scipy is exact, and several times as slow.
ROUNDED = 512
CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


def distance_to(where: np.ndarray) -> np.ndarray:
    """The distance of each pixel to the nearest one of `where`; infinite if there is none.

    Shapes:
        where: (H, W) bool; returned as float32.
    """
    if not where.any():
        return np.full(where.shape, np.inf, np.float32)
    if max(where.shape) > ROUNDED:
        return distance_transform_edt(~where).astype(np.float32)
    distance = cv2.distanceTransform((~where).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.sqrt(np.rint(distance * distance))


def boundary_distance(mask: np.ndarray, boundary: np.ndarray | None = None) -> np.ndarray:
    """The distance of a masked pixel to the nearest other one, and of the others to the nearest masked one, from 1.

    It is infinite where there is none, as everywhere in an empty or full mask.

    Shapes:
        mask: (H, W) uint8, 0, 1 or VOID; returned as float32.
    """
    return np.where(mask == 1, distance_to(mask == 0), distance_to(mask == 1))


def signed_distance(mask: np.ndarray, boundary: np.ndarray | None = None) -> np.ndarray:
    """The distance to the boundary: 1 or more outside of the mask, 0 or less inside.

        outside: distance to the nearest masked pixel;  inside: 1 - distance to the nearest pixel that is not masked

    An empty and a full mask have no boundary, and their map is 0.

    Shapes:
        as `boundary_distance`.

    Source:
        `one_hot2dist` of https://github.com/LIVIAETS/boundary-loss: 0 for an empty mask, and inside 1 minus the
        distance. For a full mask it would measure to a pixel outside of the image.
    """
    distance = boundary_distance(mask)
    return np.where(np.isinf(distance), np.float32(0), np.where(mask == 1, 1 - distance, distance))


def object_distance(mask: np.ndarray, boundary: np.ndarray | None = None) -> np.ndarray:
    """d1 + d2: the distances to the two nearest objects, 0 in an object; infinite if d2 is above REACH.

    Objects are connected components (8-connectivity). With a channel of boundaries they are separated there too, and a
    pixel of the mask belongs to the object whose other pixels are nearest.

    Args:
        boundary: 1 at the boundaries between touching objects, as `boundaries.touching_boundary`; None: there is no
            such channel.

    Shapes:
        as `boundary_distance`, also of `boundary`.

    Source:
        Ronneberger et al., U-Net, https://arxiv.org/abs/1505.04597, equation 2.
    """
    objects = _objects(mask == 1, boundary)
    nearest, second = np.full((2, *mask.shape), np.inf, np.float32)
    for number, box in enumerate(find_objects(objects), start=1):
        place = tuple(slice(max(0, axis.start - REACH), axis.stop + REACH) for axis in box)
        distance = distance_to(objects[place] == number)
        second[place] = np.minimum(second[place], np.maximum(nearest[place], distance))
        nearest[place] = np.minimum(nearest[place], distance)
    return np.where(second > REACH, np.float32(np.inf), nearest + second)


def _objects(inside: np.ndarray, boundary: np.ndarray | None) -> np.ndarray:
    """The number of each pixel's object, from 1; 0 outside, (H, W) int32."""
    count, components = cv2.connectedComponents(inside.astype(np.uint8), connectivity=8)
    if boundary is None or count == 1:
        return components
    seeds = inside & (boundary != 1)
    seeds |= inside & ~np.isin(components, components[seeds])  # components that are boundary altogether
    _, numbers = cv2.connectedComponents(seeds.astype(np.uint8), connectivity=8)
    _, nearest = cv2.distanceTransformWithLabels(
        (~seeds).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    number_of = np.zeros(nearest.max() + 1, np.int32)
    number_of[nearest[seeds]] = numbers[seeds]
    return np.where(inside, number_of[nearest], 0)


def tubed_skeleton(mask: np.ndarray, boundary: np.ndarray | None = None) -> np.ndarray:
    """The skeleton, dilated by two pixels along rows and columns, inside the mask; 0 or 1.

    Shapes:
        as `boundary_distance`.

    Source:
        Kirchhoff et al., Skeleton Recall Loss, https://arxiv.org/abs/2404.03010, and `SkeletonTransform` of
        https://github.com/MIC-DKFZ/Skeleton-Recall.
    """
    inside = mask == 1
    skeleton = skeletonize(inside).astype(np.uint8)
    return (cv2.dilate(skeleton, CROSS, iterations=2) * inside).astype(np.float32)


TARGET_MAPS: dict[str, Callable[[np.ndarray, np.ndarray | None], np.ndarray]] = {
    "boundary_distance": boundary_distance,
    "signed_distance": signed_distance,
    "object_distance": object_distance,
    "tubed_skeleton": tubed_skeleton,
}


def make_maps(masks: np.ndarray, names: Sequence[str], *, boundary: bool = False) -> np.ndarray:
    """The maps of a target, one after the other, each with a channel for each of the target's.

    Args:
        names: keys of TARGET_MAPS.
        boundary: the last channel is that of boundaries between objects of the first one.

    Shapes:
        masks: (H, W, C) uint8, 0, 1 or VOID; returned as (H, W, len(names) * C) float32.
    """
    between = [masks[..., -1], *[None] * (masks.shape[2] - 1)] if boundary else [None] * masks.shape[2]
    channels = [np.ascontiguousarray(masks[..., number]) for number in range(masks.shape[2])]
    maps = [TARGET_MAPS[name](*pair) for name in names for pair in zip(channels, between, strict=True)]
    return np.stack(maps, axis=-1)
