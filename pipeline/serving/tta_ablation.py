"""What each view is worth, out of fold: in which order they go when time is short."""

from collections.abc import Callable, Sequence

import numpy as np

from pipeline.ensemble import Drawer, Oof, score_drawn
from pipeline.serving.budget_plan import Plan, Step, after, fold_steps
from pipeline.training.checkpoint import Fold

# From a member's name, a view and an image's id to its values out of fold, (C, H, W) uint8.
ViewOf = Callable[[str, str, str], np.ndarray]


def price_steps(
    plan: Plan, drawer: Drawer, oof: Oof, view_of: ViewOf, judge: str, fold_scores: dict[str, dict[Fold, float]]
) -> list[Step]:
    """Everything that can be dropped, in order: the view that costs least, again and again, and then folds.

    Args:
        oof: the images to measure on, of which only the targets are read.
        judge: a metric of single images.
        fold_scores: out of fold, of each member's folds.
    """
    steps: list[Step] = []
    while any(len(member.views) > 1 for member in plan):
        tried = [
            Step(drop="view", member=member.name, name=view)
            for member in plan
            if len(member.views) > 1
            for view in member.views
        ]
        scores = [_score(after(plan, step), drawer, oof, view_of, judge) for step in tried]
        best = int(np.argmax(scores))
        steps.append(tried[best].model_copy(update={"score": scores[best]}))
        plan = after(plan, steps[-1])
    return steps + fold_steps(plan, fold_scores)


def _score(plan: Plan, drawer: Drawer, oof: Oof, view_of: ViewOf, judge: str) -> float:
    def read(image_id: str) -> tuple[np.ndarray, np.ndarray]:
        means = [mean_of([view_of(member.name, view, image_id) for view in member.views]) for member in plan]
        return np.stack(means), oof.read(image_id)[1]

    return score_drawn(drawer, Oof(oof.image_ids, oof.fold_of, read, oof.members, oof.track), judge)


def mean_of(views: Sequence[np.ndarray]) -> np.ndarray:
    """The mean of views' stored values, as a stored value."""
    return np.rint(np.mean(views, axis=0)).astype(np.uint8)
