"""The order in which an epoch draws the training images."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

ORDER_STREAM = (0, 0)  # with seed and round, the seed of the order that several epochs share
ADDED_STREAM = 1  # with seed and epoch, the seed of the draws from the first added set; the next is that of the second


class EpochSampler(Sampler[tuple[int, int]]):
    """The draws `(position, seed)` of one epoch, which depend on nothing but the seed and the epoch.

    Every process makes the same draws and takes its own share; all shares have the same length.

    Args:
        size: number of images.
        seed: of the draws.
        labels: (size,) one value per image; if given, each value is drawn equally often, with replacement.
        repeats: draws of each image per epoch. If it is no whole number, each epoch continues a random order of all
            images where the one before it stopped, so no image is drawn twice before each was drawn.
        rank, world: the number of this process, and how many there are.
        added: of each set of added images their number, and draws of them per draw of the others: at 0.5, with one
            set, every third image of an epoch. Their positions follow those of the others. They are inserted at random
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
        repeats: float,
        rank: int = 0,
        world: int = 1,
        added: Sequence[tuple[int, float]] = (),
    ):
        self.size, self.seed, self.labels = size, seed, labels
        self.draws, self.rank, self.world = round(size * repeats), rank, world
        self.added = [(count, round(weight * size * repeats) if count else 0) for count, weight in added]
        self.epoch = 0

    def __len__(self) -> int:
        return (self.draws + sum(draws for _, draws in self.added)) // self.world

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        positions = self._shuffled(rng) if self.labels is None else self._balanced(rng)
        seeds = rng.integers(2**31, size=len(positions))
        start = self.size
        for number, (count, draws) in enumerate(self.added):
            # A stream of its own does not advance that of the other draws.
            stream = np.random.default_rng((self.seed, self.epoch, ADDED_STREAM + number))
            if draws:
                positions, seeds = _insert(positions, seeds, start, count, draws, stream)
            start += count
        share = slice(self.rank, len(self) * self.world, self.world)
        return iter(zip(positions[share].tolist(), seeds[share].tolist(), strict=True))

    def _shuffled(self, rng: np.random.Generator) -> np.ndarray:
        if self.draws % self.size == 0:
            return np.concatenate([rng.permutation(self.size) for _ in range(self.draws // self.size)])
        rounds, places = np.divmod(self.epoch * self.draws + np.arange(self.draws), self.size)
        orders = {number: self._order(number) for number in np.unique(rounds).tolist()}
        return np.array([orders[number][place] for number, place in zip(rounds.tolist(), places.tolist(), strict=True)])

    def _order(self, number: int) -> np.ndarray:
        """The random order of one round over all images; it does not depend on the epoch."""
        return np.random.default_rng((self.seed, *ORDER_STREAM, number)).permutation(self.size)

    def _balanced(self, rng: np.random.Generator) -> np.ndarray:
        _, label, counts = np.unique(self.labels, return_inverse=True, return_counts=True)
        chance = 1 / counts[label]
        return rng.choice(self.size, self.draws, p=chance / chance.sum())


def _insert(
    positions: np.ndarray, seeds: np.ndarray, start: int, count: int, draws: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Positions and seeds with draws of an added set inserted.

    Args:
        start, count: of the positions of the added set.
        draws: how many are inserted.
    """
    rounds = -(-draws // count)
    drawn = np.concatenate([rng.permutation(count) for _ in range(rounds)])[:draws]
    # numpy.insert takes indices into the sequence before insertion: subtract how many were inserted before each.
    places = np.sort(rng.choice(len(positions) + draws, draws, replace=False)) - np.arange(draws)
    return np.insert(positions, places, start + drawn), np.insert(seeds, places, rng.integers(2**31, size=draws))
