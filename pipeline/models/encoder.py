"""Encoders: timm's models as feature pyramids, their ImageNet normalization and their weights.

`encoders.csv` lists the architectures that each supports; `encoder_table.py` makes it.
"""

import csv
import fnmatch
from collections.abc import Iterable
from functools import cache
from importlib import resources
from typing import NamedTuple

import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn.functional as F
from timm.models.mobilevit import MobileVitV2Block
from torch import nn

from pipeline import config
from pipeline.models import vit_pyramid
from pipeline.models.encoder_name import NATIVE, PREFIX, check_tag, parse, pretrained_cfg, tags
from pipeline.models.encoder_options import timm_arguments
from pipeline.models.pretrained import weights_file
from pipeline.models.weights import load_encoder
from pipeline.quoting import quoted
from pipeline.schema import did_you_mean

TABLE = "encoders.csv"

# Encoders with convolutions and poolings without padding, TensorFlow's "valid". Not inception_v3, whose poolings are
# functions: its maps lose their borders, and an image of 64×64 leaves none of stride 32.
VALID_KERNELS = {
    "inception_v4",
    "inception_resnet_v2",
    "legacy_xception",
    "nasnetalarge",
    "pnasnet5large",
}

ANY_SIZE: dict[str, object] = {"strict_img_size": False}  # of timm's Swin transformers
IMAGE_SIZES = {
    "any": "images of any size",
    "crop": "images of one size, which the training crop sets",
    "native": "only images of its native size",
}

HUB = "timm/"  # before a model's name on the hub

CONVOLUTIONAL_FAMILIES = "resnet, resnext, seresnext, efficientnet, convnext, regnet, mobilenetv3"

# Requirements of architectures: the reason why an encoder does not meet it, and families that do.
REQUIREMENTS = {
    "unet": (
        "gives no pyramid of features at strides 2 to 32",
        CONVOLUTIONAL_FAMILIES,
    ),
    "fcn": (
        "gives no features at strides 8, 16 and 32",
        CONVOLUTIONAL_FAMILIES,
    ),
    "deeplabv3": (
        "cannot keep an output stride of 8 or 16: its convolutions cannot be dilated",
        CONVOLUTIONAL_FAMILIES,
    ),
    "cascade": (
        "cannot be dilated, or has no convolutional block in its last stage that could be repeated",
        "resnet, resnext, seresnext, efficientnet, convnext, regnet",
    ),
    "dpt": ("is no plain vision transformer with patches of 8, 14, 16 or 32 pixels", "vit, deit, deit3"),
}


class Encoder(NamedTuple):
    """One encoder and what it supports: a row of `encoders.csv`."""

    name: str
    parameters: float  # millions, without the decoder
    supports: str  # keys of REQUIREMENTS: "unet fcn deeplabv3 cascade", or "unet dpt"
    strides: str  # output strides it can be built with: "8 16 32" or "32"
    # Images that it takes: "any" size; "crop": one size, which the training crop sets; "native": only native_size.
    image_size: str
    native_size: str  # height and width in pixels that its attention is made for, or "any"


@cache
def known() -> dict[str, Encoder]:
    """The supported encoders, by name."""
    text = (resources.files("pipeline.models") / TABLE).read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines())
    return {row["name"]: Encoder(**{**row, "parameters": float(row["parameters"])}) for row in rows}


def row(name: str) -> Encoder | None:
    """The row of an encoder, whatever the tag of its weights; None if it is not supported."""
    return known().get(parse(name).untagged)


def matching(names: Iterable[str], pattern: str) -> list[str]:
    """The names that contain a text, or match a pattern such as "*resne?t50*"; with or without the prefix."""
    wanted = pattern.removeprefix(PREFIX) if is_pattern(pattern) else f"*{pattern}*"
    return [
        name for name in names if fnmatch.fnmatch(name, wanted) or fnmatch.fnmatch(name.removeprefix(PREFIX), wanted)
    ]


def is_pattern(text: str) -> bool:
    """Whether a text has the wildcards of a file pattern."""
    return any(sign in text for sign in "*?[")


def check(name: str, requires: str) -> None:
    """Check that an encoder meets a requirement, and that the tag of its weights exists.

    Args:
        requires: a key of REQUIREMENTS.

    Raises:
        ValueError: with the reason and families that work, or with the nearest name or tag.
    """
    encoder = row(name)
    if encoder is None or name.endswith("."):
        raise ValueError(f"model.encoder: {_explain_unknown(name, requires)}")
    check_tag(parse(name))
    if requires not in encoder.supports.split():
        reason, families = REQUIREMENTS[requires]
        raise ValueError(f"model.encoder: '{name}' {reason}. Families that work: {families}")


