"""Models: an architecture on an encoder. A new one is a file here and a line in ARCHITECTURES."""

from torch import nn

from pipeline import config
from pipeline.models import encoder
from pipeline.models.unet import UNet
from pipeline.schema import did_you_mean

ARCHITECTURES = {
    "unet": UNet,
}

SCSE_REDUCTION = 16  # smp's


def check_model(cfg: config.Model) -> None:
    """Refuse what cannot be built, before any data is read.

    Raises:
        ValueError: for an unknown architecture or encoder, naming what exists.
    """
    if cfg.arch not in ARCHITECTURES:
        raise ValueError(f"unknown arch '{cfg.arch}'. {did_you_mean(cfg.arch, ARCHITECTURES)}")
    encoder.check(cfg.encoder)
    if cfg.attention == "scse" and min(cfg.decoder_channels) < SCSE_REDUCTION:
        raise ValueError(
            f"model.attention: scse squeezes channels {SCSE_REDUCTION} to 1 and leaves nothing of "
            f"{min(cfg.decoder_channels)}: raise decoder_channels to {SCSE_REDUCTION} or more"
        )


def build_model(cfg: config.Model) -> nn.Module:
    """The model that a config asks for: raw pixels (N, in_channels, H, W) to logits (N, classes, H, W).

    Raises:
        ValueError: as `check_model`.
        ConnectionError: if ImageNet weights are asked for and cannot be fetched.
    """
    check_model(cfg)
    try:
        return ARCHITECTURES[cfg.arch](cfg)
    except OSError as error:
        if cfg.weights != "imagenet":
            raise
        raise ConnectionError(
            f"the ImageNet weights of {cfg.encoder} could not be fetched ({type(error).__name__}). Set "
            f'model.weights to "none", or to a .safetensors file that you downloaded elsewhere'
        ) from error
