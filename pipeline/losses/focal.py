"""Focal loss: binary cross entropy with less weight on pixels that are already right."""

import torch
from torch import Tensor

from pipeline.losses.inputs import LossInputs, masked_mean
from pipeline.losses.multilabel import MultiLabelLoss


class FocalLoss(MultiLabelLoss):
    """Binary cross entropy of each pixel, damped where the pixel is easy, averaged over all valid pixels.

        loss = mean(-alpha_t * (1 - p_t)^gamma * log(p_t))
        p_t, alpha_t = p, alpha          where the target is 1,  p = sigmoid(logits)
                       1 - p, 1 - alpha  where it is 0

    or, for any target t from 0 to 1:

        loss = mean(-(alpha * t + (1 - alpha) * (1 - t)) * |p - t|^gamma * (t * log(p) + (1 - t) * log(1 - p)))

    which is lowest at p = t; with gamma > 0 it is 0 there.

    With gamma = 2, a pixel with p_t = 0.9 has 1 % of its cross entropy, one with p_t = 0.5 a
    quarter. With gamma = 0 and alpha = 0.5 the loss is half the cross entropy.

    Its values are small: at logits of 0 and an empty target it is 0.13, where the cross entropy
    is 0.69. In a weighted sum with other losses it needs a larger weight. Empty and full targets
    are no special cases: they cost (1 - alpha) and alpha times the damped mean.

    Args:
        gamma: how fast easy pixels lose weight, >= 0.
        alpha: weight of pixels with target 1, in [0, 1]; the others have 1 - alpha. In the paper it is
            below 0.5 for the rarer class too, since gamma removes most of the easy background.

    Shapes:
        logits: (N, C, H, W) float, before the sigmoid.
        target: (N, C, H, W) of 0, 1, or 255 for void; floats from 0 to 1, or 255, if it is soft.
        returns: scalar >= 0, without upper bound, in nats per pixel.

    Raises:
        ValueError: if gamma or alpha is out of range, or as MultiLabelLoss.
        NotFiniteError: as MultiLabelLoss.

    Source:
        Lin et al., Focal Loss for Dense Object Detection, https://arxiv.org/abs/1708.02002,
        equation 5, gamma and alpha from their table 1b. They divide by the number of boxes
        matched to an object; this is the mean over pixels. Keras code in many Kaggle kernels
        takes log(p) of the sigmoid's output and sums over pixels: its gradient is 0 or NaN for a
        confident mistake, and its scale grows with the image. Soft targets: Li et al., Generalized
        Focal Loss, https://arxiv.org/abs/2006.04388, equation 5, whose loss has no alpha.
    """

    def __init__(self, gamma: float = 2.0, alpha: float = 0.25):
        super().__init__()
        if not 0 <= gamma < float("inf"):
            raise ValueError(f"gamma must be >= 0, got {gamma}: below 0, easy pixels would weigh the most")
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be in [0, 1], got {alpha}: the other class weighs 1 - alpha")
        self.gamma = gamma
        self.alpha = alpha

    def compute(self, inputs: LossInputs) -> Tensor:
        target = inputs.target
        # |p - t|^gamma is computed through its logarithm: where |p - t| rounds to 0, the power has an infinite
        # gradient for gamma < 1.
        damping = torch.exp(self.gamma * inputs.log_error())
        alpha_t = self.alpha * target + (1 - self.alpha) * (1 - target)
        return masked_mean(alpha_t * damping * inputs.log_loss(), inputs.valid)
