"""Encoders: timm's models as pyramids of features, their ImageNet normalisation, and their weights.

`encoders.csv` beside this file says which architecture each can serve; `survey.py` made it.
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
from pipeline.models.weights import load_encoder
from pipeline.quoting import quoted
from pipeline.schema import did_you_mean

PREFIX = "tu-"  # smp's mark for "a timm model"; its native encoders swallow misspelt arguments
TABLE = "encoders.csv"

CONVOLUTIONAL = "resnet, resnext, seresnext, efficientnet, convnext, regnet, mobilenetv3"

# What an architecture asks of its encoder: the reason for a refusal, and families that do.
DEMANDS = {
    "unet": (
        "gives no pyramid of features at strides 2 to 32",
        CONVOLUTIONAL,
    ),
    "fcn": (
        "gives no features at strides 8, 16 and 32",
        CONVOLUTIONAL,
    ),
    "deeplabv3": (
        "cannot keep an output stride of 8 or 16: its convolutions cannot be dilated",
        CONVOLUTIONAL,
    ),
    "cascade": (
        "cannot be dilated, or has no convolutional unit in its last stage that could be repeated",
        "resnet, resnext, seresnext, efficientnet, convnext, regnet",
    ),
    "dpt": ("is no plain vision transformer with patches of 16 or 32 pixels", "vit, deit, deit3"),
}


class Encoder(NamedTuple):
    """One encoder and what it can do."""

    name: str
    parameters: float  # millions, without the decoder
    serves: str  # keys of DEMANDS: "unet fcn deeplabv3 cascade", or "dpt"
    strides: str  # output strides it can be built with: "8 16 32" or "32"
    native_size: str  # pixels it demands, or "any"


@cache
def known() -> dict[str, Encoder]:
    """The encoders that work, by name."""
    text = (resources.files("pipeline.models") / TABLE).read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines())
    return {row["name"]: Encoder(**{**row, "parameters": float(row["parameters"])}) for row in rows}


def check(name: str, demand: str) -> None:
    """Refuse an encoder that cannot feed an architecture, before anything is read.

    Args:
        demand: of the architecture, a key of DEMANDS.

    Raises:
        ValueError: with the reason and families that work, or with the nearest encoder.
    """
    if name not in known():
        raise ValueError(f"model.encoder: {_explain_unknown(name, demand)}")
    encoder = known()[name]
    if demand not in encoder.serves.split():
        reason, families = DEMANDS[demand]
        raise ValueError(f"model.encoder: '{name}' {reason}. Families that work: {families}")
    if encoder.native_size != "any":
        side = encoder.native_size
        raise ValueError(
            f"model.encoder: '{name}' takes images of {side}×{side} pixels only, and whole images are predicted "
            f"here: choose one whose native size is any (`python -m pipeline encoders`)"
        )


def check_stride(name: str, stride: int) -> None:
    """Refuse an output stride that an encoder cannot be built with.

    Raises:
        ValueError: naming the strides it can.
    """
    strides = known()[name].strides.split()
    if str(stride) not in strides:
        raise ValueError(
            f"model.encoder: '{name}' cannot keep an output stride of {stride}, only {' or '.join(strides)}"
        )


def _explain_unknown(name: str, demand: str) -> str:
    plain = name.removeprefix(PREFIX)
    if name == plain and PREFIX + name in known():
        return f"unknown encoder '{name}'. Did you mean '{PREFIX}{name}'?"
    if name != plain and plain in timm.list_models():
        return f"'{name}' {DEMANDS['unet'][0]}. Families that work: {DEMANDS[demand][1]}"
    close = did_you_mean(name, known())
    hint = close if close.startswith("Did") else "List them with `python -m pipeline encoders [pattern]`."
    return f"unknown encoder {quoted(name)}. {hint}"


def build(cfg: config.Model, output_stride: int = 32) -> nn.Module:
    """An encoder whose call gives five features, fine to coarse, after the images themselves; their widths are in
    `out_channels`.

    Args:
        output_stride: of the last feature; below 32, strides become dilation and the weights stay the same.

    Shapes:
        images: (N, in_channels, H, W) float, normalised, H and W multiples of 32.

    Raises:
        ValueError: if the encoder does not keep that stride.
    """
    encoder = smp.encoders.get_encoder(
        cfg.encoder, in_channels=cfg.in_channels, weights=smp_weights(cfg), output_stride=output_stride
    )
    load_file(encoder, cfg)
    reached = encoder.model.feature_info.reduction()[-1]
    if reached != output_stride:
        raise ValueError(
            f"encoder '{cfg.encoder}' was asked for an output stride of {output_stride}, and has {reached}"
        )
    for conv in encoder.modules():
        _align(conv)
    return encoder


def _align(conv: nn.Module) -> None:
    """Make a dilated convolution of an even kernel see what it saw before its stride became dilation.

    A 2×2 kernel of stride 2 takes a pixel and its next one. Dilated, timm pads it on both sides (ConvNeXt's
    downsampling at output stride 8), which shifts all that follows by half an output stride; it belongs behind.
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