def check_stride(name: str, stride: int) -> None:
    """Check that an encoder can be built with an output stride.

    Raises:
        ValueError: naming the strides that it can be built with.
    """
    strides = row(name).strides.split()
    if str(stride) not in strides:
        raise ValueError(
            f"model.encoder: '{name}' cannot keep an output stride of {stride}, only {' or '.join(strides)}"
        )


def _explain_unknown(name: str, requires: str) -> str:
    parsed = parse(name.removeprefix(HUB).rstrip("."))
    if PREFIX + parsed.model in known():
        meant = parsed.timm if parsed.tag in tags(parsed.model) else parsed.model
        return f"unknown encoder {quoted(name)}. Did you mean '{PREFIX}{meant}'?"
    if parsed.model in timm.list_models():
        reason = REQUIREMENTS["dpt" if requires == "dpt" else "unet"][0]
        return f"'{name}' {reason}. Families that work: {REQUIREMENTS[requires][1]}"
    close = did_you_mean(parsed.untagged, known())
    hint = close if close.startswith("Did") else "List them with `python -m pipeline encoders [pattern]`."
    return f"unknown encoder {quoted(name)}. {hint}"


def build(cfg: config.Model, output_stride: int = 32) -> nn.Module:
    """An encoder that returns the images and five feature maps, fine to coarse, with `out_channels` channels.

    Args:
        output_stride: of the last feature map; below 32, strides become dilation and the weights stay the same.

    Shapes:
        images: (N, in_channels, H, W) float, normalized, H and W multiples of the last stride times `patch_side`.

    Raises:
        ValueError: if the encoder cannot have that stride, or as `load_file`.
        ConnectionError, FileNotFoundError: as `load_file`.
    """
    encoder = smp.encoders.get_encoder(
        parse(cfg.encoder).untagged,
        in_channels=cfg.in_channels,
        weights=None,  # `load_file` loads them
        output_stride=output_stride,
        **timm_arguments(cfg),
        **size_options(cfg),
    )
    load_file(encoder, cfg)
    reached = 32 if parse(cfg.encoder).model in NATIVE else encoder.model.feature_info.reduction()[-1]
    if reached != output_stride:
        raise ValueError(f"encoder '{cfg.encoder}' should have an output stride of {output_stride}, but has {reached}")
    for conv in encoder.modules():
        _shift_padding(conv)
    return encoder


def _shift_padding(conv: nn.Module) -> None:
    """Correct the padding of a dilated 2×2 convolution, so that it reads the pixels that it read with its stride.

    A 2×2 kernel of stride 2 reads a pixel and the next one. timm pads the dilated kernel on both sides (ConvNeXt's
    downsampling at output stride 8), which shifts all later features by half an output stride; the padding belongs
    after the image.
    """
    if (
        isinstance(conv, nn.Conv2d)
        and conv.kernel_size == (2, 2)
        and conv.padding != (0, 0)
        and conv.dilation != (1, 1)
    ):
        rows, columns = conv.dilation
        conv.padding = (0, 0)
        conv.register_forward_pre_hook(lambda _conv, inputs: F.pad(inputs[0], (0, columns, 0, rows)))


