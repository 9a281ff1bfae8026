"""Dice loss for one of several classes per pixel."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from pipeline.losses.class_weights import check_class_weights, to_channels, weighted_mean
from pipeline.losses.inputs import ClassInputs, masked_mean
from pipeline.losses.multiclass import MultiClassLoss
from pipeline.losses.overlap import check_smooth
from pipeline.metrics import VOID


class DiceSoftmaxLoss(MultiClassLoss):
    """One minus the soft Dice coefficient of each class over the batch, averaged over the classes in the batch.

        loss = mean over c of 1 - (2 * sum(p_c * t_c) + smooth) / (sum(p_c) + sum(t_c) + smooth),  p = softmax(logits)

    Sums run over the valid pixels of the batch, so a class that few images contain is measured on all its pixels at
    once. A class without a pixel in the batch is left out; its probabilities are missing from the classes present. With
    class weights the mean is weighted.

    Args:
        smooth: pixels added to numerator and denominator, > 0.
        class_weights: as CrossEntropyLoss.

    Shapes:
        logits: (N, C, H, W) float, before the softmax.
        target: (N, H, W) of 0 … C-1, or 255 for void.
        returns: scalar in [0, 1].

    Raises:
        ValueError: for an argument out of range, a number of weights that is not that of the classes, or as
            MultiClassLoss.
        NotFiniteError: as MultiClassLoss.

    Source:
        Sudre et al., Generalised Dice overlap, https://arxiv.org/abs/1707.03237, with equal weights.
    """

    def __init__(self, smooth: float = 1.0, class_weights: Sequence[float] = ()):
        super().__init__()
        check_smooth(smooth)
        check_class_weights(class_weights)
        self.smooth, self.class_weights = smooth, class_weights

    def compute(self, inputs: ClassInputs) -> Tensor:
        logits, target, _ = inputs
        valid = target != VOID
        probs = logits.softmax(dim=1) * valid[:, None]
        true = F.one_hot(target.where(valid, 0), logits.shape[1]).movedim(-1, 1) * valid[:, None]
        intersection, predicted, target_area = (each.sum(dim=(0, 2, 3)) for each in (probs * true, probs, true))
        per_class = 1 - (2 * intersection + self.smooth) / (predicted + target_area + self.smooth)
        if self.class_weights:
            return weighted_mean(per_class, to_channels(self.class_weights, logits) * (target_area > 0))
        return masked_mean(per_class, target_area > 0)
