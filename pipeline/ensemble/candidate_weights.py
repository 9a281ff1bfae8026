"""The choice between equal and searched weights, and between the combinations, by cross-validated scores.

Weights that are searched always score better on the images that they were searched on, and often worse on others: with
8 members of equal quality and 30 images, greedy weights lose .009 of Dice to equal ones
(benchmarks/calibration_weights.py). Every candidate is therefore searched without each of the folds in turn and scored
on the fold left out. Equal weights of the mean of probabilities remain unless another candidate scores better there.

The vote is no candidate: it scored lower than the mean in each of the simulated ensembles.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from pipeline.ensemble.candidate_rules import Folds, without_each
from pipeline.ensemble.weights import (
    FittedWeights,
    Subsample,
    fit_threshold,
    greedy_weights,
    log_loss_weights,
    score_images,
)
from pipeline.metrics import Metric, Scores

COMBINATIONS = ("mean", "logit", "geometric")  # that are tried, see `combine.COMBINATIONS`


class Weighting(NamedTuple):
    """How members are combined."""

    combination: str  # in `combine.COMBINATIONS`
    weights: tuple[float, ...]  # of the M members, of sum 1


def equal_weighting(members: int) -> Weighting:
    """Equal weights of the mean of probabilities: what remains if nothing scores better."""
    return Weighting("mean", (1 / members,) * members)


def make_chooser(
    images: Sequence[Subsample], fold_of: np.ndarray, metric: Metric, members: int
) -> Callable[[Folds], Weighting]:
    """A function from some folds to the weighting that is chosen on their images.

    What is searched on one set of folds is kept, since it is also part of the cross-validation on a larger one.

    Args:
        images: of one class, (N,); not used with one member.
        fold_of: (N,) int.
    """
    searches: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "equal": lambda _: np.full(members, 1 / members),
        "greedy": lambda rows: greedy_weights(images, metric, rows=rows),
        "log loss": lambda rows: log_loss_weights(images, rows=rows),
    }
    candidates = [(name, combination) for name in searches for combination in COMBINATIONS]

    @cache
    def search(name: str, folds: Folds) -> np.ndarray:
        return searches[name](np.isin(fold_of, folds))

    @cache
    def fit(name: str, combination: str, folds: Folds) -> FittedWeights:
        rows = np.isin(fold_of, folds)
        return fit_threshold(images, search(name, folds), metric, combination=combination, rows=rows)

    def cross_validate(candidate: tuple[str, str], folds: Folds) -> float:
        """The score of a candidate that is searched without each fold; 0 where the metric is not defined."""
        held_out = [
            score_images(images, fit(*candidate, rest), metric, rows=fold_of == fold)
            for fold, rest in zip(folds, without_each(folds), strict=True)
        ]
        return float(np.nan_to_num(Scores.concat_images(held_out).mean()))

    def choose(folds: Folds) -> Weighting:
        if members == 1 or len(folds) == 1:  # nothing to choose, or no fold to hold out
            return equal_weighting(members)
        name, combination = max(candidates, key=lambda each: cross_validate(each, folds))  # of equals the first
        return Weighting(combination, tuple(search(name, folds).tolist()))

    return choose
