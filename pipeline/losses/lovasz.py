"""Lovász hinge loss: a convex surrogate of the Jaccard loss."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.losses.inputs import LossInputs, check_target_values, masked_mean
from pipeline.losses.lovasz_extension import lovasz_extension
from pipeline.losses.multilabel import MultiLabelLoss
from pipeline.losses.overlap import check_reduction
from pipeline.quoting import shortened
from pipeline.schema import did_you_mean


def relu(margins: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Hinge errors: a pixel that is right by a margin of 1 contributes nothing.

    Shapes:
        margins: (rows, pixels) float, 1 - logit * sign.
        target, valid: (rows, pixels) bool.
        returns: (rows,) >= 0.
    """
    return lovasz_extension(torch.relu(margins), target, valid)


def elu(margins: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Errors 1 + m for m > 0, exp(m) otherwise: never 0, so right pixels keep a small gradient.

    Shapes:
        as `relu`.
    """
    return lovasz_extension(F.elu(margins) + 1, target, valid)


def symmetric(margins: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """The mean of the hinge losses of object and background: (logits, t) and (-logits, 1 - t).

    Both have the same errors; only the set whose Jaccard index is computed differs.

    Shapes:
        as `relu`.
    """
    errors = torch.relu(margins)
    return (lovasz_extension(errors, target, valid) + lovasz_extension(errors, ~target, valid)) / 2


VARIANTS = {
    "relu": relu,
    "elu": elu,
    "symmetric": symmetric,
}


class LovaszHingeLoss(MultiLabelLoss):
    """Lovász extension of the Jaccard loss over hinge errors, averaged over images and channels.

        m_i  = max(0, 1 - logit_i * sign_i),  sign_i = +1 in the target, -1 outside
        loss = sum over k of m_(k) * (J(k) - J(k-1)),  m_(1) >= m_(2) >= ...
        J(k) = |M_k| / |T or M_k|

    M_k are the k pixels of the largest errors, T is the target, and |T or M_k| counts the pixels
    in either: J(k) is one minus the Jaccard index of a mask that is wrong in exactly M_k. Sums
    run over the valid pixels of one channel of one image. A pixel that is right by a margin of 1
    contributes nothing, and the loss is never below the Jaccard loss of the mask of these
    logits. Where errors are equal, the value does not depend on their order, but the
    gradient does: it is one of several subgradients.

    Border cases: a full target costs the mean hinge error. An empty target costs its largest
    hinge error, max(0, 1 + largest logit): one wrong pixel changes the Jaccard index of an empty
    mask from 1 to 0, and further wrong pixels change nothing, so only that pixel gets a gradient.
    This follows from the definition, and the authors' code does the same.

    It is mostly used in a later phase, on weights already trained with cross entropy or Dice.

    A soft target is refused. The extension is of a function of sets, J(k), and the target is one of its two sets: a
    pixel that belongs to it by a quarter has no sign and no place in the unions. Jaccard of soft targets is `jaccard`.

    Args:
        over: "image": each channel of each image is one set of pixels. "batch": a channel's pixels of all
            images of the batch are one set, so objects count by their pixels, and empty images by their
            false positives.
        empty: "count", or "ignore": a set with an empty target is left out of the mean, as in OverlapLoss.
        variant: a key of VARIANTS. "elu" replaces max(0, m) by elu(m) + 1: all pixels are sorted, and the
            loss still bounds the Jaccard loss. "symmetric" averages with the loss of the background,
            so the other pixels of an empty target get a gradient too.

    Shapes:
        logits: (N, C, H, W) float, before the sigmoid.
        target: (N, C, H, W) of 0, 1, or 255 for void.
        returns: scalar >= 0, without upper bound.

    Raises:
        ValueError: for an unknown variant, `over` or `empty`, for a soft target (on a CPU), or as MultiLabelLoss.
        NotFiniteError: as MultiLabelLoss.

    Source:
        Berman et al., The Lovász-Softmax loss, https://arxiv.org/abs/1705.08790, algorithm 1,
        with the hinge errors of their binary case; Yu and Blaschko, The Lovász Hinge, https://arxiv.org/abs/1512.07797.
        elu + 1: solutions to TGS Salt, https://www.kaggle.com/competitions/tgs-salt-identification-challenge.
        Symmetric: https://www.kaggle.com/code/iafoss/lovasz. On soft targets: Wang et al., Jaccard Metric Losses,
        https://arxiv.org/abs/2302.05666.
    """

    supports_soft = False

    def __init__(self, over: str = "image", variant: str = "relu", empty: str = "count"):
        super().__init__()
        check_reduction(over, empty)
        if variant not in VARIANTS:
            raise ValueError(f"unknown variant '{shortened(variant)}'. {did_you_mean(variant, VARIANTS)}")
        self.over, self.empty = over, empty
        self.variant = variant

    def compute(self, inputs: LossInputs) -> Tensor:
        if inputs.is_soft:
            check_target_values(inputs.target, inputs.is_hard, "lovasz is defined for 0 and 1; use jaccard for shares")
        signs = 2 * inputs.target - 1
        margins, target, valid = (
            to_rows(each, self.over) for each in (1 - inputs.logits * signs, inputs.positive, inputs.valid)
        )
        counted = target if self.empty == "ignore" else valid
        return masked_mean(VARIANTS[self.variant](margins, target, valid), counted.any(dim=1))


def to_rows(channels: Tensor, over: str) -> Tensor:
    """Reshape so that each row is one set of pixels.

    Shapes:
        channels: (N, C, H, W).
        returns: (N * C, H * W) over "image", (C, N * H * W) over "batch".
    """
    return channels.flatten(2).flatten(0, 1) if over == "image" else channels.transpose(0, 1).flatten(1)
