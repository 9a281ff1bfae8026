"""Wraps an architecture: from raw pixels of any size to logits of that size."""

import copy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PROBE_SIZE = 64  # height and width in pixels of an image that shows what a network does; its values do not matter


class Outputs(NamedTuple):
    """Outputs of a model with deep supervision or an image head: in training, and after `with_image_logits`.

    Shapes:
        logits: (N, classes, H, W) float.
        aux_logits: one (N, classes, H, W) per coarser decoder level; empty without deep supervision, and in evaluation.
        image_logits: (N, classes), whether the image has any pixel of the class; None without an image head.
    """

    logits: Tensor
    aux_logits: tuple[Tensor, ...]
    image_logits: Tensor | None


class Segmenter(nn.Module):
    """Normalizes images, pads them to the network's stride, and crops the logits to the image.

    Args:
        net: has an `encoder`, from images to features, fine to coarse; `decode(features, size)`, from these to logits
            of `size` and a tuple of auxiliary logits; and `stride`, of which height and width must be multiples.
        mean, std: of pixels in 0 … 255, (1, in_channels, 1, 1).
        image_head: number of classes of an image head, which predicts whether the image has any pixel of each class; 0:
            no head.
        gate: in evaluation, multiply the probability of every pixel by that of the image head.

    Shapes:
        images: (N, in_channels, H, W), uint8 or float in 0 … 255.
        returns: logits (N, classes, H, W) float; in training, `Outputs` if there is an image head or deep supervision.
    """

    gives_image_logits = False  # in evaluation: see `with_image_logits`

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
        """The encoder of the network."""
        return self.net.encoder

    def forward(self, images: Tensor) -> Tensor | Outputs:
        height, width = images.shape[-2:]
        padded, (top, left) = pad_to_stride((images.float() - self.mean) / self.std, self.net.stride)

        def crop(logits: Tensor) -> Tensor:
            return logits[..., top : top + height, left : left + width]

        features = self.net.encoder(padded)
        logits, aux_logits = self.net.decode(features, padded.shape[-2:])
        image_logits = self.image_head(features[-1]) if self.image_head else None
        if self.training and (aux_logits or self.image_head):
            return Outputs(crop(logits), tuple(map(crop, aux_logits)), image_logits)
        if self.gate:
            logits = gated(logits, image_logits[..., None, None])
        return Outputs(crop(logits), (), image_logits) if self.gives_image_logits else crop(logits)


class ImageHead(nn.Sequential):
    """Logits (N, classes) of whether the image has any pixel of each class, from the mean of the deepest features."""

    def __init__(self, channels: int, classes: int):
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def with_image_logits(model: nn.Module) -> nn.Module:
    """The model, with the same weights, returning `Outputs` in evaluation; as it is if it has no image head."""
    if getattr(model, "image_head", None) is None:
        return model
    model = copy.copy(model)  # the model itself keeps returning logits
    model.gives_image_logits = True
    return model


def logits_of(outputs: Tensor | Outputs) -> Tensor:
    """The logits of the pixels, (N, classes, H, W)."""
    return outputs.logits if isinstance(outputs, Outputs) else outputs


def gated(logits: Tensor, image_logits: Tensor) -> Tensor:
    """Logits whose probability is the product of the probabilities of pixel and image.

        sigmoid(gated) = sigmoid(logits) * sigmoid(image_logits)

    The odds against the product are (1 + exp(-a)) (1 + exp(-b)) - 1. Expanded, their logarithm is a logsumexp,
    which does not overflow for large or small logits.

    Shapes:
        logits: (N, C, H, W).
        image_logits: broadcasts to it, such as (N, C, 1, 1).
        returns: (N, C, H, W) float32.

    >>> gated(torch.tensor([0.0, 30.0]), torch.tensor(0.0)).sigmoid()  # a half of 1/2 and of 1
    tensor([0.2500, 0.5000])
    """
    pixel, image = torch.broadcast_tensors(-logits.float(), -image_logits.float())
    return -torch.logsumexp(torch.stack([pixel, image, pixel + image]), dim=0)


def pad_to_stride(images: Tensor, stride: int) -> tuple[Tensor, tuple[int, int]]:
    """Pad images by reflection so that height and width are multiples of a stride.

    Images too small for reflection are padded by repeating the border.

    Returns:
        The padded images, and the rows added at the top and the columns added at the left.

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
