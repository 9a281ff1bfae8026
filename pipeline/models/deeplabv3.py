"""DeepLabV3: an encoder with a small output stride, and atrous convolutions in cascade or in parallel.

    cascade    block4 ─ block5 ─ block6 ─ block7 ─ 1×1 ─ bilinear ─ logits

    parallel   block4 ─┬─ 1×1 ───────────┐
                       ├─ 3×3 rate  6 ───┤
                       ├─ 3×3 rate 12 ───┼─ 1×1 ─ 1×1 ─ bilinear ─ logits
                       ├─ 3×3 rate 18 ───┤
                       └─ image mean 1×1 ┘

These rates are for output stride 16. At 8 they double, so that the same weights sample the same positions of the image.
A model can be trained at 16 and predict at 8.

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
    """An encoder at output stride 8 or 16, a context module, and 1×1 scores, upsampled bilinearly.

    Shapes:
        features: of the encoder, (N, channels, h, w) each, fine to coarse.
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
        """From features to logits; see the class."""
        scores = self.score(self.dropout(self.context(features[-1])))
        return F.interpolate(scores, size, mode="bilinear", align_corners=False), ()


def deeplabv3_aspp(cfg: config.Model) -> DeepLabV3:
    """DeepLabV3 with atrous spatial pyramid pooling.

    Raises:
        ValueError: as `encoder.build` and, with a multi-grid, `encoder.last_stage_blocks`.
    """
    features = encoder.build(cfg, cfg.output_stride)
    if cfg.multi_grid:
        apply_multi_grid(encoder.last_stage_blocks(features), cfg.multi_grid)
    return DeepLabV3(cfg, features, ASPP(features.out_channels[-1], ASPP_CHANNELS, dilation_rates_at_stride(cfg)))


def deeplabv3_cascade(cfg: config.Model) -> DeepLabV3:
    """DeepLabV3 with three further blocks instead of parallel pooling.

    Raises:
        ValueError: if the last stage of the encoder has no block that can be repeated.
    """
    features = encoder.build(cfg, cfg.output_stride)
    blocks, grid = encoder.last_stage_blocks(features), cfg.multi_grid or CASCADE_GRID
    context = Cascade(features.out_channels[-1], blocks[-1], grid)
    apply_multi_grid(blocks, grid)
    return DeepLabV3(cfg, features, context)


def dilation_rates_at_stride(cfg: config.Model) -> list[int]:
    """The dilation rates of the config, which are for output stride 16, at its own output stride."""
    return [rate * 16 // cfg.output_stride for rate in cfg.dilation_rates]


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: 1×1, atrous 3×3 convolutions and the mean of the image, in parallel.

    Args:
        rates: dilation of each 3×3 convolution.

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
        atrous = [branch(features) for branch in self.atrous]
        image = self.image(features).expand(-1, -1, *features.shape[-2:])
        return self.project(torch.cat([self.pixel(features), *atrous, image], dim=1))


class Cascade(nn.Sequential):
    """Further stages (block5 to block7 of the paper): copies of the encoder's last block, with doubling dilation.

    A stage has one copy for each factor of the grid. Copies start with the weights of the original.

    Args:
        channels: of the features.
        block: of the encoder's last stage, with its dilation there; it keeps resolution and channels.
        grid: factors of the dilation within a stage.

    Shapes:
        features: (N, channels, H, W).
        returns: (N, out_channels, H, W), with the channels of the block.
    """

    def __init__(self, channels: int, block: encoder.Block, grid: Sequence[int]):
        stages = []
        if block.channels != channels:  # some encoders end with a block that widens: project back to what it takes
            stages.append(conv_bn_relu(channels, block.channels, 1))
        for number in range(1, CASCADE_BLOCKS + 1):
            copies = [copy.deepcopy(block.module) for _ in grid]
            for module, factor in zip(copies, grid, strict=True):
                multiply_dilation(module, 2**number * factor)
            stages.append(nn.Sequential(*copies))
        super().__init__(*stages)
        self.out_channels = block.channels


def apply_multi_grid(blocks: Sequence[encoder.Block], grid: Sequence[int]) -> None:
    """Multiply the dilation of the blocks of a stage by the factors of the grid, which repeat if there are too few."""
    for block, factor in zip(blocks, cycle(grid), strict=False):
        multiply_dilation(block.module, factor)


def multiply_dilation(module: nn.Module, factor: int) -> None:
    """Multiply dilation and padding of every convolution larger than 1×1."""
    for conv in module.modules():
        if encoder.is_spatial(conv):
            conv.dilation = tuple(factor * rate for rate in conv.dilation)
            conv.padding = tuple(factor * pixels for pixels in conv.padding)


def conv_bn_relu(channels: int, out_channels: int, kernel: int, rate: int = 1) -> nn.Sequential:
    """A convolution that keeps height and width, batch norm and ReLU.

    Shapes:
        features: (N, channels, H, W); returned as (N, out_channels, H, W).
    """
    return nn.Sequential(
        nn.Conv2d(channels, out_channels, kernel, padding=rate * (kernel // 2), dilation=rate, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )
