"""The full fit: trains on every image without validation, for the median of the folds' best numbers of epochs."""

import math
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

from pipeline import config


def median_best_epochs(histories: Sequence[Iterable[dict[str, Any]]]) -> tuple[int, ...]:
    """The median over the folds of each phase's best epoch, rounded up.

    An average of weights (SWA or soup) counts as the last epoch before it.

    Args:
        histories: of each fold, the lines of its `metrics.jsonl`.

    Raises:
        ValueError: for no history, or for folds with different phases.

    >>> line = {"phase": 1, "best": True}
    >>> median_best_epochs([[{**line, "epoch": 3}, {**line, "epoch": 5}], [{**line, "epoch": 8}]])
    (7,)
    """
    return median_epochs([[line for line in history if line["best"]] for history in histories])


def median_epochs(histories: Sequence[Iterable[dict[str, Any]]]) -> tuple[int, ...]:
    """The median over the folds of each phase's last epoch, rounded up.

    Args:
        histories: as for `median_best_epochs`.

    Raises:
        ValueError: as `median_best_epochs`.
    """
    if not histories:
        raise ValueError(
            "a full fit trains for the median of the folds' best epochs, and no fold is trained: train them"
        )
    found = [{line["phase"]: line["epoch"] for line in history} for history in histories]
    for number, phases in enumerate(found):
        if phases.keys() != found[0].keys():
            raise ValueError(
                f"history number {number} has phases {sorted(phases)}, the first has {sorted(found[0])}: "
                f"train all folds to the end with one config"
            )
    return tuple(math.ceil(median(phases[phase] for phases in found)) for phase in sorted(found[0]))


def with_epochs(cfg: config.Train, epochs: Sequence[int], trained: Sequence[int] | None = None) -> config.Train:
    """The config with other numbers of epochs, rounded up so that each cycle has whole epochs.

    Args:
        epochs: one number per phase.
        trained: epochs of the folds in each phase. A time limit may have lowered them, and then layers were unfrozen
            earlier, as they are in the returned phases. None: as many as the config has.

    Raises:
        ValueError: if there are not as many numbers as phases.
    """
    if len(epochs) != len(cfg.phases):
        raise ValueError(f"epochs {list(epochs)} for {len(cfg.phases)} phases: expected one number per phase")
    planned = [phase.epochs for phase in cfg.phases]
    of_folds = trained if cfg.max_minutes and trained else planned  # patience ends a phase early too
    phases = (
        phase.model_copy(update={"epochs": math.ceil(number / phase.cycles) * phase.cycles, **_freezing(phase, had)})
        for phase, number, had in zip(cfg.phases, epochs, of_folds, strict=True)
    )
    return cfg.model_copy(update={"phases": tuple(phases)})


def _freezing(phase: config.Phase, epochs: int) -> dict[str, int]:
    """The numbers of epochs with frozen layers in a phase that had another number of epochs."""
    if phase.freeze_encoder is True:
        return {}
    return {name: getattr(phase, name) * epochs // phase.epochs for name in ("freeze_encoder", "unfreeze_epochs")}
