"""Lovász hinge: the Jaccard index itself, made convex."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.losses.inputs import Pixels, mean_of
from pipeline.losses.lovasz_extension import lovasz_extension
from pipeline.losses.multilabel import MultiLabelLoss
from pipeline.losses.overlap import check_means
from pipeline.schema import did_you_mean


def relu(margins: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """The hinge: a pixel that is right by a margin of 1 contributes nothing."""
    return lovasz_extension(torch.relu(margins), target, valid)


def elu(margins: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """1 + m for a margin m violated, exp(m) otherwise: never quite 0, so a right pixel keeps teaching a little."""
    return lovasz_extension(F.elu(margins) + 1, target, valid)


def symmetric(margins: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """The mean of the hinges of the object and of the background: (logits, t) and (-logits, 1 - t).

    Both have the same errors, only the set whose Jaccard index counts changes.
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
    contributes nothing, and the loss is never below the Jaccard loss of the mask that these
    logits give. Where errors are equal, the value does not depend on their order, but the
    gradient does: it is one of several subgradients.

    Border cases: a full target costs the mean hinge error. An empty target costs its largest
    hinge error, max(0, 1 + largest logit): one wrong pixel takes the Jaccard index of an empty
    mask from 1 to 0 and the others can do no further harm, so only that pixel gets a gradient.
    This is what the definition gives and the authors' code does; nothing is skipped.

    It is mostly used in a later phase, on weights already trained with log loss or Dice.

    Args:
        over: "image": each channel of each image for itself. "batch": a channel's pixels of all images
            of the batch are one set, so a small object weighs by its pixels and an empty image
            by its false ones.
        empty: "count", or "ignore": a set of an empty target is left out of the mean, as in OverlapLoss.
        variant: a name in VARIANTS. "elu" puts elu(m) + 1 for max(0, m): all pixels are sorted, and the
            bound of the Jaccard loss holds still. "symmetric" averages with the background's loss,
            so an empty target's other pixels get a gradient too.

    Shapes:
        logits: (N, C, H, W) float, before the sigmoid.
        target: (N, C, H, W), 0 or 1, or 255 for void.
        returns: scalar >= 0, without upper bound.

    Raises:
        ValueError: for a variant that is not in VARIANTS, or as MultiLabelLoss.

    Source:
        Berman et al., The Lovász-Softmax loss, https://arxiv.org/abs/1705.08790, algorithm 1,
        with the hinge errors of their binary case; Yu and Blaschko, The Lovász Hinge, https://arxiv.org/abs/1512.07797.
        elu + 1 is that of solutions to TGS Salt, https://www.kaggle.com/competitions/tgs-salt-identification-challenge;
        the symmetric form that of https://www.kaggle.com/code/iafoss/lovasz.
    """

    def __init__(self, over: str = "image", variant: str = "relu", empty: str = "count"):
        super().__init__()
        check_means(over, empty)
        if variant not in VARIANTS:
            raise ValueError(f"unknown variant '{variant}'. {did_you_mean(variant, VARIANTS)}")
        self.over, self.empty = over, empty
        self.variant = variant

    def value(self, pixels: Pixels) -> Tensor:
        signs = 2 * pixels.target - 1
        margins, target, valid = (
            rows(each, self.over) for each in (1 - pixels.logits * signs, pixels.positive, pixels.valid)
        )
        counted = target if self.empty == "ignore" else valid
        return mean_of(VARIANTS[self.variant](margins, target, valid), counted.any(dim=1))


def rows(channels: Tensor, over: str) -> Tensor:
    """(N, C, H, W) as a row of pixels per channel and image, (N * C, H * W), or over the batch, (C, N * H * W)."""
    return channels.flatten(2).flatten(0, 1) if over == "image" else channels.transpose(0, 1).flatten(1)
