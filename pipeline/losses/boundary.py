"""Boundary loss: probabilities weighted by their distance to the boundary of the target."""

import torch
from torch import Tensor

from pipeline.losses.inputs import LossInputs, masked_mean
from pipeline.losses.multilabel import MultiLabelLoss


class BoundaryLoss(MultiLabelLoss):
    """The mean over all valid pixels of probability times signed distance to the boundary of the target.

        loss = mean(p * phi),  p = sigmoid(logits)
        phi  = distance to the nearest pixel of the target outside of it, 1 - distance to the nearest other one inside

    The unit is pixels of the network's image. A false positive costs its distance to the target, a pixel inside reduces
    the loss by its distance to the boundary, so the lowest loss is negative. The loss approximates the distance between
    two boundaries, which depends less on the size of the object than sums over its area do.

    Border cases: the map of an empty or a full target is 0, so the loss and its gradient are 0: these images need
    another loss in the mix, which the authors recommend anyway, with a weight of this loss that begins at 0 and rises:
    `loss = { dice = 1, boundary = [0.0, 0.05] }`. In large images the distances, and with them the loss, are large.

    The maps are made by the data set (`target_maps.signed_distance`), which has none for a soft target.

    Shapes:
        logits: (N, C, H, W) float, before the sigmoid.
        target: (N, C, H, W) of 0, 1, or 255 for void.
        maps: (N, C, H, W), signed distances.
        returns: scalar, in pixels.

    Raises:
        ValueError: for a soft target (on a CPU), or as MultiLabelLoss.
        NotFiniteError: as MultiLabelLoss.

    Source:
        Kervadec et al., Boundary loss for highly unbalanced segmentation, https://arxiv.org/abs/1812.07032, equation 5;
        the map and its value for empty targets as in the authors' code.
    """

    supports_soft = False
    target_maps = ("signed_distance",)

    def compute(self, inputs: LossInputs) -> Tensor:
        inputs.refuse_soft("boundary")
        return masked_mean(torch.sigmoid(inputs.logits) * inputs.maps["signed_distance"], inputs.valid)
