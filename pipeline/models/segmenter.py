"""From raw pixels of any size to logits of that size, around any architecture."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Outputs(NamedTuple):
    """What a model with auxiliary outputs or an image head gives in training.

    Shapes:
        logits: (N, classes, H, W) float.
        aux_logits: one (N, classes, H, W) per coarser decoder level; empty without deep supervision.
        image_logits: (N, classes), "is anything here"; None without an image head.
    """

    logits: Tensor
    aux_logits: tuple[Tensor, ...]
    image_logits: Tensor | None


class Segmenter(nn.Module):
    """Normalises pixels, pads them to the network's stride, and cuts the logits back to the image.

    Args:
        net: with an `encoder`, from images to features, fine to coarse; with `decode(features, size)`, from these to
            logits of `size` and a tuple of auxiliary logits; and with the `stride` that divides the sides it takes.
        mean, std: of pixels in 0 … 255, (1, in_channels, 1, 1).
        image_head: classes of a head that tells whether there is anything of a class in the image; 0: no head.
        gate: whether outside training its probability multiplies that of every pixel.

    Shapes:
        images: (N, in_channels, H, W), uint8 or float in 0 … 255.
        returns: logits (N, classes, H, W) float; in training, `Outputs` if there is an image head or deep supervision.
    """

    def __init__(
        self,
        net: nn.Module,
        mean: Tensor,
        std: Tensor,
        *,
        image_head: int = 0,
        gate: bool = False,
    ):
        super().__init__()
        self.net, self.gate = net, gate
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.image_head = ImageHead(net.encoder.out_channels[-1], image_head) if image_head else None

    @property
    def encoder(self) -> nn.Module:
        return self.net.encoder

    def forward(self, images: Tensor) -> Tensor | Outputs:
        height, width = images.shape[-2:]
        padded, (top, left) = pad_to_stride((images.float() - self.mean) / self.std, self.net.stride)

        def cut(logits: Tensor) -> Tensor:
            return logits[..., top : top + height, left : left + width]

        features = self.net.encoder(padded)
        logits, aux_logits = self.net.decode(features, padded.shape[-2:])
        image_logits = self.image_head(features[-1]) if self.image_head else None
        if self.training and (aux_logits or self.image_head):
            return Outputs(cut(logits), tuple(map(cut, aux_logits)), image_logits)
        if self.gate:
            logits = gated(logits, image_logits[..., None, None])
        return cut(logits)


class ImageHead(nn.Sequential):
    """Logits (N, classes) of "is anything here", from the mean of the deepest features."""

    def __init__(self, channels: int, classes: int):
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def gated(logits: Tensor, image_logits: Tensor) -> Tensor:
    """Logits whose probability is the product of both probabilities.

        sigmoid(gated) = sigmoid(logits) * sigmoid(image_logits)

    The odds against the product are (1 + exp(-a)) (1 + exp(-b)) - 1. Multiplied out, their logarithm is a logsumexp,
    which overflows for neither a sure nor a hopeless pixel.

    >>> gated(torch.tensor([0.0, 30.0]), torch.tensor(0.0)).sigmoid()  # a half of 1/2 and of 1
    tensor([0.2500, 0.5000])
    """
    pixel, image = torch.broadcast_tensors(-logits.float(), -image_logits.float())
    return -torch.logsumexp(torch.stack([pixel, image, pixel + image]), dim=0)


def pad_to_stride(images: Tensor, stride: int) -> tuple[Tensor, tuple[int, int]]:
    """Images reflected outwards to sides that `stride` divides, and the rows and columns added before.

    An image too small to be reflected that far has its border repeated.

    Shapes:
        images: (N, C, H, W); returned with H and W rounded up to the stride.
    """
    height, width = images.shape[-2:]
    rows, columns = -height % stride, -width % stride
    top, left = rows // 2, columns // 2
    if rows == columns == 0:
        return images, (0, 0)
    mode = "reflect" if rows - top < height and columns - left < width else "replicate"
    return F.pad(images, (left, columns - left, top, rows - top), mode=mode), (top, left)
