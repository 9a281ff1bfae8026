"""The history of a training: one line per epoch in `metrics.jsonl` and in the log."""

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

# Both by whether classes are exclusive.
BASELINES = {False: "predicting nothing", True: "the most frequent class everywhere"}
ADVICE = {
    # Measured in docs/studies/losses.md: .05 above BCE + Dice per image on a set with 70 % empty masks.
    False: 'train.balance = "empty"; loss = { bce = 1, tversky = 1 }, loss_options = { tversky = { over = "batch" } }',
    True: "train.balance by a column of the rarer classes; dice_softmax in the loss",
}


class Epoch(JsonRecord):
    """Required values of a line of metrics.jsonl."""

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
        further: of an average: "candidate", its name, and "epochs"; of an epoch, "loss_weights" of its last update, if
            they change.
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


def log_epoch(title: str, epoch: dict[str, Any], epochs: int, left: float, *, exclusive: bool) -> None:
    """Log one line for one epoch.

    Args:
        title: config and fold, as `TrainJob.title`.
        epoch: its line in the history.
        epochs: number of epochs of the phase.
        left: estimated seconds until the last phase ends.
        exclusive: one class per pixel.
    """
    score = "" if epoch["score"] is None else f"  score {epoch['score']:.4f}{_format_best(epoch)}{_format_rates(epoch)}"
    log.info(
        "%s  phase %d  epoch %3d/%d  loss %.4f%s  %s  %s",
        title,
        epoch["phase"],
        epoch["epoch"],
        epochs,
        epoch["loss"],
        score,
        clock(epoch["seconds"]),
        clock(left) + " left" + _format_baseline(epoch, exclusive=exclusive),
    )


def log_waits(**seconds: float) -> None:
    """Log the shares of an epoch's time by what it was spent on.

    Args:
        seconds: waiting for data, in the network and the loss, in the validation.
    """
    total = sum(seconds.values())
    log.info("time: %s", ", ".join(f"{what} {each / total:.0%}" for what, each in seconds.items()))


def log_average(title: str, average: dict[str, Any]) -> None:
    """Log one line for an average of weights.

    Args:
        title: as for `log_epoch`.
        average: its line in the history.
    """
    log.info(
        "%s  phase %d  %s of epochs %s  score %.4f%s%s  %s",
        title,
        average["phase"],
        average["candidate"],
        ", ".join(map(str, average["epochs"])),
        average["score"],
        _format_best(average),
        _format_rates(average),
        clock(average["seconds"]),
    )


def kept_line(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The line of the weights that a phase ends with, from all lines of the phase."""
    return [line for line in lines if line["best"]][-1]


def log_collapse(title: str, lines: Sequence[dict[str, Any]], *, exclusive: bool) -> None:
    """Log a warning, with what to try, if a phase's best weights do not beat the baseline at any threshold.

    Nothing is logged if no held-out image has an object.

    Args:
        title: as for `log_epoch`.
        lines: history of the phase.
        exclusive: one class per pixel.
    """
    best = kept_line(lines)
    has_objects = best["found"] is not None
    if has_objects and not beats_baseline(best):
        log.warning(
            "%s: phase %d ends no better than %s (%.4f) at any threshold. Try in a copy of the config: %s; a "
            "smaller crop; pretrained weights; more epochs or a lower lr",
            title,
            best["phase"],
            BASELINES[exclusive],
            best["baseline"],
            ADVICE[exclusive],
        )


def _format_rates(line: dict[str, Any]) -> str:
    """Dice and detection rates at threshold .5; those that are undefined are left out."""
    dice = "" if line["dice"] is None else f"  dice {line['dice']:.4f}"
    shares = {"found": line["found"], "left empty": line["left_empty"]}
    return dice + "".join(f"  {name} {share:.0%}" for name, share in shares.items() if share is not None)


def _format_baseline(line: dict[str, Any], *, exclusive: bool) -> str:
    """The baseline if the score at threshold .5 does not beat it, and the best threshold's score if that does."""
    if line["score"] is None or beats_baseline(line, "score"):
        return ""
    better = f", but {line['score_at_threshold']:.4f} at threshold {line['threshold']:.2f}" * beats_baseline(line)
    return f"  no better than {BASELINES[exclusive]} ({line['baseline']:.4f}){better}"


def _format_best(line: dict[str, Any]) -> str:
    """A star for the phase's best weights so far."""
    return " *" if line["best"] else "  "
