"""Cross entropy for one of several classes per pixel."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.losses.bce import check_smoothing
from pipeline.losses.class_weights import check_class_weights, to_channels
from pipeline.losses.inputs import ClassInputs, check_hardest, hardest_pixels, masked_mean
from pipeline.losses.multiclass import MultiClassLoss
from pipeline.metrics import VOID


class CrossEntropyLoss(MultiClassLoss):
    """Cross entropy of each pixel, averaged over all valid pixels of the batch.

        loss = mean(-sum over c of s_c * log(p_c)),  p = softmax(logits)
        s_c  = (1 - smoothing) * [c is the target] + smoothing / C

    The unit is nats per pixel; the loss is log(C) at equal logits.

    With class weights w, each term of the sum over c is multiplied by w_c, and the mean over pixels is weighted by the
    weight of the pixel's class, so that equal weights change nothing. Without a valid pixel of a class of positive
    weight, the loss and its gradient are 0.

    Args:
        smoothing: label smoothing in [0, 1): the share of the label that is spread evenly over all classes.
        class_weights: one for each class, >= 0; empty: all are equal. A config may name a method of
            `class_weights.METHODS` instead.
        hardest: as BCELoss.

    Shapes:
        logits: (N, C, H, W) float, before the softmax.
        target: (N, H, W) of 0 … C-1, or 255 for void.
        returns: scalar >= 0, without upper bound.

    Raises:
        ValueError: for an argument out of range, a number of weights that is not that of the classes, or as
            MultiClassLoss.
        NotFiniteError: as MultiClassLoss.

    Source:
        Ronneberger et al., U-Net, https://arxiv.org/abs/1505.04597, without their weight map;
        smoothing: Szegedy et al., https://arxiv.org/abs/1512.00567, section 7. Weights as torch's cross_entropy.
        Hardest: as BCELoss.
    """

    def __init__(self, smoothing: float = 0.0, class_weights: Sequence[float] = (), hardest: float = 1.0):
        super().__init__()
        check_hardest(hardest)
        check_smoothing(smoothing)
        check_class_weights(class_weights)
        self.smoothing, self.class_weights, self.hardest = smoothing, class_weights, hardest

    def compute(self, inputs: ClassInputs) -> Tensor:
        logits, target, _ = inputs
        weights, valid = to_channels(self.class_weights, logits) if self.class_weights else None, target != VOID
        each = F.cross_entropy(
            logits, target, weights, ignore_index=VOID, reduction="none", label_smoothing=self.smoothing
        )
        if self.hardest < 1:
            valid = hardest_pixels(each, valid, self.hardest)
        if weights is None:
            return masked_mean(each, valid)
        total = (weights[target.where(valid, 0)] * valid).sum()
        return torch.where(valid, each, 0).sum() / total.where(total > 0, float("inf"))
