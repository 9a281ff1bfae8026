"""Thresholds by share: the mask covers a given share of an image, of a volume, or of the whole test set.

A model's probabilities can be too high on one image and too low on another, although it ranks the pixels of each
correctly. A share of the pixels is then a better rule than a fixed probability. The share is of

    pixels     all pixels of the pool: the threshold is a quantile of their probabilities
    expected   the pool's expected foreground, which is the sum of its probabilities; 1 is right if they are calibrated

A pool is one image, all slices of a volume, or the test set. Only a pool's histogram of stored values is needed, so no
pixel is kept. Out of fold, the images of a fold stand for the test set: one model has predicted them and was not
trained on them.

Winning solutions of Vesuvius ink detection, Contrails and SenNet are reported to use quantiles; not verified here.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from pipeline.inference.prediction_store import MAX_VALUE

LEVELS = MAX_VALUE + 1
ShareOf = Literal["pixels", "expected"]
Pool = Literal["image", "volume", "test set"]

# From the largest, which hardly changes a mask, in steps of 2^-¼ and 2^-⅛: areas 16 % and 8 % smaller.
SHARES: dict[ShareOf, np.ndarray] = {
    "pixels": 2.0 ** (-np.arange(4, 57) / 4),  # a half … 1/16384
    "expected": 2.0 ** (-np.arange(-16, 17) / 8),  # 4 … a quarter
}


Heads = tuple[tuple[float, ...] | None, ...]  # of each member, the image head's stored value of each class, 0 to 255


class Place(NamedTuple):
    """What is known of an image beside its pixels: fold and volume, which identify its pools, image heads and group."""

    fold: int | None = None  # None: of the test set
    volume: str | None = None  # None: it is no slice of a volume
    heads: Heads = ()  # of each member; None for one without an image head
    group: str | None = None  # its value of the column `ensemble.group`; None: missing

    def image_value(self, weights: Sequence[float], number: int) -> int | None:
        """The stored value of the probability that a class is in the image: the weighted mean of the image heads.

        Members without an image head, or with weight 0, have no vote.

        Args:
            weights: of the members.
            number: of the class.

        Returns:
            0 to 255; None if no member has a vote.

        >>> Place(heads=((200.0,), None, (100.0,))).image_value((0.2, 0.6, 0.2), 0)
        150
        """
        if not self.heads:
            return None
        pairs = zip(weights, self.heads, strict=True)
        votes = [(weight, head[number]) for weight, head in pairs if weight and head is not None]
        total = sum(weight for weight, _ in votes)
        return round(sum(weight * value for weight, value in votes) / total) if votes else None

    def key(self, pool: Pool) -> tuple[Pool, int | str | None]:
        """The key of the image's pool in `Histograms`."""
        return pool, self.volume if pool == "volume" else self.fold


class Histograms:
    """The histograms of stored values of volumes, and of the test set or of each fold; 2 kB each."""

    def __init__(self) -> None:
        self._of: dict[tuple[Pool, int | str | None], np.ndarray] = {}

    def add(self, histogram: np.ndarray, place: Place) -> None:
        """Add one image, (256,) pixels by stored value, void included."""
        for pool in pools_of(place):
            key = place.key(pool)
            self._of[key] = self._of.get(key, 0) + histogram

    def of(self, pool: Pool, place: Place) -> np.ndarray:
        """The histogram of the pool that an image is in, (256,) int64.

        Raises:
            ValueError: if no image of the pool was added.
        """
        if place.key(pool) not in self._of:
            raise ValueError(f"a threshold by share of the {pool}, of which no image was read: {place}")
        return self._of[place.key(pool)]


def pools_of(place: Place) -> tuple[Pool, ...]:
    """The pools of several images that an image is in."""
    return ("test set",) if place.volume is None else ("volume", "test set")


def histogram_of(values: np.ndarray) -> np.ndarray:
    """The pixels of an image by stored value: uint8 of any shape to (256,) int64."""
    return np.bincount(values.ravel(), minlength=LEVELS)


def levels_of_shares(histogram: np.ndarray, shares: np.ndarray, share_of: ShareOf) -> np.ndarray:
    """The lowest stored value of the mask for each share: the mask's pixels are as near as possible to the share.

    Of two equally near levels, the higher one: fewer pixels.

    Shapes:
        histogram: (256,) pixels of the pool, by stored value.
        shares: (Q,), above 0.
        returns: (Q,) int64, 1 … 256; 256 is no pixel.

    >>> levels_of_shares(np.bincount([0] * 90 + [100] * 6 + [200] * 4, minlength=256), np.array([0.1, 0.05]), "pixels")
    array([100, 200])
    """
    total = histogram.sum() if share_of == "pixels" else histogram @ np.arange(LEVELS) / MAX_VALUE
    above = np.append(histogram[::-1].cumsum()[::-1], 0)[1:]  # pixels at level k or above, k = 1 … 256
    fewest_first = np.abs(above[::-1] - np.asarray(shares)[:, None] * total).argmin(axis=1)
    return LEVELS - fewest_first
