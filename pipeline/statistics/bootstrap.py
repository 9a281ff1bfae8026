"""Confidence intervals of a mean score: the percentile bootstrap, over images or over whole groups.

Each draw takes as many images as were scored, with replacement, and computes their mean score. Slices of one patient or
frames of one video are similarly easy or hard: 600 images of 20 patients are closer to 20 observations than to 600, and
an interval from draws of single images is too narrow. With groups, whole groups are drawn.

With fewer than about 20 groups the interval is still too narrow. If only some images count for a metric, a draw without
any of them has no score and is left out. If fewer than two groups count, there is no interval, and its ends are NaN.

Source:
    Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13; for whole groups: Field and Welsh,
    Bootstrapping clustered data, 2007, https://doi.org/10.1111/j.1467-9868.2007.00593.x.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pipeline.metrics import Scores, ratio

DRAWS = 2000
LEVEL = 0.95
BLOCK = 1 << 20  # weights in memory at once, 8 MiB
TIE = 1e-12  # scores that differ by less are equal: rounding errors


class Interval(NamedTuple):
    """A mean, and the ends of its confidence interval; NaN if there is none."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return _format_interval(self.low, self.high, "{:.4f}")


class Difference(NamedTuple):
    """The mean of a − b, the ends of its interval, and the share of draws in which a is better."""

    mean: float
    low: float
    high: float
    p_better: float  # 0 to 1; a draw in which both are equal counts half

    def __str__(self) -> str:
        return _format_interval(self.low, self.high, "{:+.4f}")


def _format_interval(low: float, high: float, number: str) -> str:
    if np.isnan(low):
        return "no interval: fewer than two groups count"
    return f"{LEVEL:.0%} interval {number.format(low)} to {number.format(high)}"


def interval(
    scores: Scores | np.ndarray,
    groups: np.ndarray | None = None,
    *,
    seed: int = 0,
    draws: int = DRAWS,
) -> Interval:
    """The score of the images, and the central interval that holds a share of LEVEL of the drawn scores.

    Args:
        scores: of N images; an array (N,) if each image counts the same.
        groups: (N,); images with the same value are drawn together; None draws images.
        draws: number of draws.

    Raises:
        ValueError: for scores that are not finite, groups of another length, or fewer than two images or groups.
    """
    scores = Scores.from_values(scores)
    low, high = _ends(_drawn_means([scores], groups, seed, draws)[:, 0])
    return Interval(scores.mean(), low, high)


def paired(
    a: Scores | np.ndarray,
    b: Scores | np.ndarray,
    groups: np.ndarray | None = None,
    *,
    seed: int = 0,
    draws: int = DRAWS,
) -> Difference:
    """The difference of the scores a and b of the same images, both computed from the same draws.

    The difficulty that an image has for both cancels out, so the interval is far narrower than those of a and b.

    Args:
        a, b: of the same N images, in the same order; else as `interval`.

    Raises:
        ValueError: if a and b differ in length; else as `interval`.
    """
    a, b = Scores.from_values(a), Scores.from_values(b)
    if len(a) != len(b):
        raise ValueError(f"{len(a)} scores of a and {len(b)} of b: expected scores of the same images, to pair them")
    means = np.subtract(*_drawn_means([a, b], groups, seed, draws).T)
    p_better = np.mean(means > TIE) + np.mean(np.abs(means) <= TIE) / 2 if len(means) else np.nan
    low, high = _ends(means)
    return Difference(a.mean() - b.mean(), low, high, float(p_better))


def _ends(means: np.ndarray) -> tuple[float, float]:
    if not len(means):
        return float("nan"), float("nan")
    low, high = np.percentile(means, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return float(low), float(high)


def _drawn_means(candidates: list[Scores], groups: np.ndarray | None, seed: int, draws: int) -> np.ndarray:
    """The score of each candidate in each draw in which all have one, (draws or fewer, candidates)."""
    sums = [_per_group(each, groups) for each in candidates]
    if min(each.count_defined() for each in sums) < 2:
        return np.empty((0, len(sums)))
    means = draw_scores(sums, len(sums[0]), np.random.default_rng(seed), draws)
    return means[np.isfinite(means).all(axis=1)]


def draw_scores(sums: Sequence[Scores], count: int, rng: np.random.Generator, draws: int) -> np.ndarray:
    """The score of each of S candidates in each draw of `count` groups, with replacement, (draws, S).

    The number of times that each group is drawn is multinomial, and a score needs only sums over groups. Blocks of
    draws limit the memory and take the same random numbers as one large block.

    Args:
        sums: of each candidate over the same groups.
    """
    size = len(sums[0])
    scores, rows = np.empty((draws, len(sums))), max(1, BLOCK // size)
    for start in range(0, draws, rows):
        drawn = rng.multinomial(count, np.full(size, 1 / size), size=min(rows, draws - start))
        drawn_scores = [ratio(drawn @ each.numerator, drawn @ each.denominator) for each in sums]
        scores[start : start + rows] = np.stack(drawn_scores, axis=1)
    return scores


def _per_group(scores: Scores, groups: np.ndarray | None) -> Scores:
    """The checked sums over each group, or of each image.

    Raises:
        ValueError: for scores that are not finite, groups of another length, or fewer than two images or groups.
    """
    if not (np.isfinite(scores.numerator).all() and np.isfinite(scores.denominator).all()):
        bad = f"{np.count_nonzero(~np.isfinite(scores.numerator))} of {scores.numerator.size} not finite"
        raise ValueError(f"scores of {len(scores)} images, {bad}: expected finite scores of each image")
    if groups is not None and len(groups) != len(scores):
        raise ValueError(f"{len(groups)} groups for {len(scores)} scores: give one per image, in the same order")
    sums = scores.per_group(groups)
    if len(sums) < 2:
        what = "images" if groups is None else "groups"
        raise ValueError(f"{len(sums)} {what}: the bootstrap needs at least 2, to estimate how a mean varies")
    return sums
