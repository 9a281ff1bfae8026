"""Makes `encoders.csv`: which of timm's models can be the encoder of which architecture.

Building all of them takes most of an hour, so the table is stored. `python -m pipeline encoders --refresh` makes it
again with the pinned timm.
"""

import csv
from pathlib import Path

import timm

from pipeline import config
from pipeline.files import atomic_write
from pipeline.models import dry_run, encoder
from pipeline.models.encoder_name import PREFIX, parse, pretrained_cfg
from pipeline.models.segmenter import Segmenter
from pipeline.progress import track

PROBE_SIZE = 128  # height and width in pixels of the image of a dry run


def probe(name: str) -> encoder.Encoder | None:
    """What an encoder supports, found by dry runs of models on it; None if it supports no architecture."""
    cfg = pretrained_cfg(parse(name))
    fixed = bool(getattr(cfg, "fixed_input_size", False))
    side = cfg.input_size[-1] if fixed else PROBE_SIZE

    def try_arch(arch: str, **options: object) -> Segmenter | None:
        return _try_dry_run(config.Model(arch=arch, encoder=name, weights="none", **options), side)

    unet = try_arch("unet")
    if not unet:
        vit = _try_dry_run(config.Model(arch="dpt", encoder=name, weights="none"), PROBE_SIZE)
        return encoder.Encoder(name, _parameters(vit), "dpt", "", "any") if vit else None
    strides = [stride for stride in (8, 16) if try_arch("deeplabv3_aspp", output_stride=stride)]
    supports = {
        "unet": unet,
        "fcn": try_arch("fcn8s"),
        "deeplabv3": strides,
        "cascade": strides and try_arch("deeplabv3_cascade", output_stride=strides[-1]),
    }
    return encoder.Encoder(
        name,
        _parameters(unet),
        " ".join(requirement for requirement, met in supports.items() if met),
        " ".join(map(str, [*strides, 32])),
        str(side) if fixed else "any",
    )


def _try_dry_run(cfg: config.Model, side: int) -> Segmenter | None:
    try:
        return dry_run(cfg, side)
    except Exception:  # timm and smp raise many kinds of error for models that they do not support
        return None


def _parameters(model: Segmenter) -> float:
    """Parameters of the encoder, in millions."""
    return round(sum(weight.numel() for weight in model.encoder.parameters()) / 1e6, 2)


def refresh() -> None:
    """Probe each of timm's models and rewrite encoders.csv."""
    names = [PREFIX + name for name in timm.list_models()]
    found = [each for name in track(names, "probe encoders") if (each := probe(name))]
    path = Path(__file__).with_name(encoder.TABLE)
    with atomic_write(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(encoder.Encoder._fields)
        writer.writerows(found)
