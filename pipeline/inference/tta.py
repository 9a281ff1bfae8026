"""Test-time augmentation: the mean of the predictions on flipped, rotated, transposed and scaled images.

A view is named by a symmetry, a scale, or both: "flip_horizontal", "scale_1.25", "flip_horizontal+scale_1.25". A scale
resizes the network's image by that factor, and the probabilities back.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.inference.resampling import resize_probs, scale_images
from pipeline.quoting import shortened
from pipeline.schema import did_you_mean
from pipeline.symmetries import SYMMETRIES, Symmetry

LARGEST_SCALE = 10.0  # a mistyped factor would fill the memory


class View(NamedTuple):
    """One test-time augmentation: a symmetry, then a scale."""

    symmetry: Symmetry
    scale: float = 1.0  # of both sides

    def predict(self, predict: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """The prediction of transformed images, transformed back; arguments and shapes as `average_views`."""
        turned = self.symmetry(images)
        if self.scale == 1:
            return self.symmetry.inverse(predict(turned))
        probs = predict(scale_images(turned, self.scale))
        return self.symmetry.inverse(resize_probs(probs, tuple(turned.shape[-2:])))

    @property
    def cost(self) -> float:
        """Time of the view, as a multiple of that of a view without a scale: the number of pixels."""
        return self.scale**2


def parse_view(name: str) -> View:
    """The view of a name, such as "flip_horizontal+scale_1.25".

    Raises:
        ValueError: for an unknown name, and a scale that is not positive, above 10, or 1.

    >>> parse_view("scale_0.5").cost
    0.25
    """
    symmetry, _, scale = name.rpartition("+")
    if not scale.startswith("scale_"):
        symmetry, scale = name, ""
    symmetry = symmetry or "identity"
    if symmetry not in SYMMETRIES:
        raise ValueError(
            f"unknown view '{shortened(name)}'. {did_you_mean(symmetry, SYMMETRIES)} Or a scale, such as scale_1.25, "
            f"or both: flip_horizontal+scale_1.25"
        )
    if not scale:
        return View(SYMMETRIES[symmetry])
    digits = scale.removeprefix("scale_")
    factor = float(digits) if re.fullmatch(r"\d+(\.\d+)?", digits) else 0.0
    if not 0 < factor <= LARGEST_SCALE or factor == 1:
        raise ValueError(
            f"view '{shortened(name)}': expected a positive factor after scale_, other than 1 and at most "
            f"{LARGEST_SCALE:g}, such as scale_0.8 or scale_1.25"
        )
    return View(SYMMETRIES[symmetry], factor)


def check_views(names: tuple[str, ...], image_side: int | None = None) -> None:
    """Check the names of views.

    Args:
        names: as for `parse_view`.
        image_side: height and width of the images of an encoder that takes one size, in pixels; None: any size.

    Raises:
        ValueError: as `parse_view`; for a repeated view, or none; for a larger scale than the encoder takes.
    """
    views = [parse_view(name) for name in names]
    if len(set(views)) != len(views) or not views:
        raise ValueError(f"expected one or more different views, got {list(names)}")
    larger = [name for name, view in zip(names, views, strict=True) if view.scale > 1]
    if image_side and larger:
        raise ValueError(
            f"'{larger[0]}' enlarges images of {image_side}×{image_side} pixels, and the encoder takes no other size: "
            f"set predict.scale instead, or a scale below 1"
        )


def average_views(predict: Callable[[Tensor], Tensor], images: Tensor, names: tuple[str, ...]) -> Tensor:
    """The mean over views of the predictions, each transformed back to the orientation and size of the images.

    Args:
        predict: from images (N, C, H, W) to probabilities (N, classes, H, W); it also has to accept (N, C, W, H) for
            views that transpose, and other sizes for views that scale.
        names: as for `parse_view`.

    Shapes:
        images: (N, C, H, W).
        returns: (N, classes, H, W).
    """
    return torch.stack([parse_view(name).predict(predict, images) for name in names]).mean(dim=0)