def normalisation(name: str, channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of pixels in 0 … 255 that the encoder was made for.

    Shapes:
        returns: two of (1, channels, 1, 1); for one channel, or more than three, the mean over red, green and blue.
    """
    cfg = timm.get_pretrained_cfg(name.removeprefix(PREFIX), allow_unregistered=True)
    mean, std = (torch.tensor(values, dtype=torch.float32) * 255 for values in (cfg.mean, cfg.std))
    if channels != len(mean):
        mean, std = mean.mean().repeat(channels), std.mean().repeat(channels)
    return mean.reshape(1, -1, 1, 1), std.reshape(1, -1, 1, 1)


def smp_weights(cfg: config.Model) -> bool | None:
    """What smp is to load while it builds the encoder; a file's weights come afterwards, by `load_file`."""
    return True if cfg.weights == "imagenet" else None  # not False, which downloads for timm's encoders


def load_file(encoder: nn.Module, cfg: config.Model) -> None:
    """Load `model.weights` into the encoder, where it is a file.

    Raises:
        FileNotFoundError: if it does not exist.
        ValueError: as `weights.load_encoder`.
    """
    if cfg.weights in ("none", "imagenet"):
        return
    name = cfg.encoder.removeprefix(PREFIX)
    if not Path(cfg.weights).is_file():
        raise FileNotFoundError(
            f"model.weights: no file '{cfg.weights}': expected 'none', 'imagenet' or the path of a .safetensors "
            f"file with {name}'s weights"
        )
    load_encoder(encoder, name, cfg.in_channels, Path(cfg.weights))


class Unit(NamedTuple):
    """A repeated block of an encoder's stage."""

    module: nn.Module
    channels: int


def last_units(encoder: nn.Module) -> list[Unit]:
    """The units of an encoder's last stage; the last one keeps resolution and channels, so it can be repeated.

    Found by watching a forward pass, since timm's families name their stages and blocks differently: the last module
    that keeps the shape of the coarsest feature maps and holds a convolution wider than 1×1, and what precedes it in
    its stage. A first unit may widen the channels.

    Raises:
        ValueError: if the encoder has no such unit.
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
    found = [name for name, (came, gave) in calls.items() if came == gave and came[-2:] == coarsest]
    outermost = [name for name in found if not any(name.startswith(other + ".") for other in found)]
    if not outermost:
        raise ValueError(DEMANDS["cascade"][0])
    last = outermost[-1]
    siblings = [name for name in calls if _parent(name) == _parent(last)]
    return [Unit(modules[name], calls[name][1][1]) for name in siblings[: siblings.index(last) + 1]]


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _candidates(modules: dict[str, nn.Module]) -> list[str]:
    """Blocks, as against chains of blocks and bare layers."""
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
    """Whether a module is a convolution wider than 1×1."""
    return isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1
