"""DeepLabV3: an encoder that stops shrinking, and atrous convolutions that see far, in cascade or in parallel.

    cascade    block4 ─ block5 ─ block6 ─ block7 ─ 1×1 ─ bilinear ─ logits

    parallel   block4 ─┬─ 1×1 ───────────┐
                       ├─ 3×3 rate  6 ───┤
                       ├─ 3×3 rate 12 ───┼─ 1×1 ─ 1×1 ─ bilinear ─ logits
                       ├─ 3×3 rate 18 ───┤
                       └─ image mean 1×1 ┘

These rates are those of output stride 16. At 8 all of them double, so that the same weights look at the same places of
the image: train at 16, predict at 8.

Source:
    Chen et al. 2017, Rethinking Atrous Convolution for Semantic Image Segmentation, https://arxiv.org/abs/1706.05587:
    section 3.2 and figure 3 (cascade, multi-grid), section 3.3 and figure 5 (parallel, image-level features).
"""

import copy
from collections.abc import Sequence
from itertools import cycle

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline import config
from pipeline.models import encoder

ASPP_CHANNELS = 256  # the paper's
CASCADE_BLOCKS = 3  # block5 to block7
CASCADE_GRID = (1, 2, 4)


class DeepLabV3(nn.Module):
    """An encoder at output stride 8 or 16, a context module, and 1×1 scores enlarged bilinearly.

    Shapes:
        features: of the encoder, fine to coarse.
        returns: logits (N, classes, *size) and no auxiliary logits.
    """

    def __init__(self, cfg: config.Model, features: nn.Module, context: nn.Module):
        super().__init__()
        self.encoder = features
        self.stride = features.output_stride
        self.context = context
        self.dropout = nn.Dropout(cfg.dropout)
        self.score = nn.Conv2d(context.out_channels, cfg.classes, 1)

    def decode(self, features: list[Tensor], size: tuple[int, int]) -> tuple[Tensor, tuple[Tensor, ...]]:
        scores = self.score(self.dropout(self.context(features[-1])))
        return F.interpolate(scores, size, mode="bilinear", align_corners=False), ()


def parallel(cfg: config.Model) -> DeepLabV3:
    """DeepLabV3 with atrous spatial pyramid pooling."""
    features = encoder.build(cfg, cfg.output_stride)
    if cfg.multi_grid:
        apply_multi_grid(encoder.last_units(features), cfg.multi_grid)
    return DeepLabV3(cfg, features, ASPP(features.out_channels[-1], ASPP_CHANNELS, rates_at_stride(cfg)))


def cascade(cfg: config.Model) -> DeepLabV3:
    """DeepLabV3 that goes deeper by three blocks, instead of pooling in parallel."""
    features = encoder.build(cfg, cfg.output_stride)
    units, grid = encoder.last_units(features), cfg.multi_grid or CASCADE_GRID
    context = Cascade(features.out_channels[-1], units[-1], grid)
    apply_multi_grid(units, grid)
    return DeepLabV3(cfg, features, context)


def rates_at_stride(cfg: config.Model) -> list[int]:
    """The config's rates, which are those of output stride 16, at its own output stride."""
    return [rate * 16 // cfg.output_stride for rate in cfg.dilation_rates]


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: what is here, around here, and in the image as a whole.

    Args:
        rates: of the atrous 3×3 convolutions.

    Shapes:
        features: (N, channels, H, W).
        returns: (N, out_channels, H, W).
    """

    def __init__(self, channels: int, out_channels: int, rates: Sequence[int]):
        super().__init__()
        self.out_channels = out_channels
        self.pixel = conv_bn_relu(channels, out_channels, 1)
        self.atrous = nn.ModuleList(conv_bn_relu(channels, out_channels, 3, rate) for rate in rates)
        self.image = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv_bn_relu(channels, out_channels, 1))
        self.project = conv_bn_relu((2 + len(rates)) * out_channels, out_channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        around = [branch(features) for branch in self.atrous]
        image = self.image(features).expand(-1, -1, *features.shape[-2:])
        return self.project(torch.cat([self.pixel(features), *around, image], dim=1))


class Cascade(nn.Sequential):
    """Block5 to block7: copies of block4's last unit, whose rates double from block to block.

    A block has one unit for each rate of the grid. The copies start with the weights of what they copy.

    Args:
        channels: of the features.
        unit: of the last stage, at its rate in that stage; it keeps resolution and channels.
        grid: what the rates of a block's units are multiplied by.

    Shapes:
        features: (N, channels, H, W).
        returns: (N, out_channels, H, W), with the channels of the unit.
    """

    def __init__(self, channels: int, unit: encoder.Unit, grid: Sequence[int]):
        blocks = []
        if unit.channels != channels:  # some encoders end with a block that widens: lead back to what the unit takes
            blocks.append(conv_bn_relu(channels, unit.channels, 1))
        for block in range(1, CASCADE_BLOCKS + 1):
            copies = [copy.deepcopy(unit.module) for _ in grid]
            for module, factor in zip(copies, grid, strict=True):
                multiply_rates(module, 2**block * factor)
            blocks.append(nn.Sequential(*copies))
        super().__init__(*blocks)
        self.out_channels = unit.channels


def apply_multi_grid(units: Sequence[encoder.Unit], grid: Sequence[int]) -> None:
    """Multiply the rates of a stage's units by the grid; with more units than rates, over again."""
    for unit, factor in zip(units, cycle(grid), strict=False):
        multiply_rates(unit.module, factor)


def multiply_rates(module: nn.Module, factor: int) -> None:
    """Spread the taps of every convolution wider than 1×1, and its padding with them."""
    for conv in module.modules():
        if encoder.is_spatial(conv):
            conv.dilation = tuple(factor * rate for rate in conv.dilation)
            conv.padding = tuple(factor * pixels for pixels in conv.padding)


def conv_bn_relu(channels: int, out_channels: int, kernel: int, rate: int = 1) -> nn.Sequential:
    """A convolution that keeps the size, batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels, out_channels, kernel, padding=rate * (kernel // 2), dilation=rate, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )
