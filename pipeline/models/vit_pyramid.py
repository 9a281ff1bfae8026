"""Plain vision transformers as encoders of U-Net, FPN and other decoders that need features at several strides.

A plain transformer has one map, at the stride of its patches. ViTDet's simple feature pyramid makes one level per
stride of it: finer ones by transposed convolutions, coarser ones by max pooling.

    stride  2   map ─ ×2 ─ ×2 ─ ×2 ─ 1×1
    stride  4   map ─ ×2 ─ ×2 ─ 1×1
    stride  8   map ─ ×2 ─ 1×1
    stride 16   map ─ 1×1                      (patches of 16 pixels)
    stride 32   map ─ ÷2 ─ 1×1

Source:
    Li et al., Exploring Plain Vision Transformer Backbones for Object Detection, https://arxiv.org/abs/2203.16527,
    section 3 and appendix A.2; with one more level at stride 2, and without its 3×3 convolutions, since decoders have
    their own.
"""

from collections.abc import Mapping
from functools import cache
from math import log2

import segmentation_models_pytorch as smp
import timm
import torch
from timm.layers import LayerNorm2d
from timm.models._features import FeatureGetterNet
from torch import Tensor, nn

PATCH = 16  # pixels, of models whose own patches do not divide 32
STRIDE = 32  # of the coarsest level
WIDTHS = (64, 256, 256, 256, 256)  # channels of the levels at strides 2, 4, 8, 16 and 32; ViTDet has 256


@cache
def patch_size(name: str) -> int | None:
    """Height and width of the patches of a plain vision transformer, in pixels; None for other models.

    Args:
        name: of timm.
    """
    try:
        with torch.device("meta"):
            model = timm.create_model(name, pretrained=False)
    except NotImplementedError:  # RegNets of older timm versions; no transformer does this
        return None
    if not hasattr(model, "forward_intermediates"):
        return None
    strides = {stage["reduction"] for stage in getattr(model, "feature_info", ())}
    return strides.pop() if len(strides) == 1 else None


def size_options(name: str) -> dict[str, object]:
    """timm's arguments for a plain vision transformer on images of any size that is a multiple of 32.

    Patches of 14 pixels become patches of 16: timm resamples their kernels when it loads weights, so that an image
    that is enlarged by 16/14 has the same tokens (FlexiViT, https://arxiv.org/abs/2212.08013). The grid of the
    position embeddings stays as it is.
    """
    patch = patch_size(name)
    if patch is None or STRIDE % patch == 0:
        return {"dynamic_img_size": True}
    side = timm.get_pretrained_cfg(name, allow_unregistered=True).input_size[-1]
    return {"dynamic_img_size": True, "patch_size": PATCH, "img_size": side // patch * PATCH}


class PlainViT(nn.Module):
    """A plain vision transformer with the interface of smp's encoders, and one map of features.

    Args:
        name: of timm.
        options: further arguments of timm's model.

    Shapes:
        images: (N, in_channels, H, W) float, H and W multiples of the patches.
        returns: the images, and (N, channels, H / patch, W / patch).
    """

    def __init__(self, name: str, in_channels: int, **options: object):
        super().__init__()
        model = timm.create_model(name, pretrained=False, in_chans=in_channels, **size_options(name), **options)
        self.model = FeatureGetterNet(model, out_indices=[-1], norm=True)
        self.output_stride = self.model.feature_info.reduction()[-1]
        self.out_channels = [in_channels, self.model.feature_info.channels()[-1]]

    def forward(self, images: Tensor) -> list[Tensor]:
        return [images, self.model(images)[-1]]


class Pyramid(nn.Module):
    """ViTDet's simple feature pyramid of one map; see the module.

    Args:
        channels: of the map.
        stride: of the map, a power of two.
        levels: number of levels, from stride 2 on.

    Shapes:
        features: the images (N, C, H, W), and (N, channels, H / stride, W / stride).
        returns: the images, and for s = 2, 4, …: (N, WIDTHS, H / s, W / s).
    """

    def __init__(self, channels: int, stride: int, levels: int = len(WIDTHS)):
        super().__init__()
        self.levels = nn.ModuleList(
            _level(channels, stride, 2 ** (number + 1), width) for number, width in enumerate(WIDTHS[:levels])
        )

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        images, finest = features
        return [images, *(level(finest) for level in self.levels)]


def _level(channels: int, stride: int, target: int, width: int) -> nn.Sequential:
    """From a map at one stride to a level at another."""
    layers: list[nn.Module] = []
    if target > stride:
        layers.append(nn.MaxPool2d(target // stride))
    doublings = int(log2(stride / target)) if target < stride else 0
    for number in range(doublings):
        if number:
            layers += [LayerNorm2d(channels), nn.GELU()]
        layers.append(nn.ConvTranspose2d(channels, channels // 2, 2, stride=2))
        channels //= 2
    return nn.Sequential(*layers, nn.Conv2d(channels, width, 1, bias=False), LayerNorm2d(width))


class VitPyramid(nn.Module):
    """A plain vision transformer and its pyramid: an encoder as smp builds its decoders for.

    Shapes:
        images: (N, in_channels, H, W) float, H and W multiples of 32.
        returns: as `Pyramid`.
    """

    def __init__(self, name: str, in_channels: int, *, depth: int, output_stride: int, **options: object):
        super().__init__()
        if output_stride != STRIDE:
            raise ValueError("a transformer's patches cannot be dilated")
        self.vit = PlainViT(name, in_channels, **options)
        self.pyramid = Pyramid(self.vit.out_channels[-1], self.vit.output_stride, depth)
        self.out_channels = [in_channels, *WIDTHS[:depth]]
        self.output_stride = STRIDE

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.pyramid(self.vit(images))

    def set_in_channels(self, in_channels: int, pretrained: bool = True) -> None:
        """Called by smp; the channels are those of the arguments already."""


def register(name: str, in_channels: int, options: Mapping[str, object]) -> str:
    """Make a transformer with a pyramid known to smp; returns smp's name of it.

    Args:
        options: further arguments of timm's model.

    Source:
        smp's documentation, "Creating your own encoder".
    """
    key = f"vit-pyramid-{name}"
    params = {"name": name, "in_channels": in_channels, **options}
    smp.encoders.encoders[key] = {"encoder": VitPyramid, "params": params, "pretrained_settings": {}}
    return key


def split(encoder: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The part of smp's encoder that has pretrained weights, and the rest, which belongs to the decoder.

    A frozen encoder, a lower learning rate and a file of weights concern the first part alone.
    """
    if isinstance(encoder, VitPyramid):
        return encoder.vit, encoder.pyramid
    return encoder, nn.Identity()
