"""Augmentation in named strengths, built from albumentations 2.0.8, which no other module imports.

An image's random choices depend only on the seed that is passed in: the same (image, seed) gives the same result in any
worker, process or resumed run. (By default, all DataLoader workers of albumentations 2.0.8 draw the same numbers,
and repeat them in each epoch.)
"""

import os
import random
import warnings
from collections.abc import Callable
from typing import Any

# Otherwise the library looks for a newer version on the network when it is imported.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
import cv2
import numpy as np

from pipeline.data.device_augment import DeviceStep, RandomBrightness, RandomSymmetry
from pipeline.data.soft_masks import join_void, split_void
from pipeline.symmetries import SYMMETRIES

cv2.setNumThreads(0)  # threads of several workers would compete for the cores


Scale = tuple[float, float]  # range of a random factor


class RandomScaledCrop(A.DualTransform):
    """A random square window, resized to `side`: the image at a random scale is cropped, but never resized whole.

    A window beyond the image is filled by reflection.

    Args:
        side: of the result, in pixels.
        scale: range of the factor; the window has `side / factor` pixels.
        chance: that the factor is not 1.
    """

    _targets = (A.core.transforms_interface.Targets.IMAGE, A.core.transforms_interface.Targets.MASK)

    def __init__(self, side: int, scale: Scale, chance: float = 1.0):
        super().__init__(p=1)
        self.side, self.scale, self.chance = side, scale, chance
        self.mask_interpolation = cv2.INTER_NEAREST

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, int]:
        height, width = params["shape"][:2]
        factor = self.py_random.uniform(*self.scale) if self.py_random.random() < self.chance else 1
        window = max(1, round(self.side / factor))
        # A smaller image is in the middle of the window.
        top, left = (
            self.py_random.randint(0, length - window) if length > window else -((window - length) // 2)
            for length in (height, width)
        )
        return {"top": top, "left": left, "window": window}

    def apply(self, img: np.ndarray, top: int, left: int, window: int, **_: Any) -> np.ndarray:
        return self._resized(img, top, left, window, cv2.INTER_LINEAR)

    def apply_to_mask(self, mask: np.ndarray, top: int, left: int, window: int, **_: Any) -> np.ndarray:
        return self._resized(mask, top, left, window, self.mask_interpolation)

    def _resized(self, pixels: np.ndarray, top: int, left: int, window: int, interpolation: int) -> np.ndarray:
        inside = pixels[max(0, top) : top + window, max(0, left) : left + window]
        before = (max(0, -top), max(0, -left))
        after = [window - length - start for length, start in zip(inside.shape, before, strict=False)]
        if any((*before, *after)):
            inside = np.pad(inside, [*zip(before, after, strict=True), *[(0, 0)] * (inside.ndim - 2)], mode="reflect")
        if window != self.side:
            inside = cv2.resize(inside, (self.side, self.side), interpolation=interpolation)
        return inside.reshape(self.side, self.side, *pixels.shape[2:])


def none(crop: int | None, channels: int, scale: Scale | None = None) -> list[A.BasicTransform]:
    """The crop alone."""
    return _crop(crop, scale)


def light(crop: int | None, channels: int, scale: Scale | None = None) -> list[A.BasicTransform]:
    """For images with a fixed up and down: horizontal flip, small scale and shift, brightness."""
    return [
        *_crop(crop, scale),
        A.HorizontalFlip(p=0.5),
        A.Affine(
            scale=(0.9, 1.1),
            translate_percent=(-0.06, 0.06),
            rotate=(-5, 5),
            p=0.5,
            border_mode=cv2.BORDER_REFLECT_101,
        ),
        A.RandomBrightnessContrast(0.15, 0.15, p=0.5),
    ]


def medium(crop: int | None, channels: int, scale: Scale | None = None) -> list[A.BasicTransform]:
    """For images without up and down: the symmetries of the square, scale, tones."""
    return [
        *(_crop(crop, scale) if scale else _crop(crop, (0.65, 1.5), 0.7)),
        A.D4(p=1),
        A.Affine(rotate=(-20, 20), shear=(-6, 6), p=0.25, border_mode=cv2.BORDER_REFLECT_101),
        A.RandomBrightnessContrast(0.3, 0.3, p=0.6),
        A.RandomGamma((60, 160), p=0.3),
        _blur(),
    ]


def strong(crop: int | None, channels: int, scale: Scale | None = None) -> list[A.BasicTransform]:
    """For a test set that differs from the training set: scale from 0.6 to 1.8, colours, inversion."""
    return [
        *(_crop(crop, scale) if scale else _crop(crop, (0.6, 1.8), 0.6)),
        A.D4(p=1),
        A.Affine(rotate=(-25, 25), shear=(-8, 8), p=0.25, border_mode=cv2.BORDER_REFLECT_101),
        *(_colours() if channels == 3 else []),
        A.RandomBrightnessContrast(0.3, 0.3, p=0.5),
        A.RandomGamma((50, 200), p=0.3),
        A.InvertImg(p=0.05),
        _blur(),
    ]


def _crop(crop: int | None, scale: Scale | None, chance: float = 1.0) -> list[A.BasicTransform]:
    if crop is None:
        return []
    if scale:
        return [RandomScaledCrop(crop, scale, chance)]
    reflect = A.PadIfNeeded(crop, crop, border_mode=cv2.BORDER_REFLECT_101)
    return [reflect, A.RandomCrop(crop, crop)]


def _colours() -> list[A.BasicTransform]:
    return [
        A.HueSaturationValue(hue_shift_limit=90, sat_shift_limit=40, val_shift_limit=20, p=0.25),
        A.ChannelShuffle(p=0.1),
        A.ToGray(p=0.1),
    ]


def _blur() -> A.BasicTransform:
    blur, noise = A.GaussianBlur(sigma_limit=(0.5, 2.0)), A.GaussNoise(std_range=(0.02, 0.1))
    return A.OneOf([blur, noise, A.Sharpen()], p=0.15)


# Transforms that can run on the device instead.
ON_DEVICE: dict[type[A.BasicTransform], Callable[[Any], DeviceStep]] = {
    A.HorizontalFlip: lambda each: RandomSymmetry(each.p, ("flip_horizontal",)),
    A.D4: lambda each: RandomSymmetry(each.p, tuple(SYMMETRIES)),
    A.RandomBrightnessContrast: lambda each: RandomBrightness(each.p, each.contrast_limit, each.brightness_limit),
}

STRENGTHS = {"none": none, "light": light, "medium": medium, "strong": strong}


class Augment:
    """A picklable function from (image, mask, seed) to the augmented (image, mask).

    Args:
        strength: a name in STRENGTHS.
        crop: side of the square crop in pixels; None keeps the image's size.
        channels: of the image.
        scale: range of the random scale factor, in place of the strength's own; needs a crop. None keeps it.
        soft: masks are soft (`soft_masks`) and interpolated like the image; others take the nearest pixel's value.
        on_device: leave out the transforms that the device can do, after the others; `device_steps` has them.

    Shapes:
        image: (H, W, channels) uint8 or float32 in 0 … 255, mask: (H, W, C) uint8, or float32 if it is soft; returned
            as (crop, crop, ...), and if `soft` every mask as float32.
    """

    def __init__(
        self,
        strength: str,
        crop: int | None,
        channels: int,
        *,
        scale: tuple[float, float] | None = None,
        soft: bool = False,
        on_device: bool = False,
    ):
        self.soft = soft
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a misspelt argument only warns and falls back to a default
            transforms = STRENGTHS[strength](crop, channels, scale)
            if soft:
                for each in transforms:
                    each.mask_interpolation = cv2.INTER_LINEAR
            moved = [each for each in transforms if on_device and type(each) in ON_DEVICE]
            self.device_steps = [ON_DEVICE[type(each)](each) for each in moved]
            self.transform = A.Compose([each for each in transforms if each not in moved])

    def __call__(self, image: np.ndarray, mask: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        self.transform.set_random_state(np.random.default_rng(seed), random.Random(seed))
        if not self.soft:
            return self._transform(image, mask)
        image, planes = self._transform(image, np.concatenate(split_void(mask), axis=2))
        return image, join_void(*np.split(planes, 2, axis=2))

    def _transform(self, image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if image.dtype == np.uint8:
            result = self.transform(image=image, mask=mask)
            return result["image"], result["mask"]
        # The library expects floats in 0 … 1, and clips others.
        result = self.transform(image=image / np.float32(255), mask=mask)
        return result["image"] * np.float32(255), result["mask"]
