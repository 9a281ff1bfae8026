"""Log loss: every pixel is a classification of its own."""

import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.losses.precision import full_precision


class BCELoss(nn.Module):
    """Binary cross entropy of each pixel, averaged over all pixels of the batch.

        loss = mean(-t * log(p) - (1 - t) * log(1 - p)),  p = sigmoid(logits)

    Every pixel weighs the same, so where one pixel in a hundred is masked, the masked ones
    carry a hundredth of the sum: that is what Dice and Lovász are for. An empty and a full
    target are no special cases. Unit: nats per pixel; log(2) = 0.693 at logits of 0.

    Shapes:
        logits: (N, C, H, W) float, before the sigmoid.
        target: (N, C, H, W), 0 or 1.
        returns: scalar >= 0, without upper bound: it grows by 1 per unit of a wrong logit.

    Raises:
        ValueError: if logits and target differ in shape.

    Source:
        The pixel-wise cross entropy of Ronneberger et al., U-Net, https://arxiv.org/abs/1505.04597,
        with a sigmoid per channel for their softmax, and without their weight map.
    """

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        with full_precision(logits, target) as (logits, target):
            return F.binary_cross_entropy_with_logits(logits, target)
