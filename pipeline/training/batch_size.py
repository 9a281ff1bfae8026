"""`train.batch_size = "auto"`: the largest batch that fits into the memory of this machine's GPUs.

A run keeps the batch size that it chose in runs/<config>/batch_size.json, for all of its folds and for any machine that
resumes it. What fits on a machine is kept in runs/batch_sizes.json, for other configs with the same network.
"""

import json
import logging
from pathlib import Path
from typing import Any

import torch

from pipeline import config
from pipeline.config import LEAST_IMAGES
from pipeline.files import write_text
from pipeline.schema import JsonRecord, read_json
from pipeline.training.distributed import Processes
from pipeline.training.step_memory import most_images
from pipeline.training.train_job import TrainJob

log = logging.getLogger(__name__)

MOST_IMAGES = 128  # of a batch: larger ones leave few updates
WITHOUT_GPU: int = config.Train.model_fields["batch_size"].default


class ChosenBatchSize(JsonRecord):
    """The file of a run."""

    batch_size: config.Count


class FittingImages(JsonRecord):
    """One entry of the file of a machine."""

    images: int  # of one process
    step: dict[str, Any]  # what they depend on


def with_chosen_batch_size(cfg: config.Train, path: Path) -> config.Train:
    """The options with the batch size of the run, once it has chosen one.

    Args:
        path: of the run's file.

    Raises:
        ValueError: if the file is damaged.
    """
    if cfg.batch_size != "auto" or not path.is_file():
        return cfg
    remedy = f"write the batch size of the run's folds into it, or remove {path.parent} to train them again"
    return cfg.model_copy(update={"batch_size": read_json(path, remedy, ChosenBatchSize)["batch_size"]})


def choose_batch_size(job: TrainJob, group: Processes, path: Path, known: Path) -> None:
    """Choose the batch size of a run and write its file; every process must call this.

    Args:
        path: of the run's file.
        known: the file of what fits on this machine.

    Raises:
        ValueError: if not even the smallest batch fits.
    """
    if group.device.type == "cuda":
        size = min(group.gather(_images_that_fit(job, group, known))) * group.world
        why = f"fits into {torch.cuda.get_device_name(group.device)}"
    else:  # the system's memory has no error that could be caught: the kernel ends the process
        size = max(LEAST_IMAGES, WITHOUT_GPU // group.world) * group.world
        why = "without an NVIDIA GPU, memory is not measured"
    if not size:
        raise ValueError(
            f'train.batch_size = "auto": the GPU\'s memory is full with {LEAST_IMAGES} images or less: lower the '
            f"phases' crop, or choose a smaller model.encoder"
            f"{'' if job.grad_checkpointing else ', or set model.grad_checkpointing = true'}"
        )
    if group.is_main and not path.is_file():  # else a training of another fold was faster
        log.info('train.batch_size = "auto": %d images (%s); the learning rate is not scaled', size, why)
        write_text(path, json.dumps({"batch_size": size}) + "\n")
    group.wait()


def _images_that_fit(job: TrainJob, group: Processes, known: Path) -> int:
    """Images of one process that fit, as the machine's file says, or found now and added to it."""
    step = _describe_step(job, group)
    entries = read_json(known, f"remove {known}", list[FittingImages]) if known.is_file() else []
    for entry in entries:
        if entry["step"] == step:
            return entry["images"]
    log.info('train.batch_size = "auto": trying batches on the GPU')
    images = most_images(job, group.device, step["limit"])
    if images:
        write_text(known, json.dumps([*entries, {"images": images, "step": step}], indent=1) + "\n")
    return images


def _describe_step(job: TrainJob, group: Processes) -> dict[str, Any]:
    """What the memory of a step depends on, as plain values."""
    cfg, made_by = job.cfg, job.settings
    phases = [phase.model_dump(mode="json", include={"loss", "crop", "size", "freeze_encoder"}) for phase in cfg.phases]
    fewest = (
        min(round(len(job.data.train_index) * phase.repeats) for phase in cfg.phases) // cfg.accumulate
    )  # per update
    limit = max(LEAST_IMAGES, min(MOST_IMAGES, fewest) // group.world)
    return {
        "device": torch.cuda.get_device_name(group.device),
        "torch": torch.__version__,
        "competition": made_by.get("competition"),
        "size": made_by.get("data", {}).get("size"),
        "model": {key: value for key, value in made_by.get("model", {}).items() if key != "weights"},
        "grad_checkpointing": job.grad_checkpointing,
        "phases": phases,
        **cfg.model_dump(mode="json", include={"optimizer", "optimizer_options", "precision"}),
        "accumulates": cfg.accumulate > 1,
        "limit": 1 << (limit.bit_length() - 1),  # a power of two: the folds differ by a few images
    }
