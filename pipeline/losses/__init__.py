"""Losses, from logits to a scalar, and their weighted sum.

A new loss is a file here and an entry in LOSSES or MULTICLASS_LOSSES. A config names it in a phase, with the arguments
that differ from the defaults:

    loss = { bce = 1.0, lovasz = 0.5 }
    loss_options = { lovasz = { variant = "elu" } }
"""

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from pipeline.losses.bce import BCELoss
from pipeline.losses.boundary import BoundaryLoss
from pipeline.losses.boundary_softmax import BoundarySoftmaxLoss
from pipeline.losses.class_weights import PER_CLASS, ClassAreas, resolve_option
from pipeline.losses.cldice import ClDiceLoss
from pipeline.losses.cross_entropy import CrossEntropyLoss
from pipeline.losses.dice import DiceLoss
from pipeline.losses.dice_softmax import DiceSoftmaxLoss
from pipeline.losses.focal import FocalLoss
from pipeline.losses.inputs import ClassInputs, LossInputs
from pipeline.losses.jaccard import JaccardLoss
from pipeline.losses.lovasz import LovaszHingeLoss
from pipeline.losses.lovasz_softmax import LovaszSoftmaxLoss
from pipeline.losses.multiclass import MultiClassLoss
from pipeline.losses.multilabel import MultiLabelLoss
from pipeline.losses.skeleton_recall import SkeletonRecallLoss
from pipeline.losses.tversky import FocalTverskyLoss, TverskyLoss
from pipeline.losses.unified_focal import UnifiedFocalLoss
from pipeline.losses.weighted_bce import WeightedBCELoss
from pipeline.quoting import shortened
from pipeline.schema import did_you_mean

# Multi-label: target (N, C, H, W), one mask per channel; masks may overlap.
LOSSES: dict[str, type[MultiLabelLoss]] = {
    "bce": BCELoss,
    "boundary": BoundaryLoss,
    "cldice": ClDiceLoss,
    "dice": DiceLoss,
    "focal": FocalLoss,
    "focal_tversky": FocalTverskyLoss,
    "jaccard": JaccardLoss,
    "lovasz": LovaszHingeLoss,
    "skeleton_recall": SkeletonRecallLoss,
    "tversky": TverskyLoss,
    "unified_focal": UnifiedFocalLoss,
    "weighted_bce": WeightedBCELoss,
}

# Multi-class: target (N, H, W), one class per pixel, for a card with exclusive classes.
MULTICLASS_LOSSES = {
    "boundary_softmax": BoundarySoftmaxLoss,
    "cross_entropy": CrossEntropyLoss,
    "dice_softmax": DiceSoftmaxLoss,
    "lovasz_softmax": LovaszSoftmaxLoss,
}

Weight = float | tuple[float, float]  # of a loss: constant, or at the first and at the last update of a phase
Option = float | bool | str | tuple[float, ...]
Options = Mapping[str, Mapping[str, Option]]


class LossWeights:
    """The weights of a sum of losses, which may change linearly within a phase.

    Args:
        mix: weight of each loss.
    """

    def __init__(self, mix: Mapping[str, Weight]):
        self._ends = {
            name: weight if isinstance(weight, Sequence) else (weight, weight) for name, weight in mix.items()
        }
        self.set_progress(0)

    @property
    def is_constant(self) -> bool:
        """Whether no weight changes."""
        return all(first == last for first, last in self._ends.values())

    def set_progress(self, share: float) -> None:
        """Set the weights of an update; before the first call they are those of the first update.

        Args:
            share: of the phase, 0 at its first update and 1 at its last.
        """
        ends = self._ends.items()
        self.now = {name: first + (last - first) * share if share < 1 else last for name, (first, last) in ends}


