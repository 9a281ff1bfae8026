"""Base class of the Dice, Jaccard and Tversky losses, all of which are Tversky indices."""

from torch import Tensor

from pipeline.losses.inputs import LossInputs, masked_mean
from pipeline.losses.multilabel import MultiLabelLoss
from pipeline.schema import did_you_mean

OVER = ("image", "batch")  # whose pixels are summed
EMPTY = ("count", "ignore")  # whether channels with an empty target are in the mean


class OverlapLoss(MultiLabelLoss):
    """The mean over the losses of single channels, which a subclass implements in `per_channel`.

    Args:
        smooth: pixels added to numerator and denominator, > 0.
        over: "image": sums run over one channel of one image, so a small object weighs as much as a large one. "batch":
            sums run over one channel of all images of the batch (of one process), so an object weighs by its pixels,
            and an empty image adds its false positives to the sums of the others. Both are equal for one image.
        empty: "count": an empty target counts like any other. "ignore": a channel with an empty target (in the image,
            or in the whole batch for "batch") is left out of the mean. Then another loss in the mix, such as bce, is
            needed to learn that empty images are empty.

    Shapes:
        logits: (N, C, H, W) float, before the sigmoid.
        target: (N, C, H, W) of 0, 1, or 255 for void; floats from 0 to 1, or 255, if it is soft.
        returns: scalar in [0, 1].

    Raises:
        ValueError: if `smooth` is not positive, for another value of `over` or `empty`, or as MultiLabelLoss.
        NotFiniteError: as MultiLabelLoss.

    Source:
        "batch": batch Dice of nnU-Net, https://doi.org/10.1038/s41592-020-01008-z, and smp's losses. "ignore": the
        winners of https://www.kaggle.com/competitions/understanding_cloud_organization used Dice only where a class is
        present.
    """

    def __init__(self, smooth: float, over: str, empty: str):
        super().__init__()
        check_smooth(smooth)
        check_reduction(over, empty)
        self.smooth, self.over, self.empty = smooth, over, empty

    def compute(self, inputs: LossInputs) -> Tensor:
        counted = inputs.positive if self.empty == "ignore" else inputs.valid
        counted = (
            counted.flatten(2).any(dim=2) if self.over == "image" else counted.transpose(0, 1).flatten(1).any(dim=1)
        )
        return masked_mean(self.per_channel(inputs), counted)

    def per_channel(self, inputs: LossInputs) -> Tensor:
        """The loss of each channel, (N, C), or (C,) over the batch, in [0, 1]."""
        raise NotImplementedError

    def tversky_loss(self, inputs: LossInputs, *, alpha: float, beta: float, smooth: float) -> Tensor:
        """One minus the soft Tversky index of each channel of each image, or of each channel of the batch.

            index = (TP + smooth) / (TP + alpha * FP + beta * FN + smooth)
            TP = sum(min(p, t)),  FP = sum(max(p - t, 0)),  FN = sum(max(t - p, 0))

        For a target of 0 and 1, these are the sums of p * t, p * (1 - t) and (1 - p) * t. For a soft target the
        products would reward a prediction of 0 or 1; these sums make the loss 0 if p = t, and only then.

        alpha = beta = 1 gives the Jaccard index, alpha = beta = 1/2 the Dice coefficient. The loss is computed
        as (alpha * FP + beta * FN) / (...), from the error |p - t| of each pixel: near a perfect mask,
        1 - index would leave mostly rounding.

        Args:
            alpha: weight of false positives.
            beta: weight of false negatives.
            smooth: pixels added to numerator and denominator, > 0.

        Shapes:
            returns: (N, C), or (C,) over the batch, in [0, 1]; 0 for a channel without a valid pixel.

        Source:
            For soft targets: Wang et al., Jaccard Metric Losses, https://arxiv.org/abs/2302.05666 (the first one), and
            Dice Semimetric Losses, https://arxiv.org/abs/2303.16296 (the first one, and their Tversky loss).
        """
        axes = (2, 3) if self.over == "image" else (0, 2, 3)
        error, below = inputs.error(), inputs.below()
        false_negative = (error * below).sum(dim=axes)
        false_positive = (error * (inputs.valid & ~below)).sum(dim=axes)
        true_positive = inputs.target.sum(dim=axes) - false_negative
        weighted_errors = alpha * false_positive + beta * false_negative
        return weighted_errors / (true_positive + weighted_errors + smooth)


def check_smooth(smooth: float) -> None:
    """Check the pixels added to numerator and denominator.

    Raises:
        ValueError: if they are not positive and finite.
    """
    if not 0 < smooth < float("inf"):
        raise ValueError(f"smooth must be > 0 and finite, got {smooth}: at 0, an empty target would divide 0 by 0")


def check_reduction(over: str, empty: str) -> None:
    """Check the options `over` and `empty`.

    Raises:
        ValueError: for an unknown value of one.
    """
    for option, compute, known in (("over", over, OVER), ("empty", empty, EMPTY)):
        if compute not in known:
            raise ValueError(f"unknown {option} '{compute}'. {did_you_mean(compute, known)}")
