"""Sums of a metric over pools of images, for thresholds by share: exact, in one pass, and no image is kept.

A share of a pool is one threshold for all images of the pool, which is known only after the last of them. Each pool
therefore keeps its histogram and the sums of the metric's terms at all levels; the terms at each share's threshold are
looked up at the end. A pool takes 2 kB and 2 kB for each term: 6 MB for 1,000 volumes.
"""

from collections import defaultdict

import numpy as np

from pipeline.inference.prediction_store import MAX_VALUE
from pipeline.postprocess.shares import SHARES, Histograms, Place, Pool, ShareOf, levels_of_shares, pools_of


class PoolSums:
    """The sums of the terms of every pool of several images, by fold."""

    def __init__(self) -> None:
        self.histograms = Histograms()
        self._images = 0
        self._images_in: dict[Pool, int] = defaultdict(int)
        self._terms_of: dict[Pool, dict[Place, list[np.ndarray]]] = defaultdict(dict)

    def add(self, level_terms: list[np.ndarray], histogram: np.ndarray, place: Place) -> None:
        """Add one image.

        Shapes:
            level_terms: for each term of the metric, (256,) at the levels 1 … 256; the last is an empty mask.
            histogram: (256,) pixels by stored value.
        """
        self.histograms.add(histogram, place)
        self._images += 1
        for pool in pools_of(place):
            self._images_in[pool] += 1
            key = Place(place.fold, place.volume if pool == "volume" else None)
            add_terms(self._terms_of[pool], key, level_terms)

    def has_all_images(self, pool: Pool) -> bool:
        """Whether every image is in such a pool."""
        return self._images_in[pool] == self._images

    def terms_by_fold(self, pool: Pool, share_of: ShareOf) -> dict[int, list[np.ndarray]]:
        """For each fold and term, the sums at every share and lowest threshold, (Q, 255)."""
        found: dict[int, list[np.ndarray]] = {}
        for place, terms in self._terms_of[pool].items():
            histogram = self.histograms.of(pool, place)
            add_terms(found, place.fold, [terms_at_shares(each, histogram, share_of) for each in terms])
        return found


def add_terms(sums: dict, key: object, terms: list[np.ndarray]) -> None:
    """Add an image's terms to the sums of a key."""
    if key not in sums:
        sums[key] = [each.copy() for each in terms]
        return
    for total, added in zip(sums[key], terms, strict=True):
        total += added


def terms_at_shares(level_terms: np.ndarray, histogram: np.ndarray, share_of: ShareOf) -> np.ndarray:
    """A pool's term at every share and lowest threshold, (Q, 255), from that at the levels 1 … 256, (256,)."""
    levels = levels_of_shares(histogram, SHARES[share_of], share_of)
    return level_terms[np.maximum(levels[:, None] - 1, np.arange(MAX_VALUE))]
