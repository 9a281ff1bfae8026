"""What Dice, Jaccard and Tversky share: sums over pixels, of each image or of the batch, and which of them count."""

import torch
from torch import Tensor

from pipeline.losses.inputs import Pixels, mean_of
from pipeline.losses.multilabel import MultiLabelLoss
from pipeline.schema import did_you_mean

OVER = ("image", "batch")  # whose pixels are summed
EMPTY = ("count", "ignore")  # what is done with sums whose target is empty


class OverlapLoss(MultiLabelLoss):
    """The mean of a loss of each channel of each image, or of each channel of the batch; a subclass gives `each`.

    Args:
        over: "image": the pixels of one channel of one image are summed, so a small object weighs as much as a large
            one. "batch": those of all images of the batch (of one process), so an object weighs by its pixels, and an
            empty image adds its false positives to the sums of the others. Equal for a batch of one image.
        empty: "count": an empty target counts as any other. "ignore": a channel that is empty in the image (in the
            whole batch, if summed over it) is left out of the mean, as if it were void: it teaches nothing. Then
            another loss in the mix, such as bce, has to teach that empty images are empty.

    Raises:
        ValueError: if `smooth` is not positive, for another value of `over` or `empty`, or as MultiLabelLoss.

    Source:
        "batch": batch Dice of nnU-Net, https://doi.org/10.1038/s41592-020-01008-z, and smp's losses. "ignore": the
        first place of https://www.kaggle.com/competitions/understanding_cloud_organization took Dice only where a
        class is present.
    """

    def __init__(self, smooth: float, over: str, empty: str):
        super().__init__()
        check_smooth(smooth)
        check_means(over, empty)
        self.smooth, self.over, self.empty = smooth, over, empty

    def value(self, pixels: Pixels) -> Tensor:
        counted = pixels.positive if self.empty == "ignore" else pixels.valid
        return mean_of(self.each(pixels), counted.flatten(2).any(dim=2) if self.over == "image" else _in_batch(counted))

    def each(self, pixels: Pixels) -> Tensor:
        """The losses that the mean is taken of, as `tversky_loss` gives them."""
        raise NotImplementedError

    def tversky_loss(self, pixels: Pixels, *, alpha: float, beta: float, smooth: float) -> Tensor:
        """One minus the soft Tversky index of each channel of each image, or of each channel of the batch.

            index = (hit + smooth) / (hit + alpha * extra + beta * missed + smooth)
            hit   = sum(p * t),  extra = sum(p * (1 - t)),  missed = sum((1 - p) * t)

        alpha = beta = 1 is the Jaccard index, alpha = beta = 1/2 the Dice coefficient. What is left
        to 1 is computed as it is, (alpha * extra + beta * missed) / (...), from the probability of
        each pixel's wrong side: near a perfect mask, a difference to 1 would leave mostly rounding.

        Args:
            alpha: weight of what is predicted and not in the target.
            beta: weight of what is in the target and not predicted.
            smooth: pixels added to both sides of the fraction, > 0.

        Shapes:
            returns: (N, C), or (C,) over the batch, in [0, 1]; 0 for a channel that is void everywhere.
        """
        axes = (2, 3) if self.over == "image" else (0, 2, 3)
        target = pixels.target
        wrong = torch.sigmoid(pixels.logits * (1 - 2 * target))  # |p - t|
        missed = (wrong * target).sum(dim=axes)
        extra = (wrong * (pixels.valid & ~pixels.positive)).sum(dim=axes)
        hit = target.sum(dim=axes) - missed
        fault = alpha * extra + beta * missed
        return fault / (hit + fault + smooth)


def _in_batch(counted: Tensor) -> Tensor:
    """Which channels hold a pixel that counts in any image: (N, C, H, W) bool to (C,)."""
    return counted.transpose(0, 1).flatten(1).any(dim=1)


def check_smooth(smooth: float) -> None:
    """Refuse a `smooth` that an empty target cannot live with."""
    if not 0 < smooth < float("inf"):
        raise ValueError(f"smooth must be > 0 and finite, got {smooth}: at 0, an empty target would divide 0 by 0")


def check_means(over: str, empty: str) -> None:
    """Refuse an `over` or `empty` that is not known."""
    for option, value, known in (("over", over, OVER), ("empty", empty, EMPTY)):
        if value not in known:
            raise ValueError(f"unknown {option} '{value}'. {did_you_mean(value, known)}")
