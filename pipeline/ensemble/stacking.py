"""Stacking: a logistic regression on the members' log-odds at a pixel and around it.

    log-odds = intercept + Σ own · log-odds of a member + Σ around · log-odds of its mean over SIDE × SIDE pixels

The weights need not be positive or sum to 1: a member may correct another, and isolated pixels may count for less than
their neighbours.

Source:
    Wolpert, Stacked generalization, 1992, https://doi.org/10.1016/S0893-6080(05)80023-1.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from pipeline.ensemble.calibration import log_odds
from pipeline.inference.prediction_store import MAX_VALUE

SIDE = 9  # pixels
MAX_PIXELS = 200_000  # that the regression is fitted on
DECIMALS = 3  # of a coefficient: below its standard error, above the rounding error of another order of the images


class StoredMeans(NamedTuple):
    """Stored values or means of some, as fractions: few numbers are possible, so that functions of them are tables."""

    numerators: np.ndarray  # whole numbers from 0 to MAX_VALUE · denominator
    denominator: int = 1


class Stack(NamedTuple):
    """The coefficients of the regression."""

    intercept: float
    own: tuple[float, ...]  # (M,)
    around: tuple[float, ...]  # (M,)

    @property
    def used(self) -> np.ndarray:
        """Which members have a coefficient that is not 0, (M,) bool; all, if none has."""
        found = (np.array(self.own) != 0) | (np.array(self.around) != 0)
        return found if found.any() else ~found

    def of_used(self) -> "Stack":
        """The same stack of the used members alone."""
        own, around = (np.array(each)[self.used].tolist() for each in (self.own, self.around))
        return Stack(self.intercept, tuple(own), tuple(around))

    @property
    def shares(self) -> tuple[float, ...]:
        """Each member's share of the positive coefficients, of sum 1: comparable with weights."""
        sums = np.maximum(np.add(self.own, self.around), 0)
        return tuple((sums / sums.sum() if sums.any() else np.full(len(sums), 1 / len(sums))).tolist())


def mean_around(values: StoredMeans) -> StoredMeans:
    """The mean over SIDE × SIDE pixels; beyond the border the image is mirrored.

    Shapes:
        levels: (..., H, W), numerators up to 65,535; returned with int32.
    """
    return StoredMeans(_sum_around(values.numerators), values.denominator * SIDE**2)


def _sum_around(values: np.ndarray) -> np.ndarray:
    if values.ndim > 2:
        return np.stack([_sum_around(each) for each in values])
    # OpenCV has no such sum of 64-bit integers.
    narrow = values if values.dtype == np.uint8 else values.astype(np.uint16)
    return cv2.boxFilter(narrow, cv2.CV_32S, (SIDE, SIDE), normalize=False)


def fit_stack(own: Sequence[np.ndarray], around: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> Stack:
    """Fit the coefficients by log loss, on every s-th pixel of each image, MAX_PIXELS in all.

    The first pixel of each image is drawn: if s is a multiple of the width, all others lie below it.

    Shapes:
        own, around: (M, P) stored values of each image; targets: (P,), 0 or 1.
    """
    step = max(1, -(-sum(each.size for each in targets) // MAX_PIXELS))
    first = np.random.default_rng(0).integers(step, size=len(targets))
    pairs = [np.concatenate(pair)[:, start::step] for *pair, start in zip(own, around, first, strict=True)]
    features = np.concatenate(list(map(_log_odds, pairs)), axis=1).T
    target = np.concatenate([each[start::step] for each, start in zip(targets, first, strict=True)])
    members = len(own[0])
    if target.min() == target.max():  # nothing to tell apart: the mean of log-odds
        return Stack(0.0, (1 / members,) * members, (0.0,) * members)
    fitted = LogisticRegression(max_iter=1000, tol=1e-6).fit(features, target)
    found = np.concatenate([fitted.intercept_, fitted.coef_[0]]).astype(np.float64)
    intercept, *weights = np.round(found, DECIMALS).tolist()
    return Stack(intercept, tuple(weights[:members]), tuple(weights[members:]))


def apply_stack(own: Sequence[StoredMeans], around: Iterable[StoredMeans], stack: Stack) -> np.ndarray:
    """The stacked values.

    Args:
        own: for each member its stored values, or their means over folds.
        around: may be computed member by member, as it takes four times the memory of stored values.

    Shapes:
        own, around: (...) each; returned as uint8.
    """
    log_odds = np.full(own[0].numerators.shape, stack.intercept, dtype=np.float32)
    for levels, weights in ((own, stack.own), (around, stack.around)):
        for (numerators, denominator), weight in zip(levels, weights, strict=True):
            log_odds += (np.float32(weight) * _log_odds_table(denominator)).take(numerators)
    return np.rint(MAX_VALUE * expit(log_odds)).astype(np.uint8)


@lru_cache
def _log_odds_table(denominator: int) -> np.ndarray:
    """The log-odds by numerator, (255 · denominator + 1,) float32."""
    return _log_odds(np.arange(MAX_VALUE * denominator + 1) / denominator)


def _log_odds(levels: np.ndarray) -> np.ndarray:
    return log_odds(levels.astype(np.float32))
