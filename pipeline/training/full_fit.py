"""The full fit: every training image and no validation, for as many epochs as the folds found best."""

import math
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

from pipeline import config


def median_best_epochs(histories: Sequence[Iterable[dict[str, Any]]]) -> tuple[int, ...]:
    """For each phase, the median over the folds of the epoch whose weights were its best, rounded up.

    An average of weights (SWA, a soup) counts as the last epoch before it.

    Args:
        histories: of each fold, the lines of its `metrics.jsonl`.

    Raises:
        ValueError: for no history, or for folds with different phases.

    >>> line = {"phase": 1, "best": True}
    >>> median_best_epochs([[{**line, "epoch": 3}, {**line, "epoch": 5}], [{**line, "epoch": 8}]])
    (7,)
    """
    if not histories:
        raise ValueError("a full fit trains for the epochs that folds found best, and no fold is trained: train them")
    found = [{line["phase"]: line["epoch"] for line in history if line["best"]} for history in histories]
    for number, phases in enumerate(found):
        if phases.keys() != found[0].keys():
            raise ValueError(
                f"history number {number} has phases {sorted(phases)}, the first has {sorted(found[0])}: "
                f"train all folds to the end, by one config"
            )
    return tuple(math.ceil(median(phases[phase] for phases in found)) for phase in sorted(found[0]))


def with_epochs(cfg: config.Train, epochs: Sequence[int]) -> config.Train:
    """The phases with other numbers of epochs, rounded up to whole ones of each cycle.

    Raises:
        ValueError: for another number of phases.
    """
    if len(epochs) != len(cfg.phases):
        raise ValueError(f"epochs {list(epochs)} for {len(cfg.phases)} phases: expected one number per phase")
    phases = (
        phase.model_copy(update={"epochs": math.ceil(number / phase.cycles) * phase.cycles})
        for phase, number in zip(cfg.phases, epochs, strict=True)
    )
    return cfg.model_copy(update={"phases": tuple(phases)})
