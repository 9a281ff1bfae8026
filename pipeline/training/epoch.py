"""One epoch of training, and one of validation."""

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from operator import itemgetter

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.optim import Optimizer

from pipeline import hardware
from pipeline.data.labels import Labels
from pipeline.inference.prediction_store import LEVELS
from pipeline.inference.predictor import Predictor, predict_images
from pipeline.losses.inputs import NotFiniteError
from pipeline.metrics import Counts, stack
from pipeline.postprocess import count_argmax, count_levels, count_soft

Batch = tuple[Tensor, Tensor]


def learning_rate(step: int, steps: int, *, peak: float, warmup: float, final: float, cycles: int = 1) -> float:
    """Linear warm-up to `peak`, then half a cosine down to `final · peak` at the last step; again in every cycle.

    A pure function of the step, so a resumed run needs no scheduler state.

    Args:
        step: 0 … steps-1.
        warmup: share of the steps.
        final: share of the peak.
        cycles: equal stretches of the steps, which they must divide.

    Source:
        Loshchilov & Hutter, SGDR, https://arxiv.org/abs/1608.03983: restarts.

    >>> [round(learning_rate(step, 5, peak=1.0, warmup=0.2, final=0.0), 3) for step in range(5)]
    [1.0, 1.0, 0.75, 0.25, 0.0]
    """
    steps //= cycles
    step %= steps
    rising = round(warmup * steps)
    if step < rising:
        return peak * (step + 1) / rising
    done = (step - rising) / max(1, steps - rising - 1)
    return peak * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * done)))


def train_one_epoch(
    model: nn.Module,
    batches: Iterable[Batch],
    loss_fn: nn.Module,
    optimizer: Optimizer,
    accelerator: Accelerator,
    *,
    precision: torch.dtype,
    learning_rates: Sequence[float],
    accumulate: int,
    clip: float,
    after_update: Callable[[int], None],
) -> float:
    """Pass once over the batches; returns the mean loss, of all processes.

    Args:
        precision: of the network's arithmetic; the loss is computed in float32.
        learning_rates: the learning rate of each update.
        accumulate: batches per update; what is left over at the end is not used.
        clip: highest gradient norm.
        after_update: called with the number of each update (from 0), for averaged weights.

    Raises:
        FloatingPointError: if the loss is not finite, or a logit NaN, with the batch, the rate and what to try.
    """
    losses: list[float] = []
    for number, (images, target) in enumerate(batches):
        update, position = divmod(number, accumulate)
        if update == len(learning_rates):
            break
        for group in optimizer.param_groups:
            group["lr"] = learning_rates[update]
        last = position == accumulate - 1
        with nullcontext() if last else accelerator.no_sync(model):
            with hardware.autocast(accelerator.device, precision):
                logits = model(_on_device(images, accelerator))
            try:
                loss = loss_fn(logits, target.to(accelerator.device))
            except NotFiniteError as error:
                raise _diverged(str(error), number + 1, learning_rates[update]) from None
            if not math.isfinite(value := loss.item()):
                raise _diverged(f"loss is {value}", number + 1, learning_rates[update])
            losses.append(value)
            accelerator.backward(loss / accumulate)
        if last:
            accelerator.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad()
            after_update(update)
    # As an object: NCCL, the collectives of GPUs, takes no tensor that lies on the CPU.
    return float(np.mean(gather_object([np.mean(losses)])))


def _on_device(images: Tensor, accelerator: Accelerator) -> Tensor:
    """Channels last: convolutions in half precision are fastest so, on CPUs and GPUs alike."""
    return images.to(accelerator.device).contiguous(memory_format=torch.channels_last)


def _diverged(what: str, batch: int, rate: float) -> FloatingPointError:
    return FloatingPointError(
        f"{what} at batch {batch}, learning rate {rate:.2g}: in a copy of the config, lower the phase's "
        f"lr, lengthen its warmup, lower train.clip, or set train.precision to float32"
    )


def validate(
    predictor: Predictor, index: pd.DataFrame, labels: Labels, accelerator: Accelerator, **options: object
) -> list[tuple[Counts, Counts]]:
    """Pixel counts of each image of the index, (C, 255): of every class at all 255 thresholds; and soft ones, (C,).

    In one order, whatever the number of processes. Exclusive classes have no threshold: theirs are all alike.

    Args:
        options: of `predict_images`.
    """
    mine = index.iloc[accelerator.process_index :: accelerator.num_processes]
    rows = {row.image_id: row for row in mine.itertuples()}
    found = []
    for image_id, values in predict_images(predictor, mine, size=labels.size, **options):
        target = labels.read_scored(rows[image_id])
        found.append((image_id, (count_classes(values, target, labels.exclusive), count_soft(values, target))))
    return [counts for _, counts in sorted(gather_object(found), key=itemgetter(0))]


def count_classes(values: np.ndarray, target: np.ndarray, exclusive: bool) -> Counts:
    """Counts (C, 255) of stored values and a target (C, H, W); further channels of the values are for no class."""
    if not exclusive:
        return stack(count_levels(*pair) for pair in zip(values, target, strict=False))
    return Counts(*(np.repeat(each[:, None], LEVELS, axis=1) for each in count_argmax(values, target)))
