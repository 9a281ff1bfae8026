"""Training in phases: the first learns pixels and overlap, the next refines the overlap from the best weights.

Files in a fold's folder:
    phase<n>.safetensors: the best weights of a phase.
    soup<n>-<epoch>.safetensors: weights of the soup's candidates, the `soup` best epochs and the best of each cycle;
        only while the phase runs.
    state.pt: what a stopped run resumes from.
    metrics.jsonl: one line per epoch.
    best.safetensors: the best weights of the best phase, written last: the fold is trained. With select = "last", the
        weights of the last epoch, or its SWA, are those of a phase, and the last phase is the best.
"""

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from pipeline import config, hardware
from pipeline.data.device_augment import Batch, augment_batches
from pipeline.data.loader import collate, copy_to, on_device, report_dead_worker
from pipeline.models.grad_checkpointing import checkpointed
from pipeline.models.narrow_convolutions import compute_in_float32
from pipeline.progress import Timed, track
from pipeline.training.averaging import (
    AveragedWeights,
    RunningMean,
    SoupFiles,
    candidates,
    evaluate_averages,
    last_epochs,
    named_batch_norms,
    update_batch_norms,
)
from pipeline.training.checkpoint import FULL, Fold, load_checkpoint, make_record, read_record, save_checkpoint
from pipeline.training.distributed import Processes, processes, report_lost_process
from pipeline.training.epoch import Arithmetic, train_one_epoch
from pipeline.training.fold_data import build_loader
from pipeline.training.freezing import Freezing
from pipeline.training.history import (
    append_history,
    log_average,
    log_collapse,
    log_epoch,
    log_waits,
    write_history,
)
from pipeline.training.objective import build_objective
from pipeline.training.optimizer import build_optimizer, learning_rates
from pipeline.training.phase_loss import build_phase_loss
from pipeline.training.profiling import profiled
from pipeline.training.selection import Validation
from pipeline.training.sync_batch_norm import needs_sync, sync_batch_norms
from pipeline.training.train_job import TrainJob
from pipeline.training.train_state import TrainState
from pipeline.training.validation import Validator

log = logging.getLogger(__name__)


def fit(job: TrainJob) -> None:
    """Train all phases, or resume a run that was stopped; writes `best.safetensors` at the end.

    A job without held-out images (fold "full") selects nothing: each phase ends with its last averaged weights, and
    `patience`, `swa` and `soup` have no effect.
    """
    group = processes()
    state = TrainState.load(job.state_path) or TrainState(job.settings)
    validator = Validator(job.data, job.cfg, group) if job.validates else None
    for line in state.history:  # a tracker may be new, or lack the epoch after which the run was stopped
        job.trackers.log_epoch(line, job.global_epoch(line["phase"], line["epoch"] - 1))
    for number in range(state.phase, len(job.cfg.phases) + 1):
        if state.phase != number:
            load_checkpoint(job.phase_path(number - 1), job.model, job.fold)
            state.start_phase(number)
        with _report_no_room(number):
            trainer = Trainer(job, state, group, validator)
        trainer.run()
    group.wait()
    if group.is_main:
        promote_best(job)
    group.wait()


