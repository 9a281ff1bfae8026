"""Log loss: every pixel is a classification of its own."""

import torch.nn.functional as F
from torch import Tensor

from pipeline.losses.inputs import Pixels, mean_of
from pipeline.losses.multilabel import MultiLabelLoss


class BCELoss(MultiLabelLoss):
    """Binary cross entropy of each pixel, averaged over all valid pixels of the batch.

        loss = mean(-w * s * log(p) - (1 - s) * log(1 - p)),  p = sigmoid(logits)
        s    = t * (1 - smoothing) + smoothing / 2,           w = positive_weight

    Every pixel weighs the same, so where one pixel in a hundred is masked, the masked ones
    carry a hundredth of the sum: that is what positive_weight, Dice and Lovász are for. An empty
    and a full target are no special cases. Unit: nats per pixel; log(2) = 0.693 at logits of 0.

    Args:
        positive_weight: factor of the log loss towards 1, > 0. At b / f, for a share f of masked
            pixels and b = 1 - f of others, both sides carry the same sum.
        smoothing: share of each target moved to one half, in [0, 1): 0.1 makes them 0.05 and 0.95,
            so the best logit is finite and a wrong label costs less.

    Shapes:
        logits: (N, C, H, W) float, before the sigmoid.
        target: (N, C, H, W), 0 or 1, or 255 for void.
        returns: scalar >= 0, without upper bound: it grows by 1 per unit of a wrong logit.

    Raises:
        ValueError: for an argument out of range, or as MultiLabelLoss.

    Source:
        The pixel-wise cross entropy of Ronneberger et al., U-Net, https://arxiv.org/abs/1505.04597,
        with a sigmoid per channel for their softmax, and without their weight map. Smoothing:
        Szegedy et al., https://arxiv.org/abs/1512.00567, section 7, for two classes.
    """

    def __init__(self, positive_weight: float = 1.0, smoothing: float = 0.0):
        super().__init__()
        if not 0 < positive_weight < float("inf"):
            raise ValueError(
                f"positive_weight must be > 0 and finite, got {positive_weight}: 1 weighs both sides alike"
            )
        check_smoothing(smoothing)
        self.positive_weight = positive_weight
        self.smoothing = smoothing

    def value(self, pixels: Pixels) -> Tensor:
        logits = pixels.logits
        soft = pixels.target * (1 - self.smoothing) + self.smoothing / 2
        weight = logits.new_full((), self.positive_weight)
        each = F.binary_cross_entropy_with_logits(logits, soft, pos_weight=weight, reduction="none")
        return mean_of(each, pixels.valid)


def check_smoothing(smoothing: float) -> None:
    """Refuse a share of the label that is none."""
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing must be in [0, 1), got {smoothing}: at 1 no label would be left")
