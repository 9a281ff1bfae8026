"""How far a mean score could lie from where it lies: the percentile bootstrap, over images or over whole groups.

A set of images as large as the one that was scored is drawn from it with replacement, its mean is taken, and that many
times over. Slices of one patient or frames of one video share most of what makes them easy or hard: 600 images of 20
patients are nearer to 20 observations than to 600, and an interval that draws images one by one is too narrow. With
groups, whole groups are drawn.

Few groups make the interval too narrow all the same, below about 20 visibly so.

Source:
    Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13; of whole groups: Field and Welsh,
    Bootstrapping clustered data, 2007, https://doi.org/10.1111/j.1467-9868.2007.00593.x.
"""

from typing import NamedTuple

import numpy as np

DRAWS = 2000
LEVEL = 0.95
BLOCK = 1 << 20  # weights held at once, 8 MiB
TIE = 1e-12  # scores nearer than rounding errors are equal


class Interval(NamedTuple):
    """A mean, and the ends of its interval."""

    mean: float
    low: float
    high: float


class Difference(NamedTuple):
    """The mean of a − b, the ends of its interval, and the share of draws in which a is better."""

    mean: float
    low: float
    high: float
    p_better: float  # 0 to 1; a draw in which both are equal counts half


def interval(
    scores: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    seed: int = 0,
    draws: int = DRAWS,
    level: float = LEVEL,
) -> Interval:
    """The mean score of the images, and the interval that holds `level` of the means of drawn sets.

    Args:
        groups: images of one value are drawn together; None draws images.
        level: 0 to 1.

    Shapes:
        scores, groups: (N,).

    Raises:
        ValueError: for scores that are not finite, groups of another length, or fewer than two things to draw.
    """
    low, high = _ends(_drawn_means(scores, groups, seed, draws), level)
    return Interval(float(np.mean(scores)), low, high)


def paired(
    a: np.ndarray,
    b: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    seed: int = 0,
    draws: int = DRAWS,
    level: float = LEVEL,
) -> Difference:
    """How much better a is than b on the same images, image by image.

    What makes an image hard for both falls out of the difference, so it is far surer than two intervals side by side.

    Shapes:
        a, b, groups: (N,), in the same order of images.

    Raises:
        ValueError: if a and b differ in length; else as `interval`.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"{a.shape} and {b.shape} scores are not of the same images: nothing to pair")
    means = _drawn_means(a - b, groups, seed, draws)
    p_better = np.mean(means > TIE) + np.mean(np.abs(means) <= TIE) / 2
    low, high = _ends(means, level)
    return Difference(float(np.mean(a - b)), low, high, float(p_better))


def _ends(means: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.percentile(means, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


def _drawn_means(scores: np.ndarray, groups: np.ndarray | None, seed: int, draws: int) -> np.ndarray:
    """The mean score of each drawn set, (draws,).

    How often each of G groups is drawn in G draws is multinomial, and sums and sizes of groups are all that a mean
    needs. Blocks of draws keep the memory flat and take the same random numbers as one large block.
    """
    sums, sizes = _per_group(np.asarray(scores, dtype=np.float64), groups)
    rng, means = np.random.default_rng(seed), np.empty(draws)
    chances, rows = np.full(len(sums), 1 / len(sums)), max(1, BLOCK // len(sums))
    for start in range(0, draws, rows):
        drawn = rng.multinomial(len(sums), chances, size=min(rows, draws - start))
        means[start : start + rows] = drawn @ sums / (drawn @ sizes)
    return means


def _per_group(scores: np.ndarray, groups: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Sum of scores and number of images of each group, or of each image."""
    if scores.ndim != 1 or not np.isfinite(scores).all():
        bad = f"{np.count_nonzero(~np.isfinite(scores))} of {scores.size} not finite"
        raise ValueError(f"scores of shape {scores.shape}, {bad}: expected one finite score per image")
    if groups is None:
        sums, sizes = scores, np.ones(len(scores), dtype=np.int64)
    elif len(groups) != len(scores):
        raise ValueError(f"{len(groups)} groups for {len(scores)} scores: give one per image, in the same order")
    else:
        _, group = np.unique(groups, return_inverse=True)
        sums, sizes = np.bincount(group, scores), np.bincount(group)
    if len(sums) < 2:
        what = "images" if groups is None else "groups"
        raise ValueError(f"{len(sums)} {what} say nothing of how a mean varies: at least 2 are needed")
    return sums, sizes