class WeightedLoss(MultiLabelLoss):
    """The weighted sum of multi-label losses. A loss of weight 0 is not computed.

    Logits and target are checked once for all losses.

    Args:
        mix: weight of each loss, by its key in LOSSES; `build_loss` checks it.
        options: arguments of each loss, by its key in the mix.

    Shapes:
        logits: (N, C, H, W) float, before the sigmoid.
        target: (N, C, H, W) of 0, 1, or 255 for void; floats from 0 to 1, or 255, if it is soft.
        returns: scalar.

    Raises:
        ValueError: for an invalid option, or as MultiLabelLoss.
        NotFiniteError: as MultiLabelLoss.
    """

    def __init__(self, mix: Mapping[str, Weight], options: Options | None = None):
        super().__init__()
        self.weights, self.losses, self.target_maps = _build_weighted(mix, options, LOSSES)

    def compute(self, inputs: LossInputs) -> Tensor:
        losses = cast(Mapping[str, MultiLabelLoss], self.losses)
        values = (weight * losses[name].compute(inputs) for name, weight in self.weights.now.items() if weight)
        return sum(values, torch.zeros(()))


class WeightedMultiClassLoss(MultiClassLoss):
    """The weighted sum of multi-class losses. A loss of weight 0 is not computed.

    Args:
        mix: weight of each loss, by its key in MULTICLASS_LOSSES; `build_loss` checks it.
        options: arguments of each loss, by its key in the mix.

    Shapes:
        logits: (N, C, H, W) float, before the softmax.
        target: (N, 1, H, W) of 0 … C-1, or 255 for void; batches have one mask channel.
        returns: scalar.

    Raises:
        ValueError: for an invalid option, or as MultiClassLoss.
        NotFiniteError: as MultiClassLoss.
    """

    def __init__(self, mix: Mapping[str, Weight], options: Options | None = None):
        super().__init__()
        self.weights, self.losses, self.target_maps = _build_weighted(mix, options, MULTICLASS_LOSSES)

    def forward(self, logits: Tensor, target: Tensor, maps: Tensor | None = None) -> Tensor:
        return super().forward(logits, target.squeeze(1), maps)

    def compute(self, inputs: ClassInputs) -> Tensor:
        losses = cast(Mapping[str, MultiClassLoss], self.losses)
        values = (weight * losses[name].compute(inputs) for name, weight in self.weights.now.items() if weight)
        return sum(values, torch.zeros(()))


LossTable = Mapping[str, type[MultiLabelLoss] | type[MultiClassLoss]]


def _build_weighted(
    mix: Mapping[str, Weight], options: Options | None, known: LossTable
) -> tuple[LossWeights, nn.ModuleDict, tuple[str, ...]]:
    """Weights and losses of a mix, without those of weight 0 throughout, and the maps that these losses need.

    Options of losses of weight 0 are still checked.
    """
    losses = {name: _build(name, known[name], (options or {}).get(name, {})) for name in mix}
    used = {name: weight for name, weight in mix.items() if weight not in (0, (0, 0))}
    maps = dict.fromkeys(each for name in used for each in losses[name].target_maps)
    return LossWeights(used), nn.ModuleDict({name: losses[name] for name in used}), tuple(maps)


