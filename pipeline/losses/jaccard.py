"""Jaccard loss: one minus the soft intersection over union."""

from torch import Tensor

from pipeline.losses.inputs import LossInputs
from pipeline.losses.overlap import OverlapLoss


class JaccardLoss(OverlapLoss):
    """One minus the soft Jaccard index, averaged over images and channels.

        loss  = 1 - (sum(min(p, t)) + smooth) / (union + smooth),  p = sigmoid(logits)
        union = sum(max(p, t)) = sum(p) + sum(t) - sum(min(p, t))

    min(p, t) is p * t where the target is 0 or 1. A soft target costs 0 if p = t, and only then; the loss is a
    metric between p and t if `smooth` is small.

    Sums run over the valid pixels of one channel of one image; with over = "batch", of all images
    of the batch. For binary masks it is a rising function of the Dice loss, J = 2D / (1 + D), so both
    rank predictions of one image alike; this one is steeper near a perfect mask and flatter near
    a completely wrong one.

    Border cases: an empty target costs sum(p) / (sum(p) + smooth), which is 0 for an empty prediction.
    A full target costs 0 for a full prediction, and 1 - smooth / (H * W + smooth) for an empty one.

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
        Rahman and Wang, Optimizing Intersection-Over-Union in Deep Neural Networks for Image
        Segmentation, https://doi.org/10.1007/978-3-319-50835-1_22, with `smooth` added. Soft targets: Wang et
        al., Jaccard Metric Losses, https://arxiv.org/abs/2302.05666.
        The convex surrogate of the same index is `lovasz`.
    """

    def __init__(self, smooth: float = 1.0, over: str = "image", empty: str = "count"):
        super().__init__(smooth, over, empty)

    def per_channel(self, inputs: LossInputs) -> Tensor:
        return self.tversky_loss(inputs, alpha=1, beta=1, smooth=self.smooth)
