"""Cross entropy: log loss where a pixel has one of several classes."""

import torch.nn.functional as F
from torch import Tensor

from pipeline.losses.bce import check_smoothing
from pipeline.losses.inputs import IGNORE, mean_of
from pipeline.losses.multiclass import MultiClassLoss


class CrossEntropyLoss(MultiClassLoss):
    """Cross entropy of each pixel, averaged over all valid pixels of the batch.

        loss = mean(-sum over c of s_c * log(p_c)),  p = softmax(logits)
        s_c  = (1 - smoothing) * [c is the target] + smoothing / C

    Unit: nats per pixel; log(C) at logits that are all equal.

    Args:
        smoothing: share of the label spread evenly over all classes, in [0, 1).

    Shapes:
        logits: (N, C, H, W) float, before the softmax.
        target: (N, H, W) of 0 … C-1, or 255 for void.
        returns: scalar >= 0, without upper bound.

    Raises:
        ValueError: for a smoothing out of range, or as MultiClassLoss.

    Source:
        Ronneberger et al., U-Net, https://arxiv.org/abs/1505.04597, without their weight map;
        smoothing: Szegedy et al., https://arxiv.org/abs/1512.00567, section 7.
    """

    def __init__(self, smoothing: float = 0.0):
        super().__init__()
        check_smoothing(smoothing)
        self.smoothing = smoothing

    def value(self, logits: Tensor, target: Tensor) -> Tensor:
        each = F.cross_entropy(logits, target, ignore_index=IGNORE, label_smoothing=self.smoothing, reduction="none")
        return mean_of(each, target != IGNORE)
