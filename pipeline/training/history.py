"""The record of a training: one line per epoch, in `metrics.jsonl`, on the screen and in TensorBoard."""

import json
import logging
from pathlib import Path
from typing import Any

from pipeline.files import write_text
from pipeline.progress import clock
from pipeline.schema import JsonRecord
from pipeline.training.selection import beats_baseline

log = logging.getLogger(__name__)

BASELINES = {False: "predicting nothing", True: "the most frequent class everywhere"}  # by: one class per pixel?
ADVICE = {
    False: 'train.balance = "empty"; Dice, Tversky or Lovász with over = "batch" or empty = "ignore" (loss_options)',
    True: "train.balance by a column of the rarer classes; dice_softmax in the loss",
}


class Epoch(JsonRecord):
    """What must be in a line of metrics.jsonl."""

    phase: int
    epoch: int
    loss: float | None  # None for an average of weights
    score: float | None  # None for a full fit
    best: bool
    seconds: float


def write_history(path: Path, history: list[dict[str, Any]]) -> None:
    """All epochs so far, one JSON object per line; written anew, so that a resumed run repeats no line."""
    write_text(path, "".join(json.dumps(epoch) + "\n" for epoch in history))


def last_epoch(folder: Path) -> str:
    """How far a training is, by its `metrics.jsonl`, in words."""
    try:
        *_, last = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        epoch = json.loads(last)
        return f"after epoch {int(epoch['epoch'])} of phase {int(epoch['phase'])}"
    except (OSError, ValueError, KeyError, TypeError):  # no epoch ended, or the file is damaged
        return "from where it was stopped"


def say_epoch(epoch: dict[str, Any], epochs: int, left: float, *, exclusive: bool) -> None:
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


def say_blend(blend: dict[str, Any]) -> None:
    """One line for an average of weights."""
    log.info(
        "fold %s  phase %d  %s of epochs %s  score %.4f%s%s  %s",
        blend["fold"],
        blend["phase"],
        blend["candidate"],
        ", ".join(map(str, blend["epochs"])),
        blend["score"],
        _star(blend),
        _found(blend),
        clock(blend["seconds"]),
    )


def say_collapse(best: dict[str, Any], *, exclusive: bool) -> None:
    """A warning for a phase whose best epoch scores no more than the baseline at any threshold, with what to try.

    Args:
        best: its line in the history.
        exclusive: one class per pixel.
    """
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
