"""How much of an ensemble fits into a budget of time: which views and folds run, and what they cost.

    time = images · (overhead + Σ over members of folds · views · seconds per pass)

A pass is one model on one view of one image. What does not fit is dropped by steps, in an order that the bundle brings:
views first, whose price was measured out of fold, then folds, whose price no training image can tell.
"""

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from pipeline.schema import Table
from pipeline.training.checkpoint import Fold

SPARE = 0.95  # of the budget: what is planned for, so that a slow hour does no harm
UNITS = {"h": 3600, "m": 60, "s": 1}


class Step(Table):
    """Something less to run."""

    drop: Literal["view", "fold"]
    member: str
    name: int | str  # of the view, or the fold
    score: float | None = None  # out of fold, without it and all that was dropped before; None: not to be measured


class Member(NamedTuple):
    """What of one config runs."""

    name: str
    folds: tuple[Fold, ...]
    views: tuple[str, ...]

    @property
    def passes(self) -> int:
        """Of each image."""
        return len(self.folds) * len(self.views)

    def without(self, step: Step) -> "Member":
        """The same with less.

        Raises:
            ValueError: if nothing would be left.
        """
        field = "views" if step.drop == "view" else "folds"
        left = tuple(each for each in getattr(self, field) if each != step.name)
        if not left:
            raise ValueError(f"{self.name}: {step.drop} {step.name} is the last one, and cannot be dropped")
        return self._replace(**{field: left})


Plan = tuple[Member, ...]


def after(plan: Plan, step: Step) -> Plan:
    """The plan after one step more."""
    return tuple(member.without(step) if member.name == step.member else member for member in plan)


def step_words(step: Step) -> str:
    """What a step drops and what that costs, for people."""
    worth = "no OOF score can tell its price" if step.score is None else f"OOF {step.score:.4f} without it"
    return f"{step.drop} {step.name} of {step.member} ({worth})"


class Costs(NamedTuple):
    """Seconds that one image takes."""

    overhead: float  # reading, drawing, writing
    by_pass: dict[str, float]  # of each member's name; without a member that failed on all images so far

    def of(self, plan: Plan) -> float:
        """Of one image under a plan."""
        return self.overhead + sum(self.by_pass.get(member.name, 0.0) * member.passes for member in plan)


def fitting(plan: Plan, steps: Sequence[Step], costs: Costs, images: int, seconds: float) -> tuple[Plan, list[Step]]:
    """The plan after as few of the steps as make `images` fit into the seconds, and those steps.

    If nothing fits, all steps are taken.
    """
    taken: list[Step] = []
    for step in steps:
        if costs.of(plan) * images <= seconds:
            break
        plan, taken = after(plan, step), [*taken, step]
    return plan, taken


def seconds_of(budget: str) -> float:
    """A budget such as "8h", "8h30m" or "90s" in seconds.

    Raises:
        ValueError: for anything else.

    >>> seconds_of("8h30m")
    30600.0
    """
    parts = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", budget.replace(" ", ""))
    if not budget or parts is None:
        raise ValueError(f"budget '{budget}': expected hours, minutes and seconds, such as 8h, 8h30m or 90s")
    total = sum(float(number) * unit for number, unit in zip(parts.groups(), UNITS.values(), strict=True) if number)
    if total <= 0:
        raise ValueError(f"budget '{budget}': expected more than nothing, such as 8h")
    return float(total)


def fold_steps(plan: Plan, scores: dict[str, dict[Fold, float]]) -> list[Step]:
    """Folds in the order to drop them, down to one of each member: of the member with most left, the worst first.

    Args:
        scores: out of fold, of each member's folds; one without a score, such as a full fit, goes last.
    """
    steps = []
    while any(len(member.folds) > 1 for member in plan):
        most = max(plan, key=lambda member: len(member.folds))
        worst = min(most.folds, key=lambda fold: scores[most.name].get(fold, 1.0))
        steps.append(Step(drop="fold", member=most.name, name=worst))
        plan = after(plan, steps[-1])
    return steps
