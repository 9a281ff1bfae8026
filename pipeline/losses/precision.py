"""What every loss does first: check the shapes, and leave half precision."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def full_precision(logits: Tensor, target: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits and target in at least float32, with autocast off inside the block.

    Half precision overflows the pixel sums of Dice (float16 ends at 65504, a 256x256 mask has
    65536 pixels) and rounds the ranks of Lovász. float64 stays float64, so that gradients can
    be checked by finite differences.

    That the target holds only 0 and 1 is not checked: reading its values would make the CPU
    wait for the GPU at every step. The owner of the masks is `data/`.

    Args:
        logits: of any dtype.
        target: of any dtype, bool included.

    Shapes:
        logits, target: (N, C, H, W).
        yields: both as they came, target in the dtype of the logits.

    Raises:
        ValueError: if the shapes differ, are not (N, C, H, W), or hold no pixel.
    """
    check_shapes(logits, target)
    dtype = torch.promote_types(logits.dtype, torch.float32)
    with torch.autocast(logits.device.type, enabled=False):
        yield logits.to(dtype), target.to(dtype)


def check_shapes(logits: Tensor, target: Tensor) -> None:
    """Refuse what would broadcast, or average over nothing, without a word."""
    if logits.shape != target.shape:
        raise ValueError(f"logits {tuple(logits.shape)} and target {tuple(target.shape)} differ in shape")
    if logits.ndim != 4:
        raise ValueError(f"a loss takes (N, C, H, W), got {tuple(logits.shape)}: add the channel axis")
    if logits.numel() == 0:
        raise ValueError(f"a loss of no pixels is not defined, got {tuple(logits.shape)}")
