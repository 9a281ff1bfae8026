"""Which of timm's models can be the encoder of which architecture: the maker of `encoders.csv`.

Building all of them takes most of an hour, and nobody should wait that long for a list; so the table is kept, made with
the pinned timm by `python -m pipeline encoders --refresh`.
"""

import csv
from pathlib import Path

import timm

from pipeline import config
from pipeline.files import atomic_write
from pipeline.models import dry_run, encoder
from pipeline.models.segmenter import Segmenter
from pipeline.progress import track

SIDE = 128  # pixels, of the image that a probe shows a model


def probe(name: str) -> encoder.Encoder | None:
    """What an encoder can do, found by building models on it without memory for their weights; None if nothing."""
    cfg = timm.get_pretrained_cfg(name.removeprefix(encoder.PREFIX), allow_unregistered=True)
    fixed = bool(getattr(cfg, "fixed_input_size", False))
    side = cfg.input_size[-1] if fixed else SIDE

    def attempt(arch: str, **options: object) -> Segmenter | None:
        return _attempt(config.Model(arch=arch, encoder=name, **options), side)

    unet = attempt("unet")
    if not unet:
        vit = _attempt(config.Model(arch="dpt", encoder=name), SIDE)
        return encoder.Encoder(name, _parameters(vit), "dpt", "", "any") if vit else None
    strides = [stride for stride in (8, 16) if attempt("deeplabv3_aspp", output_stride=stride)]
    serves = {
        "unet": unet,
        "fcn": attempt("fcn8s"),
        "deeplabv3": strides,
        "cascade": strides and attempt("deeplabv3_cascade", output_stride=strides[-1]),
    }
    return encoder.Encoder(
        name,
        _parameters(unet),
        " ".join(word for word, served in serves.items() if served),
        " ".join(map(str, [*strides, 32])),
        str(side) if fixed else "any",
    )


def _attempt(cfg: config.Model, side: int) -> Segmenter | None:
    try:
        return dry_run(cfg, side)
    except Exception:  # timm and smp refuse a model in a dozen ways, and each means the same here
        return None


def _parameters(model: Segmenter) -> float:
    """Millions, of the encoder."""
    return round(sum(weight.numel() for weight in model.encoder.parameters()) / 1e6, 2)


def refresh() -> None:
    """Probe each of timm's models and rewrite encoders.csv."""
    names = [encoder.PREFIX + name for name in timm.list_models()]
    found = [each for name in track(names, "probe encoders") if (each := probe(name))]
    path = Path(__file__).with_name(encoder.TABLE)
    with atomic_write(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(encoder.Encoder._fields)
        writer.writerows(found)
