"""Ways to run a trained network: the same logits, sooner. A new one is a function and a line in BACKENDS."""

import logging
import warnings
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from pipeline import hardware
from pipeline.inference.conv_bn_fusion import folded

log = logging.getLogger(__name__)

Backend = Callable[[Tensor], Tensor]  # images (N, channels, H, W) uint8 on the device to logits of any float dtype
PROBE = (2, 96, 64)  # images, height and width of what a faster backend is tried on
CLOSE = 1e-3  # of the largest logit: what folding may change in float32


def eager(model: nn.Module, device: torch.device, dtype: torch.dtype) -> Backend:
    """The network as it was trained."""

    def run(images: Tensor) -> Tensor:
        with hardware.autocast(device, dtype):
            return model(images)

    return run


def fuse_conv_bn(model: nn.Module, device: torch.device, dtype: torch.dtype) -> Backend:
    """Batch norms folded into convolutions, whose weights are turned to `dtype` once; else as `eager`."""
    return eager(_folded(model, dtype), device, dtype)


def compiled(model: nn.Module, device: torch.device, dtype: torch.dtype) -> Backend:
    """As `fuse_conv_bn`, compiled by torch.compile. Takes a minute per image size; on CPUs it needs a C++ compiler."""
    network = _folded(model, dtype)
    with hardware.compiling("predict.backend = 'compile'"), torch.inference_mode():
        backend = eager(torch.compile(network, dynamic=False), device, dtype)
        backend(_probe(model))
    return backend


def openvino(model: nn.Module, device: torch.device, dtype: torch.dtype) -> Backend:
    """Intel's runtime, for CPUs: converts in seconds, and again for each new size of image."""
    try:
        import openvino as ov
    except ImportError:
        raise ValueError(
            "predict.backend = 'openvino' needs a package that is not here: pip install -r requirements-openvino.txt"
        ) from None
    faster = _folded(model, torch.float32)
    options = {
        "INFERENCE_PRECISION_HINT": "bf16" if dtype == torch.bfloat16 else "f32",  # else it chooses bfloat16 by itself
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }

    @cache
    def of_size(size: tuple[int, int]) -> ov.CompiledModel:  # how an image is padded is part of what is converted
        example = torch.zeros(1, _channels(model), *size)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the tracing that it does inside
            converted = ov.convert_model(faster, example_input=example, input=[-1, _channels(model), *size])
        return ov.Core().compile_model(converted, "CPU", options)

    def run(images: Tensor) -> Tensor:
        logits = of_size(tuple(images.shape[-2:]))(images.float().cpu().numpy())[0]
        return torch.from_numpy(np.array(logits))  # a copy: the next call writes over it

    return run


BACKENDS = {"eager": eager, "fuse_conv_bn": fuse_conv_bn, "compile": compiled, "openvino": openvino}


def _folded(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The model with norms folded, if it still says what it said; in float32, both."""
    probe = _probe(model)
    try:
        faster = folded(model, _channels(model)).to(memory_format=torch.channels_last)
        with torch.inference_mode():
            expected, found = model(probe), faster(probe)
        far = ((expected - found).abs().max() / expected.abs().max().clamp_min(1e-6)).item()
    except Exception as error:  # a network is free to do with its layers what no walk through them foresees
        log.warning("batch norms stay unfolded (%s): slower", error)
        return model
    if not far < CLOSE:
        log.warning("batch norms stay unfolded: logits would change by %.2g of the largest: slower", far)
        return model
    if dtype != torch.float32:
        for module in faster.modules():
            if type(module) is nn.Conv2d:
                module.to(dtype)  # autocast would do it again in every batch
    return faster


def _probe(model: nn.Module) -> Tensor:
    """Images of noise, the same each time."""
    count, height, width = PROBE
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, _channels(model), height, width), generator=generator, dtype=torch.uint8)
    return images.to(next(model.parameters()).device).contiguous(memory_format=torch.channels_last)


def _channels(model: nn.Module) -> int:
    """Of the images that a `models.Segmenter` takes."""
    return model.mean.shape[1]
