"""The memory of a training step, measured on a copy of the model: what fits, and what gradient checkpointing saves."""

import logging
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace

import torch

from pipeline import hardware
from pipeline.config import LEAST_IMAGES
from pipeline.data.rasters import format_bytes, free_memory
from pipeline.models.grad_checkpointing import count_saved_bytes
from pipeline.training.distributed import Processes
from pipeline.training.train_job import TrainJob
from pipeline.training.train_state import TrainState
from pipeline.training.trainer import Trainer

log = logging.getLogger(__name__)

MEMORY_SHARE = 0.9  # of the GPU's memory that a trial step may use; the rest is for fragments and other programs
ACTIVATIONS, WEIGHTS = 1.3, 5  # bytes in use per byte of them: measured, and weights, gradient, AdamW's two, average
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


def check_memory(job: TrainJob, images: int, device: torch.device) -> None:
    """Estimate the memory of an update on the CPU from a step on few images; a GPU refuses what does not fit by itself.

    Args:
        images: of one batch.

    Raises:
        ValueError: if it needs more than is free, with both in words: the system would end the process.
    """
    if device.type != "cpu":
        return
    weights = sum(each.nbytes for each in job.model.parameters())
    needed, free = ACTIVATIONS * _activations(job, images, device) + WEIGHTS * weights, free_memory()
    if needed > free:
        crop = job.cfg.phases[0].crop
        what = f"crops of {crop}×{crop}" if crop else "whole images"
        raise ValueError(
            f"an update on {images} {what} needs about {format_bytes(needed)} of memory, {format_bytes(free)} are "
            f"free: in the config (make config writes one), lower train.batch_size or the phases' crop"
            f"{'' if job.grad_checkpointing else ', or set model.grad_checkpointing = true'}"
        )


def _activations(job: TrainJob, images: int, device: torch.device) -> float:
    """Bytes that a step of the first phase keeps for the backward pass, most of what it needs.

    Measured on few images: on as many as asked for, it might need more memory than there is.
    """
    trainer = trial(replace(job, cfg=job.cfg.model_copy(update={"accumulate": 1})), 1, device)
    with count_saved_bytes(trainer.model) as saved:
        trainer.train_on_copies(LEAST_IMAGES, updates=1)
    return sum(saved.values()) * images / LEAST_IMAGES


def _describe_memory(job: TrainJob, images: int, device: torch.device) -> str:
    """The peak of a GPU's memory; elsewhere that of the activations."""
    if device.type != "cuda":
        return f"{_activations(job, images, device) / 2**20:.0f} MiB of activations"
    try:
        trainer = trial(replace(job, cfg=job.cfg.model_copy(update={"accumulate": 1})), 1, device)
        torch.cuda.reset_peak_memory_stats(device)
        trainer.train_on_copies(images, UPDATES)
    except torch.OutOfMemoryError:
        return "more memory than the GPU has"
    return f"{torch.cuda.max_memory_allocated(device) / 2**20:.0f} MiB of the GPU's memory"
