"""Jaccard loss: intersection over union, on probabilities."""

from torch import Tensor

from pipeline.losses.inputs import Pixels
from pipeline.losses.overlap import OverlapLoss


class JaccardLoss(OverlapLoss):
    """One minus the soft Jaccard index, averaged over images and channels.

        loss  = 1 - (sum(p * t) + smooth) / (union + smooth),  p = sigmoid(logits)
        union = sum(p) + sum(t) - sum(p * t)

    Sums run over the valid pixels of one channel of one image; with over = "batch", of all images
    of the batch. For masks it is a rising function of the Dice loss, J = 2D / (1 + D), so both
    rank predictions of one image alike; this one is steeper near a perfect mask and flatter near
    a hopeless one.

    Border cases: an empty target costs sum(p) / (sum(p) + smooth), nothing if nothing is predicted.
    A full target costs 0 if all is predicted, and 1 - smooth / (H * W + smooth) if nothing is.

    Args:
        smooth: pixels added to both sides of the fraction, > 0.
        over, empty: as OverlapLoss.

    Shapes:
        logits: (N, C, H, W) float, before the sigmoid.
        target: (N, C, H, W), 0 or 1, or 255 for void.
        returns: scalar in [0, 1].

    Raises:
        ValueError: as OverlapLoss.

    Source:
        Rahman and Wang, Optimizing Intersection-Over-Union in Deep Neural Networks for Image
        Segmentation, https://doi.org/10.1007/978-3-319-50835-1_22, with `smooth` added.
        The convex surrogate of the same index is `lovasz`.
    """

    def __init__(self, smooth: float = 1.0, over: str = "image", empty: str = "count"):
        super().__init__(smooth, over, empty)

    def each(self, pixels: Pixels) -> Tensor:
        return self.tversky_loss(pixels, alpha=1, beta=1, smooth=self.smooth)
