"""Batch norm folded into the convolution before it: in prediction both are one linear map.

norm(conv(x)) = scale * (W x + b - mean) + shift = (scale * W) x + (scale * (b - mean) + shift),
scale = weight / sqrt(variance + eps)
"""

import copy
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

SIDE = 64  # pixels of the image that shows which layer follows which


class Pair(NamedTuple):
    """Names of a convolution, and of the norm that alone takes what it gives."""

    convolution: str
    norm: str


def folded(model: nn.Module, channels: int) -> nn.Module:
    """A copy of a model in which each batch norm that can be is part of the convolution before it.

    Args:
        model: in evaluation, from images (N, channels, H, W) to one tensor.
    """
    with torch.inference_mode(mode=False):  # in which no graph is kept
        return _folded(copy.deepcopy(model).eval(), channels)


def _folded(model: nn.Module, channels: int) -> nn.Module:
    modules = dict(model.named_modules())
    for pair in find_pairs(model, channels):
        convolution, norm = modules[pair.convolution], modules[pair.norm]
        _fold(convolution, norm)
        parent, _, name = pair.norm.rpartition(".")
        setattr(modules[parent], name, _rest_of(norm))
    return model


def find_pairs(model: nn.Module, channels: int) -> list[Pair]:
    """The pairs that an image goes through: seen in the graph that autograd keeps, not guessed from names."""
    made_by: dict[object, str] = {}  # the graph's node of what a convolution gave
    taken_by: dict[object, str] = {}  # and of what a norm took
    calls: Counter[str] = Counter()

    def note(name: str, module: nn.Module):
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            calls[name] += 1
            if isinstance(module, nn.Conv2d):
                made_by[output.grad_fn] = name
            else:
                taken_by[inputs[0].grad_fn] = name

        return hook

    named = {name: module for name, module in model.named_modules() if _matters(module)}
    hooks = [module.register_forward_hook(note(name, module)) for name, module in named.items()]
    try:
        with torch.enable_grad():
            device = next(model.parameters()).device
            logits = model(torch.zeros(1, channels, SIDE, SIDE, device=device, requires_grad=True))
    finally:
        for hook in hooks:
            hook.remove()
    consumers = Counter(_edges(logits.grad_fn))
    return [
        Pair(made_by[node], norm)
        for node, norm in taken_by.items()
        if node in made_by and consumers[node] == 1 and calls[norm] == calls[made_by[node]] == 1
    ]


def _matters(module: nn.Module) -> bool:
    return type(module) is nn.Conv2d or type(module) in (nn.BatchNorm2d, BatchNormAct2d)


def _edges(end: object) -> Iterator[object]:
    """The node that each edge of a graph comes from."""
    seen, waiting = {end}, [end]
    while waiting:
        for node, _ in waiting.pop().next_functions:
            if node is None:
                continue
            yield node
            if node not in seen:
                seen.add(node)
                waiting.append(node)


@torch.no_grad()
def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight.double()
    bias = torch.zeros_like(scale) if convolution.bias is None else convolution.bias.double()
    shift = 0 if norm.bias is None else norm.bias.double()
    weight = convolution.weight.double() * scale[:, None, None, None]
    convolution.weight = nn.Parameter(weight.to(convolution.weight.dtype), requires_grad=False)
    moved = scale * (bias - norm.running_mean.double()) + shift
    convolution.bias = nn.Parameter(moved.to(convolution.weight.dtype), requires_grad=False)


def _rest_of(norm: nn.BatchNorm2d) -> nn.Module:
    """What a norm does beside normalising."""
    return norm.act if isinstance(norm, BatchNormAct2d) else nn.Identity()
