"""The choice between equal and searched weights, combinations and calibrations, by cross-validated scores.

Weights that are searched always score better on the images that they were searched on, and often worse on others: with
8 members of equal quality and 30 images, greedy weights lose .008 of Dice to equal ones
(benchmarks/calibration_weights.py). Every candidate is therefore searched without each of the folds in turn and scored
on the fold left out. Equal weights of the mean of probabilities remain unless the best of the others scores better
there by more than MARGIN standard errors: it is the best of several, and part of its lead is luck.

The vote is no candidate: it scored lower than the mean in each of the simulated ensembles.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from pipeline.ensemble.calibration import Table, rank_tables, temperature_tables
from pipeline.ensemble.candidate_rules import Folds, without_each
from pipeline.ensemble.combine import STACK, Weighting
from pipeline.ensemble.weights import (
    FittedWeights,
    Subsample,
    count_pixels_by_value,
    fit_threshold,
    greedy_weights,
    log_loss_weights,
    score_images,
    stack_weights,
)
from pipeline.metrics import Metric, Scores

TRIED_COMBINATIONS = ("mean", "logit", "geometric")  # that are tried, see `combine.COMBINATIONS`
CALIBRATIONS = {
    "temperature": temperature_tables,
    "ranks": rank_tables,
}  # that are tried with equal weights of the mean
MARGIN = 0.5  # standard errors of the difference; one gives away a fifth of the true gains on 30 images
DECIMALS = 12  # scores that differ by less are equal: rounding errors
Candidate = Callable[[Folds], Weighting]  # what is searched on some folds


def equal_weighting(members: int) -> Weighting:
    """Equal weights of the mean of probabilities: what remains if nothing scores better."""
    return Weighting("mean", (1 / members,) * members)


class Chooser(NamedTuple):
    """Two functions of some folds; what one of them has searched is not searched again by the other."""

    choose: Candidate  # the weighting that is chosen on their images
    by_log_loss: Callable[[Folds], tuple[float, ...]]  # the weights of the least log loss, (M,)


def make_chooser(
    images: Sequence[Subsample],
    fold_of: np.ndarray,
    metric: Metric,
    members: int,
    groups: np.ndarray | None = None,
) -> Chooser:
    """The choice of a weighting on the images of some folds.

    What is searched on one set of folds is kept, since it is also part of the cross-validation on a larger one.

    Args:
        images: of one class, (N,); not used with one member.
        fold_of: (N,) int.
        groups: (N,), images of one group are one observation; None: each image is.
    """

    @cache
    def by_log_loss(folds: Folds) -> tuple[float, ...]:
        return tuple(log_loss_weights(images, rows=np.isin(fold_of, folds)).tolist()) if members > 1 else (1.0,)

    candidates = _make_candidates(images, fold_of, metric, members, by_log_loss)
    # With two folds, nothing could be held out within the fold that is left, and a choice on both would have no score.
    has_choice = members > 1 and len(np.unique(fold_of)) > 2

    @cache
    def fit(candidate: Candidate, folds: Folds) -> FittedWeights:
        return fit_threshold(images, candidate(folds), metric, rows=np.isin(fold_of, folds))

    def cross_validate(candidate: Candidate, folds: Folds) -> Scores:
        """The scores of the images, each with the candidate that is searched without its fold."""
        held_out = [
            score_images(images, fit(candidate, rest), metric, rows=fold_of == fold)
            for fold, rest in zip(folds, without_each(folds), strict=True)
        ]
        return Scores.concat_images(held_out)

    def choose(folds: Folds) -> Weighting:
        equal, *others = candidates
        if not has_choice:
            return equal(folds)
        scores = cross_validate(equal, folds)
        best, best_scores = max(
            ((each, cross_validate(each, folds)) for each in others),
            key=lambda pair: np.round(np.nan_to_num(pair[1].mean()), DECIMALS),
        )  # of equals the first
        lead = best_scores.mean() - scores.mean()  # NaN if nothing counts for the metric
        in_order = None if groups is None else np.concatenate([groups[fold_of == fold] for fold in folds])
        error = standard_error(best_scores.per_group(in_order), scores.per_group(in_order))
        return (best if lead > MARGIN * error else equal)(folds)

    return Chooser(choose, by_log_loss)


def standard_error(a: Scores, b: Scores) -> float:
    """The standard error of a.mean() − b.mean() over N images, or groups, of a class, by linearizing each ratio."""
    parts = [(each.numerator - each.mean() * each.denominator) / each.denominator.mean() for each in (a, b)]
    return float((parts[0] - parts[1]).std(ddof=1) / len(a) ** 0.5)


def _make_candidates(
    images: Sequence[Subsample],
    fold_of: np.ndarray,
    metric: Metric,
    members: int,
    by_log_loss: Callable[[Folds], tuple[float, ...]],
) -> list[Candidate]:
    """Equal weights of the mean, then all that may replace them."""
    equal = equal_weighting(members)

    def rows(folds: Folds) -> np.ndarray:
        return np.isin(fold_of, folds)

    @cache
    def greedy(folds: Folds) -> tuple[float, ...]:
        return tuple(greedy_weights(images, metric, rows=rows(folds)).tolist())

    @cache
    def pixels_of(fold: int) -> np.ndarray:
        return count_pixels_by_value([image for image, of in zip(images, fold_of, strict=True) if of == fold])

    @cache
    def tables(calibration: str, folds: Folds) -> tuple[Table, ...]:
        return CALIBRATIONS[calibration](sum(map(pixels_of, folds)))

    @cache
    def stack(folds: Folds) -> Weighting:
        found = stack_weights(images, rows=rows(folds))
        return Weighting(STACK, found.shares, stack=found)

    def weigh(search: Callable[[Folds], tuple[float, ...]], combination: str) -> Candidate:
        return lambda folds: Weighting(combination, search(folds))

    def calibrate(calibration: str) -> Candidate:
        return lambda folds: equal._replace(calibration=tables(calibration, folds), calibrated_by=calibration)

    searches = (lambda _: equal.weights, greedy, by_log_loss)
    weighted = [weigh(search, combination) for search in searches for combination in TRIED_COMBINATIONS]
    stacked = [stack] if images and images[0].around is not None else []
    return [*weighted, *(calibrate(each) for each in CALIBRATIONS), *stacked]
