"""Architectures of segmentation_models_pytorch (smp), each with its paper, with the interface of `Segmenter`."""

import segmentation_models_pytorch as smp
from torch import Tensor, nn

from pipeline import config
from pipeline.models import encoder
from pipeline.models.deeplabv3 import dilation_rates_at_stride
from pipeline.models.encoder_name import parse
from pipeline.models.encoder_options import timm_arguments


class SmpNet(nn.Module):
    """Encoder, decoder and head of an smp model.

    Shapes:
        features: of the encoder.
        returns: logits (N, classes, *size) and no auxiliary logits.
    """

    def __init__(self, cfg: config.Model, model: smp.base.SegmentationModel):
        super().__init__()
        encoder.load_file(model.encoder, cfg)
        self.encoder, self.decoder, self.segmentation_head = model.encoder, model.decoder, model.segmentation_head
        self.stride = model.encoder.output_stride

    def decode(self, features: list[Tensor], size: tuple[int, int]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """From features to logits; see the class."""
        return self.segmentation_head(self.decoder(features)), ()


def unet_plus_plus(cfg: config.Model) -> SmpNet:
    """U-Net++: Zhou et al., https://arxiv.org/abs/1807.10165."""
    return SmpNet(cfg, smp.UnetPlusPlus(**_common(cfg), **_levels(cfg), decoder_attention_type=cfg.attention))


def manet(cfg: config.Model) -> SmpNet:
    """MA-Net: Fan et al., https://ieeexplore.ieee.org/abstract/document/9201310."""
    return SmpNet(cfg, smp.MAnet(**_common(cfg), **_levels(cfg)))


def fpn(cfg: config.Model) -> SmpNet:
    """FPN: Kirillov et al., http://presentations.cocodataset.org/COCO17-Stuff-FAIR.pdf."""
    return SmpNet(cfg, smp.FPN(**_common(cfg), decoder_dropout=cfg.dropout))


def deeplabv3_plus(cfg: config.Model) -> SmpNet:
    """DeepLabV3+: Chen et al. 2018, https://arxiv.org/abs/1802.02611."""
    return SmpNet(
        cfg,
        smp.DeepLabV3Plus(
            **_common(cfg),
            encoder_output_stride=cfg.output_stride,
            decoder_atrous_rates=dilation_rates_at_stride(cfg),  # smp does not change the rates at stride 8
            decoder_aspp_dropout=cfg.dropout,
        ),
    )


def upernet(cfg: config.Model) -> SmpNet:
    """UPerNet: Xiao et al., https://arxiv.org/abs/1807.10221."""
    return SmpNet(cfg, smp.UPerNet(**_common(cfg)))


def segformer(cfg: config.Model) -> SmpNet:
    """The decoder of SegFormer: Xie et al., https://arxiv.org/abs/2105.15203."""
    return SmpNet(cfg, smp.Segformer(**_common(cfg)))


class DPT(SmpNet):
    """DPT: Ranftl et al., https://arxiv.org/abs/2103.13413: for plain vision transformers, at any image size.

    Shapes:
        features: (stages, class tokens of the stages).
    """

    def __init__(self, cfg: config.Model):
        super().__init__(cfg, smp.DPT(**_common(cfg), dynamic_img_size=True, decoder_readout="ignore"))
        self.stride *= 2  # the decoder halves the resolution of the patches

    def decode(self, features: tuple, size: tuple[int, int]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """From features to logits; see the class."""
        return self.segmentation_head(self.decoder(*features)), ()


def _common(cfg: config.Model) -> dict[str, object]:
    return {
        "encoder_name": parse(cfg.encoder).untagged,
        "in_channels": cfg.in_channels,
        "classes": cfg.classes,
        "encoder_weights": None,  # not False, with which smp downloads them; `encoder.load_file` loads them
        **timm_arguments(cfg),
    }


def _levels(cfg: config.Model) -> dict[str, object]:
    return {"encoder_depth": len(cfg.decoder_channels), "decoder_channels": cfg.decoder_channels}
