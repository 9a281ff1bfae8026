"""Encoders: timm's models as feature pyramids, their ImageNet normalization and their weights.

`encoders.csv` lists the architectures that each supports; `encoder_table.py` makes it.
"""

import csv
from functools import cache
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn.functional as F
from torch import nn

from pipeline import config
from pipeline.models.encoder_name import PREFIX, check_tag, parse, pretrained_cfg
from pipeline.models.encoder_options import timm_arguments
from pipeline.models.pretrained import pretrained_file
from pipeline.models.weights import load_encoder
from pipeline.quoting import quoted
from pipeline.schema import did_you_mean

TABLE = "encoders.csv"

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
    "dpt": ("is no plain vision transformer with patches of 16 or 32 pixels", "vit, deit, deit3"),
}


class Encoder(NamedTuple):
    """One encoder and what it supports: a row of `encoders.csv`."""

    name: str
    parameters: float  # millions, without the decoder
    supports: str  # keys of REQUIREMENTS: "unet fcn deeplabv3 cascade", or "dpt"
    strides: str  # output strides it can be built with: "8 16 32" or "32"
    native_size: str  # height and width it requires, in pixels, or "any"


@cache
def known() -> dict[str, Encoder]:
    """The supported encoders, by name."""
    text = (resources.files("pipeline.models") / TABLE).read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines())
    return {row["name"]: Encoder(**{**row, "parameters": float(row["parameters"])}) for row in rows}


def check(name: str, requires: str) -> None:
    """Check that an encoder meets a requirement, and that the tag of its weights exists.

    Args:
        requires: a key of REQUIREMENTS.

    Raises:
        ValueError: with the reason and families that work, or with the nearest name or tag.
    """
    if parse(name).untagged not in known():
        raise ValueError(f"model.encoder: {_explain_unknown(name, requires)}")
    check_tag(parse(name))
    encoder = known()[parse(name).untagged]
    if requires not in encoder.supports.split():
        reason, families = REQUIREMENTS[requires]
        raise ValueError(f"model.encoder: '{name}' {reason}. Families that work: {families}")
    if encoder.native_size != "any":
        side = encoder.native_size
        raise ValueError(
            f"model.encoder: '{name}' takes images of {side}×{side} pixels only, and whole images are predicted "
            f"here: choose one whose native size is any (`python -m pipeline encoders`)"
        )


def check_stride(name: str, stride: int) -> None:
    """Check that an encoder can be built with an output stride.

    Raises:
        ValueError: naming the strides that it can be built with.
    """
    strides = known()[parse(name).untagged].strides.split()
    if str(stride) not in strides:
        raise ValueError(
            f"model.encoder: '{name}' cannot keep an output stride of {stride}, only {' or '.join(strides)}"
        )


def _explain_unknown(name: str, requires: str) -> str:
    prefix, model, _ = parsed = parse(name)
    if not prefix and PREFIX + model in known():
        return f"unknown encoder '{name}'. Did you mean '{PREFIX}{name}'?"
    if prefix and model in timm.list_models():
        return f"'{name}' {REQUIREMENTS['unet'][0]}. Families that work: {REQUIREMENTS[requires][1]}"
    close = did_you_mean(parsed.untagged, known())
    hint = close if close.startswith("Did") else "List them with `python -m pipeline encoders [pattern]`."
    return f"unknown encoder {quoted(name)}. {hint}"


def build(cfg: config.Model, output_stride: int = 32) -> nn.Module:
    """An encoder that returns the images and five feature maps, fine to coarse, with `out_channels` channels.

    Args:
        output_stride: of the last feature map; below 32, strides become dilation and the weights stay the same.

    Shapes:
        images: (N, in_channels, H, W) float, normalized, H and W multiples of 32.

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
    )
    load_file(encoder, cfg)
    reached = encoder.model.feature_info.reduction()[-1]
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


def load_file(encoder: nn.Module, cfg: config.Model) -> None:
    """Load `model.weights` into the encoder: a file, or pretrained weights.

    Raises:
        FileNotFoundError: if it does not exist.
        ConnectionError: as `pretrained_file`.
        ValueError: as `weights.load_encoder`.
    """
    if cfg.weights == "none":
        return
    name = parse(cfg.encoder)
    path = pretrained_file(name) if cfg.weights == "imagenet" else Path(cfg.weights)
    if not path.is_file():
        raise FileNotFoundError(
            f"model.weights: no file '{cfg.weights}': expected 'none', 'imagenet' or the path of a .safetensors "
            f"file with {name.model}'s weights"
        )
    load_encoder(encoder, name.model, cfg.in_channels, path)


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
