"""Models: an architecture on an encoder. A new one is a file here and an entry in ARCHITECTURES."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from pipeline import config
from pipeline.models import deeplabv3, encoder, smp_nets
from pipeline.models.encoder_name import parse
from pipeline.models.encoder_options import check_drop_rates, without_drop_rates
from pipeline.models.fcn import FCN
from pipeline.models.grad_checkpointing import check_grad_checkpointing
from pipeline.models.pretrained import check_weights
from pipeline.models.segmenter import PROBE_SIZE, Segmenter
from pipeline.models.unet import UNet
from pipeline.quoting import shortened
from pipeline.schema import did_you_mean


class Architecture(NamedTuple):
    """How to build a network, what it requires of its encoder, and which options of the config it uses."""

    build: Callable[[config.Model], nn.Module]
    requires: str  # a key of encoder.REQUIREMENTS
    options: frozenset[str] = frozenset()


IMAGE_OPTIONS = frozenset({"image_head", "image_gate"})
FCN_OPTIONS = IMAGE_OPTIONS | {"dropout"}
ATROUS_OPTIONS = FCN_OPTIONS | {"output_stride"}
DECODER_OPTIONS = IMAGE_OPTIONS | {"decoder_channels"}

ARCHITECTURES = {
    "unet": Architecture(UNet, "unet", DECODER_OPTIONS | {"attention", "hypercolumns", "deep_supervision"}),
    "fcn32s": Architecture(partial(FCN, finest=32), "fcn", FCN_OPTIONS),
    "fcn16s": Architecture(partial(FCN, finest=16), "fcn", FCN_OPTIONS),
    "fcn8s": Architecture(partial(FCN, finest=8), "fcn", FCN_OPTIONS),
    "deeplabv3_cascade": Architecture(deeplabv3.deeplabv3_cascade, "cascade", ATROUS_OPTIONS | {"multi_grid"}),
    "deeplabv3_aspp": Architecture(
        deeplabv3.deeplabv3_aspp, "deeplabv3", ATROUS_OPTIONS | {"multi_grid", "dilation_rates"}
    ),
    "deeplabv3plus": Architecture(smp_nets.deeplabv3_plus, "deeplabv3", ATROUS_OPTIONS | {"dilation_rates"}),
    "unetplusplus": Architecture(smp_nets.unet_plus_plus, "unet", DECODER_OPTIONS | {"attention"}),
    "manet": Architecture(smp_nets.manet, "unet", DECODER_OPTIONS),
    "fpn": Architecture(smp_nets.fpn, "unet", IMAGE_OPTIONS | {"dropout"}),
    "upernet": Architecture(smp_nets.upernet, "unet", IMAGE_OPTIONS),
    "segformer": Architecture(smp_nets.segformer, "unet", IMAGE_OPTIONS),
    "dpt": Architecture(smp_nets.DPT, "dpt"),
}

OPTIONS = frozenset().union(*(architecture.options for architecture in ARCHITECTURES.values()))
POOLS_IMAGE = {"deeplabv3_aspp", "deeplabv3plus"}  # to 1×1, where batch norm needs two images to train
SCSE_REDUCTION = 16  # of smp
SIZE_STEP = 32  # pixels: the coarsest stride of an encoder that takes one size of images


def check_model(cfg: config.Model, batch_size: int = 2) -> None:
    """Check that a model can be built and trained, before any data is read.

    Args:
        batch_size: of training.

    Raises:
        ValueError: for an unknown architecture or encoder, an option that the architecture would ignore, or a decoder
            that the encoder does not support; with the reason and what works.
    """
    if cfg.arch not in ARCHITECTURES:
        raise ValueError(f"model.arch: unknown arch '{shortened(cfg.arch)}'. {did_you_mean(cfg.arch, ARCHITECTURES)}")
    _check_options(cfg)
    if cfg.arch in POOLS_IMAGE and batch_size == 1:
        raise ValueError(
            f"train.batch_size: {cfg.arch} pools each image to one pixel, and batch norm needs more than one: set 2 or "
            f"more, and lower the phase's crop if memory is short"
        )
    encoder.check(cfg.encoder, ARCHITECTURES[cfg.arch].requires)
    check_weights(cfg)
    if "output_stride" in ARCHITECTURES[cfg.arch].options:
        encoder.check_stride(cfg.encoder, cfg.output_stride)
    _check_img_size(without_drop_rates(cfg))
    _check_combination(without_drop_rates(cfg))
    check_drop_rates(cfg, dry_run)
    check_grad_checkpointing(cfg, dry_run)


def _check_options(cfg: config.Model) -> None:
    used = ARCHITECTURES[cfg.arch].options
    for option in sorted(OPTIONS - used):
        if getattr(cfg, option) != config.Model.model_fields[option].default:
            raise ValueError(f"model.{option} has no effect in {cfg.arch}, {_describe_users(option)}: take it out")
    if cfg.image_gate and not cfg.image_head:
        raise ValueError("model.image_gate needs the image head: set model.image_head to its loss's weight, such as .2")
    if cfg.attention == "scse" and min(cfg.decoder_channels) < SCSE_REDUCTION:
        raise ValueError(
            f"model.attention: scse reduces channels {SCSE_REDUCTION} to 1, which leaves none of "
            f"{min(cfg.decoder_channels)}: raise decoder_channels to {SCSE_REDUCTION} or more"
        )


def _describe_users(option: str) -> str:
    users = [name for name, architecture in ARCHITECTURES.items() if option in architecture.options]
    return f"only in {', '.join(users)}"


def _check_combination(cfg: config.Model) -> None:
    """Check this decoder with these options on this encoder, which `encoders.csv` does not cover."""
    try:
        dry_run(cfg)
    except Exception as error:  # timm and smp raise many kinds of error for combinations that they do not support
        reason = " ".join(str(error).split()) or type(error).__name__
        families = encoder.REQUIREMENTS[ARCHITECTURES[cfg.arch].requires][1]
        raise ValueError(
            f"model.encoder: '{cfg.encoder}' cannot feed {cfg.arch} ({reason}). Families that mostly can: {families}"
        ) from None


def _check_img_size(cfg: config.Model) -> None:
    """Check that an encoder that takes one size of images can be built for `model.img_size`.

    Raises:
        ValueError: naming the nearest sizes for which it can be built.
    """
    if cfg.img_size is None or _runs_at(cfg, cfg.img_size):
        return
    below = cfg.img_size // SIZE_STEP * SIZE_STEP
    tried = [
        range(below, max(0, below - 4 * SIZE_STEP), -SIZE_STEP),
        range(below + SIZE_STEP, below + 5 * SIZE_STEP, SIZE_STEP),
    ]
    nearest = (next((side for side in sides if _runs_at(cfg, side)), None) for sides in tried)
    if found := " or ".join(dict.fromkeys(str(side) for side in nearest if side)):
        raise ValueError(
            f"model.encoder: '{cfg.encoder}' cannot be built for training images of {cfg.img_size}×{cfg.img_size} "
            f"pixels: set crop = {found} in every phase"
        )


def _runs_at(cfg: config.Model, side: int) -> bool:
    if side % SIZE_STEP:
        return False
    try:
        dry_run(cfg.model_copy(update={"img_size": side}))
    except Exception:  # as in `_check_combination`
        return False
    return True


def dry_run(cfg: config.Model, side: int = PROBE_SIZE) -> Segmenter:
    """Build a model without memory for its weights, and run one forward pass.

    Args:
        side: height and width of the image, in pixels.

    Raises:
        Exception: whatever timm or smp raise for a combination that they do not support.
    """
    try:
        return _run_once(cfg, side, "meta")
    except RuntimeError as error:
        # Not on the meta device: RegNets of older timm versions, as in Kaggle's image, and SegFormer's encoders of smp.
        if not isinstance(error, NotImplementedError) and "meta tensors" not in str(error):
            raise
        return _run_once(cfg, side, "cpu")


def _run_once(cfg: config.Model, side: int, device: str) -> Segmenter:
    with torch.device(device), torch.no_grad():
        model = _build(cfg.model_copy(update={"weights": "none"})).eval()
        model(torch.zeros(1, cfg.in_channels, side, side))
    return model


def check_batch(cfg: config.Model, size: tuple[int, int], *, frozen: bool = False) -> None:
    """Check that batch norm can train on a batch of one image: each channel of the features needs two values.

    Args:
        size: height and width of the image, in pixels.
        frozen: whether the encoder's batch norms keep their statistics in the whole phase.

    Raises:
        ValueError: if the features are 1×1.
    """
    model = dry_run(cfg).train()
    if frozen:
        model.encoder.eval()
    device = next(model.parameters()).device
    try:
        with torch.no_grad():
            model(torch.zeros(1, cfg.in_channels, *size, device=device))
    except ValueError as error:
        if "more than 1" not in str(error):  # torch's own check of the input of batch norm
            raise
        height, width = size
        raise ValueError(
            f"an image of {height}×{width} pixels has features of 1×1, and batch norm needs more than one value"
        ) from None


def build_model(cfg: config.Model) -> Segmenter:
    """The model of a config: from raw pixels (N, in_channels, H, W) to logits (N, classes, H, W).

    `check_model` reports what cannot be built.

    Raises:
        ConnectionError: if pretrained weights are not on this machine and cannot be downloaded.
        FileNotFoundError: if `model.weights` is a file that does not exist.
        ValueError: if that file does not fit.
    """
    return _build(cfg)


def for_prediction(cfg: config.Config) -> config.Model:
    """The model config for prediction: without starting weights and options of training, at `predict.output_stride`.

    Raises:
        ValueError: for an output stride that the architecture does not have.
    """
    stride = cfg.predict.output_stride
    if stride and "output_stride" not in ARCHITECTURES[cfg.model.arch].options:
        raise ValueError(f"has no effect in {cfg.model.arch}, {_describe_users('output_stride')}: take it out")
    untagged = parse(cfg.model.encoder).untagged  # the checkpoint has the normalization of the tag's weights
    update = {"encoder": untagged, "weights": "none", "output_stride": stride or cfg.model.output_stride}
    return without_drop_rates(cfg.model).model_copy(update={**update, "grad_checkpointing": False})


def _build(cfg: config.Model) -> Segmenter:
    net = ARCHITECTURES[cfg.arch].build(cfg)
    encoder.pad_valid_kernels(net.encoder, cfg.encoder)
    net.stride = encoder.image_side(cfg) or net.stride * encoder.patch_side(net.encoder)
    mean, std = encoder.normalization(cfg.encoder, cfg.in_channels)
    heads = cfg.classes if cfg.image_head else 0
    return Segmenter(net, mean, std, image_head=heads, gate=cfg.image_gate)
