"""Mixed samples: an image with a part of another in it, its mask likewise.

Applied after the augmentation, to images of one size. Partners, boxes and objects are drawn from the item's own seed,
so an item is the same in any worker, process or resumed run. A part brings its mask along as it is, void pixels too.
Where masks have a channel of the borders between objects, those between objects of two images are drawn (`paste`).
"""

from collections.abc import Callable, Mapping

import cv2
import numpy as np

from pipeline.data.boundaries import touching_boundary

Pair = tuple[np.ndarray, np.ndarray]  # image (H, W, channels) uint8, mask (H, W, C) uint8
Draw = Callable[[], Pair]  # the next partner

MIX_STREAM = 2  # beside an item's seed, what tells the draws of its mix from those of its augmentation
KEPT = 0.5  # chance of each object to be pasted


def cutmix(pair: Pair, partner: Draw, rng: np.random.Generator, boundary: float | None = None) -> Pair:
    """A box of a partner, at its own place. Its share of the area is uniform, before the border cuts it.

    Source:
        Yun et al., CutMix, https://arxiv.org/abs/1905.04899, equation 2 with alpha 1; for masks: French et al.,
        https://arxiv.org/abs/1906.01916.
    """
    height, width = pair[0].shape[:2]
    side = np.sqrt(rng.random())
    rows = _stretch(height, side, rng)
    columns = _stretch(width, side, rng)
    inside = np.zeros((height, width), dtype=bool)
    inside[rows, columns] = True
    return paste(pair, partner(), inside, boundary)


def _stretch(length: int, share: float, rng: np.random.Generator) -> slice:
    """`share` of an axis around a uniform centre, as far as the axis goes."""
    centre, half = rng.uniform(0, length), share * length / 2
    return slice(round(max(0, centre - half)), round(min(length, centre + half)))


def mosaic(pair: Pair, partner: Draw, rng: np.random.Generator, boundary: float | None = None) -> Pair:
    """Four images as quadrants around a point of the middle half; the image itself keeps the upper left one.

    Each quadrant shows what its image has there. (YOLOv4 shrinks images to fit; here objects keep their size, which is
    what `scale` is for.)

    Source:
        Bochkovskiy et al., YOLOv4, https://arxiv.org/abs/2004.10934, figure 3.
    """
    height, width = pair[0].shape[:2]
    row, column = (round(length * rng.uniform(0.25, 0.75)) for length in (height, width))
    below, right = np.arange(height)[:, None] >= row, np.arange(width) >= column
    for quadrant in (~below & right, below & ~right, below & right):
        pair = paste(pair, partner(), quadrant, boundary)
    return pair


def copy_paste(pair: Pair, partner: Draw, rng: np.random.Generator, boundary: float | None = None) -> Pair:
    """Objects of a partner, each with an even chance but one at least, at their own place.

    An object is a connected component (a corner connects) of the pixels that belong to any class. A partner without one
    changes nothing. Edges are not blended: the authors found no difference.

    Source:
        Ghiasi et al., Simple copy-paste, https://arxiv.org/abs/2012.07177.
    """
    donor = partner()
    count, objects = cv2.connectedComponents((donor[1] == 1).any(axis=-1).astype(np.uint8), connectivity=8)
    if count == 1:  # the background alone
        return pair
    chosen = rng.random(count) < KEPT
    chosen[0] = False
    if not chosen.any():
        chosen[rng.integers(1, count)] = True
    return paste(pair, donor, chosen[objects], boundary)


def paste(pair: Pair, partner: Pair, where: np.ndarray, boundary: float | None = None) -> Pair:
    """The pair with the partner's pixels and masks at `where`, (H, W) bool. Neither is changed.

    Args:
        border: width in pixels of the borders in the masks' second channel; None: it holds none. A border is then drawn
            between what the first channel has inside and outside of `where`, by the definition of `borders.border`.
    """
    image, mask = (np.where(where[..., None], new, old) for new, old in zip(partner, pair, strict=True))
    if boundary is not None:
        sides = (mask[..., 0] == 1) * np.where(where, 1, 2)
        mask[..., 1][(touching_boundary(sides, boundary) == 1) & (mask[..., 1] == 0)] = 1
    return image, mask


MIXES = {"cutmix": cutmix, "mosaic": mosaic, "copy_paste": copy_paste}


class Mixing:
    """Mixes an item with partners, by a chance for each kind; what is left of 1 is the chance of no mix.

    Args:
        chances: 0 to 1 for each name in MIXES.
        partners: positions that partners are drawn from.
        donors: those of them that have objects, for copy-paste; where there is none, it changes nothing.
        border: as of `paste`.
    """

    def __init__(
        self, chances: Mapping[str, float], partners: np.ndarray, donors: np.ndarray, boundary: float | None = None
    ):
        self.names = list(chances)
        self.bounds = np.cumsum(list(chances.values()))
        self.partners, self.donors, self.boundary = partners, donors, boundary

    def __call__(self, pair: Pair, seed: int, augmented: Callable[[int, int], Pair]) -> Pair:
        """The pair, mixed or as it was.

        Args:
            seed: of the item.
            augmented: from position and seed to an augmented pair.
        """
        rng = np.random.default_rng((seed, MIX_STREAM))
        drawn = int(np.searchsorted(self.bounds, rng.random(), side="right"))
        if drawn == len(self.names):
            return pair
        name = self.names[drawn]
        positions = self.donors if name == "copy_paste" else self.partners
        if not len(positions):
            return pair

        def partner() -> Pair:
            return augmented(int(rng.choice(positions)), int(rng.integers(2**31)))

        return MIXES[name](pair, partner, rng, self.boundary)
