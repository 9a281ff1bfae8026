"""Augmentation: named strengths, built from albumentations 2.0.8, which is known to no other file.

An image's random choices come from a seed that is handed in, never from a stream: the same (image, seed)
gives the same result in any worker, process or resumed run. (Left alone, every DataLoader worker of
albumentations 2.0.8 replays the same stream, and repeats it in each epoch.)
"""

import os
import random
import warnings

# Without it the library asks the network for a newer version when it is imported.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
import cv2
import numpy as np

cv2.setNumThreads(0)  # workers would fight over the cores


def none(crop: int | None, channels: int) -> list[A.BasicTransform]:
    """Nothing but the crop."""
    return _crop(crop)


def light(crop: int | None, channels: int) -> list[A.BasicTransform]:
    """What keeps a section's up and down: mirror, a small shift in size and place, brightness."""
    return [
        *_crop(crop),
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


def medium(crop: int | None, channels: int) -> list[A.BasicTransform]:
    """Images without an up or down: the symmetries of the square, other sizes, tones."""
    return [
        A.RandomScale((-0.35, 0.5), p=0.7),
        *_crop(crop),
        A.D4(p=1),
        A.Affine(rotate=(-20, 20), shear=(-6, 6), p=0.25, border_mode=cv2.BORDER_REFLECT_101),
        A.RandomBrightnessContrast(0.3, 0.3, p=0.6),
        A.RandomGamma((60, 160), p=0.3),
        *_blur(0.15),
    ]


def strong(crop: int | None, channels: int) -> list[A.BasicTransform]:
    """For a test set that differs from the training set: size from 0.6 to 1.8, colours, negatives."""
    return [
        A.RandomScale((-0.4, 0.8), p=0.6),
        *_crop(crop),
        A.D4(p=1),
        A.Affine(rotate=(-25, 25), shear=(-8, 8), p=0.25, border_mode=cv2.BORDER_REFLECT_101),
        *(_colours() if channels == 3 else []),
        A.RandomBrightnessContrast(0.3, 0.3, p=0.5),
        A.RandomGamma((50, 200), p=0.3),
        A.InvertImg(p=0.05),
        *_blur(0.15),
    ]


def _crop(crop: int | None) -> list[A.BasicTransform]:
    if crop is None:
        return []
    reflect = A.PadIfNeeded(crop, crop, border_mode=cv2.BORDER_REFLECT_101)
    return [reflect, A.RandomCrop(crop, crop)]


def _colours() -> list[A.BasicTransform]:
    return [
        A.HueSaturationValue(hue_shift_limit=90, sat_shift_limit=40, val_shift_limit=20, p=0.25),
        A.ChannelShuffle(p=0.1),
        A.ToGray(p=0.1),
    ]


def _blur(p: float) -> list[A.BasicTransform]:
    return [
        A.OneOf(
            [A.GaussianBlur(sigma_limit=(0.5, 2.0)), A.GaussNoise(std_range=(0.02, 0.1)), A.Sharpen()],
            p=p,
        )
    ]


def _rescaled(steps: list[A.BasicTransform], scale: tuple[float, float]) -> list[A.BasicTransform]:
    """The steps after a random scale, which must come before the crop, and without their own."""
    others = [step for step in steps if not isinstance(step, A.RandomScale)]
    return [A.RandomScale((scale[0] - 1, scale[1] - 1), p=1), *others]


STRENGTHS = {"none": none, "light": light, "medium": medium, "strong": strong}


class Augment:
    """Calling it with (image, mask, seed) gives (image, mask); a class, so that any kind of worker can receive it.

    Args:
        strength: a name in STRENGTHS.
        crop: pixels of the square that is cut out; None keeps the image's size.
        channels: of the image.
        scale: factors between which the size is drawn for every image, in place of the strength's own draw; needs a
            crop. None leaves the strength as it is.

    Shapes:
        image: (H, W, channels) uint8 or float32 in 0 … 255, mask: (H, W, C) uint8; returned as (crop, crop, ...).
    """

    def __init__(self, strength: str, crop: int | None, channels: int, *, scale: tuple[float, float] | None = None):
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a misspelt argument only warns and falls back to a default
            steps = STRENGTHS[strength](crop, channels)
            self.transform = A.Compose(_rescaled(steps, scale) if scale else steps)

    def __call__(self, image: np.ndarray, mask: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        self.transform.set_random_state(np.random.default_rng(seed), random.Random(seed))
        if image.dtype == np.uint8:
            result = self.transform(image=image, mask=mask)
            return result["image"], result["mask"]
        # The library takes floats for 0 … 1, and cuts off what lies outside.
        result = self.transform(image=image / np.float32(255), mask=mask)
        return result["image"] * np.float32(255), result["mask"]
