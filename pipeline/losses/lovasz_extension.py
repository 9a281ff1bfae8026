"""The Lovász extension of the Jaccard loss, fast: what the hinge and the softmax loss share."""

import torch
import torch.nn.functional as F
from torch import Tensor

FEW = 1 / 2  # share of wrong pixels up to which gathering them first is faster than sorting all


def lovasz_extension(errors: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """The Jaccard loss of a set of wrong pixels, extended to pixels that are wrong by degrees.

        value = sum over k of m_(k) * (J(k) - J(k-1)),  m_(1) >= m_(2) >= ...
        J(k)  = |M_k| / |T or M_k|

    M_k are the k pixels of the largest errors, T is the target. Within one order of the errors the
    value is linear in them, with the steps J(k) - J(k-1) as its gradient. So the steps are
    worked out once, without a graph, and value and gradient are both read from them: no
    gradient flows through the sort. Where errors are equal, the gradient is one of several subgradients.

    An error of 0 adds nothing and comes last, where it changes no other's step, so it need not be
    sorted. A void pixel counts as such, and not for the target.

    Args:
        errors: >= 0 and finite.

    Shapes:
        errors: (rows, pixels) float32 or float64; each row is a set of pixels of its own.
        target: (rows, pixels) bool.
        valid: (rows, pixels) bool, False where void.
        returns: (rows,) >= 0.

    Source:
        Berman et al., The Lovász-Softmax loss, https://arxiv.org/abs/1705.08790, algorithm 1.
    """
    steps = lovasz_gradient(errors.detach(), target & valid, valid)
    return (errors * steps).sum(dim=1)


def lovasz_gradient(errors: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """What each error is multiplied by in the extension, in its place in the image: 0 where nothing is wrong.

    Shapes:
        errors, target, valid: (rows, pixels).
        returns: (rows, pixels) >= 0; a row sums to at most 1.
    """
    wrong = (errors > 0) & valid
    counts = wrong.sum(dim=1)
    few = counts.sum() <= FEW * wrong.numel()
    places, steps = steps_of_wrong(errors, target, wrong, counts) if few else steps_of_all(errors, target, wrong)
    return torch.zeros_like(errors).flatten().index_copy_(0, places, steps).view_as(errors).mul_(wrong)


def steps_of_wrong(errors: Tensor, target: Tensor, wrong: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Places in the flattened errors of all that are wrong, and their steps: the rows lie end to end."""
    places = wrong.flatten().nonzero().squeeze(1)
    row = torch.repeat_interleave(counts, output_size=len(places))
    order = worst_first(errors.flatten().index_select(0, places), row)  # the row of each rank stays as it was
    places = places.index_select(0, order)
    hit = target.flatten().index_select(0, places)
    missed = hit.cumsum(dim=0, dtype=torch.int32)
    before = counts.cumsum(dim=0) - counts  # wrong pixels in the rows before
    missed_before = F.pad(missed, (1, 0)).index_select(0, before)
    kept = (target.sum(dim=1) + missed_before).int().index_select(0, row) - missed
    rank = torch.arange(1, len(row) + 1, device=row.device) - before.index_select(0, row)
    return places, jaccard_steps(hit, kept, rank, errors.dtype)


def steps_of_all(errors: Tensor, target: Tensor, wrong: Tensor) -> tuple[Tensor, Tensor]:
    """Places in the flattened errors of all pixels, and their steps: every row is of the same length."""
    rows, pixels = errors.shape
    places = worst_first(torch.where(wrong, errors, 0), torch.arange(rows, device=errors.device)[:, None])
    hit = target.flatten().index_select(0, places).view_as(target)
    kept = target.sum(dim=1, keepdim=True).int() - hit.cumsum(dim=1, dtype=torch.int32)
    rank = torch.arange(1, pixels + 1, device=errors.device, dtype=torch.int32)
    return places, jaccard_steps(hit, kept, rank, errors.dtype).flatten()


def worst_first(errors: Tensor, row: Tensor) -> Tensor:
    """Indices that sort the flattened errors by row, and in a row by falling error.

    The bits of a float >= 0, read as an integer, rise with it, and integers are sorted digit by digit: on CPUs
    several times as fast as comparing floats. With the row in front, one sort does all rows.

    Args:
        errors: >= 0 and finite, without -0.
        row: number of each error's row; it broadcasts to the errors' shape.

    >>> worst_first(torch.tensor([[0.5, 2.0], [1.0, 0.0]]), row=torch.tensor([[0], [1]]))
    tensor([1, 0, 2, 3])
    """
    if errors.dtype == torch.float32:
        falling = torch.iinfo(torch.int32).max - errors.view(torch.int32)
        return ((row << 31) | falling).flatten().sort(stable=True).indices
    # 64 bits leave no room for the row: sort by error, then by row, which keeps the order within.
    order = errors.flatten().sort(descending=True, stable=True).indices
    return order[row.expand_as(errors).flatten()[order].sort(stable=True).indices]


def jaccard_steps(target: Tensor, kept: Tensor, rank: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """What each pixel adds to the Jaccard loss of its row, if pixels go wrong one after the other.

    With K target pixels kept and U = K + rank the union after the pixel: a target pixel adds 1 / U,
    another one K / (U * (U - 1)), and the first one of an empty target adds 1. This is J(k) - J(k-1)
    worked out: subtracting the two in float32 would leave mostly rounding in large images, where
    neighbours differ by less than a millionth. Counts stay integers until here: exact, and the
    same on every device.

    Args:
        target: whether the pixel is in the target.
        kept: how many target pixels are not wrong yet, after it.
        rank: how many pixels are wrong by now, from 1.

    Shapes:
        target, kept: (..., pixels) bool and integer; rank: broadcasts to them.
        returns: (..., pixels) >= 0.

    >>> target = torch.tensor([False, True, True])  # J = 1/3, 2/3, 1
    >>> jaccard_steps(target, kept=torch.tensor([2, 1, 0]), rank=torch.tensor([1, 2, 3])) * 6
    tensor([2., 2., 2.])
    """
    union = (kept + rank).to(dtype)
    # A union of 1 is the first pixel: of an empty target, where K / (U - 1) is 0 / 0, or its only one.
    return torch.where(target | (union == 1), 1, kept.to(dtype) / (union - 1)) / union