def pad_valid_kernels(encoder: nn.Module, name: str) -> None:
    """Pad the kernels without padding of VALID_KERNELS, as smp does in its own Inception encoders.

    Each of them cuts off the border of the features. Without it, a map of stride 32 has 2×2 pixels of an image of
    128×128, which a decoder stretches over 4×4.
    """
    if parse(name).model not in VALID_KERNELS:
        return
    for kernel in encoder.modules():
        if type(kernel) in (nn.Conv2d, nn.MaxPool2d) and kernel.padding in (0, (0, 0)):  # a subclass pads by itself
            sides = kernel.kernel_size if isinstance(kernel.kernel_size, tuple) else (kernel.kernel_size,) * 2
            kernel.padding = tuple(side // 2 for side in sides)


def normalization(name: str, channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of the images that the encoder was trained on, for pixels in 0 … 255.

    Shapes:
        returns: two of (1, channels, 1, 1); for one channel, or more than three, the mean over red, green and blue.
    """
    cfg = pretrained_cfg(parse(name))
    mean, std = (torch.tensor(values, dtype=torch.float32) * 255 for values in (cfg.mean, cfg.std))
    if channels != len(mean):
        mean, std = mean.mean().repeat(channels), std.mean().repeat(channels)
    return mean.reshape(1, -1, 1, 1), std.reshape(1, -1, 1, 1)


def image_side(cfg: config.Model) -> int | None:
    """Height and width of the images that the encoder takes, in pixels; None: any multiple of its stride."""
    found = row(cfg.encoder)
    if cfg.img_size or found is None or found.image_size == "any":
        return cfg.img_size
    return int(found.native_size)


def patch_side(encoder: nn.Module) -> int:
    """Pixels of a feature map of which the encoder makes its height and width a multiple; 1 for most encoders.

    MobileViTv2 resizes a map of 7×7 to 8×8 for its patches of 2×2, and does not undo it: the map would not fit a
    decoder's next one, or its pixels would be at another place.
    """
    patches = (max(block.patch_size) for block in encoder.modules() if isinstance(block, MobileVitV2Block))
    return max(patches, default=1)


def size_options(cfg: config.Model) -> dict[str, object]:
    """timm's arguments for the images that the encoder takes."""
    found = row(cfg.encoder)
    if is_plain_vit(cfg.encoder):
        return vit_pyramid.size_options(parse(cfg.encoder).model)
    if found and found.image_size == "any" and found.native_size != "any":
        return ANY_SIZE  # the windows of Swin are filled up with zeros, and masked for each image
    return {"img_size": cfg.img_size} if cfg.img_size else {}


def is_plain_vit(name: str) -> bool:
    """Whether an encoder is a transformer with one map, at the stride of its patches."""
    found = row(name)
    if parse(name).model in NATIVE or (found and found.strides):
        return False
    return vit_pyramid.patch_size(parse(name).model) is not None


def load_file(encoder: nn.Module, cfg: config.Model) -> None:
    """Load `model.weights` into the encoder: a file, or pretrained weights.

    Raises:
        ConnectionError, FileNotFoundError: as `weights_file`.
        ValueError: as `weights.load_encoder`.
    """
    if path := weights_file(cfg):
        load_encoder(encoder, parse(cfg.encoder).model, cfg.in_channels, path, size_options(cfg))


class Block(NamedTuple):
    """A block of an encoder's stage."""

    module: nn.Module
    channels: int  # of its output


def last_stage_blocks(encoder: nn.Module) -> list[Block]:
    """The blocks of an encoder's last stage; the last one keeps resolution and channels, so it can be repeated.

    They are found in a forward pass, since timm's families name stages and blocks differently: the last block is the
    last module that keeps the shape of the coarsest feature map and has a convolution larger than 1×1; the others are
    its siblings before it. The first block may widen the channels.

    Raises:
        ValueError: if the encoder has no such block.
    """
    calls: dict[str, tuple[torch.Size, torch.Size]] = {}
    modules = dict(encoder.named_modules())
    hooks = [modules[name].register_forward_hook(_recorder(calls, name)) for name in _candidates(modules)]
    was_training = encoder.training
    with torch.no_grad():
        device = next(encoder.parameters()).device
        coarsest = encoder.eval()(torch.zeros(1, encoder.out_channels[0], 64, 64, device=device))[-1].shape[-2:]
    encoder.train(was_training)
    for hook in hooks:
        hook.remove()
    found = [name for name, (before, after) in calls.items() if before == after and before[-2:] == coarsest]
    outermost = [name for name in found if not any(name.startswith(other + ".") for other in found)]
    if not outermost:
        raise ValueError(REQUIREMENTS["cascade"][0])
    last = outermost[-1]
    siblings = [name for name in calls if _parent(name) == _parent(last)]
    return [Block(modules[name], calls[name][1][1]) for name in siblings[: siblings.index(last) + 1]]


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _candidates(modules: dict[str, nn.Module]) -> list[str]:
    """Names of modules that can be blocks: neither containers of blocks nor single layers."""
    return [
        name
        for name, module in modules.items()
        if not isinstance(module, nn.Sequential | nn.ModuleList | nn.Conv2d) and any(map(is_spatial, module.modules()))
    ]


def _recorder(calls: dict[str, tuple[torch.Size, torch.Size]], name: str):
    def record(_module: nn.Module, inputs: tuple, output: object) -> None:
        if inputs and all(isinstance(each, torch.Tensor) and each.ndim == 4 for each in (inputs[0], output)):
            calls[name] = inputs[0].shape, output.shape

    return record


def is_spatial(module: nn.Module) -> bool:
    """Whether a module is a convolution larger than 1×1."""
    return isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1
