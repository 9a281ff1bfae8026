"""Fuse batch norms into the convolutions before them, since both are linear maps in evaluation.

torch.fx, which has a function for this, cannot trace a Segmenter: its forward pass has control flow that depends on the
size of the image. Here the pairs are found in the graph that autograd records.
"""

import copy
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from pipeline.models.segmenter import PROBE_SIZE, logits_of


class ConvBN(NamedTuple):
    """Names of a convolution and of the batch norm that is the only consumer of its output."""

    convolution: str
    norm: str


def fuse_batch_norms(model: nn.Module, channels: int) -> nn.Module:
    """A copy of a model, in evaluation mode, with each batch norm fused that directly follows a convolution.

    Args:
        model: from images (N, channels, H, W) to logits, or `Outputs`.
    """
    with torch.inference_mode(mode=False):  # autograd records nothing in inference mode
        fused = copy.deepcopy(model).eval()
        modules = dict(fused.named_modules())
        for pair in find_conv_bn_pairs(fused, channels):
            norm = modules[pair.norm]
            _fuse(modules[pair.convolution], norm)
            parent, _, name = pair.norm.rpartition(".")
            setattr(modules[parent], name, norm.act if isinstance(norm, BatchNormAct2d) else nn.Identity())
        return fused


def find_conv_bn_pairs(model: nn.Module, channels: int) -> list[ConvBN]:
    """The pairs of a forward pass; neither module may be called twice.

    Args:
        model: in evaluation mode, from images (N, channels, H, W) to logits, or `Outputs`.
    """
    convolution_of: dict[object, str] = {}  # from the autograd node of a convolution's output
    norm_of: dict[object, str] = {}  # from the autograd node of a batch norm's input
    calls: Counter[str] = Counter()

    def recorder(name: str, module: nn.Module):
        def record(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            calls[name] += 1
            if isinstance(module, nn.Conv2d):
                convolution_of[output.grad_fn] = name
            else:
                norm_of[inputs[0].grad_fn] = name

        return record

    named = {name: module for name, module in model.named_modules() if _is_conv_or_norm(module)}
    hooks = [module.register_forward_hook(recorder(name, module)) for name, module in named.items()]
    try:
        with torch.enable_grad():
            device = next(model.parameters()).device
            images = torch.zeros(1, channels, PROBE_SIZE, PROBE_SIZE, device=device, requires_grad=True)
            logits = logits_of(model(images))
    finally:
        for hook in hooks:
            hook.remove()
    consumers = Counter(_sources_of_edges(logits.grad_fn))
    return [
        ConvBN(convolution_of[node], norm)
        for node, norm in norm_of.items()
        if node in convolution_of and consumers[node] == 1 and calls[norm] == calls[convolution_of[node]] == 1
    ]


def _is_conv_or_norm(module: nn.Module) -> bool:
    return type(module) in (nn.Conv2d, nn.BatchNorm2d, BatchNormAct2d)


def _sources_of_edges(end: object) -> Iterator[object]:
    """For each edge of the autograd graph that ends in a node, the node whose output it carries."""
    visited, pending = {end}, [end]
    while pending:
        for node, _ in pending.pop().next_functions:
            if node is None:
                continue
            yield node
            if node not in visited:
                visited.add(node)
                pending.append(node)


@torch.no_grad()
def _fuse(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Change the convolution's weight and bias, computed in float64, so that it includes the batch norm."""
    tensors = (convolution.weight, convolution.bias, norm.running_mean, norm.running_var)
    weight, bias, mean, variance = (None if each is None else each.double() for each in tensors)
    scale, shift = (None if each is None else each.double() for each in (norm.weight, norm.bias))
    fused = fuse_conv_bn_weights(weight, bias, mean, variance, norm.eps, scale, shift)
    dtype = convolution.weight.dtype
    convolution.weight, convolution.bias = (nn.Parameter(each.to(dtype), requires_grad=False) for each in fused)
