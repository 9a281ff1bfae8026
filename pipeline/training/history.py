"""The record of a training: one line per epoch, in `metrics.jsonl`, on the screen and in TensorBoard."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.files import write_text
from pipeline.progress import clock
from pipeline.schema import JsonRecord
from pipeline.training.checkpoint import Fold
from pipeline.training.selection import NOT_VALIDATED, Validation, beats_baseline
from pipeline.training.train_state import TrainState

log = logging.getLogger(__name__)

BASELINES = {False: "predicting nothing", True: "the most frequent class everywhere"}  # by: one class per pixel?
ADVICE = {
    # Measured in docs/studies/losses.md: .05 above BCE + Dice per image on a set with 70 % empty masks.
    False: 'train.balance = "empty"; loss = { bce = 1, tversky = 1 }, loss_options = { tversky = { over = "batch" } }',
    True: "train.balance by a column of the rarer classes; dice_softmax in the loss",
}


class Epoch(JsonRecord):
    """What must be in a line of metrics.jsonl."""

    phase: int
    epoch: int
    loss: float | None  # None for an average of weights
    score: float | None  # None for a full fit
    selection: float | None  # None for a full fit
    best: bool
    seconds: float


def append_history(
    state: TrainState,
    fold: Fold,
    validation: Validation | None,
    *,
    best: bool,
    seconds: float,
    loss: float | None = None,
    lr: float | None = None,
    **further: object,
) -> dict[str, Any]:
    """Append the line of an epoch or of an average of weights to the state's history; returns the line.

    Args:
        validation: None for a full fit, whose scores are written as None.
        best: whether these are the phase's best weights so far.
        loss, lr: of an epoch.
        further: of an average: "candidate", its name, and "epochs".
    """
    state.history.append(
        {
            "fold": fold,
            "phase": state.phase,
            "epoch": state.epoch,
            "loss": loss,
            **(validation.line() if validation else NOT_VALIDATED),
            "best": best,
            "lr": lr,
            "seconds": round(seconds, 2),
            **further,
        }
    )
    return state.history[-1]


def write_history(path: Path, history: list[dict[str, Any]]) -> None:
    """Write one JSON object per line; the whole file each time, so a resumed run repeats no line."""
    write_text(path, "".join(json.dumps(epoch) + "\n" for epoch in history))


def describe_progress(folder: Path) -> str:
    """The last finished epoch of a training, read from its `metrics.jsonl`, as text."""
    try:
        *_, last = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        epoch = json.loads(last)
        return f"after epoch {int(epoch['epoch'])} of phase {int(epoch['phase'])}"
    except (OSError, ValueError, KeyError, TypeError):  # no epoch has ended, or the file is damaged
        return "from where it was stopped"


def log_epoch(epoch: dict[str, Any], epochs: int, left: float, *, exclusive: bool) -> None:
    """One line for one epoch.

    Args:
        epochs: of its phase.
        left: seconds until all phases have ended.
        exclusive: one class per pixel.
    """
    score = "" if epoch["score"] is None else f"  score {epoch['score']:.4f}{_star(epoch)}{_found(epoch)}"
    log.info(
        "fold %s  phase %d  epoch %3d/%d  loss %.4f%s  %s  %s",
        epoch["fold"],
        epoch["phase"],
        epoch["epoch"],
        epochs,
        epoch["loss"],
        score,
        clock(epoch["seconds"]),
        clock(left) + " left" + _no_better(epoch, exclusive=exclusive),
    )


def log_average(average: dict[str, Any]) -> None:
    """One line for an average of weights."""
    log.info(
        "fold %s  phase %d  %s of epochs %s  score %.4f%s%s  %s",
        average["fold"],
        average["phase"],
        average["candidate"],
        ", ".join(map(str, average["epochs"])),
        average["score"],
        _star(average),
        _found(average),
        clock(average["seconds"]),
    )


def log_collapse(lines: Sequence[dict[str, Any]], *, exclusive: bool) -> None:
    """Warn, with what to try, if the best weights of a phase score no more than the baseline at any threshold.

    Without an object in any held-out image nothing is logged.

    Args:
        lines: history of the phase.
        exclusive: one class per pixel.
    """
    best = max(lines, key=lambda line: line["selection"])
    has_objects = best["found"] is not None
    if has_objects and not beats_baseline(best):
        log.warning(
            "fold %s: phase %d ends no better than %s (%.4f), at any threshold. Try, in a copy of the config: %s; a "
            "smaller crop; pretrained weights; more epochs or a lower lr",
            best["fold"],
            best["phase"],
            BASELINES[exclusive],
            best["baseline"],
            ADVICE[exclusive],
        )


def _found(line: dict[str, Any]) -> str:
    """What is found at threshold .5; what is not defined is left out."""
    dice = "" if line["dice"] is None else f"  dice {line['dice']:.4f}"
    shares = {"found": line["found"], "left empty": line["left_empty"]}
    return dice + "".join(f"  {name} {share:.0%}" for name, share in shares.items() if share is not None)


def _no_better(line: dict[str, Any], *, exclusive: bool) -> str:
    """A word on a score at threshold .5 that is no higher than the baseline; and of the best threshold, if that is."""
    if line["score"] is None or beats_baseline(line, "score"):
        return ""
    better = f", but {line['score_at_threshold']:.4f} at threshold {line['threshold']:.2f}" * beats_baseline(line)
    return f"  no better than {BASELINES[exclusive]} ({line['baseline']:.4f}){better}"


def _star(line: dict[str, Any]) -> str:
    return " *" if line["best"] else "  "


def write_tensorboard(folder: Path, epoch: dict[str, Any], step: int) -> None:
    """Add one epoch to TensorBoard's event files in `folder`."""
    from torch.utils.tensorboard import SummaryWriter  # takes seconds to import, and few ask for it

    with SummaryWriter(str(folder)) as writer:
        for key in ("loss", "score", "selection", "dice", "found", "left_empty", "lr"):
            if epoch[key] is not None:  # a full fit has no score
                writer.add_scalar(key, epoch[key], step)
