"""Selection for exclusive classes: how members are combined, and with which weights. A pixel gets the argmax."""

from collections.abc import Iterable

import numpy as np

from pipeline.data.labels import VOID
from pipeline.ensemble.candidate_rules import Folds, folds_of, without_each
from pipeline.ensemble.renderer import ARGMAX, Postprocess, Renderer
from pipeline.ensemble.selection import Oof, Selection, scores_of_folds
from pipeline.ensemble.weights import Subsample, log_loss_weights, subsample
from pipeline.metrics import Counts, Metric, Scores, stack
from pipeline.postprocess.threshold_counts import count_argmax
from pipeline.statistics.crossfit import cross_fit, refuse_one_fold

COMBINATIONS = ("mean", "logit", "geometric")  # not the vote: where no class reaches .5, all classes get 0


def select_multiclass(oof: Oof, metric: Metric) -> Selection:
    """Choose equal weights, or those of the least log loss, and the combination that scores best.

    Each image is read twice: for the weights and for the scores. With one member there is nothing to choose, and the
    in-sample score is the cross-fitted one.

    Raises:
        ValueError: for fewer than two folds, or one of which no pixel counts.
    """
    refuse_one_fold(oof.fold_of)
    weights = _weights_by_log_loss(oof)
    candidates = {folds: _candidates(oof.members, each) for folds, each in weights.items()}
    scores, areas = _score(oof, metric, {renderer for some in candidates.values() for renderer in some})

    def fit(rows: np.ndarray) -> Renderer:
        some = candidates[folds_of(oof.fold_of[rows])]
        return max(some, key=lambda renderer: scores[renderer].take(rows).mean())

    fitted = cross_fit(oof.fold_of, fit, lambda renderer, rows: scores[renderer].take(rows), image_ids=oof.image_ids)
    return Selection(
        renderer=fitted.final,
        by_fold=fitted.by_fold,
        scores=fitted.scores,
        fold_scores=scores_of_folds(oof, fitted.scores),
        in_sample=fitted.in_sample,
        at_half=fitted.in_sample,
        baseline=metric.baseline(areas, exclusive=True),
        log_loss_weights=weights[folds_of(oof.fold_of)],
    )


def _weights_by_log_loss(oof: Oof) -> dict[Folds, np.ndarray]:
    """The members' weights of the least log loss on all folds, and on all but each."""
    everything = folds_of(oof.fold_of)
    fits = [*without_each(everything), everything]
    if oof.members == 1:
        return {folds: np.ones(1) for folds in fits}
    samples = [true_class_values(values, target) for values, target, _ in oof.images("read predictions")]
    return {folds: log_loss_weights(samples, rows=np.isin(oof.fold_of, folds)) for folds in fits}


def _candidates(members: int, weights: np.ndarray) -> list[Renderer]:
    """What is tried: of equal scores the first wins."""
    equal = (1 / members,) * members
    if members == 1:
        return [_argmax("mean", equal)]
    fitted = tuple(weights.tolist())
    return [_argmax(combination, each) for combination in COMBINATIONS for each in (equal, fitted)]


def _argmax(combination: str, weights: tuple[float, ...]) -> Renderer:
    return Renderer((Postprocess(combination, weights, ARGMAX),))


def _score(oof: Oof, metric: Metric, renderers: Iterable[Renderer]) -> tuple[dict[Renderer, Scores], np.ndarray]:
    """The scores of all images by each renderer, and the true pixels of each class, (N, C)."""
    counts: dict[Renderer, list[Counts]] = {renderer: [] for renderer in renderers}
    for values, target, _ in oof.images("score classes"):
        for renderer, images in counts.items():
            images.append(count_argmax(renderer.combine(values), target))
    areas = np.stack([image.target for image in next(iter(counts.values()))])
    return {renderer: metric.scores(stack(images)) for renderer, images in counts.items()}, areas


def true_class_values(values: np.ndarray, target: np.ndarray) -> Subsample:
    """Each member's value for the true class of each pixel, on a grid: the input of the log loss.

    Shapes:
        values: (M, C, H, W) uint8; target: (C, H, W), 0 or 1, or 255 for void, which gets the value of a certain and
        correct prediction.
    """
    true, valid = target.argmax(axis=0), target[0] != VOID
    given = np.take_along_axis(values, true[None, None], axis=1)[:, 0]
    return subsample(np.where(valid, given, 255).astype(np.uint8), np.ones_like(true, dtype=np.uint8))
