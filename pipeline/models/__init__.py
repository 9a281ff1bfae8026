"""Models: an architecture on an encoder. A new one is a file here and a line in ARCHITECTURES."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from pipeline import config
from pipeline.models import deeplabv3, encoder, smp_nets
from pipeline.models.fcn import FCN
from pipeline.models.segmenter import Segmenter
from pipeline.models.unet import UNet
from pipeline.schema import did_you_mean


class Architecture(NamedTuple):
    """How to build a network, what it asks of its encoder, and which options of the config it understands."""

    build: Callable[[config.Model], nn.Module]
    demand: str  # a key of encoder.DEMANDS
    options: frozenset[str] = frozenset()


IMAGE_LEVEL = frozenset({"image_head", "image_gate"})
FCN_OPTIONS = IMAGE_LEVEL | {"dropout"}
ATROUS = FCN_OPTIONS | {"output_stride"}
LEVELS = IMAGE_LEVEL | {"decoder_channels"}

ARCHITECTURES = {
    "unet": Architecture(UNet, "unet", LEVELS | {"attention", "hypercolumns", "deep_supervision"}),
    "fcn32s": Architecture(partial(FCN, finest=32), "fcn", FCN_OPTIONS),
    "fcn16s": Architecture(partial(FCN, finest=16), "fcn", FCN_OPTIONS),
    "fcn8s": Architecture(partial(FCN, finest=8), "fcn", FCN_OPTIONS),
    "deeplabv3_cascade": Architecture(deeplabv3.cascade, "cascade", ATROUS | {"multi_grid"}),
    "deeplabv3_aspp": Architecture(deeplabv3.parallel, "deeplabv3", ATROUS | {"multi_grid", "dilation_rates"}),
    "deeplabv3plus": Architecture(smp_nets.deeplabv3_plus, "deeplabv3", ATROUS | {"dilation_rates"}),
    "unetplusplus": Architecture(smp_nets.unet_plus_plus, "unet", LEVELS | {"attention"}),
    "manet": Architecture(smp_nets.manet, "unet", LEVELS),
    "fpn": Architecture(smp_nets.fpn, "unet", IMAGE_LEVEL | {"dropout"}),
    "upernet": Architecture(smp_nets.upernet, "unet", IMAGE_LEVEL),
    "segformer": Architecture(smp_nets.segformer, "unet", IMAGE_LEVEL),
    "dpt": Architecture(smp_nets.DPT, "dpt"),
}

OPTIONS = frozenset().union(*(architecture.options for architecture in ARCHITECTURES.values()))
POOLS_THE_IMAGE = {"deeplabv3_aspp", "deeplabv3plus"}  # to one pixel, which batch norm cannot train on alone
SCSE_REDUCTION = 16  # smp's


def check_model(cfg: config.Model, batch_size: int = 2) -> None:
    """Refuse what cannot be built or trained, before any data is read.

    Args:
        batch_size: of training.

    Raises:
        ValueError: for an unknown architecture or encoder, an option that the architecture would ignore, a decoder that
            the encoder cannot feed; with the reason and what works.
    """
    if cfg.arch not in ARCHITECTURES:
        raise ValueError(f"model.arch: unknown arch '{cfg.arch}'. {did_you_mean(cfg.arch, ARCHITECTURES)}")
    _check_options(cfg)
    if cfg.arch in POOLS_THE_IMAGE and batch_size == 1:
        raise ValueError(
            f"train.batch_size: {cfg.arch} pools each image to one pixel, and batch norm needs more than one: set 2 or "
            f"more, and lower the phase's crop if memory is short"
        )
    encoder.check(cfg.encoder, ARCHITECTURES[cfg.arch].demand)
    if "output_stride" in ARCHITECTURES[cfg.arch].options:
        encoder.check_stride(cfg.encoder, cfg.output_stride)
    _check_fit(cfg)


def _check_options(cfg: config.Model) -> None:
    understood = ARCHITECTURES[cfg.arch].options
    for option in sorted(OPTIONS - understood):
        if getattr(cfg, option) != config.Model.model_fields[option].default:
            raise ValueError(f"model.{option} has no effect in {cfg.arch}, {_users(option)}: take it out")
    if cfg.image_gate and not cfg.image_head:
        raise ValueError("model.image_gate needs the image head: set model.image_head to its loss's weight, such as .2")
    if cfg.attention == "scse" and min(cfg.decoder_channels) < SCSE_REDUCTION:
        raise ValueError(
            f"model.attention: scse squeezes channels {SCSE_REDUCTION} to 1 and leaves nothing of "
            f"{min(cfg.decoder_channels)}: raise decoder_channels to {SCSE_REDUCTION} or more"
        )


def _users(option: str) -> str:
    users = [name for name, architecture in ARCHITECTURES.items() if option in architecture.options]
    return f"only in {', '.join(users)}"


def _check_fit(cfg: config.Model) -> None:
    """Refuse what the survey of encoders did not try: this decoder with these options on this encoder."""
    try:
        dry_run(cfg)
    except Exception as error:  # timm and smp refuse a combination in a dozen ways, and each means the same here
        reason = " ".join(str(error).split()) or type(error).__name__
        families = encoder.DEMANDS[ARCHITECTURES[cfg.arch].demand][1]
        raise ValueError(
            f"model.encoder: '{cfg.encoder}' cannot feed {cfg.arch} ({reason}). Families that mostly can: {families}"
        ) from None


def dry_run(cfg: config.Model, side: int = 64) -> Segmenter:
    """The model, built without memory for its weights, after it was shown an image of `side` pixels."""
    try:
        return _shown_an_image(cfg, side, "meta")
    except NotImplementedError:  # timm's older RegNets, as in Kaggle's image, cannot be built without memory
        return _shown_an_image(cfg, side, "cpu")


def _shown_an_image(cfg: config.Model, side: int, device: str) -> Segmenter:
    with torch.device(device), torch.no_grad():
        model = _build(cfg.model_copy(update={"weights": "none"})).eval()
        model(torch.zeros(1, cfg.in_channels, side, side))
    return model


def check_batch(cfg: config.Model, size: tuple[int, int], *, frozen: bool = False) -> None:
    """Refuse a batch of one image that batch norm cannot train on, since a channel of its features is one number.

    Args:
        size: height and width of the image.
        frozen: whether the encoder is, with its batch norms.

    Raises:
        ValueError: saying so.
    """
    model = dry_run(cfg).train()
    if frozen:
        model.encoder.eval()
    device = next(model.parameters()).device
    try:
        with torch.no_grad():
            model(torch.zeros(1, cfg.in_channels, *size, device=device))
    except ValueError as error:
        if "more than 1" not in str(error):  # torch's own check of what batch norm is given
            raise
        height, width = size
        raise ValueError(
            f"an image of {height}×{width} pixels has features of 1×1, and batch norm needs more than one value"
        ) from None


def build_model(cfg: config.Model) -> Segmenter:
    """The model that a config asks for: raw pixels (N, in_channels, H, W) to logits (N, classes, H, W).

    `check_model` says beforehand what cannot be built.

    Raises:
        ConnectionError: if ImageNet weights are asked for and cannot be fetched.
    """
    try:
        return _build(cfg)
    except OSError as error:
        if cfg.weights != "imagenet":
            raise
        raise ConnectionError(
            f"the ImageNet weights of {cfg.encoder} could not be fetched ({type(error).__name__}). Set "
            f'model.weights to "none", or to a .safetensors file that you downloaded elsewhere'
        ) from error


def for_prediction(cfg: config.Config) -> config.Model:
    """The model as it predicts: weights come from a checkpoint, and the output stride may be a finer one.

    Raises:
        ValueError: for an output stride that the architecture does not know.
    """
    stride = cfg.predict.output_stride
    if stride and "output_stride" not in ARCHITECTURES[cfg.model.arch].options:
        raise ValueError(f"has no effect in {cfg.model.arch}, {_users('output_stride')}: take it out")
    return cfg.model.model_copy(update={"weights": "none", "output_stride": stride or cfg.model.output_stride})


def _build(cfg: config.Model) -> Segmenter:
    net = ARCHITECTURES[cfg.arch].build(cfg)
    mean, std = encoder.normalisation(cfg.encoder, cfg.in_channels)
    heads = cfg.classes if cfg.image_head else 0
    return Segmenter(net, mean, std, image_head=heads, gate=cfg.image_gate)
