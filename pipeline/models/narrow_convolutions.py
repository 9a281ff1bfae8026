"""Convolutions with few channels per group, which train faster in float32 than in bfloat16 on a CPU.

In bfloat16 the gradients of a depthwise convolution take four to seven times as long as in float32 (torch 2.14,
channels last), and made almost half of an update of the default network (docs/studies/performance.md).
"""

from functools import cache

import torch
from torch import Tensor, nn

MOST_CHANNELS = 4  # per group; with eight, bfloat16 is faster


def compute_in_float32(model: nn.Module) -> None:
    """Let the convolutions of a model that have few channels per group leave autocast; in place.

    Their outputs have the dtype of their inputs. Parameters keep their names, and copies of the model compute likewise.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1 and module.in_channels <= MOST_CHANNELS * module.groups:
            module.__class__ = _in_float32(type(module))


class _Float32:
    """Marks the classes that `_in_float32` makes."""


@cache
def _in_float32(kind: type[nn.Conv2d]) -> type[nn.Conv2d]:
    """The subclass of a class of convolutions that computes in float32; the class itself, if it is one."""
    if issubclass(kind, _Float32):
        return kind

    def forward(self: nn.Conv2d, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            return kind.forward(self, images.float()).to(images.dtype)

    return type(f"{kind.__name__}InFloat32", (kind, _Float32), {"forward": forward})
