"""Lovász hinge: the Jaccard index itself, made convex."""

import torch
from torch import Tensor, nn

from pipeline.losses.precision import full_precision


class LovaszHingeLoss(nn.Module):
    """Lovász extension of the Jaccard loss over hinge errors, averaged over images and channels.

        m_i  = max(0, 1 - logit_i * sign_i),  sign_i = +1 in the target, -1 outside
        loss = sum over k of m_(k) * (J(k) - J(k-1)),  m_(1) >= m_(2) >= ...
        J(k) = |M_k| / |T or M_k|

    M_k are the k pixels of the largest errors, T is the target, and |T or M_k| counts the pixels
    in either: J(k) is one minus the Jaccard index of a mask that is wrong in exactly M_k. Sums
    run over the pixels of one channel of one image. A pixel that is right by a margin of 1
    contributes nothing, and the loss is never below the Jaccard loss of the mask that these
    logits give. Where errors are equal, the value does not depend on their order, but the
    gradient does: it is one of several subgradients.

    Border cases: a full target costs the mean hinge error. An empty target costs its largest
    hinge error, max(0, 1 + largest logit): one wrong pixel takes the Jaccard index of an empty
    mask from 1 to 0 and the others can do no further harm, so only that pixel gets a gradient.
    This is what the definition gives and the authors' code does; nothing is skipped.

    It is mostly used in a later phase, on weights already trained with log loss or Dice.

    Shapes:
        logits: (N, C, H, W) float, before the sigmoid.
        target: (N, C, H, W), 0 or 1.
        returns: scalar >= 0, without upper bound.

    Raises:
        ValueError: if logits and target differ in shape.

    Source:
        Berman et al., The Lovász-Softmax loss, https://arxiv.org/abs/1705.08790, algorithm 1,
        with the hinge errors of their binary case; Yu and Blaschko, The Lovász Hinge, https://arxiv.org/abs/1512.07797.
    """

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        with full_precision(logits, target) as (logits, target):
            logits, target = logits.flatten(2), target.flatten(2)
            errors = torch.relu(1 - logits * (2 * target - 1))
            errors, order = errors.sort(dim=-1, descending=True)
            return (errors * jaccard_steps(target.gather(-1, order))).sum(dim=-1).mean()


def jaccard_steps(target: Tensor) -> Tensor:
    """What each pixel adds to the Jaccard loss, if pixels go wrong in the order given.

    With U the union after the pixel: a target pixel adds 1 / U, another one
    (U - k) / (U * (U - 1)), and the first adds 1 / U whatever it is. This is J(k) - J(k-1)
    worked out: subtracting the two in float32 would leave mostly rounding in large images, where
    neighbours differ by less than a millionth.

    Shapes:
        target: (..., pixels) float, 0 or 1, the pixel that goes wrong first in front.
        returns: (..., pixels) >= 0, of sum 1.

    >>> jaccard_steps(torch.tensor([0.0, 1.0, 1.0])) * 6  # J = 1/3, 2/3, 1
    tensor([2., 2., 2.])
    """
    rank = torch.arange(1, target.shape[-1] + 1, device=target.device, dtype=torch.int32)
    missed = target.cumsum(dim=-1, dtype=torch.int32)  # integers: exact, and deterministic on GPUs
    size = missed[..., -1:]
    kept = (size - missed).to(target.dtype)
    union = (size + rank - missed).to(target.dtype)
    steps = torch.where(target > 0, 1 / union, kept / union / (union - 1))
    steps[..., 0] = 1 / union[..., 0]  # the only place where U - 1 can be 0, since U >= k
    return steps
