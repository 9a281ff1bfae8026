"""Training in phases: the first learns pixels and overlap, the next refines the overlap from the best weights.

Files of a fold's folder: `phase<n>.safetensors` are the best weights of a phase, `state.pt` is where to go on
after a kill, `metrics.jsonl` has a line per epoch, and `best.safetensors`, written last, says "done". While a phase
with a soup runs, `soup<n>-<epoch>.safetensors` may go into it: no more files than the best that it asks for, and one
of each cycle.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from pipeline import __version__, config, hardware
from pipeline.inference.predictor import Predictor
from pipeline.losses import build_loss
from pipeline.metrics import pixel_metric, stack
from pipeline.progress import track
from pipeline.training.averaging import (
    STATISTICS_BATCHES,
    Blend,
    RunningMean,
    batch_norms,
    estimate_batch_statistics,
    greedy_soup,
    ingredients,
    last_epochs,
    mean_weights,
)
from pipeline.training.checkpoint import (
    FULL,
    Fold,
    load_checkpoint,
    load_state,
    load_weights,
    read_record,
    save_checkpoint,
    save_state,
)
from pipeline.training.epoch import learning_rate, train_one_epoch, validate
from pipeline.training.fold_data import FoldData, build_loader, pseudo_of
from pipeline.training.full_fit import with_epochs
from pipeline.training.history import say_blend, say_collapse, say_epoch, write_history, write_tensorboard
from pipeline.training.objective import MASK_ALONE, HeadWeights, build_objective
from pipeline.training.selection import NOT_VALIDATED, Validation, beats_baseline, evaluate, selection_of
from pipeline.training.sync_batch_norm import sync_batch_norms


@dataclass
class Standing:
    """How far a training has come: all that a resumed run must know beside weights and optimizer."""

    phase: int = 1
    epoch: int = 0  # finished epochs of the phase
    best: float = -1.0  # highest selection score of the phase (`selection.py`)
    stale: int = 0  # epochs since then
    seconds: float = 0.0
    draws: float = 0  # passes over the data so far
    history: list[dict[str, Any]] = field(default_factory=list)
    blended: bool = False  # whether the phase's averages of weights were tried


def make_accelerator(precision: str) -> Accelerator:
    """The engine for this machine's device and precision; under torchrun, one of several processes."""
    on = hardware.device()
    AcceleratorState._reset_state()  # it would keep the precision of an earlier training in this process
    # Autocast is the loop's own: accelerate's is lost when a model is prepared again for the next phase. What float16
    # needs beside it, the scaling of gradients, is accelerate's.
    scaled = hardware.precision(precision, on) == torch.float16
    # Some networks hold weights that no loss reaches: scSE of a skip that is not there, stages below a shallow decoder.
    idle_weights = DistributedDataParallelKwargs(find_unused_parameters=True)
    return Accelerator(cpu=on.type == "cpu", mixed_precision="fp16" if scaled else "no", kwargs_handlers=[idle_weights])


def fit(
    model: nn.Module,
    data: FoldData,
    cfg: config.Train,
    *,
    folder: Path,
    seed: int,
    settings: dict[str, Any],
    heads: HeadWeights = MASK_ALONE,
    epochs: tuple[int, ...] | None = None,
) -> None:
    """Train through all phases, or go on where a killed run stood; ends with `best.safetensors`.

    Without images to validate on (fold "full") nothing is chosen: each phase ends with its last averaged weights, and
    neither patience nor `swa` nor `soup` does anything.

    Args:
        model: with its starting weights.
        folder: of the fold.
        seed: of sampling, augmentation and dropout.
        settings: what the weights depend on; kept in every checkpoint.
        heads: weights of the losses of the model's further heads.
        epochs: of each phase, in place of the config's; in a phase with cycles rounded up to whole epochs of each.

    Raises:
        ValueError: if the config asks for pseudo-labels and none are handed in.
    """
    if cfg.pseudo and data.pseudo is None:
        raise ValueError(f"train.pseudo: no labels by '{cfg.pseudo.from_}' were handed in for fold {data.fold}")
    cfg = with_epochs(cfg, epochs) if epochs else cfg
    accelerator = make_accelerator(cfg.precision)
    trainer = _Trainer(model, data, cfg, folder, seed, settings, heads, accelerator)
    for number in range(trainer.standing.phase, len(cfg.phases) + 1):
        trainer.run_phase(number)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        promote_best(folder, len(cfg.phases), model, data.fold)
    accelerator.wait_for_everyone()


