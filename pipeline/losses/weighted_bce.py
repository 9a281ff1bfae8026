"""Binary cross entropy with the weight map of U-Net, which is high between touching objects."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.data.target_maps import REACH
from pipeline.losses.bce import check_positive_weight, to_positive_weight
from pipeline.losses.inputs import LossInputs, masked_mean
from pipeline.losses.multilabel import MultiLabelLoss


class WeightedBCELoss(MultiLabelLoss):
    """Binary cross entropy of each pixel times U-Net's weight, averaged over all valid pixels of the batch.

        loss = mean(w * (-t * log(p) - (1 - t) * log(1 - p))),  p = sigmoid(logits)
        w    = w_c + w0 * exp(-(d1 + d2)^2 / (2 * sigma^2))

    d1 and d2 are the distances of the pixel to the two nearest objects of its channel, in pixels of the network's
    image; w_c is positive_weight where the target is 1, and 1 elsewhere. So pixels between close objects weigh up to
    1 + w0, and those of an object near another one more than the others.

    Border cases: with fewer than two objects the weight is w_c, as in an empty and a full target. Objects are connected
    components of the augmented mask; with `data.boundary` its channel separates touching ones.

    The maps are made by the data set (`target_maps.object_distance`), which has none for a soft target.

    Args:
        w0: weight of a pixel between two touching objects, >= 0.
        sigma: width of the weighted gaps, in pixels, > 0 and at most 16: the map ends at 64 pixels.
        positive_weight: as BCELoss, also one for each channel.

    Shapes:
        logits: (N, C, H, W) float, before the sigmoid.
        target: (N, C, H, W) of 0, 1, or 255 for void.
        maps: (N, C, H, W), d1 + d2.
        returns: scalar >= 0, without upper bound, in nats per pixel.

    Raises:
        ValueError: for an argument out of range, a soft target (on a CPU), or as MultiLabelLoss.
        NotFiniteError: as MultiLabelLoss.

    Source:
        Ronneberger et al., U-Net, https://arxiv.org/abs/1505.04597, equations 1 and 2, with w0 and sigma as there, a
        sigmoid instead of the softmax, and the mean instead of the sum.
    """

    supports_soft = False
    target_maps = ("object_distance",)

    def __init__(self, w0: float = 10.0, sigma: float = 5.0, positive_weight: float | Sequence[float] = 1.0):
        super().__init__()
        if not 0 <= w0 < float("inf"):
            raise ValueError(f"w0 must be >= 0 and finite, got {w0}: at 0 no gap is weighted")
        if not 0 < sigma <= REACH / 4:
            raise ValueError(f"sigma must be > 0 and at most {REACH / 4:g} pixels, got {sigma}")
        check_positive_weight(positive_weight)
        self.w0, self.sigma, self.positive_weight = w0, sigma, positive_weight

    def compute(self, inputs: LossInputs) -> Tensor:
        inputs.refuse_soft("weighted_bce")
        of_class = torch.where(inputs.positive, to_positive_weight(self.positive_weight, inputs.logits), 1)
        of_gap = self.w0 * torch.exp(-((inputs.maps["object_distance"] / self.sigma) ** 2) / 2)
        return masked_mean((of_class + of_gap) * inputs.log_loss(), inputs.valid)
