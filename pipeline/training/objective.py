"""The loss of everything that a model gives in training: the mask, coarser masks, and whether there is anything."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models.segmenter import Outputs


class HeadWeights(NamedTuple):
    """Weights of what is added to the mask's loss; 0: the model has no such head."""

    sides: float = 0.0  # of the mean loss of deep supervision's coarser masks
    image: float = 0.0  # of the log loss of "is anything here"


MASK_ALONE = HeadWeights()


def build_objective(loss: nn.Module, weights: HeadWeights) -> nn.Module:
    """The mask's loss itself for a model without further heads, and otherwise a `SummedHeads` of it."""
    return SummedHeads(loss, weights) if any(weights) else loss


class SummedHeads(nn.Module):
    """The mask's loss, plus the weighted ones of the other heads.

    Args:
        loss: from logits and target, both (N, C, H, W), to a scalar; of every mask, fine or coarse.

    Shapes:
        outputs: of `Segmenter` in training.
        target: (N, C, H, W), 0, 1, or void.
        returns: scalar.
    """

    def __init__(self, loss: nn.Module, weights: HeadWeights):
        super().__init__()
        self.loss, self.weights = loss, weights

    def forward(self, outputs: Outputs, target: Tensor) -> Tensor:
        total = self.loss(outputs.logits, target)
        if self.weights.sides:
            sides = [self.loss(side, target) for side in outputs.aux_logits]
            total = total + self.weights.sides * sum(sides) / len(sides)
        if self.weights.image:
            anything = (target == 1).flatten(2).any(dim=-1)
            logits = outputs.image_logits.float()
            total = total + self.weights.image * F.binary_cross_entropy_with_logits(logits, anything.to(logits.dtype))
        return total
