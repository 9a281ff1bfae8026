"""Images and masks as tensors."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pipeline.data.array_cache import make_cache
from pipeline.data.augment import Augment
from pipeline.data.labels import Labels
from pipeline.data.mixing import Mixing, Pair
from pipeline.data.reader import Reader
from pipeline.data.resize import Resize
from pipeline.data.sample import Sample, samples_of
from pipeline.data.target_maps import make_maps
from pipeline.data.targets import read_target
from pipeline.metrics import VOID

ReadTarget = Callable[[Sample, Resize], np.ndarray]  # from a sample to its target at the network's size


class AddedImages(NamedTuple):
    """Images beside the training set, pseudo-labelled or of an extra set, which no mix takes.

    Args:
        index: with image_id, path, height, width.
        read: as `targets.read_target`.
    """

    index: pd.DataFrame
    read: ReadTarget


class MaskedImages(Dataset):
    """Augmented training images with their masks, drawn by `(position, seed)`.

    The seed comes with the position, so an item is the same in any worker, process or resumed run.

    Args:
        index: the training images, or windows of them.
        labels, reader, augment: how masks and images are read, and changed.
        num_workers: processes that load items.
        read: of the images of the index, as `targets.read_target`, which is the default.
        added: more images, at the positions after those of the index.
        mixing: of an image with others of the index, after the augmentation.
        maps: of the resulting mask, which is not soft: keys of `target_maps.TARGET_MAPS`.

    Attributes:
        num_labelled: number of images of the index.

    Shapes:
        item: image (channels, H, W) uint8 or float32 in 0 … 255; mask (C, H, W) uint8, 0 or 1, for exclusive classes
            (1, H, W) with their numbers; float32 of 0 … 1 if the augmentation is of soft masks; 255 is ignored. If
            there are maps, they follow, (len(maps) * C, H, W) float32, of each exclusive class too.

    Raises:
        ImageError, RLEError: while items are read, for an image or label that cannot be read.
    """

    def __init__(
        self,
        index: pd.DataFrame,
        labels: Labels,
        reader: Reader,
        augment: Augment,
        num_workers: int = 1,
        *,
        read: ReadTarget | None = None,
        added: Sequence[AddedImages] = (),
        mixing: Mixing | None = None,
        maps: Sequence[str] = (),
    ):
        sets = [AddedImages(index, read or partial(read_target, labels)), *added]
        self.num_labelled = len(index)
        self.samples = [sample for each in sets for sample in samples_of(each.index)]
        self.targets = [each.read for each in sets for _ in range(len(each.index))]
        self.labels, self.reader, self.augment, self.mixing, self.maps = labels, reader, augment, mixing, maps
        channels = (reader.channels, 1 if labels.exclusive else labels.channels)  # of an image and of its mask
        shapes = [[(*reader.target(sample), each) for each in channels] for sample in self.samples]
        self.cache = make_cache(shapes, num_workers)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, ...]:
        position, seed = key
        pair = self._augmented(position, seed)
        if self.mixing is not None:
            pair = self.mixing(pair, seed, self._augmented)
        image, mask = pair
        return to_tensor(image), to_tensor(mask), *self._maps(mask)

    def _maps(self, mask: np.ndarray) -> list[Tensor]:
        """The maps of a mask as one tensor; none if no loss needs any."""
        if not self.maps:
            return []
        masks = self.labels.by_class(mask)
        return [to_tensor(make_maps(masks, self.maps, boundary=self.labels.boundary is not None))]

    def _augmented(self, position: int, seed: int) -> Pair:
        return self.augment(*self._read(position), seed)

    def _read(self, position: int) -> Pair:
        if self.cache and (pair := self.cache.read(position)):
            return pair
        sample = self.samples[position]
        pair = self.reader.read(sample), self._checked_mask(sample, position)
        if self.cache:
            self.cache.add(position, pair)
        return pair

    def _checked_mask(self, sample: Sample, position: int) -> np.ndarray:
        """The mask; losses on a GPU do not check its values, because the host would have to wait for them.

        Raises:
            ValueError: for a value that is neither a label nor void.
        """
        mask = self.targets[position](sample, self.reader.resize)
        largest = len(self.labels.classes) - 1 if self.labels.exclusive else 1
        unexpected = mask[~((mask >= 0) & (mask <= largest) | (mask == VOID))]
        if unexpected.size:
            raise ValueError(
                f"mask of '{sample.image_id}' holds {unexpected[0]}: expected 0 to {largest}, or {VOID} for void"
            )
        return mask


def to_tensor(pixels: np.ndarray) -> Tensor:
    """An array (H, W, C) as a tensor (C, H, W) of the same dtype, a view of the array if it is writable."""
    return torch.from_numpy(np.require(pixels, requirements="CW")).permute(2, 0, 1)


class Images(Dataset):
    """Whole images without masks, for prediction.

    Args:
        index: with image_id and path.

    Shapes:
        item: image (channels, H, W) uint8 or float32 in 0 … 255.

    Raises:
        ImageError: while items are read, for an image that cannot be read.
    """

    def __init__(self, index: pd.DataFrame, reader: Reader):
        self.samples = samples_of(index)
        self.reader = reader

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, position: int) -> Tensor:
        return to_tensor(self.reader.read(self.samples[position]))


class ScoredImages(Dataset):
    """Whole images with the masks that their predictions are scored against; decoded once if memory allows.

    Args:
        index: the images.
        labels, reader: how masks and images are read.
        num_workers: processes that load items.
        by_window: the images are too large to be read whole: items are the masks alone.

    Shapes:
        item: image (channels, H, W) uint8 or float32 in 0 … 255, unless `by_window`; mask (C, H, W), or at the size
            of submitted masks, as `Labels.read_scored`.

    Raises:
        ImageError, RLEError: while items are read, for an image or label that cannot be read.
    """

    def __init__(
        self, index: pd.DataFrame, labels: Labels, reader: Reader, num_workers: int, *, by_window: bool = False
    ):
        self.samples, self.labels, self.reader, self.by_window = samples_of(index), labels, reader, by_window
        self.cache = make_cache([self._shapes(sample) for sample in self.samples], num_workers)

    def _shapes(self, sample: Sample) -> list[tuple[int, ...]]:
        """The shapes of the arrays of an item."""
        mask = (self.labels.scored_channels, *(self.labels.size or sample.size))
        return [mask] if self.by_window else [(*self.reader.target(sample), self.reader.channels), mask]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, position: int) -> tuple[Tensor, ...]:
        *images, mask = self._read(position)
        return (*map(to_tensor, images), torch.from_numpy(np.require(mask, requirements="CW")))

    def _read(self, position: int) -> tuple[np.ndarray, ...]:
        if self.cache and (arrays := self.cache.read(position)):
            return arrays
        sample = self.samples[position]
        images = () if self.by_window else (self.reader.read(sample),)
        arrays = (*images, self.labels.read_scored(sample))
        if self.cache:
            self.cache.add(position, arrays)
        return arrays


def equal_size_batches(sizes: Sequence[tuple[int, ...]], batch_size: int) -> list[list[int]]:
    """The positions of images in batches of equal sizes, the largest images first.

    The first batch needs the most memory, so that a lack of memory shows at once.

    Args:
        sizes: height and width of each image in pixels, and what else must be equal in a batch.
    """
    positions: dict[tuple[int, ...], list[int]] = {}
    for position, size in enumerate(sizes):
        positions.setdefault(tuple(size), []).append(position)
    ordered = sorted(sorted(positions), key=lambda size: -size[0] * size[1])
    return [
        positions[size][start : start + batch_size]
        for size in ordered
        for start in range(0, len(positions[size]), batch_size)
    ]
