"""Training in phases: the first learns pixels and overlap, the next refines the overlap from the best weights.

Files of a fold's folder: `phase<n>.safetensors` are the best weights of a phase, `state.pt` is where to go on
after a kill, `metrics.jsonl` has a line per epoch, and `best.safetensors`, written last, says "done".
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast
from timm.utils import ModelEmaV3
from torch import nn
from torch.utils.data import DataLoader

from pipeline import __version__, config, hardware
from pipeline.data.augment import Augment
from pipeline.data.dataset import EpochSampler, MaskedImages
from pipeline.data.images import Reader
from pipeline.inference.predict import Predictor
from pipeline.losses import build_loss
from pipeline.metrics import METRICS, stack
from pipeline.postprocess import HALF, THRESHOLDS, best_threshold
from pipeline.progress import track
from pipeline.rle import Dialect
from pipeline.training.checkpoint import load_checkpoint, load_state, read_record, save_checkpoint, save_state
from pipeline.training.log import say_epoch, write_history, write_tensorboard
from pipeline.training.loop import learning_rate, train_one_epoch, validate
from pipeline.training.objective import MASK_ALONE, HeadWeights, build_objective


@dataclass(frozen=True)
class FoldData:
    """What a fold trains and validates on."""

    fold: int
    train_index: pd.DataFrame
    valid_index: pd.DataFrame
    dialect: Dialect
    metric: str  # a name in METRICS
    reader: Reader


@dataclass
class Standing:
    """How far a training has come: all that a resumed run must know beside weights and optimizer."""

    phase: int = 1
    epoch: int = 0  # finished epochs of the phase
    best: float = -1.0  # score of the phase
    stale: int = 0  # epochs since then
    seconds: float = 0.0
    draws: int = 0  # passes over the data so far
    history: list[dict[str, Any]] = field(default_factory=list)


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
) -> None:
    """Train through all phases, or go on where a killed run stood; ends with `best.safetensors`.

    Args:
        model: with its starting weights.
        folder: of the fold.
        seed: of sampling, augmentation and dropout.
        settings: what the weights depend on; kept in every checkpoint.
        heads: weights of the losses of the model's further heads.
    """
    accelerator = make_accelerator(cfg.precision)
    trainer = _Trainer(model, data, cfg, folder, seed, settings, heads, accelerator)
    for number in range(trainer.standing.phase, len(cfg.phases) + 1):
        trainer.run_phase(number)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        promote_best(folder, len(cfg.phases), model, data.fold)
    accelerator.wait_for_everyone()


def promote_best(folder: Path, phases: int, model: nn.Module, fold: int) -> None:
    """Copy the weights of the phase with the best score to `best.safetensors`; of equals, the later phase's."""
    paths = [folder / f"phase{number}.safetensors" for number in range(1, phases + 1)]
    best = max(reversed(paths), key=lambda path: read_record(path)["score"])
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
        self.saved = load_state(folder / "state.pt")
        self.standing = Standing(**self.saved["standing"]) if self.saved else Standing()
        if accelerator.is_main_process:
            for left_over in folder.glob(".*.part"):  # of a killed run
                left_over.unlink(missing_ok=True)

    def run_phase(self, number: int) -> None:
        """One phase, from the best weights of the phase before or from where a kill left it."""
        phase, standing = self.cfg.phases[number - 1], self.standing
        if standing.phase != number:
            load_checkpoint(self._best_of(number - 1), self.model, self.data.fold)
            self.saved = None
            standing.phase, standing.epoch, standing.best, standing.stale = number, 0, -1.0, 0
        self._start(phase)
        patience = self.cfg.patience or phase.epochs
        while standing.epoch < phase.epochs and standing.stale < patience:
            self._run_epoch(phase)
        self.accelerator.free_memory()

    def _start(self, phase: config.Phase) -> None:
        """Loader, loss, averaged weights and a fresh optimizer for a phase; then what was saved of them."""
        model = self.model.to(self.accelerator.device, memory_format=torch.channels_last)
        for weight in model.encoder.parameters():
            weight.requires_grad = not phase.freeze_encoder
        self.average = ModelEmaV3(model, decay=self.cfg.ema, use_warmup=True)
        self.loss = build_objective(build_loss(phase.loss, phase.loss_options), self.heads)
        self.loader = self._loader(phase)
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

    def _loader(self, phase: config.Phase) -> DataLoader:
        augment = Augment(phase.augment, phase.crop, self.data.reader.channels)
        workers = self.cfg.workers
        images = MaskedImages(
            self.data.train_index, self.data.dialect, self.data.reader, augment, copies=max(1, workers)
        )
        sampler = EpochSampler(
            len(images),
            self.seed,
            labels=balance_labels(self.data.train_index, self.cfg.balance),
            repeats=phase.repeats,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
        )
        batch_size = min(self.cfg.batch_size, len(sampler))
        return DataLoader(
            images,
            batch_size,
            sampler=sampler,
            drop_last=True,
            num_workers=workers,
            persistent_workers=workers > 0,
            generator=torch.Generator(),  # its own: the loader must not move the stream that dropout draws from
        )

    def _run_epoch(self, phase: config.Phase) -> None:
        started = time.monotonic()
        standing = self.standing
        ordinal = sum(earlier.epochs for earlier in self.cfg.phases[: standing.phase - 1]) + standing.epoch
        rank = self.accelerator.process_index
        # Nothing random is carried from epoch to epoch, so a resumed run draws what the other would have.
        torch.manual_seed(np.random.SeedSequence((self.seed, ordinal, rank)).generate_state(1)[0].item())
        self.loader.sampler.epoch = ordinal
        loss, rate = self._train(phase)
        score, threshold = self._validate()
        better = score > standing.best
        standing.epoch += 1
        standing.best, standing.stale = (score, 0) if better else (standing.best, standing.stale + 1)
        standing.seconds += time.monotonic() - started
        standing.draws += phase.repeats
        standing.history.append(
            {
                "fold": self.data.fold,
                "phase": standing.phase,
                "epoch": standing.epoch,
                "loss": loss,
                "score": score,
                "threshold": round(threshold, 3),
                "best": better,
                "lr": rate,
                "seconds": round(time.monotonic() - started, 2),
            }
        )
        if self.accelerator.is_main_process:
            self._save(better)
            say_epoch(standing.history[-1], phase.epochs, self._seconds_left())
            if self.cfg.tensorboard:
                write_tensorboard(self.folder / "tensorboard", standing.history[-1], ordinal)
        self.accelerator.wait_for_everyone()

    def _train(self, phase: config.Phase) -> tuple[float, float]:
        """Mean loss and last learning rate of one epoch."""
        standing, updates = self.standing, self._updates()
        if updates == 0:
            raise ValueError(
                f"train.accumulate = {self.cfg.accumulate} batches make one update, an epoch has "
                f"{len(self.loader)}: lower it, or raise the phase's repeats"
            )
        total = updates * phase.epochs
        rates = [
            learning_rate(step, total, peak=phase.lr, warmup=phase.warmup, final=phase.final_lr)
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
            rates=rates,
            accumulate=self.cfg.accumulate,
            clip=self.cfg.clip,
            after_update=self._update_average,
        )
        return loss, rates[-1]

    def _update_average(self, update: int) -> None:
        """Follow the weights closely in the first updates of a phase, then ever more slowly up to `ema`."""
        self.average.update(self.model, step=self.standing.epoch * self._updates() + update + 1)

    def _updates(self) -> int:
        """Updates in one epoch of the phase; batches that do not fill another one are not used."""
        return len(self.loader) // self.cfg.accumulate

    def _validate(self) -> tuple[float, float]:
        """The metric of the averaged weights on the fold held out, one view, threshold .5; and the best threshold."""
        if self.accelerator.num_processes > 1:  # each has batch statistics of its own: all validate what one saves
            for buffer in self.average.module.buffers():
                broadcast(buffer)
        predictor = Predictor(self.average.module, ("identity",), self.cfg.precision)
        counts = validate(
            predictor,
            self.data.valid_index,
            self.data.dialect,
            self.accelerator,
            reader=self.data.reader,
            batch_size=self.cfg.batch_size,
            workers=self.cfg.workers,
            what="validate",
        )
        scores = METRICS[self.data.metric](stack(counts)).mean(axis=0)
        return float(scores[HALF]), float(THRESHOLDS[best_threshold(scores)])

    def _save(self, better: bool) -> None:
        """Best weights, then the log, then the state: a kill in between repeats the epoch, and loses nothing."""
        standing = self.standing
        if better:
            record = {
                "fold": self.data.fold,
                "phase": standing.phase,
                "epoch": standing.epoch,
                "score": standing.best,
                "settings": self.settings,
                "versions": {"pipeline": __version__, "torch": torch.__version__},
            }
            save_checkpoint(self._best_of(standing.phase), self.average.module.state_dict(), record)
        write_history(self.folder / "metrics.jsonl", standing.history)
        scaler = self.accelerator.scaler
        state = {
            "settings": self.settings,
            "standing": vars(standing),
            "model": self.model.state_dict(),
            "average": self.average.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler else None,
        }
        save_state(self.folder / "state.pt", state)

    def _best_of(self, phase: int) -> Path:
        return self.folder / f"phase{phase}.safetensors"

    def _seconds_left(self) -> float:
        """Passes over the data still to come, at the speed so far."""
        standing = self.standing
        current, *later = self.cfg.phases[standing.phase - 1 :]
        left = (current.epochs - standing.epoch) * current.repeats + sum(p.epochs * p.repeats for p in later)
        return standing.seconds / standing.draws * left


def balance_labels(index: pd.DataFrame, column: str | None) -> np.ndarray | None:
    """The values that `train.balance` asks to draw equally often, or None.

    Raises:
        ValueError: for a column that the index does not have.
    """
    if column is None:
        return None
    if column not in index:
        raise ValueError(f"train.balance: no column '{column}', the index has: {', '.join(index.columns)}")
    return index[column].astype(str).to_numpy()


def seed_weights(seed: int) -> None:
    """Seed what fresh weights are drawn from."""
    torch.manual_seed(seed)
