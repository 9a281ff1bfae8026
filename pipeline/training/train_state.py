"""The state of a training, written after every epoch, from which a stopped run resumes."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from pipeline.files import atomic_write
from pipeline.models.weights import refuse_not_finite
from pipeline.quoting import first_line


@dataclass
class TrainState:
    """Everything that a resumed run needs. It holds data only: a run resumes by loading the state and continuing.

    The file is a dict of tensors and plain values, read with `weights_only=True`, so it cannot execute code.
    """

    settings: dict[str, Any]  # what the weights depend on; a run resumes only with the same settings
    phase: int = 1  # number of the current phase, from 1
    epoch: int = 0  # finished epochs of the phase
    best: float = -1.0  # highest selection score of the phase (`selection.py`)
    epochs_without_improvement: int = 0  # finished epochs since the best one
    averages_evaluated: bool = False  # whether the phase's SWA and soup have been evaluated
    seconds: float = 0.0  # of all finished epochs
    epochs_seen: float = 0.0  # passes over the training images, in all phases
    history: list[dict[str, Any]] = field(default_factory=list)  # the lines of metrics.jsonl
    # State dicts of "model", "ema", "optimizer", "scaler" and "swa"; only in the file.
    tensors: dict[str, Any] | None = None

    def start_phase(self, number: int) -> None:
        """Reset what belongs to one phase."""
        self.phase, self.epoch, self.best = number, 0, -1.0
        self.epochs_without_improvement, self.averages_evaluated, self.tensors = 0, False, None

    def phase_lines(self) -> list[dict[str, Any]]:
        """History of the current phase: its epochs and its averages of weights."""
        return [line for line in self.history if line["phase"] == self.phase]

    def epoch_lines(self) -> list[dict[str, Any]]:
        """History of the current phase's epochs, without its averages of weights."""
        return [line for line in self.phase_lines() if "candidate" not in line]

    def save(self, path: Path) -> None:
        """Write the state to a file; an interrupted write leaves the old file."""
        with atomic_write(path) as partial:
            torch.save(vars(self), partial)

    @classmethod
    def load(cls, path: Path) -> "TrainState | None":
        """The state in a file, or None if there is no file.

        Raises:
            ValueError: if the file cannot be read, or weights in it are not finite.
        """
        if not path.is_file():
            return None
        try:
            values = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise ValueError(
                f"{path}: cannot be read ({first_line(error)}): remove it to train the fold again"
            ) from None
        if not isinstance(values, dict) or values.keys() != {each.name for each in fields(cls)}:
            raise ValueError(f"{path}: not a training state: remove it to train the fold again")
        state = cls(**values)
        for part in ("model", "ema"):
            refuse_not_finite(str(path), (state.tensors or {}).get(part, {}))
        return state