def promote_best(folder: Path, phases: int, model: nn.Module, fold: Fold) -> None:
    """Copy the weights of the phase with the best selection score to `best.safetensors`; of equals, the later phase's.

    A full fit has no scores: its last phase is its best.
    """
    paths = [folder / f"phase{number}.safetensors" for number in range(1, phases + 1)]
    best = paths[-1] if fold == FULL else max(reversed(paths), key=lambda path: selection_of(read_record(path)))
    record = load_checkpoint(best, model, fold)
    save_checkpoint(folder / "best.safetensors", model.state_dict(), record)
    (folder / "state.pt").unlink(missing_ok=True)


class _Trainer:
    """One fold's training; each method is one step of it."""

    def __init__(
        self,
        model: nn.Module,
        data: FoldData,
        cfg: config.Train,
        folder: Path,
        seed: int,
        settings: dict[str, Any],
        heads: HeadWeights,
        accelerator: Accelerator,
    ):
        self.model, self.data, self.cfg, self.heads = model, data, cfg, heads
        self.folder, self.seed, self.settings, self.accelerator = folder, seed, settings, accelerator
        self.validates = data.valid_index is not None
        self.saved = load_state(folder / "state.pt")
        self.standing = Standing(**self.saved["standing"]) if self.saved else Standing()

    def run_phase(self, number: int) -> None:
        """One phase, from the best weights of the phase before or from where a kill left it."""
        phase, standing = self.cfg.phases[number - 1], self.standing
        if standing.phase != number:
            load_checkpoint(self._best_of(number - 1), self.model, self.data.fold)
            self.saved = None
            standing.phase, standing.epoch, standing.best, standing.stale = number, 0, -1.0, 0
            standing.blended = False
        self._start(phase)
        patience = self.cfg.patience or phase.epochs
        while standing.epoch < phase.epochs and standing.stale < patience:
            self._run_epoch(phase)
        if (phase.swa or phase.soup) and self.validates and not standing.blended:
            self._try_blends(phase)
        if self.validates and self.accelerator.is_main_process:
            self._say_if_collapsed()
        self.accelerator.free_memory()

    def _say_if_collapsed(self) -> None:
        lines = [line for line in self.standing.history if line["phase"] == self.standing.phase]
        best = max(lines, key=selection_of)
        without_objects = best.get("found") is None  # in all images held out: there is nothing to find
        if "baseline" in best and not without_objects and not beats_baseline(best):
            say_collapse(best, exclusive=self.data.labels.exclusive)

    def _start(self, phase: config.Phase) -> None:
        """Loader, loss, averaged weights and a fresh optimizer for a phase; then what was saved of them."""
        model = self.model.to(self.accelerator.device, memory_format=torch.channels_last)
        if self.accelerator.num_processes > 1:
            sync_batch_norms(model)
        for weight in model.encoder.parameters():
            weight.requires_grad = not phase.freeze_encoder
        self.average = ModelEmaV3(model, decay=self.cfg.ema, use_warmup=True)
        self.swa = RunningMean()
        self.loss = build_objective(
            build_loss(phase.loss, phase.loss_options, exclusive=self.data.labels.exclusive), self.heads
        )
        self.loader = build_loader(
            self.data,
            self.cfg,
            self.standing.phase,
            self.seed,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
        )
        if self.cfg.compile:
            _compile(model, self.accelerator.device)  # after the average is copied, which stays as it is
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=phase.lr, weight_decay=self.cfg.weight_decay, fused=True)
        self.wrapped, self.optimizer = self.accelerator.prepare(model, optimizer)
        if self.saved:
            self._restore(self.saved)

    def _restore(self, saved: dict[str, Any]) -> None:
        self.model.load_state_dict(saved["model"])
        self.average.module.load_state_dict(saved["average"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.accelerator.scaler and saved["scaler"]:
            self.accelerator.scaler.load_state_dict(saved["scaler"])
        if saved.get("swa"):
            self.swa = RunningMean(**saved["swa"])

    def _run_epoch(self, phase: config.Phase) -> None:
        started = time.monotonic()
        standing = self.standing
        ordinal = self._ordinal(standing.epoch)
        rank = self.accelerator.process_index
        # Nothing random is carried from epoch to epoch, so a resumed run draws what the other would have.
        torch.manual_seed(np.random.SeedSequence((self.seed, ordinal, rank)).generate_state(1)[0].item())
        self.loader.sampler.epoch = ordinal
        loss, rate = self._train(phase)
        validation = self._validate() if self.validates else None
        standing.epoch += 1
        better = validation.selection > standing.best if validation else standing.epoch == phase.epochs
        if validation:
            standing.best, standing.stale = (validation.selection, 0) if better else (standing.best, standing.stale + 1)
        if phase.swa and standing.epoch in last_epochs(phase.epochs, phase.swa):
            self.swa.add(self.model.state_dict())
        standing.seconds += time.monotonic() - started
        standing.draws += self._passes(standing.phase)
        self._note(loss, validation, better, rate, time.monotonic() - started)
        if self.accelerator.is_main_process:
            self._save(phase, better)
            say_epoch(standing.history[-1], phase.epochs, self._seconds_left(), exclusive=self.data.labels.exclusive)
            if self.cfg.tensorboard:
                write_tensorboard(self.folder / "tensorboard", standing.history[-1], ordinal)
        self.accelerator.wait_for_everyone()

    def _ordinal(self, epoch: int) -> int:
        """Number of an epoch of the phase (from 0) among all that the config plans."""
        return sum(earlier.epochs for earlier in self.cfg.phases[: self.standing.phase - 1]) + epoch

    def _note(
        self,
        loss: float | None,
        validation: Validation | None,
        better: bool,
        rate: float | None,
        seconds: float,
        **further: object,
    ) -> None:
        """Add a line to the history; what is not known is None."""
        standing = self.standing
        standing.history.append(
            {
                "fold": self.data.fold,
                "phase": standing.phase,
                "epoch": standing.epoch,
                "loss": loss,
                **(validation.line() if validation else NOT_VALIDATED),
                "best": better,
                "lr": rate,
                "seconds": round(seconds, 2),
                **further,
            }
        )

    def _train(self, phase: config.Phase) -> tuple[float, float]:
        """Mean loss and last learning rate of one epoch."""
        standing, updates = self.standing, self._updates()
        if updates == 0:
            raise ValueError(
                f"train.accumulate = {self.cfg.accumulate} batches make one update, an epoch has "
                f"{len(self.loader)}: lower it, or raise the phase's repeats"
            )
        total = updates * phase.epochs
        learning_rates = [
            learning_rate(step, total, peak=phase.lr, warmup=phase.warmup, final=phase.final_lr, cycles=phase.cycles)
            for step in range(standing.epoch * updates, (standing.epoch + 1) * updates)
        ]
        self.wrapped.train()
        if phase.freeze_encoder:
            self.model.encoder.eval()  # its batch statistics and dropout too
        what = f"fold {self.data.fold} phase {standing.phase} epoch {standing.epoch + 1}/{phase.epochs}"
        loss = train_one_epoch(
            self.wrapped,
            track(self.loader, what),
            self.loss,
            self.optimizer,
            self.accelerator,
            precision=hardware.precision(self.cfg.precision, self.accelerator.device),
            learning_rates=learning_rates,
            accumulate=self.cfg.accumulate,
            clip=self.cfg.clip,
            after_update=self._update_average,
        )
        return loss, learning_rates[-1]

    def _update_average(self, update: int) -> None:
        """Follow the weights closely in the first updates of a phase, then ever more slowly up to `ema`."""
        self.average.update(self.model, step=self.standing.epoch * self._updates() + update + 1)

    def _updates(self) -> int:
        """Updates in one epoch of the phase; batches that do not fill another one are not used."""
        return len(self.loader) // self.cfg.accumulate

    def _validate(self) -> Validation:
        """The averaged weights on the fold held out, by one view."""
        if self.accelerator.num_processes > 1:  # each has batch statistics of its own: all validate what one saves
            for buffer in self.average.module.buffers():
                broadcast(buffer)
        predictor = Predictor(
            self.average.module,
            ("identity",),
            self.cfg.precision,
            exclusive=self.data.labels.exclusive,
            tiles=self.data.tiles,
            batch_size=self.data.batch_size,
        )
        found = validate(
            predictor,
            self.data.valid_index,
            self.data.labels,
            self.accelerator,
            reader=self.data.reader,
            batch_size=self.data.batch_size,
            workers=self.cfg.workers,
            what="validate",
        )
        counts, soft = map(stack, zip(*found, strict=True))
        labels = self.data.labels
        metric = pixel_metric(self.data.metric)
        return evaluate(counts, soft, metric, exclusive=labels.exclusive, classes=len(labels.classes))

    def _try_blends(self, phase: config.Phase) -> None:
        """Score the averages of the phase's weights; each that beats all before it becomes the phase's best weights.

        A kill in between repeats all of it, from the same files to the same end.
        """
        for blend in self._blends(phase):
            self._note(
                None,
                blend.validation,
                blend.validation.selection > self.standing.best,
                None,
                blend.seconds,
                candidate=blend.name,
                epochs=blend.epochs,
            )
            if self.accelerator.is_main_process:
                self._save_if_better(blend)
                say_blend(self.standing.history[-1])
            self.standing.best = max(self.standing.best, blend.validation.selection)
        self.standing.blended = True
        if self.accelerator.is_main_process:
            self._save_state()
            self._drop_soup_but([])
        self.accelerator.wait_for_everyone()

    def _save_if_better(self, blend: Blend) -> None:
        if blend.validation.selection > self.standing.best:
            record = self._record(blend.validation.line()) | {"candidate": blend.name, "epochs": blend.epochs}
            save_checkpoint(self._best_of(self.standing.phase), blend.weights, record)

    def _blends(self, phase: config.Phase) -> Iterator[Blend]:
        """The averages that the phase asks for, scored."""
        if self.swa.count:  # patience may have ended the phase before the last epochs
            tail = last_epochs(phase.epochs, phase.swa)
            yield self._taste("swa", list(tail[: self.swa.count]), self.swa.weights)
        if phase.soup:
            ranked = self._ingredients(phase)
            scores = {line["epoch"]: selection_of(line) for line in self._epochs_of_phase()}
            soup = greedy_soup(ranked, scores[ranked[0]], self._taste_soup)
            if soup:
                yield soup

    def _taste_soup(self, epochs: list[int]) -> Blend:
        return self._taste("soup", epochs, mean_weights(load_weights(self._soup_of(epoch)) for epoch in epochs))

    def _taste(self, name: str, epochs: list[int], weights: dict[str, Tensor]) -> Blend:
        """Weights with batch statistics of their own, and their score."""
        started = time.monotonic()
        model = self.average.module  # the phase is over: its averaged weights are on disk
        model.load_state_dict(weights)
        self._estimate_batch_statistics(model)
        validation = self._validate()
        found = {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}
        return Blend(name, epochs, validation, found, time.monotonic() - started)

    def _estimate_batch_statistics(self, model: nn.Module) -> None:
        """From images as the phase's last epoch drew them; the statistics of a frozen encoder stay."""
        frozen = set(batch_norms(model.encoder)) if self.cfg.phases[self.standing.phase - 1].freeze_encoder else set()
        norms = [norm for norm in batch_norms(model) if norm not in frozen]
        if not norms:
            return
        device = self.accelerator.device
        dtype = hardware.precision(self.cfg.precision, device)

        def forward(images: Tensor) -> None:
            with hardware.autocast(device, dtype):
                model(images.to(device).contiguous(memory_format=torch.channels_last))

        self.loader.sampler.epoch = self._ordinal(self.standing.epoch - 1)
        estimate_batch_statistics(
            forward, norms, (images for images, _ in islice(track(self.loader, "batch statistics"), STATISTICS_BATCHES))
        )

    def _epochs_of_phase(self) -> list[dict[str, Any]]:
        """The lines of the phase's epochs, without those of averages."""
        lines = self.standing.history
        return [line for line in lines if line["phase"] == self.standing.phase and "candidate" not in line]

    def _ingredients(self, phase: config.Phase) -> list[int]:
        cycle = phase.epochs // phase.cycles if phase.cycles > 1 else None
        return ingredients(self._epochs_of_phase(), phase.soup, cycle)

    def _save(self, phase: config.Phase, better: bool) -> None:
        """Best weights, then the log, then the state: a kill in between repeats the epoch, and loses nothing."""
        standing = self.standing
        weights = self.average.module.state_dict()
        if better:
            save_checkpoint(self._best_of(standing.phase), weights, self._record(standing.history[-1]))
        kept = self._ingredients(phase) if phase.soup and self.validates else []
        if standing.epoch in kept:
            save_checkpoint(self._soup_of(standing.epoch), weights, self._record(standing.history[-1]))
        self._save_state()
        self._drop_soup_but(kept)  # only now: a state of before still counts on them

    def _record(self, validated: dict[str, Any]) -> dict[str, Any]:
        """What a checkpoint says of its weights, by their line in the history."""
        return {
            "fold": self.data.fold,
            "phase": self.standing.phase,
            "epoch": self.standing.epoch,
            "score": validated["score"],
            "selection": validated["selection"],
            "settings": self.settings,
            "versions": {"pipeline": __version__, "torch": torch.__version__},
            "machine": hardware.machine(),
        }

    def _save_state(self) -> None:
        standing = self.standing
        write_history(self.folder / "metrics.jsonl", standing.history)
        scaler = self.accelerator.scaler
        state = {
            "settings": self.settings,
            "standing": vars(standing),
            "model": self.model.state_dict(),
            "average": self.average.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler else None,
            "swa": vars(self.swa) if self.swa.count else None,
        }
        save_state(self.folder / "state.pt", state)

    def _best_of(self, phase: int) -> Path:
        return self.folder / f"phase{phase}.safetensors"

    def _soup_of(self, epoch: int) -> Path:
        return self.folder / f"soup{self.standing.phase}-{epoch}.safetensors"

    def _drop_soup_but(self, epochs: list[int]) -> None:
        for path in set(self.folder.glob("soup*.safetensors")) - set(map(self._soup_of, epochs)):
            path.unlink()

    def _passes(self, number: int) -> float:
        """Passes over the training images that an epoch of a phase is worth, by the images that it draws."""
        pseudo = pseudo_of(self.data, number)
        return self.cfg.phases[number - 1].repeats * (1 + (pseudo.weight if pseudo else 0))

    def _seconds_left(self) -> float:
        """Passes over the data still to come, at the speed so far."""
        standing, phases = self.standing, self.cfg.phases
        left = (phases[standing.phase - 1].epochs - standing.epoch) * self._passes(standing.phase)
        left += sum(
            phases[number - 1].epochs * self._passes(number) for number in range(standing.phase + 1, len(phases) + 1)
        )
        return standing.seconds / standing.draws * left


def _compile(model: nn.Module, device: torch.device) -> None:
    """In place, so that the names of its weights stay; something small is tried first, to say in a line if it fails."""
    with hardware.compiling("train.compile = true"):
        torch.compile(torch.square)(torch.ones(2, device=device))
    model.compile(dynamic=False)


def seed_weights(seed: int) -> None:
    """Seed what fresh weights are drawn from."""
    torch.manual_seed(seed)
