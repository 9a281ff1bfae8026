"""Architectures of segmentation_models_pytorch (smp), each with its paper, with the interface of `Segmenter`."""

import segmentation_models_pytorch as smp
from torch import Tensor, nn

from pipeline import config
from pipeline.models import encoder, vit_pyramid
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
        self.encoder, self.pyramid = vit_pyramid.split(model.encoder)
        encoder.load_file(self.encoder, cfg)
        self.decoder, self.segmentation_head = model.decoder, model.segmentation_head
        self.stride = model.encoder.output_stride

    def decode(self, features: list[Tensor], size: tuple[int, int]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """From features to logits; see the class."""
        return self.segmentation_head(self.decoder(self.pyramid(features))), ()


def unet_plus_plus(cfg: config.Model) -> SmpNet:
    """U-Net++: Zhou et al., https://arxiv.org/abs/1807.10165."""
    return SmpNet(cfg, smp.UnetPlusPlus(**pyramid_arguments(cfg), **_levels(cfg), decoder_attention_type=cfg.attention))


def manet(cfg: config.Model) -> SmpNet:
    """MA-Net: Fan et al., https://ieeexplore.ieee.org/abstract/document/9201310."""
    return SmpNet(cfg, smp.MAnet(**pyramid_arguments(cfg), **_levels(cfg)))


def fpn(cfg: config.Model) -> SmpNet:
    """FPN: Kirillov et al., http://presentations.cocodataset.org/COCO17-Stuff-FAIR.pdf."""
    return SmpNet(cfg, smp.FPN(**pyramid_arguments(cfg), decoder_dropout=cfg.dropout))


def deeplabv3_plus(cfg: config.Model) -> SmpNet:
    """DeepLabV3+: Chen et al. 2018, https://arxiv.org/abs/1802.02611."""
    return SmpNet(
        cfg,
        smp.DeepLabV3Plus(
            **pyramid_arguments(cfg),
            encoder_output_stride=cfg.output_stride,
            decoder_atrous_rates=dilation_rates_at_stride(cfg),  # smp does not change the rates at stride 8
            decoder_aspp_dropout=cfg.dropout,
        ),
    )


def upernet(cfg: config.Model) -> SmpNet:
    """UPerNet: Xiao et al., https://arxiv.org/abs/1807.10221."""
    return SmpNet(cfg, smp.UPerNet(**pyramid_arguments(cfg)))


def segformer(cfg: config.Model) -> SmpNet:
    """The decoder of SegFormer: Xie et al., https://arxiv.org/abs/2105.15203."""
    return SmpNet(cfg, smp.Segformer(**pyramid_arguments(cfg)))


class DPT(SmpNet):
    """DPT: Ranftl et al., https://arxiv.org/abs/2103.13413: for plain vision transformers, at any image size.

    Shapes:
        features: (stages, class tokens of the stages).
    """

    def __init__(self, cfg: config.Model):
        super().__init__(cfg, smp.DPT(**_arguments(cfg), decoder_readout="ignore"))
        self.stride = 32  # of the coarsest of the maps that the decoder makes, whatever the patches

    def decode(self, features: tuple, size: tuple[int, int]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """From features to logits; see the class."""
        return self.segmentation_head(self.decoder(*features)), ()


def pyramid_arguments(cfg: config.Model) -> dict[str, object]:
    """The arguments of an smp model that needs features at several strides; a plain ViT gets a pyramid."""
    if not encoder.is_plain_vit(cfg.encoder):
        return _arguments(cfg)
    name = parse(cfg.encoder).model
    key = vit_pyramid.register(name, cfg.in_channels, timm_arguments(cfg))
    return {"encoder_name": key, "in_channels": cfg.in_channels, "classes": cfg.classes, "encoder_weights": None}


def _arguments(cfg: config.Model) -> dict[str, object]:
    return {
        "encoder_name": parse(cfg.encoder).untagged,
        "in_channels": cfg.in_channels,
        "classes": cfg.classes,
        "encoder_weights": None,  # not False, with which smp downloads them; `encoder.load_file` loads them
        **timm_arguments(cfg),
        **encoder.size_options(cfg),
    }


def _levels(cfg: config.Model) -> dict[str, object]:
    return {"encoder_depth": len(cfg.decoder_channels), "decoder_channels": cfg.decoder_channels}
