"""Images and masks as tensors, and the order in which an epoch draws them."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from pipeline.data.augment import Augment
from pipeline.data.images import Reader
from pipeline.data.index import read_target
from pipeline.rle import Dialect

CACHE_BYTES = 2 << 30  # decoded images below this size stay in memory


class MaskedImages(Dataset):
    """Augmented training images with their masks, drawn by `(position, seed)`.

    The seed rides with the position, so an item is the same in any worker, process or resumed run.

    Args:
        copies: of this data set, one per worker; they share the memory for decoded images.

    Shapes:
        item: image (channels, H, W) uint8, mask (C, H, W) uint8, 0 or 1.
    """

    def __init__(self, index: pd.DataFrame, dialect: Dialect, reader: Reader, augment: Augment, copies: int = 1):
        self.rows = list(index.itertuples())
        self.dialect = dialect
        self.reader = reader
        self.augment = augment
        decoded = int((index["height"] * index["width"]).sum()) * (reader.channels + 1)
        self.cache: dict[int, tuple[np.ndarray, np.ndarray]] | None = {} if decoded * copies < CACHE_BYTES else None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        position, seed = key
        image, mask = self.augment(*self._read(position), seed)
        return to_tensor(image), to_tensor(mask)

    def _read(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        if self.cache is not None and position in self.cache:
            return self.cache[position]
        row = self.rows[position]
        pair = self.reader(row.path), read_target(row, self.dialect)[..., None]
        if self.cache is not None:
            self.cache[position] = pair
        return pair


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
    """

    def __init__(self, size: int, seed: int, *, labels: np.ndarray | None, repeats: int, rank: int = 0, world: int = 1):
        self.size, self.seed, self.labels = size, seed, labels
        self.repeats, self.rank, self.world = repeats, rank, world
        self.epoch = 0

    def __len__(self) -> int:
        return self.size * self.repeats // self.world

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        positions = self._shuffled(rng) if self.labels is None else self._balanced(rng)
        seeds = rng.integers(2**31, size=len(positions))
        mine = slice(self.rank, len(self) * self.world, self.world)
        return iter(zip(positions[mine].tolist(), seeds[mine].tolist(), strict=True))

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
