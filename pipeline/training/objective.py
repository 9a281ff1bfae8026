"""The training loss over all outputs of a model: the mask, deep supervision and the image head."""

import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.losses.inputs import masked_mean
from pipeline.metrics import VOID
from pipeline.models.segmenter import Outputs


def build_objective(loss: nn.Module, aux_weight: float = 0.0, image_weight: float = 0.0) -> nn.Module:
    """The mask's loss itself for a model without further heads, otherwise a `MultiHeadLoss`."""
    return MultiHeadLoss(loss, aux_weight, image_weight) if aux_weight or image_weight else loss


class MultiHeadLoss(nn.Module):
    """The mask's loss plus the weighted losses of the other heads.

        total = loss(logits) + aux_weight * mean(loss(aux_logits)) + image_weight * BCE(image_logits)

    Args:
        loss: from logits and target, both (N, C, H, W), to a scalar; used for the mask and the deep-supervision logits.
        aux_weight: weight of the mean loss of the deep-supervision logits; 0: the model has none.
        image_weight: weight of the log loss of the image head, which predicts whether a class is in the image; 0: the
            model has none. An image without the class, but with pixels that are ignored, is left out.

    Shapes:
        outputs: of `Segmenter` in training mode.
        target: (N, C, H, W), 0, 1 or void; or 0 … 1 or void. A class is in the image if a pixel is above one half.
        maps: of the target, if the loss needs them.
        returns: scalar.
    """

    def __init__(self, loss: nn.Module, aux_weight: float = 0.0, image_weight: float = 0.0):
        super().__init__()
        self.loss, self.aux_weight, self.image_weight = loss, aux_weight, image_weight

    def forward(self, outputs: Outputs, target: Tensor, *maps: Tensor) -> Tensor:
        total = self.loss(outputs.logits, target, *maps)
        if self.aux_weight:
            losses = [self.loss(logits, target, *maps) for logits in outputs.aux_logits]
            total = total + self.aux_weight * sum(losses) / len(losses)
        if self.image_weight:
            present = ((target > 0.5) & (target <= 1)).flatten(2).any(dim=-1)
            known = present | ~(target == VOID).flatten(2).any(dim=-1)  # ignored pixels may be of the class
            logits = outputs.image_logits.float()
            losses = F.binary_cross_entropy_with_logits(logits, present.to(logits.dtype), reduction="none")
            total = total + self.image_weight * masked_mean(losses, known)
        return total
