"""Tversky losses: overlap losses that weigh false positives and false negatives differently."""

import torch
from torch import Tensor

from pipeline.losses.inputs import LossInputs
from pipeline.losses.overlap import OverlapLoss


class TverskyLoss(OverlapLoss):
    """One minus the soft Tversky index, averaged over images and channels.

        loss = 1 - (TP + smooth) / (TP + alpha * FP + beta * FN + smooth)
        TP = sum(min(p, t)),  FP = sum(max(p - t, 0)),  FN = sum(max(t - p, 0)),  p = sigmoid(logits)

    Where the target is 0 or 1, the terms are p * t, p * (1 - t) and (1 - p) * t. A soft target costs 0 if p = t, and
    with alpha and beta above 0 only then.

    alpha weighs false positives, beta false negatives: with beta above alpha the mask grows, and
    recall with it. Sums run over the valid pixels of one channel of one image; with
    over = "batch", of all images of the batch. alpha = beta = 1/2 gives the Dice loss with
    twice this `smooth`, alpha = beta = 1 the Jaccard loss.

    Border cases: an empty target costs alpha * sum(p) / (alpha * sum(p) + smooth), which is 0 for an
    empty prediction; a full target costs beta * FN / (TP + beta * FN + smooth).

    Args:
        alpha: weight of false positives, >= 0.
        beta: weight of false negatives, >= 0.
        smooth: pixels added to numerator and denominator, > 0.
        over, empty: as OverlapLoss.

    Shapes:
        logits: (N, C, H, W) float, before the sigmoid.
        target: (N, C, H, W) of 0, 1, or 255 for void; floats from 0 to 1, or 255, if it is soft.
        returns: scalar in [0, 1].

    Raises:
        ValueError: for an argument out of range, or as OverlapLoss.
        NotFiniteError: as OverlapLoss.

    Source:
        Salehi et al., https://arxiv.org/abs/1706.05721: alpha weighs false positives there too;
        0.3 and 0.7 were best for small lesions. They have no `smooth`. Soft targets: Wang et al.,
        https://arxiv.org/abs/2303.16296.
    """

    def __init__(
        self, alpha: float = 0.3, beta: float = 0.7, smooth: float = 1.0, over: str = "image", empty: str = "count"
    ):
        super().__init__(smooth, over, empty)
        check_tversky_weights(alpha, beta)
        self.alpha, self.beta = alpha, beta

    def per_channel(self, inputs: LossInputs) -> Tensor:
        return self.tversky_loss(inputs, alpha=self.alpha, beta=self.beta, smooth=self.smooth)


class FocalTverskyLoss(TverskyLoss):
    """The Tversky loss of each channel of each image (or of the batch) to the power of 1 / gamma, then averaged.

        loss = mean((1 - index) ^ (1 / gamma)),  index as in TverskyLoss

    With gamma > 1 the loss is steep near a perfect mask and flat near a completely wrong one, so nearly
    right images keep a large gradient. At 1 - index = 0 the power has an infinite slope, but the slope of the
    sigmoid vanishes faster: the gradient goes to 0, and is 0 there. Near a soft target it does not vanish: with
    gamma > 1 the gradient grows without bound towards p = t, and only `train.clip` bounds the step.

    alpha weighs false positives and beta false negatives, as in TverskyLoss. The paper's formula has
    them the other way round, alpha = 0.7 on false negatives; the defaults here are equivalent.

    Args:
        alpha: weight of false positives, >= 0.
        beta: weight of false negatives, >= 0.
        gamma: > 0; the paper recommends 1 to 3. 1 gives the Tversky loss.
        smooth: pixels added to numerator and denominator, > 0.
        over, empty: as OverlapLoss.

    Shapes:
        logits: (N, C, H, W) float, before the sigmoid.
        target: (N, C, H, W) of 0, 1, or 255 for void; floats from 0 to 1, or 255, if it is soft.
        returns: scalar in [0, 1].

    Raises:
        ValueError: for an argument out of range, or as OverlapLoss.
        NotFiniteError: as OverlapLoss.

    Source:
        Abraham and Khan, https://arxiv.org/abs/1810.07842, equation 4, with gamma = 4/3. They sum
        over the classes; this is the mean.
    """

    def __init__(
        self,
        alpha: float = 0.3,
        beta: float = 0.7,
        gamma: float = 4 / 3,
        smooth: float = 1.0,
        over: str = "image",
        empty: str = "count",
    ):
        super().__init__(alpha, beta, smooth, over, empty)
        if not 0 < gamma < float("inf"):
            raise ValueError(f"gamma must be > 0 and finite, got {gamma}: the loss is raised to 1 / gamma")
        self.gamma = gamma

    def per_channel(self, inputs: LossInputs) -> Tensor:
        each = super().per_channel(inputs)
        # The base of the power is above 0 even where `where` does not use the result: otherwise the gradient of
        # the unused branch is 0 * infinity, which is NaN.
        power = each.clamp_min(torch.finfo(each.dtype).tiny) ** (1 / self.gamma)
        return torch.where(each > 0, power, 0)


def check_tversky_weights(alpha: float, beta: float) -> None:
    """Check the weights of false positives and false negatives.

    Raises:
        ValueError: if one is negative or not finite, or both are 0.
    """
    if not (0 <= alpha < float("inf") and 0 <= beta < float("inf")):
        raise ValueError(f"alpha and beta must be >= 0 and finite, got {alpha} and {beta}")
    if alpha == beta == 0:
        raise ValueError("alpha and beta are both 0: wrong pixels would cost nothing")
