"""Fully convolutional network: scores of three stages, from coarse to fine, upsampled and added.

    stride 32   stage 5 ─ 1×1 ─ score ─ ×2 ─┐
    stride 16   stage 4 ─ 1×1 ─────────────(+)─ ×2 ─┐
    stride  8   stage 3 ─ 1×1 ─────────────────────(+)─ ×8 ─ logits      (FCN-8s)

FCN-32s is the first line, upsampled 32 times; FCN-16s the first two, upsampled 16 times.

Source:
    Long, Shelhamer, Darrell, https://arxiv.org/abs/1411.4038, section 4 and figure 3; on any encoder instead of VGG,
    without its two fully connected layers of 4096 channels.
"""

import torch
from torch import Tensor, nn

from pipeline import config
from pipeline.models import encoder


class FCN(nn.Module):
    """FCN-32s, FCN-16s or FCN-8s.

    Args:
        finest: stride of the finest stage whose scores are added: 32, 16 or 8.

    Shapes:
        features: of the encoder, (N, channels, h, w) each, fine to coarse, the last ones at strides 8, 16 and 32.
        returns: logits (N, classes, *size) and no auxiliary logits.
    """

    stride = 32

    def __init__(self, cfg: config.Model, finest: int):
        super().__init__()
        self.encoder = encoder.build(cfg)
        strides = [stride for stride in (32, 16, 8) if stride >= finest]
        channels = list(reversed(self.encoder.out_channels))[: len(strides)]
        self.dropout = nn.Dropout2d(cfg.dropout)
        self.scores = nn.ModuleList(zero_init_scores(width, cfg.classes) for width in channels)
        self.upsample_2x = nn.ModuleList(bilinear_upsampling(cfg.classes, 2) for _ in strides[1:])
        self.upsample = bilinear_upsampling(cfg.classes, finest)

    def decode(self, features: list[Tensor], size: tuple[int, int]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """From features to logits; see the class."""
        deepest, *finer = reversed(features)
        score = self.scores[0](self.dropout(deepest))
        for skip, score_skip, upsample_2x in zip(finer, self.scores[1:], self.upsample_2x, strict=False):
            score = upsample_2x(score) + score_skip(skip)
        return self.upsample(score), ()


def zero_init_scores(channels: int, classes: int) -> nn.Conv2d:
    """A 1×1 convolution with zero weights, so that a skip connection has no effect at the start of training."""
    layer = nn.Conv2d(channels, classes, 1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def bilinear_upsampling(channels: int, factor: int) -> nn.ConvTranspose2d:
    """A transposed convolution of each channel that is initialised as bilinear interpolation.

    The kernel is 2 · factor wide: each output pixel is between two input pixels in each
    direction, and its weights depend on the distances to them.

    Args:
        factor: even.
    """
    layer = nn.ConvTranspose2d(
        channels, channels, 2 * factor, stride=factor, padding=factor // 2, groups=channels, bias=False
    )
    centre = factor - 0.5
    line = 1 - (torch.arange(2 * factor) - centre).abs() / factor
    with torch.no_grad():
        layer.weight.copy_(line[:, None] * line)
    return layer
