"""Search for folds of least imbalance: a greedy start and local search, compiled by numba.

The imbalance of a fold is the sum over features of (count * share - 1)², where `share` is the part of a feature that
the fold holds. It is computed in NumPy's order of summation: a seed gives the same folds as array operations over all
swaps, which take twelve times as long for 100,000 images of 4 classes.

Args of both functions:
    shares: (groups, features) float64, C-contiguous, the share of each feature that each group holds.
    count: number of folds.
"""

from functools import partial

import numpy as np

from pipeline.numba_jit import cached_njit

MIN_GAIN = 1e-12  # a smaller decrease of the imbalance may be a rounding error
ROUNDING = 1e-14  # of an estimated change of the imbalance: at most this · features · (features + imbalance)
PAIRWISE = 128  # numbers that NumPy sums without splitting them in two halves


@cached_njit
def assign_greedily(shares: np.ndarray, count: int, order: np.ndarray) -> np.ndarray:
    """The fold of each group, (groups,) int64: in the given order, each gets the fold whose imbalance grows least."""
    sums, fold = np.zeros((count, shares.shape[1])), np.empty(len(shares), np.int64)
    before, after = np.full(count, float(shares.shape[1])), np.empty(count)
    for group in order:
        best = 0
        for each in range(count):
            after[each] = _imbalance(sums[each], shares[group], count)
            if after[each] - before[each] < after[best] - before[best]:
                best = each
        fold[group] = best
        before[best] = after[best]
        sums[best] += shares[group]
    return fold


@cached_njit
def improve_locally(shares: np.ndarray, count: int, start: np.ndarray, trials: np.ndarray) -> np.ndarray:
    """The fold of each group, (groups,) int64, after swaps and moves of the groups `trials` that lower the imbalance.

    For each of them it is the best of all swaps with a group of another fold and of all moves to another fold. All
    changes are estimated, with one product per feature; those that may be the best are then computed.

    Args:
        start: (groups,) int64, the folds to improve.
        trials: (trials,) int64.
    """
    groups, features = shares.shape
    fold, changes = np.empty(groups + count, np.int64), np.empty(groups + count)
    fold[:groups] = start
    fold[groups:] = np.arange(count)  # a move to a fold is a swap with an empty group of that fold
    nothing, sums, before = np.zeros(features), np.zeros((count, features)), np.empty(count)
    for group in range(groups):
        sums[fold[group]] += shares[group]
    for group in trials:
        here, own = fold[group], shares[group]
        error = ROUNDING * features * features
        for each in range(count):
            before[each] = _imbalance(sums[each], nothing, count)
            error += ROUNDING * features * before[each]
        limit = error + min(_estimate_changes(shares, fold, sums, group, changes), -MIN_GAIN)
        best, least = -1, -MIN_GAIN
        rest, joined = sums[here] - own, sums + own
        for other in range(groups + count):
            if changes[other] > limit:
                continue
            there, theirs = fold[other], shares[other] if other < groups else nothing
            after_here = _imbalance(rest, theirs, count)
            after_there = _imbalance(joined[there], -theirs, count)
            change = after_here + after_there - before[here] - before[there]
            if change < least:
                best, least = other, change
        if best >= 0:
            there, theirs = fold[best], shares[best] if best < groups else nothing
            sums[here] += theirs - own
            sums[there] += own - theirs
            fold[group] = there
            if best < groups:
                fold[best] = here
    return fold[:groups]


@cached_njit
def _estimate_changes(shares: np.ndarray, fold: np.ndarray, sums: np.ndarray, group: int, changes: np.ndarray) -> float:
    """Write the change of the imbalance by each swap of a group, up to rounding; returns the least.

    For shares t of the other group, o of this one, and sums s of its fold and s' of this one's fold, it is
    2 count² (t · (t + s' - s - 2 o) + o · (o + s - s')).

    Args:
        fold: (groups + count,), the last ones of empty groups.
        changes: (groups + count,) float64 to write to; infinite within the fold.
    """
    count, here, own, least = len(sums), fold[group], shares[group], np.inf
    slopes, constants = np.empty_like(sums), np.empty(count)
    for there in range(count):
        constants[there] = 2 * count**2 * _product(own, sums[there] - sums[here])
        slopes[there] = sums[here] - sums[there] - 2 * own
    for other in range(len(fold)):
        there = fold[other]
        changes[other] = constants[there] if there != here else np.inf
        if there != here and other < len(shares):
            changes[other] += 2 * count**2 * _product(shares[other], slopes[there])
        least = min(least, changes[other])
    return least


@partial(cached_njit, fastmath=True)
def _product(a: np.ndarray, b: np.ndarray) -> float:
    """The sum of a · (a + b), added in any order: several at a time."""
    total = 0.0
    for each in range(len(a)):
        total += a[each] * (a[each] + b[each])
    return total


@cached_njit
def _imbalance(sums: np.ndarray, added: np.ndarray, count: int) -> float:
    """The imbalance of a fold with some shares added, equal to NumPy's sum over one row."""
    if len(sums) > PAIRWISE:
        half = len(sums) // 2 - len(sums) // 2 % 8
        first = _imbalance(sums[:half], added[:half], count)
        return first + _imbalance(sums[half:], added[half:], count)
    total, rest = 0.0, len(sums) - len(sums) % 8
    if rest:
        lanes = np.zeros(8)
        for each in range(rest):
            lanes[each % 8] += ((sums[each] + added[each]) * count - 1) ** 2
        total = ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]))
    for each in range(rest, len(sums)):
        total += ((sums[each] + added[each]) * count - 1) ** 2
    return total
