"""Dice loss: one minus the soft Dice coefficient."""

from torch import Tensor

from pipeline.losses.inputs import LossInputs
from pipeline.losses.overlap import OverlapLoss


class DiceLoss(OverlapLoss):
    """One minus the soft Dice coefficient, averaged over images and channels.

        loss = 1 - (2 * sum(min(p, t)) + smooth) / (sum(p) + sum(t) + smooth),  p = sigmoid(logits)

    min(p, t) is p * t where the target is 0 or 1. A soft target costs 0 if p = t, and only then.

    Sums run over the valid pixels of one channel of one image, so a small object weighs as much
    as a large one; with over = "batch", of one channel of all images of the batch.

    Border cases: an empty target costs 1 - smooth / (sum(p) + smooth): 0 for an empty prediction,
    and nearly 1 for a prediction of many more than `smooth` pixels. Its gradient is not zero, so
    the network also learns from empty images. A full target costs 0 for a full prediction, and
    1 - smooth / (H * W + smooth) for an empty one.

    Args:
        smooth: pixels added to numerator and denominator, > 0.
        over, empty: as OverlapLoss.

    Shapes:
        logits: (N, C, H, W) float, before the sigmoid.
        target: (N, C, H, W) of 0, 1, or 255 for void; floats from 0 to 1, or 255, if it is soft.
        returns: scalar in [0, 1].

    Raises:
        ValueError, NotFiniteError: as OverlapLoss.

    Source:
        Milletari et al., V-Net, https://arxiv.org/abs/1606.04797. They square the terms of
        the denominator; this is the plain sum. On `smooth` and empty targets: Tilborghs
        et al., https://arxiv.org/abs/2207.09521. Soft targets: Wang et al., Dice Semimetric Losses,
        https://arxiv.org/abs/2303.16296.
    """

    def __init__(self, smooth: float = 1.0, over: str = "image", empty: str = "count"):
        super().__init__(smooth, over, empty)

    def per_channel(self, inputs: LossInputs) -> Tensor:
        # Dice counts the overlap twice, so half of numerator and denominator is a Tversky index.
        return self.tversky_loss(inputs, alpha=0.5, beta=0.5, smooth=self.smooth / 2)
