"""Images and probabilities at another size, as tensors."""

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.data.resize import taps


def resize_probs(probs: Tensor, size: tuple[int, int] | None) -> Tensor:
    """Resize probabilities as `data.resize` resizes images: by area where an axis shrinks, bilinearly where it grows.

    Torch's own "area" takes the mean of whole pixels, which moves edges by up to half a pixel if an axis shrinks by a
    factor that is no whole number.

    Args:
        size: height and width; None: unchanged.

    Shapes:
        probs: (N, C, H, W) in [0, 1]; returned as (N, C, *size).
    """
    if size is None or probs.shape[-2:] == tuple(size):
        return probs
    height, width = size
    return _resize_rows(_resize_rows(probs, height).mT.contiguous(), width).mT.contiguous()


def _resize_rows(values: Tensor, height: int) -> Tensor:
    """Values (N, C, H, W) as (N, C, height, W)."""
    if values.shape[2] == height:
        return values
    first, *others = zip(*_taps_on(values.device, values.shape[2], height), strict=True)
    resized = values.index_select(2, first[0]).mul_(first[1])
    for rows, weights in others:
        resized.addcmul_(values.index_select(2, rows), weights)
    return resized


@lru_cache(maxsize=64)
def _taps_on(device: torch.device, source: int, target: int) -> tuple[Tensor, Tensor]:
    """The taps of a whole axis: rows (taps, target) int64, and weights (taps, target, 1) float32."""
    found = taps(0, target, source, target)
    rows, weights = (torch.from_numpy(np.ascontiguousarray(each.T)).to(device) for each in found)
    return rows, weights[..., None]


def scale_images(images: Tensor, factor: float) -> Tensor:
    """Images with both sides scaled by a factor: bilinearly, over the area that a pixel covers where they shrink.

    Shapes:
        images: (N, channels, H, W) uint8 or float32 in 0 … 255.
        returns: (N, channels, round(factor · H), round(factor · W)) float32, at least one pixel.
    """
    size = [max(1, int(length * factor + 0.5)) for length in images.shape[-2:]]
    return F.interpolate(images.float(), size, mode="bilinear", antialias=True)
