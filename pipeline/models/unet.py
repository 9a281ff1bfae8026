"""U-Net: an encoder, a decoder whose levels concatenate the encoder's, and a 1×1 head.

Source:
    Ronneberger et al., https://arxiv.org/abs/1505.04597; built by segmentation_models_pytorch.
"""

import segmentation_models_pytorch as smp
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline import config
from pipeline.models import encoder

STRIDE = 32  # of the deepest feature map


class UNet(nn.Module):
    """smp's U-Net that takes raw pixels of any size.

    Shapes:
        images: (N, in_channels, H, W), uint8 or float in 0 … 255.
        returns: logits (N, classes, H, W) float.
    """

    def __init__(self, cfg: config.Model):
        super().__init__()
        self.net = smp.Unet(
            encoder_name=cfg.encoder,
            in_channels=cfg.in_channels,
            classes=cfg.classes,
            encoder_depth=len(cfg.decoder_channels),
            decoder_channels=cfg.decoder_channels,
            decoder_attention_type=cfg.attention,
            **encoder.weight_options(cfg.encoder, cfg.weights),
        )
        mean, std = encoder.normalisation(cfg.encoder, cfg.in_channels)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    @property
    def encoder(self) -> nn.Module:
        return self.net.encoder

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        normalised = (images.float() - self.mean) / self.std
        padded, (top, left) = pad_to_stride(normalised, STRIDE)
        logits = self.net(padded)
        return logits[..., top : top + height, left : left + width]


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
