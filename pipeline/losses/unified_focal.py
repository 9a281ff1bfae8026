"""Unified focal loss: a focal cross entropy plus a focal Tversky loss with shared parameters."""

import torch
from torch import Tensor

from pipeline.losses.inputs import LossInputs, masked_mean
from pipeline.losses.overlap import OverlapLoss


class UnifiedFocalLoss(OverlapLoss):
    """A weighted sum of a focal cross entropy and a focal Tversky loss, with one gamma and one delta for both.

        loss = (1 - weight) * focal + weight * mean(tversky)
        focal   = mean(-delta * t * log(p) - (1 - delta) * (1 - t) * p^gamma * log(1 - p)),  p = sigmoid(logits)
        tversky = (L_mask^(1 - gamma) + L_rest) / 2
        L_mask  = 1 - (TP + smooth) / (TP + delta * FN + (1 - delta) * FP + smooth)
        L_rest  = the same of 1 - t and 1 - p

    With asymmetric = true (the default) only easy background is damped, by p^gamma, and only the overlap of the mask is
    enhanced, by the power 1 - gamma. With false both classes are treated alike: easy masked pixels are damped too, by
    (1 - p)^gamma, and L_rest has the same power.

    Sums run over the valid pixels of one channel of one image, or of the batch.

    Border cases: an empty and a full target cost nothing if they are predicted, and have a gradient otherwise, since
    L_mask and L_rest are defined for both by `smooth`. A soft target is refused: the authors define the loss for masks.

    Args:
        weight: of the Tversky part, in [0, 1].
        delta: weight of masked pixels in the cross entropy and of false negatives in the index, in (0, 1).
        gamma: in [0, 1): how much easy pixels are damped and small errors of the overlap enhanced; 0: neither.
        asymmetric: as above.
        smooth: pixels added to numerator and denominator, > 0.
        over, empty: as OverlapLoss, of the Tversky part.

    Shapes:
        logits: (N, C, H, W) float, before the sigmoid.
        target: (N, C, H, W) of 0, 1, or 255 for void.
        returns: scalar >= 0.

    Raises:
        ValueError: for an argument out of range, a soft target (on a CPU), or as OverlapLoss.
        NotFiniteError: as OverlapLoss.

    Source:
        Yeung et al., Unified Focal loss, https://arxiv.org/abs/2102.04525, as the authors' code,
        https://github.com/mlyg/unified-focal-loss, has it, with its defaults; its two softmax channels, background and
        mask, are 1 - p and p, and its smooth is 1e-7. (For asymmetric = false the paper writes the powers as 1 - gamma
        and gamma.)
    """

    supports_soft = False

    def __init__(
        self,
        weight: float = 0.5,
        delta: float = 0.6,
        gamma: float = 0.5,
        asymmetric: bool = True,
        smooth: float = 1.0,
        over: str = "image",
        empty: str = "count",
    ):
        super().__init__(smooth, over, empty)
        if not 0 <= weight <= 1:
            raise ValueError(f"weight must be in [0, 1], got {weight}: the cross entropy has 1 - weight")
        if not 0 < delta < 1:
            raise ValueError(f"delta must be in (0, 1), got {delta}: background has 1 - delta")
        if not 0 <= gamma < 1:
            raise ValueError(f"gamma must be in [0, 1), got {gamma}: a power is 1 - gamma")
        self.weight, self.delta, self.gamma, self.asymmetric = weight, delta, gamma, asymmetric

    def compute(self, inputs: LossInputs) -> Tensor:
        inputs.refuse_soft("unified_focal")
        focal = masked_mean(self._focal(inputs), inputs.valid)
        return (1 - self.weight) * focal + self.weight * super().compute(inputs)

    def _focal(self, inputs: LossInputs) -> Tensor:
        """The damped cross entropy of each pixel."""
        # Through the logarithm: where |p - t| rounds to 0, the power has an infinite gradient for an exponent below 1.
        exponent = torch.where(inputs.positive, 0, self.gamma) if self.asymmetric else self.gamma
        weight = torch.where(inputs.positive, self.delta, 1 - self.delta)
        return weight * torch.exp(exponent * inputs.log_error()) * inputs.log_loss()

    def per_channel(self, inputs: LossInputs) -> Tensor:
        rest = inputs._replace(logits=-inputs.logits, target=(~inputs.positive & inputs.valid).to(inputs.logits.dtype))
        of_mask, of_rest = (
            self.tversky_loss(each, alpha=1 - self.delta, beta=self.delta, smooth=self.smooth)
            for each in (inputs, rest)
        )
        if not self.asymmetric:
            of_rest = _power(of_rest, 1 - self.gamma)
        return (_power(of_mask, 1 - self.gamma) + of_rest) / 2


def _power(loss: Tensor, exponent: float) -> Tensor:
    """A loss to a power, 0 with a gradient of 0 where the loss is 0."""
    positive = loss.clamp_min(torch.finfo(loss.dtype).tiny)  # also where `where` does not use it: see FocalTverskyLoss
    return torch.where(loss > 0, positive**exponent, 0)
