"""Measures the score loss of each TTA view out of fold, to rank what is dropped first when time is short."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from pipeline.ensemble.evaluation import mean_score
from pipeline.ensemble.renderer import Renderer
from pipeline.ensemble.selection import Oof
from pipeline.serving.budget_plan import Fallback, Plan, apply_fallback, fold_fallbacks
from pipeline.training.checkpoint import Fold

# (member, view, image_id) -> out-of-fold values (C, H, W) uint8
ReadView = Callable[[str, str, str], np.ndarray]


def rank_fallbacks(
    plan: Plan,
    renderer: Renderer,
    oof: Oof,
    read_view: ReadView,
    metric: str,
    fold_scores: dict[str, dict[Fold, float]],
) -> list[Fallback]:
    """Rank everything that can be dropped: greedily the view whose loss lowers the score least, then the folds.

    Args:
        renderer: the selected post-processing.
        oof: the images to measure on; only their targets and image heads are read, the latter of all views.
        read_view: from a member's name, a view and an image's id to its out-of-fold values (C, H, W) uint8.
        metric: a metric of single images.
        fold_scores: out of fold, of each member's folds.
    """
    fallbacks, full = list[Fallback](), _score(plan, renderer, oof, read_view, metric)
    while any(len(member.views) > 1 for member in plan):
        candidates = [
            Fallback(drop="view", member=member.name, name=view)
            for member in plan
            if len(member.views) > 1
            for view in member.views
        ]
        scores = [_score(apply_fallback(plan, each), renderer, oof, read_view, metric) for each in candidates]
        best = int(np.argmax(scores))
        fallbacks.append(candidates[best].model_copy(update={"loss": full - scores[best]}))
        plan = apply_fallback(plan, fallbacks[-1])
    return fallbacks + fold_fallbacks(plan, fold_scores)


def _score(plan: Plan, renderer: Renderer, oof: Oof, read_view: ReadView, metric: str) -> float:
    def read(image_id: str) -> tuple[np.ndarray, np.ndarray]:
        means = [mean_of_views([read_view(member.name, view, image_id) for view in member.views]) for member in plan]
        return np.stack(means), oof.read(image_id)[1]

    return mean_score(renderer, replace(oof, read=read), metric)


def mean_of_views(views: Sequence[np.ndarray]) -> np.ndarray:
    """Average the stored values (C, H, W) of several views; uint8 in and out."""
    return np.rint(np.mean(views, axis=0)).astype(np.uint8)
