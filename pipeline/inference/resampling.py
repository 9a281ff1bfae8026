"""Images and probabilities at another size, as tensors."""

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
    found = taps(0, height, values.shape[2], height)
    indices = torch.from_numpy(found.indices.T.copy()).to(values.device)
    weights = torch.from_numpy(found.weights.T[..., None].copy()).to(values)
    resized = values.index_select(2, indices[0]).mul_(weights[0])
    for index, weight in zip(indices[1:], weights[1:], strict=True):
        resized.addcmul_(values.index_select(2, index), weight)
    return resized


def scale_images(images: Tensor, factor: float) -> Tensor:
    """Images with both sides scaled by a factor: bilinearly, over the area that a pixel covers where they shrink.

    Shapes:
        images: (N, channels, H, W) uint8 or float32 in 0 … 255.
        returns: (N, channels, round(factor · H), round(factor · W)) float32, at least one pixel.
    """
    size = [max(1, int(length * factor + 0.5)) for length in images.shape[-2:]]
    return F.interpolate(images.float(), size, mode="bilinear", antialias=True)
