"""The sums over pixels that Dice, Jaccard and Tversky share."""

import torch
from torch import Tensor

from pipeline.losses.precision import Pixels


def unlikeness(pixels: Pixels, *, alpha: float, beta: float, smooth: float) -> Tensor:
    """One minus the soft Tversky index of each channel of each image.

        index = (hit + smooth) / (hit + alpha * extra + beta * missed + smooth)
        hit   = sum(p * t),  extra = sum(p * (1 - t)),  missed = sum((1 - p) * t)

    alpha = beta = 1 is the Jaccard index, alpha = beta = 1/2 the Dice coefficient. What is left
    to 1 is computed as it is, (alpha * extra + beta * missed) / (...), from the probability of
    each pixel's wrong side: near a perfect mask, a difference to 1 would leave mostly rounding.

    Args:
        alpha: weight of what is predicted and not in the target.
        beta: weight of what is in the target and not predicted.
        smooth: pixels added to both sides of the fraction, > 0.

    Shapes:
        returns: (N, C) in [0, 1]; 0 for a channel that is void everywhere.
    """
    target = pixels.target
    wrong = torch.sigmoid(pixels.logits * (1 - 2 * target))  # |p - t|
    missed = (wrong * target).sum(dim=(2, 3))
    extra = (wrong * (pixels.valid & ~pixels.positive)).sum(dim=(2, 3))
    hit = target.sum(dim=(2, 3)) - missed
    fault = alpha * extra + beta * missed
    return fault / (hit + fault + smooth)


def seen(pixels: Pixels) -> Tensor:
    """Which channels of which images hold a valid pixel, (N, C) bool."""
    return pixels.valid.flatten(2).any(dim=2)


def check_smooth(smooth: float) -> None:
    """Refuse a `smooth` that an empty target cannot live with."""
    if not 0 < smooth < float("inf"):
        raise ValueError(f"smooth must be > 0 and finite, got {smooth}: at 0, an empty target would divide 0 by 0")
