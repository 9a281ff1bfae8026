"""Cross entropy for one of several classes per pixel."""

import torch.nn.functional as F
from torch import Tensor

from pipeline.losses.bce import check_smoothing
from pipeline.losses.inputs import masked_mean
from pipeline.losses.multiclass import MultiClassLoss
from pipeline.metrics import VOID


class CrossEntropyLoss(MultiClassLoss):
    """Cross entropy of each pixel, averaged over all valid pixels of the batch.

        loss = mean(-sum over c of s_c * log(p_c)),  p = softmax(logits)
        s_c  = (1 - smoothing) * [c is the target] + smoothing / C

    The unit is nats per pixel; the loss is log(C) at equal logits.

    Args:
        smoothing: label smoothing in [0, 1): the share of the label that is spread evenly over all classes.

    Shapes:
        logits: (N, C, H, W) float, before the softmax.
        target: (N, H, W) of 0 … C-1, or 255 for void.
        returns: scalar >= 0, without upper bound.

    Raises:
        ValueError: for a smoothing out of range, or as MultiClassLoss.
        NotFiniteError: as MultiClassLoss.

    Source:
        Ronneberger et al., U-Net, https://arxiv.org/abs/1505.04597, without their weight map;
        smoothing: Szegedy et al., https://arxiv.org/abs/1512.00567, section 7.
    """

    def __init__(self, smoothing: float = 0.0):
        super().__init__()
        check_smoothing(smoothing)
        self.smoothing = smoothing

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        each = F.cross_entropy(logits, target, ignore_index=VOID, label_smoothing=self.smoothing, reduction="none")
        return masked_mean(each, target != VOID)
