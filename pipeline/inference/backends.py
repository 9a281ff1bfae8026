"""Backends: how the forward pass of a trained network is run. A new one is a function here and an entry in BACKENDS."""

import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pipeline import hardware
from pipeline.inference.conv_bn_fusion import fuse_batch_norms
from pipeline.models.segmenter import Outputs, logits_of

log = logging.getLogger(__name__)

# From images (N, channels, H, W) uint8 on the device to what the network returns, of any float dtype.
Backend = Callable[[Tensor], Tensor | Outputs]
PROBE_SHAPE = (2, 96, 64)  # number, height and width of the images that a fused or compiled network is tried on
TOLERANCE = 1e-3  # largest change of a logit through fusion, in float32, as a share of the largest logit


def eager(model: nn.Module, device: torch.device, dtype: torch.dtype) -> Backend:
    """The network as it was trained, under autocast to `dtype`."""

    def run(images: Tensor) -> Tensor | Outputs:
        with hardware.autocast(device, dtype):
            return model(images)

    return run


def fuse_conv_bn(model: nn.Module, device: torch.device, dtype: torch.dtype) -> Backend:
    """Batch norms fused into convolutions, whose weights are converted to `dtype` once; otherwise as `eager`."""
    return eager(_fuse_checked(model, dtype), device, dtype)


def compile_model(model: nn.Module, device: torch.device, dtype: torch.dtype) -> Backend:
    """As `fuse_conv_bn`, compiled by torch.compile: a minute per image size; on CPUs it needs a C++ compiler.

    Raises:
        ValueError: if torch.compile does not run here.
    """
    network = _fuse_checked(model, dtype)
    with hardware.compiling("predict.backend = 'compile'"), torch.inference_mode():
        backend = eager(torch.compile(network, dynamic=False), device, dtype)
        backend(_probe_images(model))
    return backend


BACKENDS = {"eager": eager, "fuse_conv_bn": fuse_conv_bn, "compile": compile_model}


def _fuse_checked(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The model with fused batch norms; the model itself, with a warning, if its logits would change (in float32)."""
    probe = _probe_images(model)
    try:
        fused = hardware.place(fuse_batch_norms(model, _in_channels(model)), probe.device)
        with torch.inference_mode(), hardware.exact_float32():
            expected, found = (logits_of(each(probe)) for each in (model, fused))
        change = ((expected - found).abs().max() / expected.abs().max().clamp_min(1e-6)).item()
    except Exception as error:  # a network can use its layers in any way, so fusion can fail in any way
        log.warning("batch norm not fused (%s): slower", error)
        return model
    if not change < TOLERANCE:
        log.warning("batch norm not fused: logits would change by %.2g of the largest: slower", change)
        return model
    if dtype != torch.float32:
        for module in fused.modules():
            if type(module) is nn.Conv2d:
                module.to(dtype)  # autocast would convert the weights again for every batch
    return fused


def _probe_images(model: nn.Module) -> Tensor:
    """Images of noise on the model's device, the same for each call."""
    count, height, width = PROBE_SHAPE
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, _in_channels(model), height, width), generator=generator, dtype=torch.uint8)
    return images.to(next(model.parameters()).device).contiguous(memory_format=torch.channels_last)


def _in_channels(model: nn.Module) -> int:
    """Channels of the images that a `models.Segmenter` takes."""
    return model.mean.shape[1]
