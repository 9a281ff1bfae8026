"""Mixed samples: parts of other images pasted into an image with their masks, the look of another image, or the mean.

It is applied after the augmentation, to images of the same size. Partners, boxes and objects are drawn from the item's
own seed, so that an item is the same in any worker, process or resumed run. A part keeps its mask, ignored pixels
included. If masks have a boundary channel, boundaries between objects of two images are added (`paste`).
"""

from collections.abc import Callable, Mapping

import cv2
import numpy as np
from scipy.fft import irfft2, rfft2
from skimage.exposure import match_histograms

from pipeline.data.boundaries import touching_boundary
from pipeline.data.soft_masks import harden
from pipeline.metrics import VOID

Pair = tuple[np.ndarray, np.ndarray]  # image (H, W, channels) uint8 or float32, mask (H, W, C) uint8, soft ones float32
Draw = Callable[[], Pair]  # the next partner

MIX_STREAM = 2  # with an item's seed, the seed of its mix; the augmentation uses the item's seed alone
PASTE_PROBABILITY = 0.5  # of each object
MIXUP_ALPHA = 0.4  # of the beta distribution of an image's share in the mean of two: mostly near 0 or 1


def cutmix(pair: Pair, partner: Draw, rng: np.random.Generator, boundary: float | None = None) -> Pair:
    """Paste a box of a partner at the same place. Its share of the area is uniform before clipping to the image.

    Source:
        Yun et al., CutMix, https://arxiv.org/abs/1905.04899, equation 2 with alpha 1; for masks: French et al.,
        https://arxiv.org/abs/1906.01916.
    """
    height, width = pair[0].shape[:2]
    side = np.sqrt(rng.random())
    rows = _interval(height, side, rng)
    columns = _interval(width, side, rng)
    inside = np.zeros((height, width), dtype=bool)
    inside[rows, columns] = True
    return paste(pair, partner(), inside, boundary)


def _interval(length: int, share: float, rng: np.random.Generator) -> slice:
    """`share` of an axis around a uniform centre, clipped to the axis."""
    centre, half = rng.uniform(0, length), share * length / 2
    return slice(round(max(0, centre - half)), round(min(length, centre + half)))


