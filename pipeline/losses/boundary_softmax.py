"""Boundary loss for one of several classes per pixel."""

from torch import Tensor

from pipeline.losses.inputs import ClassInputs, masked_mean
from pipeline.losses.multiclass import MultiClassLoss
from pipeline.metrics import VOID


class BoundarySoftmaxLoss(MultiClassLoss):
    """The mean over all valid pixels and classes of probability times signed distance to the boundary of the class.

        loss = mean over pixels and c of p_c * phi_c,  p = softmax(logits)

    phi is as in BoundaryLoss, of each class. Border cases: a class that fills an image, or is not in it, has the map 0.

    Shapes:
        logits: (N, C, H, W) float, before the softmax.
        target: (N, H, W) of 0 … C-1, or 255 for void.
        maps: (N, C, H, W), signed distances.
        returns: scalar, in pixels.

    Raises:
        ValueError, NotFiniteError: as MultiClassLoss.

    Source:
        Kervadec et al., https://arxiv.org/abs/1812.07032, of all classes; the authors' code takes a list of them.
    """

    target_maps = ("signed_distance",)

    def compute(self, inputs: ClassInputs) -> Tensor:
        each = inputs.logits.softmax(dim=1) * inputs.maps["signed_distance"]
        return masked_mean(each, (inputs.target != VOID)[:, None].expand_as(each))
