"""Focal loss: log loss that looks away from what is already right."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.losses.inputs import Pixels, mean_of
from pipeline.losses.multilabel import MultiLabelLoss


class FocalLoss(MultiLabelLoss):
    """Log loss of each pixel, damped where the pixel is easy, averaged over all valid pixels.

        loss = mean(-alpha_t * (1 - p_t)^gamma * log(p_t))
        p_t, alpha_t = p, alpha          where the target is 1,  p = sigmoid(logits)
                       1 - p, 1 - alpha  where it is 0

    With gamma = 2, a pixel that is right with p_t = 0.9 counts a hundredth of its log loss,
    one with p_t = 0.5 a quarter. With gamma = 0 and alpha = 0.5 it is half the log loss.

    It is small: at logits of 0 and an empty target, 0.13 where the log loss is 0.69. In a
    weighted sum with other losses, give it the larger weight. An empty and a full target are
    no special cases: they cost (1 - alpha) and alpha times the damped mean.

    Args:
        gamma: how fast easy pixels lose their weight, >= 0.
        alpha: weight of the pixels of target 1, in [0, 1]; the others weigh 1 - alpha. It is
            below 0.5 for the rarer class in the paper too, since gamma has already
            silenced most of the easy background.

    Shapes:
        logits: (N, C, H, W) float, before the sigmoid.
        target: (N, C, H, W), 0 or 1, or 255 for void.
        returns: scalar >= 0, without upper bound, in nats per pixel.

    Raises:
        ValueError: if gamma or alpha is out of range, or as MultiLabelLoss.

    Source:
        Lin et al., Focal Loss for Dense Object Detection, https://arxiv.org/abs/1708.02002,
        equation 5, gamma and alpha from their table 1b. They divide by the number of boxes
        matched to an object; this is the mean over pixels. The Keras code that many kernels copy
        takes log(p) of the sigmoid's output, clipped at a small epsilon or not at all, and sums
        instead of averaging: its gradient is 0 or NaN at a sure mistake, and its scale grows with
        the image.
    """

    def __init__(self, gamma: float = 2.0, alpha: float = 0.25):
        super().__init__()
        if not 0 <= gamma < float("inf"):
            raise ValueError(f"gamma must be >= 0, got {gamma}: below 0, easy pixels would weigh the most")
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be in [0, 1], got {alpha}: the other class weighs 1 - alpha")
        self.gamma = gamma
        self.alpha = alpha

    def value(self, pixels: Pixels) -> Tensor:
        target = pixels.target
        towards_target = pixels.logits * (2 * target - 1)
        log_pt = F.logsigmoid(towards_target)
        # (1 - p_t)^gamma through its logarithm: the power of a difference that rounds to 0
        # has an infinite gradient for gamma < 1.
        damping = torch.exp(self.gamma * F.logsigmoid(-towards_target))
        alpha_t = self.alpha * target + (1 - self.alpha) * (1 - target)
        return mean_of(-alpha_t * damping * log_pt, pixels.valid)