@contextmanager
def _report_no_room(number: int) -> Iterator[None]:
    """Raises ValueError if a GPU has no room for the networks of a phase."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ValueError(
            f"the GPU's memory is full before the first update of phase {number}, with the network, its average (EMA) "
            f"and the optimizer alone: end other programs on the GPU (nvidia-smi lists them), or choose a smaller "
            f"model.encoder"
        ) from error


def promote_best(job: TrainJob) -> None:
    """Copy the weights of the best phase to `best.safetensors`."""
    best = best_phase([job.phase_path(number) for number in range(1, len(job.cfg.phases) + 1)], job.cfg, job.fold)
    record = load_checkpoint(best, job.model, job.fold)
    save_checkpoint(job.folder / "best.safetensors", job.model.state_dict(), record)
    job.state_path.unlink(missing_ok=True)


def best_phase(paths: Sequence[Path], cfg: config.Train, fold: Fold) -> Path:
    """The phase's weights with the best selection score; of equals, the later phase's.

    The last phase's, if no score selects: in a full fit, or with select = "last".

    Args:
        paths: of the best weights of each phase, in order.
    """
    if fold == FULL or cfg.select == "last":
        return paths[-1]
    return max(reversed(paths), key=lambda path: read_record(path)["selection"])


class Trainer:
    """Trains the current phase of a state, from the job's weights or from where a stopped run was.

    Args:
        state: updated in place, and written to disk after every epoch.
        validator: of the held-out images; None for a full fit.
    """

    def __init__(self, job: TrainJob, state: TrainState, group: Processes, validator: Validator | None):
        self.job, self.state, self.group, self.validator = job, state, group, validator
        self.phase = job.cfg.phases[state.phase - 1]
        self.arithmetic = Arithmetic.of(group, job.cfg.precision)
        self.model = hardware.place(job.model, group.device)
        if group.device.type == "cpu" and self.arithmetic.precision == torch.bfloat16:
            compute_in_float32(self.model)
        if group.world > 1 and needs_sync(job.cfg.sync_batch_norm, group.batch_size_per_process(job.cfg.batch_size)):
            sync_batch_norms(self.model, group.device)
        self.epochs = self.phase.epochs  # fewer if the time limit asks for it
        self.freezing = Freezing(self.model.encoder, self.phase, job.encoder)
        self.freezing.set_epoch(self.epochs - 1, self.epochs)  # the optimizer has the weights that train in any epoch
        self.ema = ModelEmaV3(self.model, decay=job.cfg.ema, use_warmup=True)
        self.swa = RunningMean()
        self.soup_files = SoupFiles(job.folder, state.phase)
        loss = build_phase_loss(self.phase, state.phase, job.data, log_weights=group.is_main)
        self.loss_weights = loss.weights
        self.loss = build_objective(loss, job.aux_weight, job.image_weight)
        self.loader = build_loader(job.data, job.cfg, state.phase, job.seed, group, loss.target_maps)
        self.updates = len(self.loader) // job.cfg.accumulate  # per epoch; batches left over are not used
        if self.updates == 0:
            raise ValueError(
                f"train.accumulate = {job.cfg.accumulate} batches make one update, an epoch has {len(self.loader)}: "
                f"lower it, or raise the phase's repeats"
            )
        if job.cfg.compile:
            _compile(self.model, group.device)  # after the EMA model is copied, which is not compiled
        self.optimizer = build_optimizer(self.model, self.phase, job.cfg, job.encoder)
        self.network = group.wrap(self.model)
        if state.tensors:
            self._restore(state.tensors)
            state.tensors = None

    def run(self) -> None:
        """Train the phase to its end, then evaluate the averages of weights that it asks for."""
        patience = self.job.cfg.patience or self.phase.epochs
        self._fit_epochs_to_limit()
        while self.state.epoch < self.epochs and self.state.epochs_without_improvement < patience:
            self._run_epoch()
            self._fit_epochs_to_limit()
        if self.validator:
            if (self.phase.swa or self.phase.soup) and not self.state.averages_evaluated:
                self._evaluate_averages()
            if self.group.is_main:
                log_collapse(self.job.title, self.state.phase_lines(), exclusive=self.job.data.labels.exclusive)
        self.job.trackers.log_worst(self.state.phase, self.job.global_epoch(self.state.phase, self.state.epoch - 1))

    def _run_epoch(self) -> None:
        started = time.monotonic()
        job, state = self.job, self.state
        global_epoch = job.global_epoch(state.phase, state.epoch)
        # No random state is carried from epoch to epoch, so a resumed run draws the same numbers.
        entropy = (job.seed, global_epoch, self.group.rank)
        torch.manual_seed(np.random.SeedSequence(entropy).generate_state(1)[0].item())
        self.loader.sampler.epoch = global_epoch
        loss, lr, waited = self._train()
        trained = time.monotonic()
        validation = self.validator(self.ema.module) if self.validator else None
        best = self._count_epoch(validation)
        ended = time.monotonic()
        seconds = ended - started
        state.seconds += seconds
        state.epochs_seen += job.passes(state.phase)
        weights = {} if self.loss_weights.is_constant else {"loss_weights": self.loss_weights.now}
        line = append_history(state, job.fold, validation, best=best, loss=loss, lr=lr, seconds=seconds, **weights)
        if self.group.is_main:
            self._save_epoch(line)
            left = state.seconds / state.epochs_seen * job.passes_left(state.phase, state.epoch)
            log_epoch(job.title, line, self.epochs, left, exclusive=job.data.labels.exclusive)
            log_waits(data=waited, network=trained - started - waited, validation=ended - trained)
            job.trackers.log_epoch(line, global_epoch)
            if best and validation:
                job.trackers.draw_worst(self.ema.module, validation, state.phase)
        self.group.wait()

    def _fit_epochs_to_limit(self) -> None:
        """Lower the number of the phase's epochs to as many as end within `max_minutes`, at the speed so far."""
        job, state, limit = self.job, self.state, self.job.cfg.max_minutes
        if limit is None or state.epochs_seen == 0:
            return
        seconds = self.group.gather(state.seconds)[0]  # the processes decide alike
        before_end = 1 - job.passes_left(state.phase, self.phase.epochs) / job.passes_left(1, 0)
        left = 60 * limit * before_end - seconds
        fit = int(left / (seconds / state.epochs_seen * job.passes(state.phase))) if left > 0 else 0
        epochs = min(max(state.epoch + fit, 1), self.epochs)
        if epochs < self.epochs and self.group.is_main:
            log.info("phase %d: %d epochs instead of %d fit into the time", state.phase, epochs, self.epochs)
        self.epochs = epochs

    def _batches(self) -> Iterator[Batch]:
        """The batches of the sampler's epoch, on the device."""
        steps, seeds = self.loader.dataset.augment.device_steps, (seed for _, seed in self.loader.sampler)
        return augment_batches(on_device(self.loader, self.group.device), seeds, steps)

    def _train(self) -> tuple[float, float, float]:
        """Train one epoch; returns its mean loss, its last learning rate, and the seconds it waited for data.

        Raises:
            ConnectionError: if another process has ended.
            ValueError: if the GPU's memory is full.
        """
        phase = self.phase.model_copy(update={"epochs": self.epochs})
        rates = learning_rates(phase, self.state.epoch, self.updates)
        if self.freezing.set_epoch(self.state.epoch, self.epochs):
            self.network = self.group.wrap(self.model)  # it averages the gradients of the weights that train now
        what = f"fold {self.job.fold} phase {self.state.phase} epoch {self.state.epoch + 1}/{self.epochs}"
        batches = Timed(self._batches())
        tracked = track(batches, what, total=len(self.loader))
        if self.job.cfg.profile and self.state.epoch == 0 and self.group.is_main:
            tracked = profiled(tracked, self.job.folder / f"trace{self.state.phase}.json", self.job.cfg.accumulate)
        with (
            report_lost_process(),
            report_dead_worker(self.loader.num_workers),
            self._report_full_memory(),
        ):
            loss = self._train_on(tracked, rates)
        return loss, rates[-1], batches.seconds

    def _train_on(self, batches: Iterable[Batch], rates: Sequence[float]) -> float:
        """Train on batches, as `train_one_epoch`."""
        self._set_loss_weights(0)
        self._set_modes()
        with (
            hardware.fixed_sizes(self.phase.crop is not None),
            checkpointed(self.model.encoder, self.job.grad_checkpointing),
        ):
            return train_one_epoch(
                self.network,
                batches,
                self.loss,
                self.optimizer,
                self.arithmetic,
                learning_rates=rates,
                accumulate=self.job.cfg.accumulate,
                clip=self.job.cfg.clip,
                after_update=self._after_update,
            )

    def train_on_copies(self, images: int, updates: int) -> None:
        """Train on batches of copies of the first image, at a learning rate of 0, to measure the memory of a step.

        Args:
            images: per batch.

        Raises:
            torch.OutOfMemoryError: if the GPU's memory is full.
        """
        pair = self.loader.dataset[0, 0]
        batch = tuple(copy_to(each, self.group.device) for each in collate([pair] * images))
        self._train_on(repeat(batch, updates * self.job.cfg.accumulate), [0.0] * updates)

    def _set_modes(self) -> None:
        self.network.train()
        self.freezing.set_modes()

    @contextmanager
    def _report_full_memory(self) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError as error:
            job, number = self.job, self.state.phase
            crops = [f"crop {phase.crop}" if phase.crop else "whole images" for phase in job.cfg.phases]
            fitted = f" (phase {number - 1} fitted with {crops[number - 2]})" if number > 1 else ""
            images = self.group.batch_size_per_process(job.cfg.batch_size)
            raise ValueError(
                f"the GPU's memory is full in phase {number}, with {images} images at once, {crops[number - 1]}{fitted}"
                f": in a copy of the config, halve train.batch_size and set train.accumulate = "
                f"{2 * job.cfg.accumulate}, or lower the phase's crop"
                f"{'' if job.grad_checkpointing else ', or set model.grad_checkpointing = true'}"
            ) from error

    def _after_update(self, update: int) -> None:
        """Update the averaged weights; their decay grows from 0 to `ema` over the first updates of a phase."""
        self.ema.update(self.model, step=self.state.epoch * self.updates + update + 1)
        if update + 1 < self.updates:
            self._set_loss_weights(update + 1)

    def _set_loss_weights(self, update: int) -> None:
        """Set the weights of the losses at an update of the epoch: they follow from its number in the phase alone."""
        last = self.epochs * self.updates - 1
        self.loss_weights.set_progress((self.state.epoch * self.updates + update) / max(last, 1))

    def _count_epoch(self, validation: Validation | None) -> bool:
        """Count a finished epoch; returns whether its weights are the phase's best so far."""
        state = self.state
        state.epoch += 1
        if self.phase.swa and state.epoch in last_epochs(self.phase.epochs, self.phase.swa):
            self.swa.add(self.model.state_dict())
        if validation is None and self.job.cfg.max_minutes is not None:
            return True  # of a full fit: the time may end after any epoch, which is then the last one
        if validation is None or self.job.cfg.select == "last":
            return state.epoch == self.phase.epochs
        if validation.selection > state.best:
            state.best, state.epochs_without_improvement = validation.selection, 0
            return True
        state.epochs_without_improvement += 1
        return False

    def _evaluate_averages(self) -> None:
        """Evaluate the averages of the phase's weights; one that beats all before it becomes the phase's best weights.

        With select = "last", SWA does in any case.

        A run stopped in between repeats all of it, from the same files and with the same result.
        """
        state = self.state
        lines = state.epoch_lines()
        for average in evaluate_averages(self.phase, lines, self.swa, self.soup_files.read, self._evaluate_average):
            line = append_history(
                state,
                self.job.fold,
                average.validation,
                best=self.job.cfg.select == "last" or average.validation.selection > state.best,
                seconds=average.seconds,
                candidate=average.name,
                epochs=average.epochs,
            )
            if self.group.is_main:
                if line["best"]:
                    record = make_record(line, self.job.settings)
                    save_checkpoint(self.job.phase_path(state.phase), average.weights, record)
                    self.ema.module.load_state_dict(average.weights)  # it may have evaluated others since
                    self.job.trackers.draw_worst(self.ema.module, average.validation, state.phase)
                log_average(self.job.title, line)
            state.best = max(state.best, average.validation.selection)
        state.averages_evaluated = True
        if self.group.is_main:
            self._save_state()
            self.soup_files.keep([])
        self.group.wait()

    def _evaluate_average(self, name: str, epochs: list[int], weights: dict[str, Tensor]) -> AveragedWeights:
        """Evaluate averaged weights, with batch statistics of images as the phase's last epoch drew them."""
        started = time.monotonic()
        job, model = self.job, self.ema.module  # the phase is over: the EMA weights are on disk
        model.load_state_dict(weights)
        self.loader.sampler.epoch = job.global_epoch(self.state.phase, self.state.epoch - 1)
        self.freezing.set_epoch(self.state.epoch - 1, self.epochs)
        self._set_modes()
        norms = [model.get_submodule(name) for name, norm in named_batch_norms(self.model) if norm.training]
        update_batch_norms(model, norms, self._batches(), self.group.device, self.arithmetic.precision)
        validation = self.validator(model)
        found = {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}
        return AveragedWeights(name, epochs, validation, found, time.monotonic() - started)

    def _save_epoch(self, line: dict[str, Any]) -> None:
        """Write best weights, then metrics, then state: a run stopped in between repeats the epoch, nothing is lost."""
        job, state = self.job, self.state
        weights, record = self.ema.module.state_dict(), make_record(line, job.settings)
        if line["best"]:
            save_checkpoint(job.phase_path(state.phase), weights, record)
        keep = []
        if self.phase.soup and job.validates:
            keep = candidates(state.epoch_lines(), self.phase.soup, self.phase.epochs // self.phase.cycles)
        if state.epoch in keep:
            save_checkpoint(self.soup_files.path(state.epoch), weights, record)
        self._save_state()
        self.soup_files.keep(keep)  # last: the state before this one needs them

    def _save_state(self) -> None:
        write_history(self.job.folder / "metrics.jsonl", self.state.history)
        tensors = {
            "model": self.model.state_dict(),
            "ema": self.ema.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.arithmetic.scaler.state_dict(),  # empty without float16
            "swa": vars(self.swa) if self.swa.count else None,
        }
        replace(self.state, tensors=tensors).save(self.job.state_path)

    def _restore(self, tensors: dict[str, Any]) -> None:
        self.model.load_state_dict(tensors["model"])
        self.ema.module.load_state_dict(tensors["ema"])
        try:
            self.optimizer.load_state_dict(tensors["optimizer"])
        except ValueError as error:  # other parameter groups
            raise ValueError(
                f"{self.job.state_path}: the state of an older version, whose optimizer had other groups of weights: "
                f"remove {self.job.folder} to train the fold again"
            ) from error
        if tensors["scaler"]:
            self.arithmetic.scaler.load_state_dict(tensors["scaler"])
        if tensors["swa"]:
            self.swa = RunningMean(**tensors["swa"])


def _compile(model: nn.Module, device: torch.device) -> None:
    """Compile in place, so that weights keep their names; a small function goes first, so that errors are clear."""
    with hardware.compiling("train.compile = true"):
        torch.compile(torch.square)(torch.ones(2, device=device))
    model.compile(dynamic=False)
