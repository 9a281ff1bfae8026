"""Losses, from logits to a scalar, and their weighted sum.

Adding a loss is one file and one line in LOSSES; a config then names it in a phase:
`loss = { bce = 1.0, dice = 1.0 }`.
"""

import math
from collections.abc import Mapping
from difflib import get_close_matches

from torch import Tensor, nn

from pipeline.losses.bce import BCELoss
from pipeline.losses.dice import DiceLoss
from pipeline.losses.focal import FocalLoss
from pipeline.losses.lovasz import LovaszHingeLoss

LOSSES = {
    "bce": BCELoss,
    "dice": DiceLoss,
    "focal": FocalLoss,
    "lovasz": LovaszHingeLoss,
}


class WeightedSum(nn.Module):
    """Losses by name, each times its weight, added up. A loss of weight 0 is not computed.

    Args:
        mix: name in LOSSES to weight. `build_loss` checks it.

    Shapes:
        logits: (N, C, H, W) float, before the sigmoid.
        target: (N, C, H, W), 0 or 1.
        returns: scalar.
    """

    def __init__(self, mix: Mapping[str, float]):
        super().__init__()
        self.weights = {name: weight for name, weight in mix.items() if weight > 0}
        self.losses = nn.ModuleDict({name: LOSSES[name]() for name in self.weights})

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return sum(weight * self.losses[name](logits, target) for name, weight in self.weights.items())


def build_loss(mix: Mapping[str, float]) -> nn.Module:
    """The weighted sum that a phase asks for, as in {"bce": 1.0, "dice": 1.0}.

    Weights need not add up to 1: they scale the loss, and so the step.

    Raises:
        ValueError: for an empty mix, a name that is not in LOSSES, a weight that is negative
            or not finite, or weights that are all 0.
    """
    known = ", ".join(LOSSES)
    if not mix:
        raise ValueError(f"no loss given: name at least one. Known losses: {known}.")
    for name, weight in mix.items():
        if name not in LOSSES:
            raise ValueError(f"unknown loss '{name}'. Known losses: {known}.{nearest_loss(name)}")
        if not 0 <= weight < math.inf:
            raise ValueError(f"weight of loss '{name}' must be >= 0 and finite, got {weight}")
    if not any(mix.values()):
        raise ValueError(f"all weights are 0 ({', '.join(mix)}): nothing would be learned")
    return WeightedSum(mix)


def nearest_loss(name: str) -> str:
    """A question to end an error with, or nothing if no known name is near.

    >>> nearest_loss("Lovaz")
    " Did you mean 'lovasz'?"
    """
    nearest = get_close_matches(name.lower(), LOSSES, n=1)
    return f" Did you mean '{nearest[0]}'?" if nearest else ""
