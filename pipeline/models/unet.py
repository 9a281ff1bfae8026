"""U-Net: an encoder, a decoder whose levels concatenate the encoder's, and a 3×3 head.

Source:
    Ronneberger et al., https://arxiv.org/abs/1505.04597; built by segmentation_models_pytorch.
"""

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline import config
from pipeline.models import encoder
from pipeline.models.smp_nets import SmpNet


class UNet(SmpNet):
    """smp's U-Net, with two extras of competition winners.

    `hypercolumns`: the head sees every level of the decoder, enlarged to the finest and concatenated
    (Hariharan et al., https://arxiv.org/abs/1411.5752). `deep_supervision`: each coarser level has scores of
    its own in training, which the loss compares with the same target (Lee et al., https://arxiv.org/abs/1409.5185).

    Shapes:
        features: of the encoder, fine to coarse.
        returns: logits (N, classes, *size), and in training the auxiliary logits of the same shape, coarse to fine.
    """

    def __init__(self, cfg: config.Model):
        widths = cfg.decoder_channels
        net = smp.Unet(
            encoder_name=cfg.encoder,
            in_channels=cfg.in_channels,
            classes=cfg.classes,
            encoder_depth=len(widths),
            decoder_channels=widths,
            decoder_attention_type=cfg.attention,
            encoder_weights=encoder.smp_weights(cfg),
        )
        super().__init__(cfg, net)
        self.hypercolumns = cfg.hypercolumns
        if cfg.hypercolumns:
            self.segmentation_head = nn.Conv2d(sum(widths), cfg.classes, 3, padding=1)
        supervised = widths[:-1] if cfg.deep_supervision else ()
        self.aux_heads = nn.ModuleList(nn.Conv2d(width, cfg.classes, 1) for width in supervised)

    def decode(self, features: list[Tensor], size: tuple[int, int]) -> tuple[Tensor, tuple[Tensor, ...]]:
        levels = self._levels(features)
        logits = self.segmentation_head(concatenated(levels) if self.hypercolumns else levels[-1])
        heads = zip(self.aux_heads, levels, strict=False) if self.training else ()
        return logits, tuple(enlarge(head(level), size) for head, level in heads)

    def _levels(self, features: list[Tensor]) -> list[Tensor]:
        """What each block of smp's decoder gives, coarse to fine."""
        deepest, *skips = reversed(features[1:])
        sizes = [feature.shape[-2:] for feature in reversed(features[:-1])]
        levels = [self.decoder.center(deepest)]
        for number, (block, size) in enumerate(zip(self.decoder.blocks, sizes, strict=True)):
            skip = skips[number] if number < len(skips) else None
            levels.append(block(levels[-1], *size, skip_connection=skip))
        return levels[1:]


def concatenated(levels: list[Tensor]) -> Tensor:
    """Hypercolumns (N, sum of channels, H, W): all levels at the size of the finest."""
    return torch.cat([enlarge(level, levels[-1].shape[-2:]) for level in levels], dim=1)


def enlarge(level: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, to `size`."""
    return F.interpolate(level, size, mode="bilinear", align_corners=False)
