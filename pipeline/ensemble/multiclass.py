"""Selection for exclusive classes: how members are combined, and with which weights. A pixel gets the argmax."""

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from pipeline.data.labels import VOID
from pipeline.ensemble.candidate_rules import Folds, folds_of, without_each
from pipeline.ensemble.candidate_weights import TRIED_COMBINATIONS, equal_weighting
from pipeline.ensemble.renderer import ARGMAX, Postprocess, Renderer
from pipeline.ensemble.selection import Oof, Selection, scores_of_folds
from pipeline.ensemble.weights import Subsample, log_loss_weights, subsample
from pipeline.metrics import Counts, Metric, Scores, nan_to_zero, stack
from pipeline.postprocess.threshold_counts import count_argmax
from pipeline.statistics.crossfit import cross_fit, refuse_one_fold


def select_multiclass(oof: Oof, metric: Metric) -> Selection:
    """Choose equal weights or those of the least log loss, and the combination, by their cross-validated scores.

    Each image is read twice: for the weights and for the scores. With one member there is nothing to choose, and the
    in-sample score is the cross-fitted one.

    Raises:
        ValueError: for fewer than two folds, or one of which no pixel counts.
    """
    refuse_one_fold(oof.fold_of)
    everything = folds_of(oof.fold_of)
    parts = {part for folds in [*without_each(everything), everything] for part in [folds, *without_each(folds)]}
    weights = _weights_by_log_loss(oof, parts - {()})
    candidates = {folds: _candidates(oof.members, each) for folds, each in weights.items()}
    scores, areas = _score(oof, metric, _folds_of_renderers(candidates, everything))

    def cross_validate(number: int, folds: Folds) -> float:
        """The score of the candidate of a number, whose weights are searched without each fold."""
        held_out = [
            scores[candidates[rest][number]].take(oof.fold_of == fold)
            for fold, rest in zip(folds, without_each(folds), strict=True)
        ]
        return float(nan_to_zero(Scores.concat_images(held_out).mean()))

    def fit(rows: np.ndarray) -> Renderer:
        folds = folds_of(oof.fold_of[rows])
        some = candidates[folds]
        if len(everything) < 3:  # nothing could be held out within the fold that is left: equal weights
            return some[0]
        return some[max(range(len(some)), key=lambda number: cross_validate(number, folds))]

    fitted = cross_fit(oof.fold_of, fit, lambda renderer, rows: scores[renderer].take(rows), image_ids=oof.image_ids)
    return Selection(
        renderer=fitted.final,
        by_fold=fitted.by_fold,
        scores=fitted.scores,
        fold_scores=scores_of_folds(oof, fitted.scores),
        in_sample=fitted.in_sample,
        at_half=fitted.score,
        baseline=metric.baseline(areas, exclusive=True),
        log_loss_weights=weights[everything],
    )


def _weights_by_log_loss(oof: Oof, parts: Iterable[Folds]) -> dict[Folds, np.ndarray]:
    """The members' weights of the least log loss on each of some sets of folds."""
    if oof.members == 1:
        return {folds: np.ones(1) for folds in parts}
    samples = [true_class_values(values, target) for values, target, _ in oof.images("read predictions")]
    return {folds: log_loss_weights(samples, rows=np.isin(oof.fold_of, folds)) for folds in parts}


def _candidates(members: int, weights: np.ndarray) -> list[Renderer]:
    """What is tried: of equal scores the first wins."""
    equal = equal_weighting(members)
    if members == 1:
        return [Renderer((Postprocess(equal.combination, equal.weights, ARGMAX),))]
    fitted = tuple(weights.tolist())
    return [
        Renderer((Postprocess(combination, each, ARGMAX),))
        for each in (equal.weights, fitted)
        for combination in TRIED_COMBINATIONS
    ]


def _folds_of_renderers(
    candidates: Mapping[Folds, Sequence[Renderer]], everything: Folds
) -> dict[Renderer, frozenset[int]]:
    """The folds that each renderer is scored on: those it was not searched on, and all for one searched on all."""
    wanted: dict[Renderer, frozenset[int]] = {}
    for folds, some in candidates.items():
        scored = set(everything) if folds == everything else set(everything) - set(folds)
        for renderer in some:
            wanted[renderer] = wanted.get(renderer, frozenset()) | scored
    return wanted


def _score(
    oof: Oof, metric: Metric, folds_of_renderer: Mapping[Renderer, Collection[int]]
) -> tuple[dict[Renderer, Scores], np.ndarray]:
    """The scores of the images by each renderer, 0 in other folds than its own, and the true pixels of each class."""
    counts: dict[Renderer, list[Counts]] = {renderer: [] for renderer in folds_of_renderer}
    areas = []
    for values, target, place in oof.images("score classes"):
        areas.append(np.count_nonzero(target == 1, axis=(1, 2)))
        not_scored = Counts(*np.zeros((3, len(target)), dtype=np.int64))
        for renderer, images in counts.items():
            scored = place.fold in folds_of_renderer[renderer]
            images.append(count_argmax(renderer.combine(values), target) if scored else not_scored)
    return {renderer: metric.scores(stack(images)) for renderer, images in counts.items()}, np.stack(areas)


def true_class_values(values: np.ndarray, target: np.ndarray) -> Subsample:
    """Each member's value for the true class of each pixel, on a grid: the input of the log loss.

    Shapes:
        values: (M, C, H, W) uint8; target: (C, H, W), 0 or 1, or 255 for void, which gets the value of a certain and
        correct prediction.
    """
    true, valid = target.argmax(axis=0), target[0] != VOID
    given = np.take_along_axis(values, true[None, None], axis=1)[:, 0]
    return subsample(np.where(valid, given, 255).astype(np.uint8), np.ones_like(true, dtype=np.uint8))
