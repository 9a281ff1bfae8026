"""U-Net: an encoder, a decoder with skip connections, and a 3×3 head.

Source:
    Ronneberger et al., https://arxiv.org/abs/1505.04597; built by segmentation_models_pytorch.
"""

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline import config
from pipeline.models.smp_nets import SmpNet, pyramid_arguments


class UNet(SmpNet):
    """smp's U-Net with hypercolumns and deep supervision, as in solutions of competition winners.

    With `hypercolumns`, the head gets all levels of the decoder, upsampled to the finest and concatenated
    (Hariharan et al., https://arxiv.org/abs/1411.5752). With `deep_supervision`, each coarser level has an auxiliary
    head in training, whose logits are compared with the same target (Lee et al., https://arxiv.org/abs/1409.5185).

    Shapes:
        features: of the encoder, fine to coarse.
        returns: logits (N, classes, *size), and in training the auxiliary logits of the same shape, coarse to fine.
    """

    def __init__(self, cfg: config.Model):
        widths = cfg.decoder_channels
        net = smp.Unet(
            **pyramid_arguments(cfg),
            encoder_depth=len(widths),
            decoder_channels=widths,
            decoder_attention_type=cfg.attention,
        )
        super().__init__(cfg, net)
        self.hypercolumns = cfg.hypercolumns
        if cfg.hypercolumns:
            self.segmentation_head = nn.Conv2d(sum(widths), cfg.classes, 3, padding=1)
        supervised = widths[:-1] if cfg.deep_supervision else ()
        self.aux_heads = nn.ModuleList(nn.Conv2d(width, cfg.classes, 1) for width in supervised)

    def decode(self, features: list[Tensor], size: tuple[int, int]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """From features to logits and auxiliary logits; see the class."""
        levels = self._decode_levels(self.pyramid(features))
        logits = self.segmentation_head(hypercolumns(levels) if self.hypercolumns else levels[-1])
        heads = zip(self.aux_heads, levels, strict=False) if self.training else ()
        return logits, tuple(upsample(head(level), size) for head, level in heads)

    def _decode_levels(self, features: list[Tensor]) -> list[Tensor]:
        """The output of each block of smp's decoder, coarse to fine."""
        deepest, *skips = reversed(features[1:])
        sizes = [feature.shape[-2:] for feature in reversed(features[:-1])]
        levels = [self.decoder.center(deepest)]
        for number, (block, size) in enumerate(zip(self.decoder.blocks, sizes, strict=True)):
            skip = skips[number] if number < len(skips) else None
            levels.append(block(levels[-1], *size, skip_connection=skip))
        return levels[1:]


def hypercolumns(levels: list[Tensor]) -> Tensor:
    """Concatenate the levels of a decoder, upsampled to the size of the finest.

    Shapes:
        levels: (N, channels, h, w) each, coarse to fine.
        returns: (N, sum of channels, H, W).
    """
    return torch.cat([upsample(level, levels[-1].shape[-2:]) for level in levels], dim=1)


def upsample(level: Tensor, size: tuple[int, int]) -> Tensor:
    """Upsample (N, C, h, w) bilinearly to (N, C, *size)."""
    return F.interpolate(level, size, mode="bilinear", align_corners=False)
