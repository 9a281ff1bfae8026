"""Images and masks as tensors, and the order in which an epoch draws them."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from pipeline.data.augment import Augment
from pipeline.data.labels import Labels
from pipeline.data.mixing import Mixing, Pair
from pipeline.data.reader import Reader
from pipeline.data.windows import Box

CACHE_BYTES = 2 << 30  # decoded images below this size stay in memory
PSEUDO_STREAM = 1  # beside seed and epoch, what tells the draws of pseudo-labelled images from the others


class PseudoLabelled(NamedTuple):
    """Images whose masks no annotator drew: they come after the training images, and are never a partner in a mix.

    Shapes:
        index: rows with image_id, path, height, width.
        label: from an image id to (C, H, W) uint8, 0, 1 or 255 for void.
    """

    index: pd.DataFrame
    label: Callable[[str], np.ndarray]


class MaskedImages(Dataset):
    """Augmented training images with their masks, drawn by `(position, seed)`.

    The seed rides with the position, so an item is the same in any worker, process or resumed run.

    Args:
        copies: of this data set, one per worker; they share the memory for decoded images.
        pseudo: more images, at the positions after those of the index.
        mixing: of an image with others of the index, after the augmentation.

    Shapes:
        item: image (channels, H, W) uint8, mask (C, H, W) uint8, 0 or 1, of exclusive classes (1, H, W), their
            numbers; 255 is void.
    """

    def __init__(
        self,
        index: pd.DataFrame,
        labels: Labels,
        reader: Reader,
        augment: Augment,
        copies: int = 1,
        *,
        pseudo: PseudoLabelled | None = None,
        mixing: Mixing | None = None,
    ):
        indices = [index] if pseudo is None else [index, pseudo.index]
        self.annotated = len(index)
        self.rows = [row for each in indices for row in rows_of(each)]
        self.labels, self.reader, self.augment = labels, reader, augment
        self.pseudo, self.mixing = pseudo, mixing
        pixels = sum(int((each["height"] * each["width"]).sum()) for each in indices)
        decoded = pixels * (reader.channels + (1 if labels.exclusive else len(labels.classes)))
        self.cache: dict[int, Pair] | None = {} if decoded * copies < CACHE_BYTES else None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        position, seed = key
        pair = self._augmented(position, seed)
        if self.mixing is not None:
            pair = self.mixing(pair, seed, self._augmented)
        image, mask = pair
        return to_tensor(image), to_tensor(mask)

    def _augmented(self, position: int, seed: int) -> Pair:
        return self.augment(*self._read(position), seed)

    def _read(self, position: int) -> Pair:
        if self.cache is not None and position in self.cache:
            return self.cache[position]
        row = self.rows[position]
        is_window = isinstance(getattr(row, "box", None), Box)  # a meta column of that name holds text
        pair = self._window(row) if is_window else (self.reader(row.path), self._mask(row, position))
        if self.cache is not None:
            self.cache[position] = pair
        return pair

    def _window(self, row: object) -> Pair:
        return self.reader.part(row.path, row.box), self.labels.read_part(row.image, row.box)

    def _mask(self, row: object, position: int) -> np.ndarray:
        if position < self.annotated:
            return self.labels.read(row)
        return np.ascontiguousarray(self.pseudo.label(row.image_id).transpose(1, 2, 0))


def rows_of(index: pd.DataFrame) -> list[SimpleNamespace]:
    """The rows of a table, with a column's value by its name, that can be sent to another process; pandas' own cannot.

    >>> rows_of(pd.DataFrame({"image_id": ["a"]}))
    [namespace(Index=0, image_id='a')]
    """
    return [SimpleNamespace(**row._asdict()) for row in index.itertuples()]


def to_tensor(pixels: np.ndarray) -> Tensor:
    """(H, W, C) to (C, H, W)."""
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())  # a copy: Pillow's arrays are read-only


class EpochSampler(Sampler[tuple[int, int]]):
    """The draws of one epoch, `(position, seed)`: a pure function of seed and epoch.

    Every process makes the same draws and takes its own share, of equal length for all.

    Args:
        labels: one value per image; where given, values are drawn equally often, with replacement.
        size: number of images.
        repeats: draws of each image per epoch.
        rank, world: this process, and how many there are.
        pseudo: number of pseudo-labelled images; their positions follow those of the others.
        weight: pseudo-labelled draws per other draw: at .5, every third image of an epoch. They come on top, without
            replacement while they last, at random places; the other draws, their seeds and their order do not change.
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
        mine = slice(self.rank, len(self) * self.world, self.world)
        return iter(zip(positions[mine].tolist(), seeds[mine].tolist(), strict=True))

    def _with_pseudo(self, positions: np.ndarray, seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng((self.seed, self.epoch, PSEUDO_STREAM))  # the other draws' stream stays untouched
        rounds = -(-self.added // self.pseudo)
        drawn = np.concatenate([rng.permutation(self.pseudo) for _ in range(rounds)])[: self.added]
        # Sorted places of the longer sequence, as numpy.insert counts them: in the shorter one.
        places = np.sort(rng.choice(len(positions) + self.added, self.added, replace=False)) - np.arange(self.added)
        added = rng.integers(2**31, size=self.added)
        return np.insert(positions, places, self.size + drawn), np.insert(seeds, places, added)

    def _shuffled(self, rng: np.random.Generator) -> np.ndarray:
        return np.concatenate([rng.permutation(self.size) for _ in range(self.repeats)])

    def _balanced(self, rng: np.random.Generator) -> np.ndarray:
        _, label, sizes = np.unique(self.labels, return_inverse=True, return_counts=True)
        chance = 1 / sizes[label]
        return rng.choice(self.size, self.size * self.repeats, p=chance / chance.sum())


class Images(Dataset):
    """Whole images without masks, for prediction.

    Shapes:
        item: image (channels, H, W) uint8.
    """

    def __init__(self, index: pd.DataFrame, reader: Reader):
        self.paths = list(index["path"])
        self.reader = reader

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, position: int) -> Tensor:
        return to_tensor(self.reader(self.paths[position]))


def equal_size_batches(index: pd.DataFrame, batch_size: int) -> list[list[int]]:
    """Positions in batches whose images share one size, the largest images first.

    The first batch is the one that needs most memory: too little of it shows at once, not after hours.
    """
    sizes = index.groupby(["height", "width"], sort=True).indices
    ordered = sorted(sizes, key=lambda size: -size[0] * size[1])
    return [
        positions[start : start + batch_size].tolist()
        for positions in (sizes[size] for size in ordered)
        for start in range(0, len(positions), batch_size)
    ]
