"""Binary cross entropy: each pixel is classified by itself."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.losses.class_weights import to_channels
from pipeline.losses.inputs import LossInputs, check_hardest, hardest_pixels, masked_mean
from pipeline.losses.multilabel import MultiLabelLoss


class BCELoss(MultiLabelLoss):
    """Binary cross entropy of each pixel, averaged over all valid pixels of the batch.

        loss = mean(-w * s * log(p) - (1 - s) * log(1 - p)),  p = sigmoid(logits)
        s    = t * (1 - e) + e / 2,  e = smoothing,           w = positive_weight

    A soft target needs no other formula: with positive_weight 1 and no smoothing, the loss is lowest at p = t,
    where it is the entropy of t.

    Every pixel has the same weight. If 1 % of the pixels are masked, they contribute 1 % of the
    sum; positive_weight, Dice and Lovász compensate for this. Empty and full targets are no
    special cases. The unit is nats per pixel; the loss is log(2) = 0.693 at logits of 0.

    Args:
        positive_weight: factor of the loss of pixels with target 1, > 0; or one for each channel. If a share f of the
            pixels is masked, (1 - f) / f gives masked and other pixels the same total weight. A config may name a
            method of `class_weights.METHODS` instead.
        smoothing: label smoothing in [0, 1): the share of each target that is moved to one half.
            0.1 changes targets to 0.05 and 0.95, so the best logit is finite and a wrong label costs less.
        hardest: share of the valid pixels of the batch (of one process) that count, those with the largest losses, in
            (0, 1]; at least one. Below 1 it finds hard examples, also wrong labels. Pixels of all channels compete.
        boundary_smoothing: in pixels, >= 0: more smoothing near the boundary of the mask, as if its labels were blurred
            by a Gaussian of this standard deviation. A pixel at distance d from the nearest pixel of the other kind has
            e = smoothing + (1 - smoothing) * erfc((d - 1/2) / (sqrt(2) * boundary_smoothing)). Above 0 the loss needs
            `target_maps.boundary_distance`, which soft targets do not have; empty and full masks have no boundary.

    Shapes:
        logits: (N, C, H, W) float, before the sigmoid.
        target: (N, C, H, W) of 0, 1, or 255 for void; floats from 0 to 1, or 255, if it is soft.
        maps: (N, C, H, W), distances to the boundary, only for boundary_smoothing.
        returns: scalar >= 0, without upper bound: it grows by 1 per unit of a wrong logit.

    Raises:
        ValueError: for an argument out of range, or as MultiLabelLoss.
        NotFiniteError: as MultiLabelLoss.

    Source:
        Ronneberger et al., U-Net, https://arxiv.org/abs/1505.04597, with a sigmoid per channel
        instead of the softmax, and without their weight map. Smoothing: Szegedy et al.,
        https://arxiv.org/abs/1512.00567, section 7, for two classes. Hardest: Shrivastava et al., OHEM,
        https://arxiv.org/abs/1604.03540, for pixels as Wu et al., https://arxiv.org/abs/1604.04339. Near boundaries:
        Islam and Glocker, Spatially Varying Label Smoothing, https://arxiv.org/abs/2104.05788, for a straight edge.
    """

    def __init__(
        self,
        positive_weight: float | Sequence[float] = 1.0,
        smoothing: float = 0.0,
        hardest: float = 1.0,
        boundary_smoothing: float = 0.0,
    ):
        super().__init__()
        check_positive_weight(positive_weight)
        check_smoothing(smoothing)
        check_hardest(hardest)
        if not 0 <= boundary_smoothing < float("inf"):
            raise ValueError(f"boundary_smoothing must be >= 0 pixels and finite, got {boundary_smoothing}")
        self.positive_weight = positive_weight
        self.smoothing, self.hardest, self.boundary_smoothing = smoothing, hardest, boundary_smoothing
        if boundary_smoothing:
            self.target_maps = ("boundary_distance",)

    def compute(self, inputs: LossInputs) -> Tensor:
        logits = inputs.logits
        smoothing = self._smoothing(inputs)
        soft = inputs.target * (1 - smoothing) + smoothing / 2
        weight = to_positive_weight(self.positive_weight, logits)
        each = F.binary_cross_entropy_with_logits(logits, soft, pos_weight=weight, reduction="none")
        valid = inputs.valid if self.hardest == 1 else hardest_pixels(each, inputs.valid, self.hardest)
        return masked_mean(each, valid)

    def _smoothing(self, inputs: LossInputs) -> float | Tensor:
        """The share of each pixel's target that is moved to one half."""
        if not self.boundary_smoothing:
            return self.smoothing
        inputs.refuse_soft("boundary_smoothing of bce")
        deviations = (inputs.maps["boundary_distance"] - 0.5) / self.boundary_smoothing
        return self.smoothing + (1 - self.smoothing) * torch.erfc(deviations / 2**0.5)


def check_positive_weight(positive_weight: float | Sequence[float]) -> None:
    """Check the factor of masked pixels, or that of each channel.

    Raises:
        ValueError: if one is not positive and finite.
    """
    for weight in [positive_weight] if isinstance(positive_weight, float | int) else positive_weight:
        if not 0 < weight < float("inf"):
            raise ValueError(
                f"positive_weight must be > 0 and finite, got {weight}: 1 weighs masked and other pixels alike"
            )


def to_positive_weight(positive_weight: float | Sequence[float], logits: Tensor) -> Tensor:
    """The factor of masked pixels as a tensor that broadcasts to the logits, (N, C, H, W).

    Raises:
        ValueError: as `to_channels`.
    """
    if isinstance(positive_weight, float | int):
        return logits.new_full((), positive_weight)
    return to_channels(positive_weight, logits)[:, None, None]


def check_smoothing(smoothing: float) -> None:
    """Check a share of label smoothing.

    Raises:
        ValueError: if it is not in [0, 1).
    """
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing must be in [0, 1), got {smoothing}: at 1 no label would be left")
