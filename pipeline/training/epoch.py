"""One epoch of training."""

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from pipeline import hardware
from pipeline.data.device_augment import Batch
from pipeline.losses.inputs import NotFiniteError
from pipeline.training.distributed import Processes
from pipeline.training.optimizer import set_learning_rate

MAX_SKIPPED = 20  # the scaler starts at 2^16 and halves at each skipped update, so this is below 1


class Arithmetic(NamedTuple):
    """Where and how a training computes.

    Attributes:
        processes: that share every batch, with their device.
        precision: dtype of the network's arithmetic; losses are computed in float32.
        scaler: scales float16's gradients; disabled for other dtypes.
    """

    processes: Processes
    precision: torch.dtype
    scaler: GradScaler

    @classmethod
    def of(cls, processes: Processes, precision: str) -> "Arithmetic":
        """The arithmetic of a setting, as `hardware.precision` takes it; also sets TF32 and glibc's options.

        Raises:
            ValueError: if processes on different GPUs would compute in different precisions.
        """
        hardware.keep_freed_memory()
        hardware.set_tf32(precision == "tf32")
        dtype = hardware.precision(precision, processes.device)
        found = sorted(set(map(str, processes.gather(dtype))))
        if len(found) > 1:
            raise ValueError(f"GPUs of different kinds compute in {' and '.join(found)}: set train.precision")
        return cls(processes, dtype, GradScaler(processes.device.type, enabled=dtype == torch.float16))


def train_one_epoch(
    model: nn.Module,
    batches: Iterable[Batch],
    loss_fn: nn.Module,
    optimizer: Optimizer,
    arithmetic: Arithmetic,
    *,
    learning_rates: Sequence[float],
    accumulate: int,
    clip: float,
    after_update: Callable[[int], None],
) -> float:
    """Train on every batch once; returns the mean loss over all processes.

    The host waits for the device once per update, when forward and backward passes are queued.

    Args:
        batches: on the device.
        learning_rates: one for each update.
        accumulate: batches per update; batches that do not fill another update are not used.
        clip: highest gradient norm.
        after_update: called with the number of each update (from 0), for averaged weights.

    Shapes:
        batches: images (N, channels, H, W) in channels-last format, masks (N, C, H, W) and, if the loss needs them,
            their maps.

    Raises:
        FloatingPointError: if the loss or its gradient is not finite or a logit is NaN, with the batch, the rate and
            what to try; no weight has been changed by it.
    """
    losses: list[float] = []
    skipped = 0  # updates in a row, by the scaler of float16
    pending: list[Tensor] = []  # losses of the current update's batches, on the device
    for number, (images, *targets) in enumerate(batches):
        update, position = divmod(number, accumulate)
        if update == len(learning_rates):
            break
        last = position == accumulate - 1
        with nullcontext() if last else arithmetic.processes.no_sync(model):
            with hardware.autocast(arithmetic.processes.device, arithmetic.precision):
                outputs = model(images)
            try:
                loss = loss_fn(outputs, *targets)
            except NotFiniteError as error:
                raise _diverged(str(error), number + 1, learning_rates[update]) from None
            pending.append(loss.detach())
            arithmetic.scaler.scale(loss / accumulate).backward()
        if last:
            rate = learning_rates[update]
            values, norm = _step(model, optimizer, arithmetic.scaler, pending, number + 1, rate, clip)
            skipped = 0 if math.isfinite(norm) else skipped + 1
            if skipped == MAX_SKIPPED:
                raise _diverged(f"norm of the gradient is {norm} for {skipped} updates", number + 1, rate)
            losses += values
            pending = []
            after_update(update)
    return float(np.mean(arithmetic.processes.gather(np.mean(losses))))


def _step(
    model: nn.Module,
    optimizer: Optimizer,
    scaler: GradScaler,
    pending: Sequence[Tensor],
    batch: int,
    rate: float,
    clip: float,
) -> tuple[list[float], float]:
    """Update the weights, unless a loss or the gradient is not finite.

    Args:
        pending: their losses, on the device.
        batch: number of the last of them, from 1.

    Returns:
        the losses of the update's batches, and the norm of the gradient.
    """
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(model.parameters(), clip)
    *losses, norm = torch.stack([*(each.to(norm.dtype) for each in pending), norm]).tolist()
    for back, loss in enumerate(reversed(losses)):
        if not math.isfinite(loss):
            raise _diverged(f"loss is {loss}", batch - back, rate)
    if not (scaler.is_enabled() or math.isfinite(norm)):  # a scaler skips such updates and lowers its scale
        raise _diverged(f"norm of the gradient is {norm}", batch, rate)
    set_learning_rate(optimizer, rate)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
    return losses, norm


def _diverged(what: str, batch: int, rate: float) -> FloatingPointError:
    return FloatingPointError(
        f"{what} at batch {batch}, learning rate {rate:.2g}: in a copy of the config, lower the phase's lr, lengthen "
        f"its warmup, lower train.clip or set train.precision to float32"
    )
