"""The pipeline's training loop on given batches, for the benchmarks that time it.

The other benchmarks import this file (`from training_loop import training_loop`), after the project is on sys.path.
"""

from collections.abc import Callable, Iterable

from timm.utils import ModelEmaV3
from torch import nn

from pipeline import config
from pipeline.losses import build_loss
from pipeline.training.distributed import processes
from pipeline.training.epoch import Arithmetic, Batch, train_one_epoch
from pipeline.training.optimizer import build_optimizer

MIX = {"bce": 1.0, "dice": 1.0}


def training_loop(
    model: nn.Module, batches: Callable[[int], Iterable[Batch]], precision: str, rate: float
) -> Callable[[int], float]:
    """A function that trains a network for some updates (BCE + Dice, AdamW, averaged weights); returns their mean loss.

    Args:
        model: in training mode, on the device.
        batches: from a number of updates to as many batches, on the device.
        precision: as `hardware.precision`.
        rate: learning rate.
    """
    arithmetic = Arithmetic.of(processes(), precision)
    average, loss = ModelEmaV3(model, decay=0.99, use_warmup=True), build_loss(MIX)
    phase = config.Phase(loss=MIX, epochs=1, lr=rate)
    optimizer = build_optimizer(model, phase, config.Train(phases=(phase,)), "")
    return lambda updates: train_one_epoch(
        model,
        batches(updates),
        loss,
        optimizer,
        arithmetic,
        learning_rates=[rate] * updates,
        accumulate=1,
        clip=1.0,
        after_update=lambda update: average.update(model, step=update),
    )
