"""The Lovász extension of the Jaccard loss, which the hinge and the softmax loss share."""

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_GATHERED_SHARE = 1 / 2  # of wrong pixels, up to which it is faster to sort only these than all pixels


def lovasz_extension(errors: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """The Lovász extension of the Jaccard loss: from a set of wrong pixels to pixels with real-valued errors.

        value = sum over k of m_(k) * (J(k) - J(k-1)),  m_(1) >= m_(2) >= ...
        J(k)  = |M_k| / |T or M_k|

    M_k are the k pixels of the largest errors, T is the target. As long as the order of the errors does not
    change, the value is linear in them, with the gradient J(k) - J(k-1). So this gradient is computed once, without
    autograd, and the value is its product with the errors. Where errors are equal, it is one of several subgradients.

    An error of 0 adds nothing and is sorted last, where it does not change the other gradients, so it need not be
    sorted. A void pixel is treated as an error of 0 outside the target.

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
    gradient = lovasz_grad_unsorted(errors.detach(), target & valid, valid)
    return (errors * gradient).sum(dim=1)


def lovasz_grad_unsorted(errors: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """The gradient of the extension with respect to each error, in the order of the pixels; 0 where the error is 0.

    Shapes:
        errors: (rows, pixels) float32 or float64, >= 0.
        target, valid: (rows, pixels) bool.
        returns: (rows, pixels) >= 0; a row sums to at most 1.
    """
    wrong = (errors > 0) & valid
    counts = wrong.sum(dim=1)
    # On a GPU the host would have to wait for the counts.
    few = errors.device.type == "cpu" and counts.sum() <= MAX_GATHERED_SHARE * wrong.numel()
    if few:
        positions, gradient = _grad_of_wrong_pixels(errors, target, wrong, counts)
    else:
        positions, gradient = _grad_of_all_pixels(errors, target, wrong)
    return torch.zeros_like(errors).flatten().index_copy_(0, positions, gradient).view_as(errors).mul_(wrong)


def _grad_of_wrong_pixels(errors: Tensor, target: Tensor, wrong: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of all wrong pixels in the flattened errors, and their gradients; rows are concatenated."""
    positions = wrong.flatten().nonzero().squeeze(1)
    row = torch.repeat_interleave(counts, output_size=len(positions))
    order = argsort_rows(errors.flatten().index_select(0, positions), row)  # sorting within rows leaves `row` unchanged
    positions = positions.index_select(0, order)
    in_target = target.flatten().index_select(0, positions)
    false_negative = in_target.cumsum(dim=0, dtype=torch.int32)
    before = counts.cumsum(dim=0) - counts  # wrong pixels in the rows before
    false_negative_before = F.pad(false_negative, (1, 0)).index_select(0, before)
    true_positive = (target.sum(dim=1) + false_negative_before).int().index_select(0, row) - false_negative
    rank = torch.arange(1, len(row) + 1, device=row.device) - before.index_select(0, row)
    return positions, lovasz_grad(in_target, true_positive, rank, errors.dtype)


def _grad_of_all_pixels(errors: Tensor, target: Tensor, wrong: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of all pixels in the flattened errors, sorted row by row, and their gradients."""
    rows, pixels = errors.shape
    positions = argsort_rows(torch.where(wrong, errors, 0), torch.arange(rows, device=errors.device)[:, None])
    in_target = target.flatten().index_select(0, positions).view_as(target)
    true_positive = target.sum(dim=1, keepdim=True).int() - in_target.cumsum(dim=1, dtype=torch.int32)
    rank = torch.arange(1, pixels + 1, device=errors.device, dtype=torch.int32)
    return positions, lovasz_grad(in_target, true_positive, rank, errors.dtype).flatten()


def argsort_rows(errors: Tensor, row: Tensor) -> Tensor:
    """Indices that sort the flattened errors by row, and within a row by falling error.

    The bits of a float >= 0, read as an integer, rise with the float. torch sorts integers by radix, on CPUs several
    times as fast as floats. With the row in the high bits, one sort is enough for all rows.

    Args:
        errors: >= 0 and finite, without -0.
        row: number of the row of each error.

    Shapes:
        errors: any, float32 or float64.
        row: int64, broadcasts to the shape of the errors.
        returns: (errors.numel(),) int64.

    >>> argsort_rows(torch.tensor([[0.5, 2.0], [1.0, 0.0]]), row=torch.tensor([[0], [1]]))
    tensor([1, 0, 2, 3])
    """
    if errors.dtype == torch.float32:
        falling = torch.iinfo(torch.int32).max - errors.view(torch.int32)
        return ((row << 31) | falling).flatten().sort(stable=True).indices
    # A float64 leaves no bits for the row: sort by error, then, stably, by row.
    order = errors.flatten().sort(descending=True, stable=True).indices
    return order[row.expand_as(errors).flatten()[order].sort(stable=True).indices]


def lovasz_grad(target: Tensor, true_positive: Tensor, rank: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """What each pixel adds to the Jaccard loss of its row, if pixels become wrong in the order of their rank.

    Let K be the true positives and U = K + rank the union once the pixel is wrong. A target pixel adds 1 / U,
    another one K / (U * (U - 1)), and the first one of an empty target 1. This is J(k) - J(k-1), simplified: in
    float32 the subtraction would leave mostly rounding in large images, where neighbouring values differ by less
    than 1e-6. Counts are integers, so they are exact and the same on every device.

    Args:
        target: whether the pixel is in the target.
        true_positive: number of target pixels that are still right.
        rank: number of pixels that are wrong, from 1.

    Shapes:
        target, true_positive: (..., pixels) bool and integer; rank: broadcasts to them.
        returns: (..., pixels) >= 0.

    >>> target = torch.tensor([False, True, True])  # J = 1/3, 2/3, 1
    >>> lovasz_grad(target, true_positive=torch.tensor([2, 1, 0]), rank=torch.tensor([1, 2, 3])) * 6
    tensor([2., 2., 2.])
    """
    union = (true_positive + rank).to(dtype)
    # A union of 1: the first pixel of an empty target, where K / (U - 1) is 0 / 0, or the only target pixel.
    return torch.where(target | (union == 1), 1, true_positive.to(dtype) / (union - 1)) / union