def mosaic(pair: Pair, partner: Draw, rng: np.random.Generator, boundary: float | None = None) -> Pair:
    """Four images as quadrants around a point in the middle half; the image itself keeps the upper left quadrant.

    Each quadrant shows the same part of its image. (YOLOv4 shrinks images to fit; here objects keep their size, which
    the phase's `scale` changes.)

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
    """Paste objects of a partner at the same place, each with probability 0.5, but at least one.

    An object is a connected component (8-connectivity) of the pixels of any class. A partner without one changes
    nothing. Edges are not blended: the authors found no difference.

    Source:
        Ghiasi et al., Simple copy-paste, https://arxiv.org/abs/2012.07177.
    """
    donor = partner()
    count, objects = cv2.connectedComponents((harden(donor[1]) == 1).any(axis=-1).astype(np.uint8), connectivity=8)
    if count == 1:  # the background alone
        return pair
    chosen = rng.random(count) < PASTE_PROBABILITY
    chosen[0] = False
    if not chosen.any():
        chosen[rng.integers(1, count)] = True
    return paste(pair, donor, chosen[objects], boundary)


def mixup(pair: Pair, partner: Draw, rng: np.random.Generator, boundary: float | None = None) -> Pair:
    """The weighted mean of an image and a partner, and of their masks, which must be soft.

    A pixel that either of them ignores stays ignored: its share is not known.

    Source:
        Zhang et al., mixup, https://arxiv.org/abs/1710.09412: alpha .1 to .4 on ImageNet. For masks, each pixel's
        label is mixed as theirs of an image.
    """
    other, share = partner(), rng.beta(MIXUP_ALPHA, MIXUP_ALPHA)
    image, mask = (share * own + (1 - share) * theirs for own, theirs in zip(pair, other, strict=True))
    ignored = (pair[1] == VOID) | (other[1] == VOID)
    return _as_image(image, pair[0].dtype), np.where(ignored, VOID, mask).astype(np.float32)


def histogram(pair: Pair, partner: Draw, rng: np.random.Generator, boundary: float | None = None) -> Pair:
    """Give an image the distribution of a partner's values, channel by channel, in part; the mask stays.

    Source:
        Gonzalez and Woods, Digital Image Processing, histogram matching; by scikit-image. The share of the matched
        image in the result is uniform in .5 … 1, as in albumentations' HistogramMatching.
    """
    return match_histogram(pair[0], partner()[0], rng.uniform(0.5, 1)), pair[1]


def match_histogram(image: np.ndarray, reference: np.ndarray, share: float) -> np.ndarray:
    """The mean of an image and the one with the reference's distribution, which weighs `share`.

    Shapes:
        image, reference: (H, W, channels) uint8 or float32; returned with the image's dtype.
    """
    matched = match_histograms(image, reference, channel_axis=-1)
    return _as_image(share * matched + (1 - share) * image, image.dtype)


def fourier(pair: Pair, partner: Draw, rng: np.random.Generator, boundary: float | None = None) -> Pair:
    """Give an image the low frequencies of a partner in strength, not in place: its tone and light; the mask stays.

    Source:
        Yang and Soatto, FDA: Fourier Domain Adaptation, https://arxiv.org/abs/2004.05498, with beta uniform in 0 … .1.
    """
    return swap_low_frequencies(pair[0], partner()[0], rng.uniform(0, 0.1)), pair[1]


def swap_low_frequencies(image: np.ndarray, reference: np.ndarray, beta: float) -> np.ndarray:
    """The image with the reference's amplitudes at frequencies up to beta · min(H, W), and its own phases.

    Shapes:
        image, reference: (H, W, channels) uint8 or float32, of one size; returned with the image's dtype.
    """
    own, other = (rfft2(each.astype(np.float32), axes=(0, 1)) for each in (image, reference))
    height, width = image.shape[:2]
    reach = beta * min(height, width)
    low = np.ix_(np.abs(np.fft.fftfreq(height, 1 / height)) <= reach, np.arange(width // 2 + 1) <= reach)
    own[low] = np.abs(other[low]) * np.exp(1j * np.angle(own[low]))
    return _as_image(irfft2(own, s=(height, width), axes=(0, 1)), image.dtype)


def _as_image(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    clipped = np.clip(values, 0, 255)
    return np.rint(clipped).astype(np.uint8) if dtype == np.uint8 else clipped.astype(dtype)


def paste(pair: Pair, partner: Pair, where: np.ndarray, boundary: float | None = None) -> Pair:
    """Replace the pixels and masks of a pair by a partner's at `where`. Neither is changed.

    Args:
        where: (H, W) bool.
        boundary: width in pixels of the boundaries in the masks' second channel; None: there is no such channel. A
            boundary is added between objects inside and outside of `where`, as `touching_boundary` defines it.
    """
    image, mask = (np.where(where[..., None], new, old) for new, old in zip(partner, pair, strict=True))
    if boundary is not None:
        labels = (mask[..., 0] == 1) * np.where(where, 1, 2)
        mask[..., 1][(touching_boundary(labels, boundary) == 1) & (mask[..., 1] == 0)] = 1
    return image, mask


MIXES = {
    "cutmix": cutmix,
    "mosaic": mosaic,
    "copy_paste": copy_paste,
    "mixup": mixup,
    "histogram": histogram,
    "fourier": fourier,
}


class Mixing:
    """Mixes an item with partners; one minus the sum of the probabilities is that of no mix.

    Args:
        chances: the probability, 0 to 1, of each name in MIXES.
        partners: positions that partners are drawn from.
        donors: those with objects, for copy_paste; without any, it changes nothing.
        boundary: as for `paste`.
    """

    def __init__(
        self, chances: Mapping[str, float], partners: np.ndarray, donors: np.ndarray, boundary: float | None = None
    ):
        self.names = list(chances)
        self.bounds = np.cumsum(list(chances.values()))
        self.partners, self.donors, self.boundary = partners, donors, boundary

    def __call__(self, pair: Pair, seed: int, augmented: Callable[[int, int], Pair]) -> Pair:
        """Return the pair, mixed or unchanged.

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
