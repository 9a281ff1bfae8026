"""One training: everything that `trainer.fit` needs to know."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from pipeline import config
from pipeline.training.checkpoint import Fold
from pipeline.training.fold_data import FoldData
from pipeline.training.trackers import Trackers


@dataclass(frozen=True)
class TrainJob:
    """The model, the data, the options and the folder of one training.

    Args:
        model: with its initial weights.
        folder: where the fold's checkpoints, metrics and training state are written.
        seed: of sampling, augmentation and dropout.
        encoder: its name, as in `model.encoder`.
        settings: what the weights depend on; written to every checkpoint.
        aux_weight: weight of the mean loss of the deep-supervision logits; 0: the model has none.
        image_weight: weight of the log loss of the image head; 0: the model has none.
        grad_checkpointing: compute activations of the encoder again in the backward pass.
        trackers: that epochs are logged to; they do not change the training.
        name: of the config, in log lines.

    Raises:
        ValueError: if the config asks for pseudo-labels or a teacher and the data have none.
    """

    model: nn.Module
    data: FoldData
    cfg: config.Train
    folder: Path
    seed: int
    encoder: str
    settings: dict[str, Any] = field(default_factory=dict)
    aux_weight: float = 0.0
    image_weight: float = 0.0
    grad_checkpointing: bool = False
    trackers: Trackers = field(default_factory=Trackers)
    name: str = ""

    def __post_init__(self) -> None:
        if self.cfg.pseudo and self.data.pseudo is None:
            raise ValueError(f"train.pseudo: no labels by '{self.cfg.pseudo.from_}' for fold {self.data.fold}")
        if self.cfg.teacher and self.data.teacher is None:
            raise ValueError(f"train.teacher: no probabilities by {self.cfg.teacher.from_} for fold {self.data.fold}")

    @property
    def fold(self) -> Fold:
        """The held-out fold, or "full" for a full fit."""
        return self.data.fold

    @property
    def title(self) -> str:
        """Config and fold, in log lines."""
        return f"{self.name}, fold {self.fold}" if self.name else f"fold {self.fold}"

    @property
    def validates(self) -> bool:
        """Whether there are held-out images; the full fit has none."""
        return self.data.valid_index is not None

    @property
    def state_path(self) -> Path:
        """The file that a stopped run resumes from."""
        return self.folder / "state.pt"

    def phase_path(self, phase: int) -> Path:
        """The best weights of a phase."""
        return self.folder / f"phase{phase}.safetensors"

    def global_epoch(self, phase: int, epoch: int) -> int:
        """Number of a phase's epoch (from 0) among all epochs that the config plans."""
        return sum(earlier.epochs for earlier in self.cfg.phases[: phase - 1]) + epoch

    def passes(self, phase: int) -> float:
        """Passes over the training images in one epoch of a phase, counted by the images that it draws."""
        return self.cfg.phases[phase - 1].repeats * (1 + sum(each.weight for each in self.data.added(phase)))

    def passes_left(self, phase: int, epoch: int) -> float:
        """Passes over the training images that are left after `epoch` epochs of a phase, in it and in later phases."""
        left = (self.cfg.phases[phase - 1].epochs - epoch) * self.passes(phase)
        later = range(phase + 1, len(self.cfg.phases) + 1)
        return left + sum(self.cfg.phases[number - 1].epochs * self.passes(number) for number in later)
