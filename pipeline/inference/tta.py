"""Test-time augmentation: the eight symmetries of the square (the group D4), each with its exact inverse."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.schema import did_you_mean


class View(NamedTuple):
    """Both take and give (N, C, H, W); a quarter turn and a transpose swap H and W."""

    forward: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor]


def _same(images: Tensor) -> Tensor:
    return images


def _flip_horizontal(images: Tensor) -> Tensor:
    return images.flip(-1)


def _flip_vertical(images: Tensor) -> Tensor:
    return images.flip(-2)


def _transpose(images: Tensor) -> Tensor:
    return images.transpose(-1, -2)


def _anti_transpose(images: Tensor) -> Tensor:
    return images.transpose(-1, -2).flip(-1, -2)


def _turn(quarters: int) -> Callable[[Tensor], Tensor]:
    return lambda images: torch.rot90(images, quarters, dims=(-2, -1))


VIEWS = {
    "identity": View(_same, _same),
    "flip_horizontal": View(_flip_horizontal, _flip_horizontal),
    "flip_vertical": View(_flip_vertical, _flip_vertical),
    "rotate_90": View(_turn(1), _turn(-1)),
    "rotate_180": View(_turn(2), _turn(2)),
    "rotate_270": View(_turn(3), _turn(-3)),
    "transpose": View(_transpose, _transpose),
    "anti_transpose": View(_anti_transpose, _anti_transpose),
}


def check_views(names: tuple[str, ...]) -> None:
    """Refuse an unknown, repeated or missing view.

    Raises:
        ValueError: naming what exists.
    """
    for name in names:
        if name not in VIEWS:
            raise ValueError(f"unknown view '{name}'. {did_you_mean(name, VIEWS)}")
    if len(set(names)) != len(names) or not names:
        raise ValueError(f"expected one or more different views, got {list(names)}")


def average_views(predict: Callable[[Tensor], Tensor], images: Tensor, names: tuple[str, ...]) -> Tensor:
    """The mean over views of `predict`, each turned back.

    Args:
        predict: (N, C, H, W) images to (N, classes, H, W) probs.
    """
    views = [VIEWS[name] for name in names]
    return torch.stack([view.inverse(predict(view.forward(images))) for view in views]).mean(dim=0)
