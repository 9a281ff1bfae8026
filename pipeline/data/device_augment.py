"""Augmentation of whole batches on the device, for machines whose CPU cores cannot prepare images fast enough.

As on the CPU, the random choices of an image depend only on its seed: not on the other images of its batch, and not on
the number of workers or processes.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from torch import Tensor

from pipeline.symmetries import SYMMETRIES

WHITE = 255
Batch = tuple[Tensor, ...]  # images, targets and, for some losses, maps of these


class DeviceStep(Protocol):
    """One kind of random change."""

    def draw(self, rng: random.Random) -> Any:
        """The random parameters of one image."""

    def apply(self, batch: Batch, drawn: Sequence[Any]) -> Batch:
        """The changed batch; it may overwrite the given one.

        Args:
            drawn: the parameters of each image.

        Shapes:
            batch: images (N, channels, H, W) uint8, or float32 in 0 … 255; targets and maps (N, C, H, W). Returned
                likewise.
        """


@dataclass(frozen=True)
class RandomSymmetry:
    """With probability `p`, one of the symmetries of the square; all are equally probable."""

    p: float
    names: tuple[str, ...]  # keys of `SYMMETRIES`; those that transpose need square images

    def draw(self, rng: random.Random) -> str:
        """The name of a symmetry."""
        return rng.choice(self.names) if rng.random() < self.p else "identity"

    def apply(self, batch: Batch, drawn: Sequence[str]) -> Batch:
        """As `DeviceStep.apply`; distances in pixels stay the same."""
        for number, name in enumerate(drawn):  # numbers, not a list of them, which would be copied to the device first
            if name != "identity":
                for each in batch:
                    each[number] = SYMMETRIES[name](each[number]).clone()
        return batch


@dataclass(frozen=True)
class RandomBrightness:
    """With probability `p`, values are multiplied by a factor, and a constant is added.

    The factor is 1 + c, the constant 255 · b, with c and b uniform in their ranges; as albumentations'
    RandomBrightnessContrast, without rounding.
    """

    p: float
    contrast: tuple[float, float]
    brightness: tuple[float, float]

    def draw(self, rng: random.Random) -> tuple[float, float]:
        """The factor and the constant."""
        if rng.random() >= self.p:
            return 1.0, 0.0
        return 1 + rng.uniform(*self.contrast), WHITE * rng.uniform(*self.brightness)

    def apply(self, batch: Batch, drawn: Sequence[tuple[float, float]]) -> Batch:
        """As `DeviceStep.apply`."""
        images, *others = batch
        images = images.float()
        for image, (factor, constant) in zip(images, drawn, strict=True):
            if (factor, constant) != (1, 0):
                image.mul_(factor).add_(constant).clamp_(0, WHITE)
        return images, *others


def augment_batches(batches: Iterable[Batch], seeds: Iterable[int], steps: Sequence[DeviceStep]) -> Iterator[Batch]:
    """Batches with each image changed by the steps, one after the other.

    Args:
        batches: on the device.
        seeds: of each image, in the order of the batches.
    """
    remaining = iter(seeds)
    for batch in batches:
        # Text as a seed gives another stream than the number, which the augmentation on the CPU uses.
        streams = [random.Random(f"device {seed}") for seed in islice(remaining, len(batch[0]))]
        for step in steps:
            batch = step.apply(batch, [step.draw(stream) for stream in streams])
        yield batch
