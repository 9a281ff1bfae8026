"""Dice loss: the overlap of one object in one image, whatever its size."""

import torch
from torch import Tensor, nn

from pipeline.losses.precision import full_precision


class DiceLoss(nn.Module):
    """One minus the soft Dice coefficient, averaged over images and channels.

        loss = 1 - (2 * sum(p * t) + smooth) / (sum(p) + sum(t) + smooth),  p = sigmoid(logits)

    Sums run over the pixels of one channel of one image, so a small object weighs as much
    as a large one.

    Border cases: an empty target costs 1 - smooth / (sum(p) + smooth), which is nothing if
    nothing is predicted, and nearly 1 once many more than `smooth` pixels are; its gradient
    is not zero, so empty images teach. A full target costs 0 if all is predicted, and
    1 - smooth / (H * W + smooth) if nothing is.

    Args:
        smooth: pixels added to both sides of the fraction, > 0.

    Shapes:
        logits: (N, C, H, W) float, before the sigmoid.
        target: (N, C, H, W), 0 or 1.
        returns: scalar in [0, 1].

    Raises:
        ValueError: if smooth is not positive, or logits and target differ in shape.

    Source:
        Milletari et al., V-Net, https://arxiv.org/abs/1606.04797. They square the terms of
        the denominator; this is the plain sum. On `smooth` and empty targets: Tilborghs
        et al., https://arxiv.org/abs/2207.09521.
    """

    def __init__(self, smooth: float = 1.0):
        super().__init__()
        if not smooth > 0:
            raise ValueError(f"smooth must be > 0, got {smooth}: an empty target would divide 0 by 0")
        self.smooth = smooth

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        with full_precision(logits, target) as (logits, target):
            probs = torch.sigmoid(logits)
            overlap = (probs * target).sum(dim=(2, 3))
            total = probs.sum(dim=(2, 3)) + target.sum(dim=(2, 3))
            dice = (2 * overlap + self.smooth) / (total + self.smooth)
            return 1 - dice.mean()