def build_loss(
    mix: Mapping[str, Weight],
    options: Options | None = None,
    *,
    exclusive: bool = False,
    soft: bool = False,
    classes: Sequence[str] = (),
    areas: ClassAreas | None = None,
) -> nn.Module:
    """The loss of a phase: a weighted sum, as in {"bce": 1.0, "dice": 1.0}.

    The weights need not sum to 1. They scale the loss, and with it the gradient.

    Args:
        mix: weight of each loss, by its key in LOSSES; with exclusive classes, in MULTICLASS_LOSSES. Two weights change
            linearly, by `weights.set_progress` of the result.
        options: arguments of losses, by their key in the mix, as in {"bce": {"positive_weight": 5.0}}.
        exclusive: one class per pixel; the target is the number of the class.
        soft: the target may hold values between 0 and 1.
        classes: the name of each channel of the logits; if they are given, the number of weights per class is checked.
        areas: of the classes in the training images, for weights that are computed; None: the names of the methods are
            checked, and the loss has no such weights.

    Raises:
        ValueError: for an empty mix, an unknown loss, a loss that does not support a soft target, a weight that is
            negative or not finite, weights that are all 0 at the first or at the last update, options of a loss that is
            not in the mix, an unknown option, or an invalid value of one.
    """
    known, others = (MULTICLASS_LOSSES, LOSSES) if exclusive else (LOSSES, MULTICLASS_LOSSES)
    if not mix:
        raise ValueError(f"no loss given: name at least one. Known losses: {', '.join(known)}.")
    for name, weight in mix.items():
        if name in others:
            raise ValueError(f"loss '{name}' {WRONG_TARGET[exclusive]}. Losses for that: {', '.join(known)}.")
        if name not in known:
            raise ValueError(f"unknown loss '{shortened(name)}'. {did_you_mean(name.lower(), known)}")
        for each in weight if isinstance(weight, Sequence) else [weight]:
            if not 0 <= each < math.inf:
                raise ValueError(f"weight of loss '{name}' must be >= 0 and finite, got {each}")
        if soft and not LOSSES[name].supports_soft:
            supported = ", ".join(each for each, loss in LOSSES.items() if loss.supports_soft)
            raise ValueError(
                f"loss '{name}' is defined for masks of 0 and 1, and these are soft (masks.soft, mix.mixup, "
                f'annotators = "mean" or a phase of train.teacher). Losses for soft masks: {supported}.'
            )
    weights = LossWeights(mix)
    for share, when in (0, "at the first update"), (1, "at the last update"):
        weights.set_progress(share)
        if not any(weights.now.values()):
            at = "" if weights.is_constant else f" {when}"
            raise ValueError(f"all weights are 0{at} ({', '.join(mix)}): nothing would be learned")
    for name in options or {}:
        if name not in mix:
            raise ValueError(f"options of loss '{name}', which has no weight. {did_you_mean(name.lower(), mix)}")
    resolved = {name: _resolved(name, each, classes, areas, exclusive) for name, each in (options or {}).items()}
    loss = WeightedMultiClassLoss(mix, resolved) if exclusive else WeightedLoss(mix, resolved)
    if soft and loss.target_maps:
        needing = ", ".join(name for name, each in loss.losses.items() if each.target_maps)
        raise ValueError(
            f"options of loss '{needing}' need distances of the mask ({', '.join(loss.target_maps)}), and these masks "
            f"are soft: leave out boundary_smoothing"
        )
    return loss


def _resolved(
    name: str, options: Mapping[str, Option], classes: Sequence[str], areas: ClassAreas | None, exclusive: bool
) -> dict[str, Option]:
    """The options with numbers in place of the names of methods; an error names the loss."""
    try:
        found = {
            option: resolve_option(option, value, classes, areas, exclusive=exclusive) if option in PER_CLASS else value
            for option, value in options.items()
        }
    except ValueError as error:
        raise ValueError(f"loss '{name}': {error}") from None
    return {option: value for option, value in found.items() if value is not None}


WRONG_TARGET = {
    False: "needs a multi-class target, one class per pixel, and this competition has a mask per class",
    True: "needs a mask per class, and this competition's classes are exclusive, one per pixel",
}


def _build(
    name: str, loss: type[MultiLabelLoss] | type[MultiClassLoss], options: Mapping[str, Option]
) -> MultiLabelLoss | MultiClassLoss:
    """The loss with its arguments; an error in one names the loss."""
    named = inspect.Parameter.POSITIONAL_OR_KEYWORD
    known = {key: each for key, each in inspect.signature(loss).parameters.items() if each.kind == named}
    for option, value in options.items():
        if not known:
            raise ValueError(f"loss '{name}' takes no options: take '{shortened(option)}' out")
        if option not in known:
            raise ValueError(f"loss '{name}': unknown option '{shortened(option)}'. {did_you_mean(option, known)}")
        kind = type(known[option].default)
        if not _is(kind, value) and not (option in PER_CLASS and _is(tuple, value)):
            raise ValueError(f"loss '{name}': {option} = {value!r}: expected {TYPE_NAMES[kind]}")
    try:
        return loss(**options)
    except ValueError as error:
        raise ValueError(f"loss '{name}': {error}") from None


def _is(kind: type, value: Any) -> bool:
    """Whether a value of a config is of a kind; numbers of a list may be whole, and those of the kind float too."""
    if kind is int:  # numbers of a config are floats
        return type(value) in (int, float) and value == int(value)
    if kind is tuple:
        return isinstance(value, list | tuple) and all(_is(float, each) for each in value)
    return isinstance(value, kind) or (kind is float and type(value) is int)


TYPE_NAMES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    tuple: "a list of numbers, or a method",
}
