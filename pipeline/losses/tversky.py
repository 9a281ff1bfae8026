"""Tversky losses: an overlap that counts a missed pixel and an extra one differently."""

import torch
from torch import Tensor

from pipeline.losses.inputs import Pixels
from pipeline.losses.overlap import OverlapLoss


class TverskyLoss(OverlapLoss):
    """One minus the soft Tversky index, averaged over images and channels.

        loss = 1 - (hit + smooth) / (hit + alpha * extra + beta * missed + smooth)
        hit  = sum(p * t),  extra = sum(p * (1 - t)),  missed = sum((1 - p) * t),  p = sigmoid(logits)

    alpha weighs false positives, beta false negatives: with beta above alpha the mask grows, and
    recall with it. Sums run over the valid pixels of one channel of one image; with
    over = "batch", of all images of the batch. alpha = beta = 1/2
    is the Dice loss of twice this `smooth`, alpha = beta = 1 the Jaccard loss.

    Border cases: an empty target costs alpha * sum(p) / (alpha * sum(p) + smooth), nothing if
    nothing is predicted; a full target costs beta * missed / (hit + beta * missed + smooth).

    Args:
        alpha: weight of predicted pixels outside the target, >= 0.
        beta: weight of target pixels not predicted, >= 0.
        smooth: pixels added to both sides of the fraction, > 0.
        over, empty: as OverlapLoss.

    Shapes:
        logits: (N, C, H, W) float, before the sigmoid.
        target: (N, C, H, W), 0 or 1, or 255 for void.
        returns: scalar in [0, 1].

    Raises:
        ValueError: for an argument out of range, or as OverlapLoss.

    Source:
        Salehi et al., https://arxiv.org/abs/1706.05721: alpha weighs false positives there too,
        and 0.3 with 0.7 was best for small lesions. They have no `smooth`.
    """

    def __init__(
        self, alpha: float = 0.3, beta: float = 0.7, smooth: float = 1.0, over: str = "image", empty: str = "count"
    ):
        super().__init__(smooth, over, empty)
        check_weights(alpha, beta)
        self.alpha, self.beta = alpha, beta

    def each(self, pixels: Pixels) -> Tensor:
        return self.tversky_loss(pixels, alpha=self.alpha, beta=self.beta, smooth=self.smooth)


class FocalTverskyLoss(TverskyLoss):
    """The Tversky loss of each channel of each image (or of the batch) to the power of 1 / gamma, then averaged.

        loss = mean((1 - index) ^ (1 / gamma)),  index as in TverskyLoss

    With gamma > 1 the curve is steep near a perfect mask and flat near a hopeless one, so nearly
    right images keep teaching. There the power alone has an infinite slope; times the sigmoid's,
    which vanishes faster, the gradient goes to 0, and at 1 - index = 0 it is 0.

    alpha weighs false positives and beta false negatives, as in TverskyLoss. In the paper's
    formula it is the other way round, alpha = 0.7 on false negatives: these defaults are its.

    Args:
        alpha: weight of predicted pixels outside the target, >= 0.
        beta: weight of target pixels not predicted, >= 0.
        gamma: > 0; the paper advises 1 to 3. 1 is the Tversky loss.
        smooth: pixels added to both sides of the fraction, > 0.
        over, empty: as OverlapLoss.

    Shapes:
        logits: (N, C, H, W) float, before the sigmoid.
        target: (N, C, H, W), 0 or 1, or 255 for void.
        returns: scalar in [0, 1].

    Raises:
        ValueError: for an argument out of range, or as OverlapLoss.

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

    def each(self, pixels: Pixels) -> Tensor:
        each = super().each(pixels)
        # The power is taken of a number above 0 even where its result is not used: the gradient of
        # the unused branch would be 0 * infinity.
        power = each.clamp_min(torch.finfo(each.dtype).tiny) ** (1 / self.gamma)
        return torch.where(each > 0, power, 0)


def check_weights(alpha: float, beta: float) -> None:
    """Refuse weights under which a wrong pixel would be a gain, or none would cost anything."""
    if not (0 <= alpha < float("inf") and 0 <= beta < float("inf")):
        raise ValueError(f"alpha and beta must be >= 0 and finite, got {alpha} and {beta}")
    if alpha == beta == 0:
        raise ValueError("alpha and beta are both 0: no pixel would cost anything")
