"""What every loss does first: check what came, set void pixels aside, and leave half precision."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

IGNORE = 255  # in a target: void, a pixel that nobody has labelled; it counts in no loss


class NotFiniteError(ValueError):
    """Logits that hold NaN: a training that went astray, not a mistake in the call."""


class Pixels(NamedTuple):
    """What a multi-label loss computes with, checked and in at least float32.

    Shapes:
        logits: (N, C, H, W) float, finite.
        target: (N, C, H, W) of the logits' dtype, 0 or 1, and 0 where void.
        valid: (N, C, H, W) bool, False where void.
    """

    logits: Tensor
    target: Tensor
    valid: Tensor

    @property
    def positive(self) -> Tensor:
        return self.target > 0


@contextmanager
def full_precision(logits: Tensor, target: Tensor) -> Iterator[Pixels]:
    """Logits and target in at least float32, with autocast off inside the block.

    Half precision overflows the pixel sums of Dice (float16 ends at 65504, a 256x256 mask has
    65536 pixels) and rounds the ranks of Lovász. float64 stays float64, so that gradients can
    be checked by finite differences.

    An infinite logit, as a float16 network on a GPU can give, counts as the largest finite number
    and gets no gradient: as infinity it would turn to NaN in `inf - inf` or `0 * inf`.

    The checks read every value once and make the CPU wait for the GPU twice; the loop that reads the
    loss after each batch waits for it anyway.

    Args:
        logits: of any float dtype.
        target: of any dtype, bool included.

    Shapes:
        logits: (N, C, H, W).
        target: (N, C, H, W) of 0, 1, or 255 for void.

    Raises:
        NotFiniteError: if a logit is NaN.
        ValueError: if the shapes differ, are not (N, C, H, W), or hold no pixel; if the target
            holds another value.
    """
    if logits.shape != target.shape:
        raise ValueError(f"logits {tuple(logits.shape)} and target {tuple(target.shape)} differ in shape")
    check_logits_shape(logits)
    void, one = target == IGNORE, target == 1
    refuse_strangers(
        target,
        void | one | (target == 0),
        "expected 0, 1, or 255 for void. A mask read as 0 … 255 is divided by 255 in data/",
    )
    with torch.autocast(logits.device.type, enabled=False):
        logits = finite(logits)
        yield Pixels(logits, one.to(logits.dtype), ~void)


@contextmanager
def full_precision_classes(logits: Tensor, target: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """As `full_precision`, for a target that holds the number of each pixel's one class.

    Shapes:
        logits: (N, C, H, W).
        target: (N, H, W) of 0 … C-1, or 255 for void.
        yields: logits in at least float32, target as int64.

    Raises:
        NotFiniteError: if a logit is NaN.
        ValueError: if the shapes do not fit, hold no pixel, or the target holds another value.
    """
    check_logits_shape(logits)
    count = logits.shape[1]
    if target.shape != (logits.shape[0], *logits.shape[2:]):
        raise ValueError(
            f"logits {tuple(logits.shape)} and target {tuple(target.shape)} do not fit: expected a target "
            f"(N, H, W) that holds the class of each pixel"
        )
    if count > IGNORE:
        raise ValueError(f"logits of {count} classes: class {IGNORE} would be void, expected at most {IGNORE}")
    classes = target.long()
    legal = (classes == target) & ((classes >= 0) & (classes < count) | (classes == IGNORE))
    refuse_strangers(target, legal, f"expected a class from 0 to {count - 1}, or 255 for void")
    with torch.autocast(logits.device.type, enabled=False):
        yield finite(logits), classes


def check_logits_shape(logits: Tensor) -> None:
    """Refuse what would broadcast, or average over nothing, without a word."""
    if logits.ndim != 4:
        raise ValueError(f"a loss takes (N, C, H, W), got {tuple(logits.shape)}: add the channel axis")
    if logits.numel() == 0:
        raise ValueError(f"a loss of no pixels is not defined, got {tuple(logits.shape)}")


def refuse_strangers(target: Tensor, legal: Tensor, expected: str) -> None:
    """A ValueError that names up to three values of the target that are not legal, if there are any."""
    if not legal.all():
        strangers = target[~legal].unique()[:3].tolist()
        raise ValueError(f"target holds {', '.join(f'{value:g}' for value in strangers)}: {expected}")


def finite(logits: Tensor) -> Tensor:
    """The logits in at least float32, infinities brought to the ends of that dtype; NaN is refused."""
    low, high = logits.detach().aminmax()  # NaN if there is one
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if torch.isfinite(high - low):
        return logits
    nans = int(logits.isnan().sum())
    if nans:
        raise NotFiniteError(f"logits hold {nans} NaN of {logits.numel()} numbers")
    largest = torch.finfo(logits.dtype).max
    return logits.clamp(-largest, largest)


def mean_of(values: Tensor, counted: Tensor) -> Tensor:
    """The mean of the values that count; 0, with a gradient of 0, if none does.

    >>> mean_of(torch.tensor([1.0, 2.0, 9.0]), torch.tensor([True, True, False]))
    tensor(1.5000)
    """
    return torch.where(counted, values, 0).sum() / counted.sum().clamp_min(1)
