"""Dice loss: the overlap of one object in one image, whatever its size."""

from torch import Tensor

from pipeline.losses.inputs import Pixels
from pipeline.losses.overlap import OverlapLoss


class DiceLoss(OverlapLoss):
    """One minus the soft Dice coefficient, averaged over images and channels.

        loss = 1 - (2 * sum(p * t) + smooth) / (sum(p) + sum(t) + smooth),  p = sigmoid(logits)

    Sums run over the valid pixels of one channel of one image, so a small object weighs as much
    as a large one; with over = "batch", of one channel of all images of the batch.

    Border cases: an empty target costs 1 - smooth / (sum(p) + smooth), which is nothing if
    nothing is predicted, and nearly 1 once many more than `smooth` pixels are; its gradient
    is not zero, so empty images teach. A full target costs 0 if all is predicted, and
    1 - smooth / (H * W + smooth) if nothing is.

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
        Milletari et al., V-Net, https://arxiv.org/abs/1606.04797. They square the terms of
        the denominator; this is the plain sum. On `smooth` and empty targets: Tilborghs
        et al., https://arxiv.org/abs/2207.09521.
    """

    def __init__(self, smooth: float = 1.0, over: str = "image", empty: str = "count"):
        super().__init__(smooth, over, empty)

    def each(self, pixels: Pixels) -> Tensor:
        # Halves, since Dice counts the overlap twice: half of the fraction above, on both sides.
        return self.tversky_loss(pixels, alpha=0.5, beta=0.5, smooth=self.smooth / 2)
