"""The memory of a training step, measured on a copy of the model: what fits, and what gradient checkpointing saves."""

import logging
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace

import torch

from pipeline import hardware
from pipeline.config import LEAST_IMAGES
from pipeline.models.grad_checkpointing import count_saved_bytes
from pipeline.training.distributed import Processes
from pipeline.training.train_job import TrainJob
from pipeline.training.train_state import TrainState
from pipeline.training.trainer import Trainer

log = logging.getLogger(__name__)

MEMORY_SHARE = 0.9  # of the GPU's memory that a trial step may use; the rest is for fragments and other programs
UPDATES = 2  # of a trial: in the second one the optimizer has its state


def trial(job: TrainJob, number: int, device: torch.device) -> Trainer:
    """A trainer of a copy of a job's model, as phase `number` needs it: with optimizer and averaged weights."""
    cfg = job.cfg.model_copy(
        update={"batch_size": 1, "accumulate": min(2, job.cfg.accumulate), "compile": False, "workers": 0}
    )
    copied = replace(job, model=deepcopy(job.model), cfg=cfg)
    return Trainer(copied, TrainState(job.settings, phase=number), Processes(device), None)


def most_images(job: TrainJob, device: torch.device, limit: int) -> int:
    """The largest number of images of one batch with which every phase fits into the GPU's memory.

    Args:
        limit: the highest number to try.

    Returns:
        a power of two; 0 if even the smallest number does not fit.
    """
    found = limit
    for number in range(1, len(job.cfg.phases) + 1):
        found = _doubled_while_fitting(job, number, device, found)
    return found


def _doubled_while_fitting(job: TrainJob, number: int, device: torch.device, limit: int) -> int:
    images, found = LEAST_IMAGES, 0
    with hardware.limited_memory(device, MEMORY_SHARE), suppress(torch.OutOfMemoryError):
        trainer = trial(job, number, device)  # which may not fit itself
        while images <= limit:
            trainer.train_on_copies(images, UPDATES)
            images, found = 2 * images, images
    return found


def log_checkpointing(job: TrainJob, group: Processes) -> None:
    """Log the memory of a step of the first phase, without and with gradient checkpointing."""
    if group.is_main:
        images = group.batch_size_per_process(job.cfg.batch_size)
        jobs = [replace(job, grad_checkpointing=enabled) for enabled in (False, True)]
        needed = [_describe_memory(each, images, group.device) for each in jobs]
        log.info("a step on %d images needs %s without gradient checkpointing, %s with it", images, *needed)


def _describe_memory(job: TrainJob, images: int, device: torch.device) -> str:
    """The peak of a GPU's memory; elsewhere the bytes that are kept for the backward pass, which are most of it."""
    trainer = trial(replace(job, cfg=job.cfg.model_copy(update={"accumulate": 1})), 1, device)
    if device.type != "cuda":
        with count_saved_bytes(trainer.model) as saved:
            trainer.train_on_copies(images, updates=1)
        return f"{sum(saved.values()) / 2**20:.0f} MiB of activations"
    torch.cuda.reset_peak_memory_stats(device)
    try:
        trainer.train_on_copies(images, UPDATES)
    except torch.OutOfMemoryError:
        return "more memory than the GPU has"
    return f"{torch.cuda.max_memory_allocated(device) / 2**20:.0f} MiB of the GPU's memory"
