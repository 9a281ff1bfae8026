"""Do masks that are images lie on what is in their images? Other ways to lay them are tried: turned, mirrored, swapped.

    views      a mask that was transposed or mirrored fits its image better once that is undone
    relation   a mask fits its own image better than the others', unless files are paired wrongly

As in `dialects`, each is a comparison over many images, and asks for a difference that chance does not make.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import cv2
import numpy as np

from pipeline.doctor.measures import BETTER, CLEAR, MANY, UNLIKELY, contrast, edges, errors, relation, steepness

Sample = tuple[np.ndarray, np.ndarray]  # a grey image (H, W) uint8, and its labels (H, W) uint8: one number a class

FEWEST = 10  # images, below which nothing is said: of fewer, the spread of a difference is itself uncertain
SIDE = 512  # pixels; larger images are reduced to it: an outline is as long, and seconds are seconds

# What undoes a mistake, by the words for it; the last four only of square images.
VIEWS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mirrored left to right": lambda mask: mask[:, ::-1],
    "mirrored upside down": lambda mask: mask[::-1],
    "turned by half": lambda mask: mask[::-1, ::-1],
    "transposed": lambda mask: mask.T,
    "turned left by a quarter": lambda mask: np.rot90(mask),
    "turned right by a quarter": lambda mask: np.rot90(mask, 3),
    "transposed and turned by half": lambda mask: mask[::-1, ::-1].T,
}


class Placement(NamedTuple):
    """What the doctor thinks of how masks lie."""

    kind: Literal["good", "other", "unrelated", "unknown"]
    message: str  # in one line
    better: str | None = None  # the view under which masks fit clearly better, if there is one


def judge_masks(samples: Sequence[Sample]) -> Placement:
    """Whether masks lie on what is in their images.

    Args:
        samples: images with more than one label each; some dozens.
    """
    pairs = [_Pair(*sample) for sample in samples]
    if len(pairs) < FEWEST:
        return Placement("unknown", f"{len(pairs)} images with masks are too few to tell whether masks lie on them")
    if found := _better_view(pairs):
        view, how = found
        message = (
            f"masks fit their images clearly better when {view} ({how}): turn the files of the masks so, or those of "
            f"the images"
        )
        return Placement("other", message, view)
    own = relation([pair.image.shape for pair in pairs], lambda image, mask: pairs[image].lies(pairs[mask].labels))
    how = f"{own:+.1f} standard errors"
    if own >= CLEAR:
        return Placement("good", f"masks lie on what is in their images ({how})")
    if own < UNLIKELY and len(pairs) >= MANY:
        why = (
            f"masks fit other images as well as their own ({how}): are they paired wrongly? See the names of both, and "
            f"files.mask_pattern or files.mask_suffix"
        )
        return Placement("unrelated", why)
    return Placement("unknown", f"masks may be right: they show little of themselves in their images ({how})")


class _Pair:
    """An image and its labels, reduced."""

    def __init__(self, image: np.ndarray, labels: np.ndarray):
        share = SIDE / max(image.shape)
        if share < 1:
            size = [max(1, round(side * share)) for side in image.shape[::-1]]
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            labels = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST)
        self.image, self.labels = image, np.ascontiguousarray(labels)
        self._steep = steepness(image)

    def lies(self, labels: np.ndarray) -> float:
        """How well labels lie on the image: along its edges, and around what is of another brightness."""
        labels = np.ascontiguousarray(labels)
        if labels.min() == labels.max():
            return 0.0  # what is left of something small, once it is reduced, has no outline
        return edges(self._steep, labels) + contrast(self.image, labels)


def _better_view(pairs: Sequence[_Pair]) -> tuple[str, str] | None:
    """The view that fits clearly better than masks as they are, the best one, and by how much in words."""
    own = [pair.lies(pair.labels) for pair in pairs]
    found = {}
    for name, view in VIEWS.items():
        gains = np.array(
            [
                pair.lies(view(pair.labels)) - as_is
                for pair, as_is in zip(pairs, own, strict=True)
                if view(pair.labels).shape == pair.image.shape
            ]
        )
        if len(gains) >= FEWEST and gains.mean() > BETTER and errors(gains) > CLEAR:
            found[name] = (float(gains.mean()), f"{errors(gains):+.1f} standard errors over {len(gains)} images")
    if not found:
        return None
    name = max(found, key=lambda name: found[name][0])
    return name, found[name][1]
