"""Which models and views of an ensemble run within a time budget, and how long they take.

    time = images · (overhead + Σ over members of folds · Σ over views of scale² · seconds per model run)

A model run is one model on one view of one image; a view that scales the image by 1.25 counts as 1.25² runs. If the
whole ensemble does not fit, fallbacks are applied in the bundle's order: first views, whose score loss is measured out
of fold, then folds, whose score loss cannot be measured: the out-of-fold prediction of a training image comes from one
fold alone.
"""

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from pipeline.inference.tta import parse_view
from pipeline.schema import Table
from pipeline.training.checkpoint import Fold

USABLE_SHARE = 0.95  # of the budget is planned for; the rest absorbs slow images
SECONDS_PER_UNIT = {"h": 3600, "m": 60, "s": 1}


class Fallback(Table):
    """A view or a fold of one member that can be dropped to save time."""

    drop: Literal["view", "fold"]
    member: str
    name: int | str  # of the view, or the fold
    # By how much the score of some training images falls without it and all fallbacks before it; None: not measured.
    loss: float | None = None


class Member(NamedTuple):
    """The folds and views of one config that run."""

    name: str
    folds: tuple[Fold, ...]
    views: tuple[str, ...]

    @property
    def model_runs(self) -> float:
        """The number of model runs per image."""
        return len(self.folds) * sum(parse_view(view).cost for view in self.views)

    def without(self, fallback: Fallback) -> "Member":
        """Return the member without the view or fold that a fallback drops.

        Raises:
            ValueError: if it is the member's last view or fold.
        """
        field = "views" if fallback.drop == "view" else "folds"
        left = tuple(each for each in getattr(self, field) if each != fallback.name)
        if not left:
            raise ValueError(f"{self.name}: {fallback.drop} {fallback.name} is the last one, and cannot be dropped")
        return self._replace(**{field: left})


Plan = tuple[Member, ...]  # everything that runs on each image


def apply_fallback(plan: Plan, fallback: Fallback) -> Plan:
    """Return the plan without what a fallback drops.

    Raises:
        ValueError: as `Member.without`.
    """
    return tuple(member.without(fallback) if member.name == fallback.member else member for member in plan)


def describe_fallback(fallback: Fallback) -> str:
    """Format a fallback and its score loss for the log."""
    loss = "score loss not measured" if fallback.loss is None else f"score {-fallback.loss:+.4f} on training images"
    return f"{fallback.drop} {fallback.name} of {fallback.member} ({loss})"


class Costs(NamedTuple):
    """Seconds per image."""

    overhead: float  # reading, post-processing, writing
    per_model_run: dict[str, float]  # by member; a member that failed on all images so far is missing

    def per_image(self, plan: Plan) -> float:
        """Seconds that one image takes under a plan."""
        return self.overhead + sum(self.per_model_run.get(member.name, 0.0) * member.model_runs for member in plan)


def fit_plan(
    plan: Plan, fallbacks: Sequence[Fallback], costs: Costs, images: int, seconds: float
) -> tuple[Plan, list[Fallback]]:
    """Apply as few fallbacks as make `images` fit into `seconds`; all of them if even those are not enough.

    Returns:
        the reduced plan, and the fallbacks that were applied.
    """
    applied: list[Fallback] = []
    for fallback in fallbacks:
        if costs.per_image(plan) * images <= seconds:
            break
        plan, applied = apply_fallback(plan, fallback), [*applied, fallback]
    return plan, applied


def parse_duration(text: str) -> float:
    """Convert a duration such as "8h", "8h30m" or "90s" to seconds.

    Raises:
        ValueError: for anything else.

    >>> parse_duration("8h30m")
    30600.0
    """
    parts = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", text.replace(" ", ""))
    if not text or parts is None:
        raise ValueError(f"budget '{text}': expected hours, minutes and seconds, such as 8h, 8h30m or 90s")
    units = zip(parts.groups(), SECONDS_PER_UNIT.values(), strict=True)
    total = sum(float(number) * unit for number, unit in units if number)
    if total <= 0:
        raise ValueError(f"budget '{text}': expected more than 0 seconds, such as 8h")
    return float(total)


def fold_fallbacks(plan: Plan, scores: dict[str, dict[Fold, float]]) -> list[Fallback]:
    """Order the folds to drop, down to one per member: always the worst fold of the member with most folds left.

    Args:
        scores: out of fold, of each member's folds; a fold without a score, such as a full fit, is dropped last.
    """
    fallbacks = []
    while any(len(member.folds) > 1 for member in plan):
        most = max(plan, key=lambda member: len(member.folds))
        worst = min(most.folds, key=lambda fold: scores[most.name].get(fold, 1.0))
        fallbacks.append(Fallback(drop="fold", member=most.name, name=worst))
        plan = apply_fallback(plan, fallbacks[-1])
    return fallbacks
