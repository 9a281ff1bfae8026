"""Skeleton recall loss: the share of the target's skeleton that is missed."""

from torch import Tensor

from pipeline.losses.inputs import LossInputs, masked_mean
from pipeline.losses.multilabel import MultiLabelLoss
from pipeline.losses.overlap import check_reduction, check_smooth


class SkeletonRecallLoss(MultiLabelLoss):
    """One minus the soft recall of the target's tubed skeleton, averaged over images and channels.

        loss = 1 - (sum(p * s) + smooth) / (sum(s) + smooth),  p = sigmoid(logits)

    s is 1 on the skeleton of the target, dilated by two pixels and cut to the target. All parts of a thin structure
    weigh alike, so a gap costs as much in a thin branch as in a thick one. False positives cost nothing: the loss needs
    another one in the mix, such as dice or bce.

    Border cases: an empty target has no skeleton; the loss and its gradient are 0. A full target has the skeleton of
    the image's rectangle.

    The maps are made by the data set (`target_maps.tubed_skeleton`), which has none for a soft target.

    Args:
        smooth: pixels added to numerator and denominator, > 0.
        over: as OverlapLoss.

    Shapes:
        logits: (N, C, H, W) float, before the sigmoid.
        target: (N, C, H, W) of 0, 1, or 255 for void.
        maps: (N, C, H, W), 0 or 1.
        returns: scalar in [0, 1].

    Raises:
        ValueError: for an argument out of range, a soft target (on a CPU), or as MultiLabelLoss.
        NotFiniteError: as MultiLabelLoss.

    Source:
        Kirchhoff et al., Skeleton Recall Loss, https://arxiv.org/abs/2404.03010, and the authors' code.
    """

    supports_soft = False
    target_maps = ("tubed_skeleton",)

    def __init__(self, smooth: float = 1.0, over: str = "image"):
        super().__init__()
        check_smooth(smooth)
        check_reduction(over, "count")
        self.smooth, self.over = smooth, over

    def compute(self, inputs: LossInputs) -> Tensor:
        inputs.refuse_soft("skeleton_recall")
        axes = (2, 3) if self.over == "image" else (0, 2, 3)
        skeleton = inputs.maps["tubed_skeleton"] * inputs.positive
        false_negative = (inputs.error() * skeleton).sum(dim=axes)  # error is 1 - p where the target is 1
        valid = inputs.valid.flatten(2).any(dim=2)
        loss = false_negative / (skeleton.sum(dim=axes) + self.smooth)
        return masked_mean(loss, valid if self.over == "image" else valid.any(dim=0))
