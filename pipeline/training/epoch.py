"""One epoch of training, and one evaluation on the held-out images."""

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

from pipeline import config, hardware
from pipeline.data.labels import Labels
from pipeline.data.sample import samples_of
from pipeline.inference.prediction_store import MAX_VALUE
from pipeline.inference.predictor import Predictor, predict_images
from pipeline.losses.inputs import NotFiniteError
from pipeline.metrics import Counts, pixel_metric, stack
from pipeline.postprocess.threshold_counts import count_argmax, count_levels, count_soft
from pipeline.training.distributed import broadcast_buffers
from pipeline.training.fold_data import FoldData
from pipeline.training.selection import Validation

Batch = tuple[Tensor, Tensor]


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
    """Train on every batch once; returns the mean loss over all processes.

    Args:
        precision: dtype of the network's arithmetic; the loss is computed in float32.
        learning_rates: one for each update.
        accumulate: batches per update; batches that do not fill another update are not used.
        clip: highest gradient norm.
        after_update: called with the number of each update (from 0), for averaged weights.

    Raises:
        FloatingPointError: if the loss is not finite or a logit is NaN, with the batch, the rate and what to try.
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
    # As an object: NCCL, the backend for GPUs, does not take CPU tensors.
    return float(np.mean(gather_object([np.mean(losses)])))


def _on_device(images: Tensor, accelerator: Accelerator) -> Tensor:
    """Images in channels-last format, in which half-precision convolutions are fastest on CPUs and GPUs."""
    return images.to(accelerator.device).contiguous(memory_format=torch.channels_last)


def _diverged(what: str, batch: int, rate: float) -> FloatingPointError:
    return FloatingPointError(
        f"{what} at batch {batch}, learning rate {rate:.2g}: in a copy of the config, lower the phase's lr, lengthen "
        f"its warmup, lower train.clip or set train.precision to float32"
    )


def evaluate(model: nn.Module, data: FoldData, cfg: config.Train, accelerator: Accelerator) -> Validation:
    """Score a model on the held-out images, without test-time augmentation; every process gets the same result."""
    broadcast_buffers(model, accelerator)  # each process has batch statistics of its own
    predictor = Predictor(
        model,
        ("identity",),
        cfg.precision,
        exclusive=data.labels.exclusive,
        tiles=data.tiles,
        batch_size=data.batch_size,
    )
    counts = count_predictions(
        predictor,
        data.valid_index,
        data.labels,
        accelerator,
        reader=data.reader,
        batch_size=data.batch_size,
        workers=cfg.workers,
        what="validate",
    )
    counts, soft_counts = map(stack, zip(*counts, strict=True))
    return Validation.from_counts(
        counts,
        soft_counts,
        pixel_metric(data.metric),
        exclusive=data.labels.exclusive,
        classes=len(data.labels.classes),
    )


def count_predictions(
    predictor: Predictor, index: pd.DataFrame, labels: Labels, accelerator: Accelerator, **options: object
) -> list[tuple[Counts, Counts]]:
    """Predict each image of the index and count its pixels.

    Args:
        options: of `predict_images`.

    Returns:
        for each image, ordered by id for any number of processes: the counts (C, 255) of every class at all
        thresholds, and the soft counts (C,). Exclusive classes have no threshold: their counts are the same at all.
    """
    mine = index.iloc[accelerator.process_index :: accelerator.num_processes]
    samples = {sample.image_id: sample for sample in samples_of(mine)}
    found = []
    for image_id, values in predict_images(predictor, mine, size=labels.size, **options):
        target = labels.read_scored(samples[image_id])
        found.append((image_id, (count_classes(values, target, labels.exclusive), count_soft(values, target))))
    return [counts for _, counts in sorted(gather_object(found), key=itemgetter(0))]


def count_classes(values: np.ndarray, target: np.ndarray, exclusive: bool) -> Counts:
    """Pixel counts of one image, (C, 255).

    Shapes:
        values: (C or more, H, W) uint8, stored probabilities; channels after the target's are ignored.
        target: (C, H, W) uint8.
    """
    if not exclusive:
        return stack(count_levels(*pair) for pair in zip(values, target, strict=False))
    return Counts(*(np.repeat(each[:, None], MAX_VALUE, axis=1) for each in count_argmax(values, target)))
