"""Preparation of logits and target for all losses: checks, void pixels, and at least float32."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.metrics import VOID

LARGEST = 1e30  # logits: losses that grow with them can be summed over 10^8 pixels in float32


class NotFiniteError(ValueError):
    """Logits contain NaN: the training diverged."""


class LossInputs(NamedTuple):
    """Checked inputs of a multi-label loss, in at least float32.

    The methods give what the formulas of losses are made of, with p = sigmoid(logits) and t the target. Where t is 0 or
    1 they are accurate for the smallest errors too, and the same whether or not other pixels are soft.

    Args:
        is_soft: whether the target may hold values between 0 and 1.
        maps: of the target, by their key in `target_maps.TARGET_MAPS`, for a loss that needs them.

    Shapes:
        logits: (N, C, H, W) float, finite.
        target: (N, C, H, W) of the logits' dtype, 0 or 1, or in [0, 1] if it is soft; 0 where void.
        valid: (N, C, H, W) bool, False where void.
        maps: (N, C, H, W) of the logits' dtype, each.
    """

    logits: Tensor
    target: Tensor
    valid: Tensor
    is_soft: bool = False
    maps: Mapping[str, Tensor] = {}

    @property
    def positive(self) -> Tensor:
        """(N, C, H, W) bool, True where the target is above 0."""
        return self.target > 0

    @property
    def is_hard(self) -> Tensor:
        """(N, C, H, W) bool, True where the target is 0 or 1."""
        return (self.target == 0) | (self.target == 1)

    def below(self) -> Tensor:
        """(N, C, H, W) bool, whether p < t: everywhere in a target of 1, nowhere in one of 0."""
        return self.logits < torch.logit(self.target) if self.is_soft else self.positive

    def error(self) -> Tensor:
        """(N, C, H, W) float, |p - t|."""
        of_hard = torch.sigmoid(self.logits * (1 - 2 * self.target))
        return torch.where(self.is_hard, of_hard, self._soft_error()) if self.is_soft else of_hard

    def log_error(self) -> Tensor:
        """(N, C, H, W) float, log|p - t|; where the target is soft, at least that of the smallest normal number."""
        of_hard = F.logsigmoid(self.logits * (1 - 2 * self.target))
        if not self.is_soft:
            return of_hard
        smallest = torch.finfo(self.logits.dtype).tiny
        return torch.where(self.is_hard, of_hard, self._soft_error().clamp_min(smallest).log())

    def log_loss(self) -> Tensor:
        """(N, C, H, W) float, the cross entropy -t * log(p) - (1 - t) * log(1 - p)."""
        if not self.is_soft:
            return -F.logsigmoid(self.logits * (2 * self.target - 1))
        return -self.target * F.logsigmoid(self.logits) - (1 - self.target) * F.logsigmoid(-self.logits)

    def refuse_soft(self, loss: str) -> None:
        """Check that a target on a CPU is of 0 and 1.

        Args:
            loss: its name, for the error message.

        Raises:
            ValueError: naming up to three other values.
        """
        if self.is_soft:
            check_target_values(self.target, self.is_hard, f"{loss} is defined for 0 and 1")

    def _soft_error(self) -> Tensor:
        return (torch.sigmoid(self.logits) - self.target).abs()


@contextmanager
def prepare_inputs(logits: Tensor, target: Tensor) -> Iterator[LossInputs]:
    """Logits and target in at least float32, with autocast off inside the block.

    Half precision overflows in the pixel sums of Dice (the largest float16 is 65504, a 256x256 mask
    has 65536 pixels) and rounds the ranks of Lovász. float64 stays float64, so that gradients can
    be checked by finite differences.

    An infinite logit, which a float16 network on a GPU can output, is clamped to the largest finite number
    and gets no gradient: infinity would become NaN in `inf - inf` or `0 * inf`.

    Values are checked on CPUs only: elsewhere the host would have to wait for the device. There a NaN makes the loss
    NaN, which the training loop refuses, and `MaskedImages` checks the masks.

    Shapes:
        logits: (N, C, H, W) of any float dtype.
        target: (N, C, H, W) of 0, 1, or 255 for void; if it is of a float dtype, of [0, 1], or 255 for void.
        yields: `LossInputs`.

    Raises:
        NotFiniteError: if a logit is NaN, on a CPU.
        ValueError: if the shapes differ, are not (N, C, H, W), or have no pixel; if the target has another value, on a
            CPU.
    """
    if logits.shape != target.shape:
        raise ValueError(f"logits {tuple(logits.shape)} and target {tuple(target.shape)} differ in shape")
    check_logits_shape(logits)
    void, is_soft = target == VOID, target.is_floating_point()
    check_target_values(
        target,
        void | (target >= 0) & (target <= 1),
        "expected 0, 1, or 255 for void; shares from 0 to 1 if it is soft. A mask read as 0 … 255 is divided by 255 in "
        "data/",
    )
    shares = torch.where(void, 0, target) if is_soft else target == 1
    with torch.autocast(logits.device.type, enabled=False):
        logits = clamp_infinite(logits)
        yield LossInputs(logits, shares.to(logits.dtype), ~void, is_soft)


class ClassInputs(NamedTuple):
    """Checked inputs of a multi-class loss.

    Shapes:
        logits: (N, C, H, W), finite, at least float32.
        target: (N, H, W) int64, 0 … C-1, or 255 for void.
        maps: (N, C, H, W) of the logits' dtype, each.
    """

    logits: Tensor
    target: Tensor
    maps: Mapping[str, Tensor] = {}


@contextmanager
def prepare_class_inputs(logits: Tensor, target: Tensor) -> Iterator[ClassInputs]:
    """Checked inputs of a multi-class loss, prepared as by `prepare_inputs`.

    Shapes:
        logits: (N, C, H, W).
        target: (N, H, W) of 0 … C-1, or 255 for void.
        yields: `ClassInputs`.

    Raises:
        NotFiniteError: if a logit is NaN, on a CPU.
        ValueError: if the shapes do not fit or have no pixel, for more than 255 classes, or if the target has another
            value, on a CPU.
    """
    check_logits_shape(logits)
    count = logits.shape[1]
    if target.shape != (logits.shape[0], *logits.shape[2:]):
        raise ValueError(
            f"logits {tuple(logits.shape)} and target {tuple(target.shape)} do not fit: expected a target "
            f"(N, H, W) that holds the class of each pixel"
        )
    if count > VOID:
        raise ValueError(f"logits of {count} classes: class {VOID} would be void, expected at most {VOID}")
    classes = target.long()
    legal = (classes == target) & ((classes >= 0) & (classes < count) | (classes == VOID))
    check_target_values(target, legal, f"expected a class from 0 to {count - 1}, or 255 for void")
    with torch.autocast(logits.device.type, enabled=False):
        yield ClassInputs(clamp_infinite(logits), classes)


def split_maps(maps: Tensor | None, names: Sequence[str], logits: Tensor) -> dict[str, Tensor]:
    """The maps of a target by name.

    Shapes:
        maps: (N, len(names) * C, H, W), as `MaskedImages` makes them.
        logits: (N, C, H, W).
        returns: (N, C, H, W) each, of the logits' dtype.

    Raises:
        ValueError: if there are none, or the shape does not fit.
    """
    if not names:
        return {}
    images, channels, *size = logits.shape
    expected = (images, len(names) * channels, *size)
    if maps is None or maps.shape != expected:
        found = "none" if maps is None else f"{tuple(maps.shape)}"
        raise ValueError(
            f"maps of the target are {found}: expected {expected}, with {', '.join(names)}, as "
            f"data.target_maps.make_maps makes them"
        )
    return dict(zip(names, maps.to(logits.dtype).chunk(len(names), dim=1), strict=True))


def check_logits_shape(logits: Tensor) -> None:
    """Check that logits are (N, C, H, W) with at least one pixel; others could broadcast or average over nothing.

    Raises:
        ValueError: if they are not.
    """
    if logits.ndim != 4:
        raise ValueError(f"a loss takes (N, C, H, W), got {tuple(logits.shape)}: add the channel axis")
    if logits.numel() == 0:
        raise ValueError(f"a loss of no pixels is not defined, got {tuple(logits.shape)}")


def check_target_values(target: Tensor, legal: Tensor, expected: str) -> None:
    """Check that all values of a target on a CPU are allowed.

    Args:
        expected: end of the error message.

    Shapes:
        target: any.
        legal: bool of the same shape, True where the value is allowed.

    Raises:
        ValueError: naming up to three other values.
    """
    if target.device.type == "cpu" and not legal.all():
        unexpected = target[~legal].unique()[:3].tolist()
        raise ValueError(f"target holds {', '.join(f'{value:g}' for value in unexpected)}: {expected}")


def clamp_infinite(logits: Tensor) -> Tensor:
    """Logits in at least float32; infinite ones are clamped to LARGEST, or to the largest number of a smaller dtype.

    Shapes:
        logits: any; returned with the same shape.

    Raises:
        NotFiniteError: if a logit is NaN, on a CPU.
    """
    if logits.device.type == "cpu":
        low, high = logits.detach().aminmax()  # NaN if there is one
        if torch.isfinite(high - low):
            return logits.to(torch.promote_types(logits.dtype, torch.float32))
        if nans := int(logits.isnan().sum()):
            raise NotFiniteError(f"logits hold {nans} NaN of {logits.numel()} numbers")
    largest = min(torch.finfo(logits.dtype).max, LARGEST)
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).clamp(-largest, largest)


def check_hardest(hardest: float) -> None:
    """Check a share of pixels.

    Raises:
        ValueError: if it is not in (0, 1].
    """
    if not 0 < hardest <= 1:
        raise ValueError(f"hardest must be in (0, 1], got {hardest}: the share of pixels that count, 1 for all")


def hardest_pixels(losses: Tensor, valid: Tensor, share: float) -> Tensor:
    """The share of the valid pixels that have the largest losses, one at least; of equal losses, the first ones.

    Shapes:
        losses: any float; valid: bool of the same shape, as the result.

    >>> hardest_pixels(torch.tensor([3.0, 9.0, 1.0, 2.0]), torch.tensor([True, False, True, True]), 0.67)
    tensor([ True, False, False,  True])
    """
    order = torch.where(valid, losses.detach(), -torch.inf).flatten().argsort(descending=True, stable=True)
    kept = torch.arange(len(order), device=order.device) < (valid.sum() * share).round().clamp_min(1)
    return torch.zeros_like(kept).scatter(0, order, kept).view_as(valid) & valid


def masked_mean(values: Tensor, counted: Tensor) -> Tensor:
    """The mean of the counted values; 0, with a gradient of 0, if none is counted.

    Shapes:
        values: any float.
        counted: bool of the same shape.
        returns: scalar.

    >>> masked_mean(torch.tensor([1.0, 2.0, 9.0]), torch.tensor([True, True, False]))
    tensor(1.5000)
    """
    return torch.where(counted, values, 0).sum() / counted.sum().clamp_min(1)
