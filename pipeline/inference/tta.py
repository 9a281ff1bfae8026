"""Test-time augmentation: the mean of the predictions on flipped, rotated and transposed images."""

from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.quoting import shortened
from pipeline.schema import did_you_mean
from pipeline.symmetries import SYMMETRIES


def check_views(names: tuple[str, ...]) -> None:
    """Check the names of views.

    Args:
        names: keys of `SYMMETRIES`.

    Raises:
        ValueError: for an unknown or repeated name, or no name.
    """
    for name in names:
        if name not in SYMMETRIES:
            raise ValueError(f"unknown view '{shortened(name)}'. {did_you_mean(name, SYMMETRIES)}")
    if len(set(names)) != len(names) or not names:
        raise ValueError(f"expected one or more different views, got {list(names)}")


def average_views(predict: Callable[[Tensor], Tensor], images: Tensor, names: tuple[str, ...]) -> Tensor:
    """The mean over views of the predictions, each transformed back to the orientation of the images.

    Args:
        predict: from images (N, C, H, W) to probabilities (N, classes, H, W); it also has to accept (N, C, W, H) for
            views that transpose.
        names: keys of `SYMMETRIES`.

    Shapes:
        images: (N, C, H, W).
        returns: (N, classes, H, W).
    """
    views = [SYMMETRIES[name] for name in names]
    return torch.stack([view.inverse(predict(view(images))) for view in views]).mean(dim=0)
