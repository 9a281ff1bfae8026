"""Augmentation in named strengths, or as a list of transforms.

An image's random choices depend only on the seed that is passed in: the same (image, seed) gives the same result in any
worker, process or resumed run. (By default, all DataLoader workers of albumentations 2.0.8 draw the same numbers,
and repeat them in each epoch.)
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import albumentations as A
import cv2
import numpy as np

from pipeline.config import Transform
from pipeline.data.device_augment import DeviceStep, RandomBrightness, RandomSymmetry
from pipeline.data.soft_masks import join_void, split_void
from pipeline.data.transform_list import build_transform
from pipeline.data.transforms import RandomScaledCrop
from pipeline.symmetries import SYMMETRIES

Scale = tuple[float, float]  # range of a random factor
# Of the plane that says where a soft mask is ignored. A transform fills it with the same value as the shares
# (`fill_mask`): with this scale a filled 1 is a share, and a filled 255 is ignored. A power of two changes no rounding.
VOID_SCALE = np.float32(256)
MAX_CHANNELS = 128  # of an array that OpenCV 5 flips or warps
REFLECT = "BORDER_REFLECT_101"  # fills what a transform brings into the image


class Strength(NamedTuple):
    """The transforms that a name stands for.

    Attributes:
        transforms: from the number of channels to the list; they follow the crop.
        scale: range of the random factor of the crop; None: 1.
        scale_p: probability that the factor is drawn.
    """

    transforms: Callable[[int], list[Transform]]
    scale: Scale | None = None
    scale_p: float = 1.0


def _none(channels: int) -> list[Transform]:
    return []


def _light(channels: int) -> list[Transform]:
    return [
        Transform(name="HorizontalFlip", p=0.5),
        Transform(
            name="Affine",
            p=0.5,
            scale=(0.9, 1.1),
            translate_percent=(-0.06, 0.06),
            rotate=(-5, 5),
            border_mode=REFLECT,
        ),
        Transform(name="RandomBrightnessContrast", p=0.5, brightness_limit=0.15, contrast_limit=0.15),
    ]


def _medium(channels: int) -> list[Transform]:
    return [
        Transform(name="D4", p=1),
        Transform(name="Affine", p=0.25, rotate=(-20, 20), shear=(-6, 6), border_mode=REFLECT),
        Transform(name="RandomBrightnessContrast", p=0.6, brightness_limit=0.3, contrast_limit=0.3),
        Transform(name="RandomGamma", p=0.3, gamma_limit=(60, 160)),
        _BLUR,
    ]


def _strong(channels: int) -> list[Transform]:
    return [
        Transform(name="D4", p=1),
        Transform(name="Affine", p=0.25, rotate=(-25, 25), shear=(-8, 8), border_mode=REFLECT),
        *(_COLOURS if channels == 3 else []),
        Transform(name="RandomBrightnessContrast", p=0.5, brightness_limit=0.3, contrast_limit=0.3),
        Transform(name="RandomGamma", p=0.3, gamma_limit=(50, 200)),
        Transform(name="InvertImg", p=0.05),
        _BLUR,
    ]


_COLOURS = [
    Transform(name="HueSaturationValue", p=0.25, hue_shift_limit=90, sat_shift_limit=40, val_shift_limit=20),
    Transform(name="ChannelShuffle", p=0.1),
    Transform(name="ToGray", p=0.1),
]

_BLUR = Transform(
    name="OneOf",
    p=0.15,
    transforms=(
        Transform(name="GaussianBlur", sigma_limit=(0.5, 2.0)),
        Transform(name="GaussNoise", std_range=(0.02, 0.1)),
        Transform(name="Sharpen"),
    ),
)

STRENGTHS = {
    "none": Strength(_none),
    # For images with a fixed up and down: horizontal flip, small scale and shift, brightness.
    "light": Strength(_light),
    # For images without up and down: the symmetries of the square, scale, tones.
    "medium": Strength(_medium, (0.65, 1.5), 0.7),
    # For a test set that differs from the training set: scale from 0.6 to 1.8, colours, inversion.
    "strong": Strength(_strong, (0.6, 1.8), 0.6),
}


class Recipe(NamedTuple):
    """How the images of a phase are augmented: a random crop, then transforms.

    Attributes:
        crop: side of the square crop in pixels; None keeps the image's size.
        scale: range of the random factor of the crop; None: 1.
        scale_p: probability that the factor is drawn.
        transforms: in this order.
    """

    crop: int | None
    scale: Scale | None
    scale_p: float
    transforms: tuple[Transform, ...]


def make_recipe(
    augment: str | Sequence[Transform],
    crop: int | None,
    channels: int,
    *,
    scale: Scale | None = None,
    scale_p: float | None = None,
) -> Recipe:
    """The recipe of a strength, or of a list of transforms.

    Args:
        augment: a name in STRENGTHS, or a list.
        channels: of the images.
        scale, scale_p: of the crop, in place of the strength's own, as in `config.Phase`.
    """
    strength = STRENGTHS[augment if isinstance(augment, str) else "none"]
    transforms = strength.transforms(channels) if isinstance(augment, str) else augment
    default = 1.0 if scale else strength.scale_p
    return Recipe(crop, scale or strength.scale, default if scale_p is None else scale_p, tuple(transforms))


def _crop(recipe: Recipe) -> list[A.BasicTransform]:
    if recipe.crop is None:
        return []
    if recipe.scale:
        return [RandomScaledCrop(recipe.crop, recipe.scale, recipe.scale_p)]
    reflect = A.PadIfNeeded(recipe.crop, recipe.crop, border_mode=cv2.BORDER_REFLECT_101)
    return [reflect, A.RandomCrop(recipe.crop, recipe.crop)]


# Transforms that can run on the device instead, if they have no other arguments than these.
ON_DEVICE: dict[str, tuple[set[str], Callable[[Any], DeviceStep]]] = {
    "HorizontalFlip": (set(), lambda each: RandomSymmetry(each.p, ("flip_horizontal",))),
    "D4": (set(), lambda each: RandomSymmetry(each.p, tuple(SYMMETRIES))),
    "RandomBrightnessContrast": (
        {"brightness_limit", "contrast_limit"},
        lambda each: RandomBrightness(each.p, each.contrast_limit, each.brightness_limit),
    ),
}


def _can_move(spec: Transform) -> bool:
    return spec.name in ON_DEVICE and set(spec.arguments) <= ON_DEVICE[spec.name][0]


def check_channels(augment: str | Sequence[Transform], image: int, mask: int) -> None:
    """Check that OpenCV, by which images and masks are augmented, supports their numbers of channels.

    Raises:
        ValueError: if it does not.
    """
    if augment != "none" and max(image, mask) > MAX_CHANNELS:
        what = f"images of {image}" if image > MAX_CHANNELS else f"masks of {mask}"
        raise ValueError(f'{what} channels: OpenCV augments at most {MAX_CHANNELS}: set augment = "none"')


class Augment:
    """A picklable function from (image, mask, seed) to the augmented (image, mask).

    Args:
        recipe: the crop and the transforms.
        soft: masks are soft (`soft_masks`) and interpolated like the image; others take the nearest pixel's value.
        on_device: leave out the transforms that the device can do, after the others; `device_steps` has them.

    Shapes:
        image: (H, W, channels) uint8 or float32 in 0 … 255, mask: (H, W, C) uint8, or float32 if it is soft; returned
            as (crop, crop, ...), and if `soft` every mask as float32.

    Raises:
        ValueError: as `build_transform`.
    """

    def __init__(self, recipe: Recipe, *, soft: bool = False, on_device: bool = False):
        self.soft = soft
        moved = [spec for spec in recipe.transforms if on_device and _can_move(spec)]
        self.device_steps = [ON_DEVICE[spec.name][1](build_transform(spec)) for spec in moved]
        kept = [build_transform(spec) for spec in recipe.transforms if spec not in moved]
        transforms = [*_crop(recipe), *kept]
        if soft:
            for each in _leaves(transforms):
                each.mask_interpolation = cv2.INTER_LINEAR
        self.transform = A.Compose(transforms)

    def __call__(self, image: np.ndarray, mask: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        self.transform.set_random_state(np.random.default_rng(seed), random.Random(seed))
        if not self.soft:
            return self._transform(image, mask)
        shares, void = split_void(mask)
        image, planes = self._transform(image, np.concatenate([shares, VOID_SCALE * void], axis=2))
        shares, void = np.split(planes, 2, axis=2)
        return image, join_void(shares, void / VOID_SCALE)

    def _transform(self, image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if image.dtype == np.uint8:
            result = self.transform(image=image, mask=mask)
            return result["image"], result["mask"]
        # The library expects floats in 0 … 1, and clips others.
        result = self.transform(image=image / np.float32(255), mask=mask)
        return result["image"] * np.float32(255), result["mask"]


def _leaves(transforms: Iterable[A.BasicTransform | A.BaseCompose]) -> Iterator[A.BasicTransform]:
    """The transforms of a list, and those inside its groups."""
    for each in transforms:
        if isinstance(each, A.BaseCompose):
            yield from _leaves(each.transforms)
        else:
            yield each
