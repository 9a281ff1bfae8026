"""Images and probabilities at another size, as tensors."""

import torch.nn.functional as F
from torch import Tensor


def resize_probs(probs: Tensor, size: tuple[int, int] | None) -> Tensor:
    """Resize probabilities; each axis by area where it shrinks and bilinearly where it grows.

    Args:
        size: height and width; None: unchanged.

    Shapes:
        probs: (N, C, H, W) in [0, 1]; returned as (N, C, *size).
    """
    if size is None:
        return probs
    smaller = tuple(min(old, new) for old, new in zip(probs.shape[-2:], size, strict=True))
    if smaller != probs.shape[-2:]:
        probs = F.interpolate(probs, smaller, mode="area")
    return probs if smaller == tuple(size) else F.interpolate(probs, size, mode="bilinear")


def scale_images(images: Tensor, factor: float) -> Tensor:
    """Images with both sides scaled by a factor: bilinearly, over the area that a pixel covers where they shrink.

    Shapes:
        images: (N, channels, H, W) uint8 or float32 in 0 … 255.
        returns: (N, channels, round(factor · H), round(factor · W)) float32, at least one pixel.
    """
    size = [max(1, int(length * factor + 0.5)) for length in images.shape[-2:]]
    return F.interpolate(images.float(), size, mode="bilinear", antialias=True)
