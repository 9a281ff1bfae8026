"""Confidence intervals of a score: the percentile bootstrap over images or whole groups, widened by what it leaves out.

Each draw takes as many images as were scored, with replacement, and computes their mean score. Slices of one patient or
frames of one video are similarly easy or hard: 600 images of 20 patients are closer to 20 observations than to 600, and
an interval from draws of single images is too narrow. With groups, whole groups are drawn.

The draws are then spread in two ways; `benchmarks/calibration.py` measures the coverage with and without.

- Few groups: deviations from the mean are multiplied by √(n / (n − 1)) · t / z, as the interval of Student's t is wider
  than the normal one. n is the effective number of groups, which is smaller where a few have most of what counts.
- The luck of the choice: a cross-fitted score varies with the rules and weights that the sample happens to choose. A
  normal deviate is added, whose standard deviation is a share of the optimism (in-sample minus cross-fitted score):
  both come from the same luck. A fixed rule has no optimism.

A draw in which nothing counts for the metric has no score; it is left out and counted. With fewer than MIN_GROUPS
effective groups there is no interval: its ends are NaN.

Source:
    Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13. Whole groups: Field and Welsh,
    Bootstrapping clustered data, 2007, https://doi.org/10.1111/j.1467-9868.2007.00593.x. Few groups: Hesterberg, What
    teachers should know about the bootstrap, 2015, https://doi.org/10.1080/00031305.2015.1089789, who moves the
    percentiles instead; they never leave the range of the groups' scores. Effective number: Kish, Survey Sampling,
    1965.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri, stdtrit

from pipeline.metrics import Scores, ratio

DRAWS = 2000
LEVEL = 0.95
BLOCK = 1 << 20  # weights in memory at once, 8 MiB
MIN_GROUPS = 3  # effective, for an interval
LUCK = 0.5  # standard deviation of the luck of a choice, per optimism
LUCK_OF_PAIR = 0.3  # the same in a difference: choices on the same images share a part of their luck
NORMAL = ndtri((np.arange(32) + 0.5) / 32)  # quantiles: the same normal deviates for each draw
TIE = 1e-12  # scores that differ by less are equal: rounding errors


class Interval(NamedTuple):
    """A mean, and the ends of its confidence interval; NaN if there is none."""

    mean: float
    low: float
    high: float
    groups: float = np.nan  # effective number
    undefined: int = 0  # draws without a score, which are left out

    def __str__(self) -> str:
        return _format_interval(self, "{:.4f}")


class Difference(NamedTuple):
    """The mean of a − b, the ends of its interval, and the share of draws in which a is better."""

    mean: float
    low: float
    high: float
    p_better: float  # 0 to 1; a draw in which both are equal counts half
    groups: float = np.nan  # effective number
    undefined: int = 0  # draws without a score, which are left out

    def __str__(self) -> str:
        return _format_interval(self, "{:+.4f}")


def _format_interval(found: Interval | Difference, number: str) -> str:
    if np.isnan(found.low):
        known = "" if np.isnan(found.groups) else f", here {found.groups:.1f}"
        return f"no interval: it needs {MIN_GROUPS} effective groups{known}"
    left_out = f", without {found.undefined} draws that have no score" if found.undefined else ""
    return f"{LEVEL:.0%} interval {number.format(found.low)} to {number.format(found.high)}{left_out}"


def interval(
    scores: Scores | np.ndarray,
    groups: np.ndarray | None = None,
    *,
    optimism: float = 0.0,
    seed: int = 0,
    draws: int = DRAWS,
) -> Interval:
    """The score of the images, and the central interval that holds a share of LEVEL of the drawn scores.

    If all scores lie between 0 and 1, so do the ends.

    Args:
        scores: of N images; an array (N,) if each image counts the same.
        groups: (N,); images with the same value are drawn together; None draws images.
        optimism: in-sample minus cross-fitted score; 0 for a rule that was not chosen on these images.
        draws: number of draws.

    Raises:
        ValueError: for scores that are not finite, or groups of another length.
    """
    scores = Scores.from_values(scores)
    mean, drawn = scores.mean(), _draw([scores], groups, seed, draws)
    low, high = _ends(drawn.spread(drawn.scores[:, 0], mean, LUCK * max(optimism, 0)))
    if (scores.numerator >= 0).all() and (scores.numerator <= scores.denominator).all():
        low, high = np.clip([low, high], 0, 1).tolist()
    return Interval(mean, low, high, drawn.groups, drawn.undefined)


def paired(
    a: Scores | np.ndarray,
    b: Scores | np.ndarray,
    groups: np.ndarray | None = None,
    *,
    optimism: tuple[float, float] = (0.0, 0.0),
    seed: int = 0,
    draws: int = DRAWS,
) -> Difference:
    """The difference of the scores a and b of the same images, both computed from the same draws.

    The difficulty that an image has for both cancels out, so the interval is far narrower than those of a and b.

    Args:
        a, b: of the same N images, in the same order; else as `interval`.
        optimism: of a and of b.

    Raises:
        ValueError: if a and b differ in length; else as `interval`.
    """
    a, b = Scores.from_values(a), Scores.from_values(b)
    if len(a) != len(b):
        raise ValueError(f"{len(a)} scores of a and {len(b)} of b: expected scores of the same images, to pair them")
    mean, drawn = a.mean() - b.mean(), _draw([a, b], groups, seed, draws)
    means = drawn.spread(np.subtract(*drawn.scores.T), mean, LUCK_OF_PAIR * np.hypot(*np.maximum(optimism, 0)))
    p_better = np.mean(means > TIE) + np.mean(np.abs(means) <= TIE) / 2 if len(means) else np.nan
    return Difference(mean, *_ends(means), float(p_better), drawn.groups, drawn.undefined)


def effective_groups(sums: Scores) -> float:
    """The number of groups of equal size whose mean varies as much: 1 / Σ w², with w a group's share of what counts.

    Args:
        sums: over the images of each group.
    """
    total = sums.denominator.sum(axis=0)
    if not total.any():
        return 0.0
    shares = (sums.denominator[:, total > 0] / total[total > 0]).mean(axis=1)
    return float(1 / (shares**2).sum())


def student_factor(groups: float) -> float:
    """How much wider than a percentile interval Student's is, for an effective number of groups above 1.

    >>> round(student_factor(5), 2), round(student_factor(20), 2), round(student_factor(1000), 2)
    (1.58, 1.1, 1.0)
    """
    level = 0.5 + LEVEL / 2
    return float(np.sqrt(groups / (groups - 1)) * stdtrit(groups - 1, level) / ndtri(level))


class _Drawn(NamedTuple):
    """The score of each candidate in each draw in which all have one."""

    scores: np.ndarray  # (draws or fewer, candidates); none with fewer than MIN_GROUPS groups
    groups: float  # effective number
    undefined: int

    def spread(self, means: np.ndarray, mean: float, luck: float) -> np.ndarray:
        """Drawn means, widened for few groups and for luck, its standard deviation."""
        if not len(means):
            return means
        spread = mean + student_factor(self.groups) * (means - mean)
        return (spread[:, None] + luck * NORMAL).ravel() if luck else spread


def _ends(means: np.ndarray) -> tuple[float, float]:
    if not len(means):
        return float("nan"), float("nan")
    low, high = np.percentile(means, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return float(low), float(high)


def _draw(candidates: list[Scores], groups: np.ndarray | None, seed: int, draws: int) -> _Drawn:
    sums = [_per_group(each, groups) for each in candidates]
    effective = min(map(effective_groups, sums))
    if effective < MIN_GROUPS - TIE:
        return _Drawn(np.empty((0, len(sums))), effective, 0)
    scores = draw_scores(sums, len(sums[0]), np.random.default_rng(seed), draws)
    defined = np.isfinite(scores).all(axis=1)
    return _Drawn(scores[defined], effective, draws - int(defined.sum()))


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
        scores[start : start + rows] = score_draws(sums, drawn)
    return scores


def score_draws(sums: Sequence[Scores], drawn: np.ndarray) -> np.ndarray:
    """The score of each of S candidates in each draw, (draws, S), from how often it has each group, (draws, groups)."""
    return np.stack([ratio(drawn @ each.numerator, drawn @ each.denominator) for each in sums], axis=1)


def _per_group(scores: Scores, groups: np.ndarray | None) -> Scores:
    """The checked sums over each group, or of each image.

    Raises:
        ValueError: for scores that are not finite, or groups of another length.
    """
    if not (np.isfinite(scores.numerator).all() and np.isfinite(scores.denominator).all()):
        bad = f"{np.count_nonzero(~np.isfinite(scores.numerator))} of {scores.numerator.size} not finite"
        raise ValueError(f"scores of {len(scores)} images, {bad}: expected finite scores of each image")
    if groups is not None and len(groups) != len(scores):
        raise ValueError(f"{len(groups)} groups for {len(scores)} scores: give one per image, in the same order")
    return scores.per_group(groups)
