"""The record of a training: one line per epoch, in `metrics.jsonl`, on the screen and in TensorBoard."""

import json
import logging
from pathlib import Path
from typing import Any

from pipeline.files import write_text
from pipeline.progress import clock

log = logging.getLogger(__name__)


def write_history(path: Path, history: list[dict[str, Any]]) -> None:
    """All epochs so far, one JSON object per line; written anew, so that a resumed run repeats no line."""
    write_text(path, "".join(json.dumps(epoch) + "\n" for epoch in history))


def say_epoch(epoch: dict[str, Any], epochs: int, left: float) -> None:
    """One line for one epoch.

    Args:
        epochs: of its phase.
        left: seconds until all phases have ended.
    """
    score = "" if epoch["score"] is None else f"  score {epoch['score']:.4f}{_star(epoch)}"
    log.info(
        "fold %s  phase %d  epoch %3d/%d  loss %.4f%s  %s  %s left",
        epoch["fold"],
        epoch["phase"],
        epoch["epoch"],
        epochs,
        epoch["loss"],
        score,
        clock(epoch["seconds"]),
        clock(left),
    )


def say_blend(blend: dict[str, Any]) -> None:
    """One line for an average of weights."""
    log.info(
        "fold %s  phase %d  %s of epochs %s  score %.4f%s  %s",
        blend["fold"],
        blend["phase"],
        blend["candidate"],
        ", ".join(map(str, blend["epochs"])),
        blend["score"],
        _star(blend),
        clock(blend["seconds"]),
    )


def _star(line: dict[str, Any]) -> str:
    return " *" if line["best"] else "  "


def write_tensorboard(folder: Path, epoch: dict[str, Any], step: int) -> None:
    """Add one epoch to TensorBoard's event files in `folder`."""
    from torch.utils.tensorboard import SummaryWriter  # takes seconds to import, and few ask for it

    with SummaryWriter(str(folder)) as writer:
        for key in ("loss", "score", "lr"):
            if epoch[key] is not None:  # a full fit has no score
                writer.add_scalar(key, epoch[key], step)
