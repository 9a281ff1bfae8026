"""Encoders: which of timm's models work, their ImageNet normalisation, and their weights.

`encoders.csv` beside this file was made by `python -m pipeline encoders --refresh` with the pinned timm: building
all of its models takes minutes, and nobody should wait that long for a list.
"""

import csv
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import segmentation_models_pytorch as smp
import timm
import torch
from torch import nn

from pipeline.files import whole
from pipeline.progress import track
from pipeline.schema import did_you_mean

PREFIX = "tu-"  # smp's mark for "a timm model"; its native encoders swallow misspelt arguments
TABLE = "encoders.csv"


class Encoder(NamedTuple):
    """One encoder that works in the U-Net."""

    name: str
    parameters: float  # millions, without the decoder
    strides: str  # output strides it can be built with: "8 16 32" or "32"
    native_size: str  # pixels it demands, or "any"


def known() -> dict[str, Encoder]:
    """The encoders that work, by name."""
    text = (resources.files("pipeline.models") / TABLE).read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines())
    return {
        row["name"]: Encoder(row["name"], float(row["parameters"]), row["strides"], row["native_size"]) for row in rows
    }


def check(name: str) -> None:
    """Refuse an encoder that does not work, before anything is read.

    Raises:
        ValueError: naming the nearest encoder that does.
    """
    names = known()
    if name in names:
        if names[name].native_size != "any":
            side = names[name].native_size
            raise ValueError(
                f"encoder '{name}' takes images of {side}×{side} pixels only, and whole images are predicted "
                f"here: choose one whose native size is any (`python -m pipeline encoders`)"
            )
        return
    if not name.startswith(PREFIX):
        if PREFIX + name in names:
            raise ValueError(f"unknown encoder '{name}'. Did you mean '{PREFIX}{name}'?")
    elif name.removeprefix(PREFIX) in timm.list_models():
        raise ValueError(
            f"encoder '{name}' gives no pyramid of features that a U-Net can use. "
            f"Families that do: resnet, resnext, seresnext, efficientnet, convnext, regnet, mobilenetv3"
        )
    close = did_you_mean(name, names) if len(names) else ""
    hint = close if close.startswith("Did") else "List them with `python -m pipeline encoders [pattern]`."
    raise ValueError(f"unknown encoder '{name}'. {hint}")


def normalisation(name: str, channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of pixels in 0 … 255 that the encoder was made for.

    Shapes:
        returns: two of (1, channels, 1, 1); for one channel, the mean over red, green and blue.
    """
    cfg = timm.get_pretrained_cfg(name.removeprefix(PREFIX), allow_unregistered=True)
    mean, std = (torch.tensor(values, dtype=torch.float32) * 255 for values in (cfg.mean, cfg.std))
    if channels == 1:
        mean, std = mean.mean(dim=0, keepdim=True), std.mean(dim=0, keepdim=True)
    return mean.reshape(1, -1, 1, 1), std.reshape(1, -1, 1, 1)


def weight_options(name: str, weights: str) -> dict[str, object]:
    """smp's keyword arguments that load `weights` ("none", "imagenet" or a file) into the encoder.

    Raises:
        FileNotFoundError: if a local file is named that does not exist.
    """
    if weights == "none":
        return {"encoder_weights": None}  # not False, which downloads for timm's encoders
    if weights == "imagenet":
        return {"encoder_weights": True}
    if not Path(weights).is_file():
        raise FileNotFoundError(
            f"model.weights: no file '{weights}': expected 'none', 'imagenet' or the path of a .safetensors "
            f"file with {name.removeprefix(PREFIX)}'s weights"
        )
    return {"encoder_weights": True, "pretrained_cfg_overlay": {"file": weights}}


def probe(name: str) -> Encoder | None:
    """What an encoder can do, found by building it without memory for its weights; None if it fails."""
    cfg = timm.get_pretrained_cfg(name.removeprefix(PREFIX), allow_unregistered=True)
    fixed = bool(getattr(cfg, "fixed_input_size", False))
    side = cfg.input_size[-1] if fixed else 128
    try:
        with torch.device("meta"):
            model = smp.Unet(name, encoder_weights=None).eval()
            model(torch.zeros(1, 3, side, side))
    except Exception:  # timm and smp refuse a model in a dozen ways, and each means the same here
        return None
    parameters = sum(weight.numel() for weight in model.encoder.parameters()) / 1e6
    strides = [stride for stride in (8, 16) if _has_stride(name, stride)]
    return Encoder(name, round(parameters, 2), " ".join(map(str, [*strides, 32])), str(side) if fixed else "any")


def _has_stride(name: str, stride: int) -> bool:
    try:
        with torch.device("meta"):
            model: nn.Module = timm.create_model(name.removeprefix(PREFIX), features_only=True, output_stride=stride)
    except Exception:  # TypeError from some, a bare AssertionError from others
        return False
    return max(model.feature_info.reduction()) == stride


def refresh() -> None:
    """Probe each of timm's models and rewrite encoders.csv; takes minutes."""
    names = [PREFIX + name for name in timm.list_models()]
    found = [encoder for name in track(names, "probe encoders") if (encoder := probe(name))]
    path = Path(__file__).with_name(TABLE)
    with whole(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Encoder._fields)
        writer.writerows(found)
