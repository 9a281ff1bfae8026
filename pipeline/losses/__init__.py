"""Losses, from logits to a scalar, and their weighted sum.

Adding a loss is one file and one line in LOSSES; a config then names it in a phase, and its
arguments where they differ from the defaults:

    loss = { bce = 1.0, lovasz = 0.5 }
    loss_options = { lovasz = { variant = "elu" } }
"""

import inspect
import math
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from pipeline.losses.bce import BCELoss
from pipeline.losses.cross_entropy import CrossEntropyLoss
from pipeline.losses.dice import DiceLoss
from pipeline.losses.dice_softmax import DiceSoftmaxLoss
from pipeline.losses.focal import FocalLoss
from pipeline.losses.inputs import Pixels
from pipeline.losses.jaccard import JaccardLoss
from pipeline.losses.lovasz import LovaszHingeLoss
from pipeline.losses.lovasz_softmax import LovaszSoftmaxLoss
from pipeline.losses.multiclass import MultiClassLoss
from pipeline.losses.multilabel import MultiLabelLoss
from pipeline.losses.tversky import FocalTverskyLoss, TverskyLoss
from pipeline.schema import did_you_mean

# Target (N, C, H, W): a mask per channel, which may overlap. What a phase can train with.
LOSSES = {
    "bce": BCELoss,
    "dice": DiceLoss,
    "focal": FocalLoss,
    "focal_tversky": FocalTverskyLoss,
    "jaccard": JaccardLoss,
    "lovasz": LovaszHingeLoss,
    "tversky": TverskyLoss,
}

# Target (N, H, W): one class per pixel, of a card with exclusive classes.
MULTICLASS_LOSSES = {
    "cross_entropy": CrossEntropyLoss,
    "dice_softmax": DiceSoftmaxLoss,
    "lovasz_softmax": LovaszSoftmaxLoss,
}

Option = float | bool | str
Options = Mapping[str, Mapping[str, Option]]


class WeightedSum(MultiLabelLoss):
    """Losses by name, each times its weight, added up. A loss of weight 0 is not computed.

    Logits and target are checked once, for all of them.

    Args:
        mix: name in LOSSES to weight. `build_loss` checks it.
        options: name in the mix to arguments of the loss's class.

    Shapes:
        logits: (N, C, H, W) float, before the sigmoid.
        target: (N, C, H, W), 0 or 1, or 255 for void.
        returns: scalar.
    """

    def __init__(self, mix: Mapping[str, float], options: Options | None = None):
        super().__init__()
        self.weights, self.losses = _weighted(mix, options, LOSSES)

    def value(self, pixels: Pixels) -> Tensor:
        losses = cast(Mapping[str, MultiLabelLoss], self.losses)
        return sum((weight * losses[name].value(pixels) for name, weight in self.weights.items()), torch.zeros(()))


class WeightedClassSum(MultiClassLoss):
    """`WeightedSum` where each pixel has one class.

    Args:
        mix: name in MULTICLASS_LOSSES to weight. `build_loss` checks it.
        options: name in the mix to arguments of the loss's class.

    Shapes:
        logits: (N, C, H, W) float, before the softmax.
        target: (N, 1, H, W) of 0 … C-1, or 255 for void: a mask with a channel, as batches have it.
        returns: scalar.
    """

    def __init__(self, mix: Mapping[str, float], options: Options | None = None):
        super().__init__()
        self.weights, self.losses = _weighted(mix, options, MULTICLASS_LOSSES)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return super().forward(logits, target.squeeze(1))

    def value(self, logits: Tensor, target: Tensor) -> Tensor:
        losses = cast(Mapping[str, MultiClassLoss], self.losses)
        values = (weight * losses[name].value(logits, target) for name, weight in self.weights.items())
        return sum(values, torch.zeros(()))


Known = Mapping[str, type[MultiLabelLoss] | type[MultiClassLoss]]


def _weighted(
    mix: Mapping[str, float], options: Options | None, known: Known
) -> tuple[dict[str, float], nn.ModuleDict]:
    """Weights and losses of a mix, without those of weight 0; the options of these are checked all the same."""
    losses = {name: _build(name, known[name], (options or {}).get(name, {})) for name in mix}
    weights = {name: weight for name, weight in mix.items() if weight > 0}
    return weights, nn.ModuleDict({name: losses[name] for name in weights})


def build_loss(mix: Mapping[str, float], options: Options | None = None, *, exclusive: bool = False) -> nn.Module:
    """The weighted sum that a phase asks for, as in {"bce": 1.0, "dice": 1.0}.

    Weights need not add up to 1: they scale the loss, and so the step.

    Args:
        mix: name in LOSSES to weight; of exclusive classes, in MULTICLASS_LOSSES.
        options: name in the mix to arguments of that loss, as in {"bce": {"positive_weight": 5.0}}.
        exclusive: whether each pixel has one class, and the target is its number.

    Raises:
        ValueError: for an empty mix, a name that is not known, a weight that is negative or not finite, or weights
            that are all 0; for options of a loss that is not in the mix, and for an option that the loss does not
            know, or whose value it refuses.
    """
    known, others = (MULTICLASS_LOSSES, LOSSES) if exclusive else (LOSSES, MULTICLASS_LOSSES)
    if not mix:
        raise ValueError(f"no loss given: name at least one. Known losses: {', '.join(known)}.")
    for name, weight in mix.items():
        if name in others:
            raise ValueError(f"loss '{name}' {UNFIT[exclusive]}. Losses for that: {', '.join(known)}.")
        if name not in known:
            raise ValueError(f"unknown loss '{name}'. {did_you_mean(name.lower(), known)}")
        if not 0 <= weight < math.inf:
            raise ValueError(f"weight of loss '{name}' must be >= 0 and finite, got {weight}")
    if not any(mix.values()):
        raise ValueError(f"all weights are 0 ({', '.join(mix)}): nothing would be learned")
    for name in options or {}:
        if name not in mix:
            raise ValueError(f"options of loss '{name}', which has no weight. {did_you_mean(name.lower(), mix)}")
    return WeightedClassSum(mix, options) if exclusive else WeightedSum(mix, options)


UNFIT = {
    False: "needs a multi-class target, one class per pixel, and this competition has a mask per class",
    True: "needs a mask per class, and this competition's classes are exclusive, one per pixel",
}


def _build(
    name: str, loss: type[MultiLabelLoss] | type[MultiClassLoss], options: Mapping[str, Option]
) -> MultiLabelLoss | MultiClassLoss:
    """The loss with its arguments; a mistake in one is answered with the loss's name."""
    known = inspect.signature(loss).parameters
    for option, value in options.items():
        if option not in known:
            raise ValueError(f"loss '{name}': unknown option '{option}'. {did_you_mean(option, known)}")
        kind = type(known[option].default)
        fits = isinstance(value, kind) or (kind is float and type(value) is int)
        if not fits:
            raise ValueError(f"loss '{name}': {option} = {value!r}: expected {EXPECTED[kind]}")
    try:
        return loss(**options)
    except ValueError as error:
        raise ValueError(f"loss '{name}': {error}") from None


EXPECTED = {float: "a number", bool: "true or false", str: "a text"}
