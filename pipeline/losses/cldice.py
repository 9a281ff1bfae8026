"""Soft clDice: Dice of centrelines, for thin connected structures."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.losses.inputs import LossInputs, masked_mean
from pipeline.losses.multilabel import MultiLabelLoss
from pipeline.losses.overlap import check_reduction, check_smooth


class ClDiceLoss(MultiLabelLoss):
    """One minus the soft centreline Dice, averaged over images and channels.

        loss = 1 - 2 * precision * sensitivity / (precision + sensitivity),  p = sigmoid(logits)
        precision   = (sum(S(p) * t) + smooth) / (sum(S(p)) + smooth)
        sensitivity = (sum(S(t) * p) + smooth) / (sum(S(t)) + smooth)

    S is the soft skeleton (`soft_skeleton`). Structures wider than twice `iterations` pixels have no skeleton.

    Border cases: an empty target has no skeleton, so its sensitivity is 1, and the loss is 0 without a predicted one. A
    full target, and a constant prediction, have no skeleton either: the loss of a full prediction of an empty target is
    0. So it needs another loss in the mix, such as dice, as in the paper. Void pixels count as 0 in both masks.

    A soft target is refused: the skeleton of shares is not that of any mask.

    Args:
        iterations: of the soft skeleton, at least half of the largest width of a structure in pixels.
        smooth: pixels added to numerators and denominators, > 0.
        over: as OverlapLoss.

    Shapes:
        logits: (N, C, H, W) float, before the sigmoid.
        target: (N, C, H, W) of 0, 1, or 255 for void.
        returns: scalar in [0, 1].

    Raises:
        ValueError: for an argument out of range, a soft target (on a CPU), or as MultiLabelLoss.
        NotFiniteError: as MultiLabelLoss.

    Source:
        Shit et al., clDice, https://arxiv.org/abs/2003.07311, algorithms 1 and 2, with smooth as in the authors' code,
        which sums over the batch.
    """

    supports_soft = False

    def __init__(self, iterations: int = 10, smooth: float = 1.0, over: str = "image"):
        super().__init__()
        if not 1 <= iterations <= 1000:
            raise ValueError(f"iterations must be from 1 to 1000, got {iterations}")
        check_smooth(smooth)
        check_reduction(over, "count")
        self.iterations, self.smooth, self.over = int(iterations), smooth, over

    def compute(self, inputs: LossInputs) -> Tensor:
        inputs.refuse_soft("cldice")
        probs, target = torch.sigmoid(inputs.logits) * inputs.valid, inputs.target
        precision = self._share(soft_skeleton(probs, self.iterations), target)
        sensitivity = self._share(soft_skeleton(target, self.iterations), probs)
        valid = inputs.valid.flatten(2).any(dim=2)
        loss = 1 - 2 * precision * sensitivity / (precision + sensitivity)
        return masked_mean(loss, valid if self.over == "image" else valid.any(dim=0))

    def _share(self, skeleton: Tensor, mask: Tensor) -> Tensor:
        """The share of a skeleton that is in a mask, (N, C), or (C,) over the batch."""
        axes = (2, 3) if self.over == "image" else (0, 2, 3)
        return ((skeleton * mask).sum(dim=axes) + self.smooth) / (skeleton.sum(dim=axes) + self.smooth)


def soft_skeleton(mask: Tensor, iterations: int) -> Tensor:
    """What openings remove from a mask while it is eroded: of a mask of 0 and 1, its centrelines.

    Pixels outside of the image are not seen: a structure that ends at its edge is not eroded there.

    Args:
        iterations: number of erosions.

    Shapes:
        mask: (N, C, H, W) float of [0, 1]; returned likewise.

    Source:
        As ClDiceLoss, algorithm 1.
    """
    skeleton = torch.relu(mask - _open(mask))
    for _ in range(iterations):
        mask = _erode(mask)
        removed = torch.relu(mask - _open(mask))
        skeleton = skeleton + torch.relu(removed - skeleton * removed)
    return skeleton


def _erode(mask: Tensor) -> Tensor:
    """The minimum over a pixel and its four neighbours."""
    along_rows, along_columns = (
        -F.max_pool2d(-mask, size, stride=1, padding=pad) for size, pad in (((1, 3), (0, 1)), ((3, 1), (1, 0)))
    )
    return torch.minimum(along_rows, along_columns)


def _open(mask: Tensor) -> Tensor:
    """An erosion, then the maximum over a pixel and its eight neighbours."""
    return F.max_pool2d(_erode(mask), 3, stride=1, padding=1)
