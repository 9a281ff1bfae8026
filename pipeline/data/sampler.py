"""The order in which an epoch draws the training images."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

PSEUDO_STREAM = 1  # with seed and epoch, the seed of the draws of pseudo-labelled images


class EpochSampler(Sampler[tuple[int, int]]):
    """The draws `(position, seed)` of one epoch, which depend on nothing but the seed and the epoch.

    Every process makes the same draws and takes its own share; all shares have the same length.

    Args:
        size: number of images.
        seed: of the draws.
        labels: (size,) one value per image; if given, each value is drawn equally often, with replacement.
        repeats: draws of each image per epoch.
        rank, world: the number of this process, and how many there are.
        pseudo: number of pseudo-labelled images; their positions follow those of the others.
        weight: pseudo-labelled draws per other draw: at 0.5, every third image of an epoch. They are added at random
            places, without replacement until each was drawn; the other draws, their seeds and order do not change.

    Attributes:
        epoch: set it before iterating.
    """

    def __init__(
        self,
        size: int,
        seed: int,
        *,
        labels: np.ndarray | None,
        repeats: int,
        rank: int = 0,
        world: int = 1,
        pseudo: int = 0,
        weight: float = 0.0,
    ):
        self.size, self.seed, self.labels = size, seed, labels
        self.repeats, self.rank, self.world = repeats, rank, world
        self.pseudo = pseudo
        self.added = round(weight * size * repeats) if pseudo else 0
        self.epoch = 0

    def __len__(self) -> int:
        return (self.size * self.repeats + self.added) // self.world

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        positions = self._shuffled(rng) if self.labels is None else self._balanced(rng)
        seeds = rng.integers(2**31, size=len(positions))
        if self.added:
            positions, seeds = self._with_pseudo(positions, seeds)
        share = slice(self.rank, len(self) * self.world, self.world)
        return iter(zip(positions[share].tolist(), seeds[share].tolist(), strict=True))

    def _with_pseudo(self, positions: np.ndarray, seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng((self.seed, self.epoch, PSEUDO_STREAM))  # does not advance the other draws' stream
        rounds = -(-self.added // self.pseudo)
        drawn = np.concatenate([rng.permutation(self.pseudo) for _ in range(rounds)])[: self.added]
        # numpy.insert takes indices into the sequence before insertion: subtract how many were inserted before each.
        places = np.sort(rng.choice(len(positions) + self.added, self.added, replace=False)) - np.arange(self.added)
        added = rng.integers(2**31, size=self.added)
        return np.insert(positions, places, self.size + drawn), np.insert(seeds, places, added)

    def _shuffled(self, rng: np.random.Generator) -> np.ndarray:
        return np.concatenate([rng.permutation(self.size) for _ in range(self.repeats)])

    def _balanced(self, rng: np.random.Generator) -> np.ndarray:
        _, label, counts = np.unique(self.labels, return_inverse=True, return_counts=True)
        chance = 1 / counts[label]
        return rng.choice(self.size, self.size * self.repeats, p=chance / chance.sum())
