"""Makes `encoders.csv`: which of timm's models can be the encoder of which architecture.

Building all of them takes most of an hour, so the table is stored. `python -m pipeline encoders --refresh` makes it
again with the pinned timm; with a pattern, only the encoders that it matches.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

import timm
import torch
from torch import nn

from pipeline import config
from pipeline.files import atomic_write
from pipeline.models import dry_run, encoder
from pipeline.models.encoder_name import NATIVE, PREFIX, parse, pretrained_cfg
from pipeline.models.segmenter import PROBE_SIZE, Segmenter
from pipeline.models.weights import convert
from pipeline.progress import track

SIZES = ((96, 160), (160, 128), (288, 256))  # height and width of images that show whether an encoder takes any
LARGER = (64, 32)  # pixels, of one more image, above the native size


def probe(name: str) -> encoder.Encoder | None:
    """What an encoder supports, found by dry runs of models on it; None if it supports no architecture."""
    image_size, native = _image_size(name)
    side = native or PROBE_SIZE

    def try_arch(arch: str, **options: object) -> Segmenter | None:
        return _try_dry_run(config.Model(arch=arch, encoder=name, weights="none", **options), side)

    is_vit, is_native = encoder.is_plain_vit(name), name in NATIVE
    strides = [s for s in (8, 16) if not (is_vit or is_native) and try_arch("deeplabv3_aspp", output_stride=s)]
    models = {
        "unet": try_arch("unet"),
        "fcn": None if is_vit else try_arch("fcn8s"),
        "dpt": try_arch("dpt") if is_vit else None,
    }
    built = next((model for model in models.values() if model), None)
    if not built:
        return None
    supports = {
        "unet": models["unet"],
        "fcn": models["fcn"],
        "deeplabv3": strides,
        "cascade": strides and try_arch("deeplabv3_cascade", output_stride=strides[-1]),
        "dpt": models["dpt"],
    }
    return encoder.Encoder(
        name,
        _parameters(built),
        " ".join(requirement for requirement, met in supports.items() if met),
        "" if is_vit else " ".join(map(str, [*strides, 32])),
        image_size,
        str(native or "any"),
    )


def _image_size(name: str) -> tuple[str, int | None]:
    """The images that an encoder takes: a key of IMAGE_SIZES, and the size that its attention is made for, if any."""
    plain = parse(name).model
    cfg = None if name in NATIVE else pretrained_cfg(parse(name))
    if not getattr(cfg, "fixed_input_size", False) or encoder.is_plain_vit(name):
        return "any", None
    native = cfg.input_size[-1]
    sizes = (*SIZES, (native + LARGER[0], native + LARGER[1]))
    if takes_any(plain, sizes):
        return "any", None
    if takes_any(plain, sizes, **encoder.ANY_SIZE):
        return "any", native
    squares = {side for size in SIZES for side in size}
    any_crop = all(runs(plain, [(side, side)], img_size=side) and _resamples(plain, side) for side in squares)
    return "crop" if any_crop else "native", native


def takes_any(name: str, sizes: Sequence[tuple[int, int]], **options: object) -> bool:
    """Whether a model of timm takes images of all these sizes.

    The meta device is quick, but takes an index out of range of a table of positions: MViTv2 above its native size.
    """
    return all(runs(name, sizes, device, **options) for device in ("meta", "cpu"))


def runs(name: str, sizes: Sequence[tuple[int, int]], device: str = "meta", **options: object) -> bool:
    """Whether a model of timm gives features of images of these heights and widths, each at its own stride."""
    try:
        with torch.device(device), torch.no_grad():
            model = timm.create_model(name, pretrained=False, features_only=True, **options).eval()
            return all(_has_maps_at_strides(model, size) for size in sizes)
    except Exception:  # each family of timm raises its own error for a size that it does not take
        return False


def _has_maps_at_strides(model: nn.Module, size: tuple[int, int]) -> bool:
    axes = (1, 2) if getattr(model, "output_fmt", None) == "NHWC" else (2, 3)
    expected = [tuple(side // stride for side in size) for stride in model.feature_info.reduction()]
    return [tuple(each.shape[axis] for axis in axes) for each in model(torch.zeros(1, 3, *size))] == expected


def _resamples(name: str, side: int) -> bool:
    """Whether weights of the native size can be loaded into a model for images of another size."""
    with torch.device("meta"):
        expected = timm.create_model(name, pretrained=False, img_size=side).state_dict()
        found = convert(timm.create_model(name, pretrained=False).state_dict(), name, {"img_size": side})
    return all(key in found and found[key].shape == tensor.shape for key, tensor in expected.items())


def _try_dry_run(cfg: config.Model, side: int) -> Segmenter | None:
    try:
        return dry_run(cfg, side)
    except Exception:  # timm and smp raise many kinds of error for models that they do not support
        return None


def _parameters(model: Segmenter) -> float:
    """Parameters of the encoder, in millions."""
    return round(sum(weight.numel() for weight in model.encoder.parameters()) / 1e6, 2)


def refresh(pattern: str = "") -> None:
    """Probe the encoders of a pattern, by default all of them, and rewrite encoders.csv.

    Args:
        pattern: as for `encoder.matching`.
    """
    names = [*(PREFIX + name for name in timm.list_models()), *NATIVE]
    rows = dict(encoder.known())
    for name in track(encoder.matching(names, pattern), "probe encoders"):
        rows.pop(name, None)
        if found := probe(name):
            rows[name] = found
    path = Path(__file__).with_name(encoder.TABLE)
    with atomic_write(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(encoder.Encoder._fields)
        writer.writerows(rows[name] for name in names if name in rows)
    encoder.known.cache_clear()
