"""The compiled search for balanced folds: equal to array operations over all swaps, to the bit."""

import numpy as np
import pytest

from pipeline.fold_search import _imbalance, assign_greedily, improve_locally


def imbalance(sums: np.ndarray) -> np.ndarray:
    return ((sums * len(sums) - 1) ** 2).sum(axis=1)


def greedy_by_arrays(shares: np.ndarray, count: int, order: np.ndarray) -> np.ndarray:
    sums, fold = np.zeros((count, shares.shape[1])), np.empty(len(shares), dtype=np.int64)
    for group in order:
        fold[group] = (imbalance(sums + shares[group]) - imbalance(sums)).argmin()
        sums[fold[group]] += shares[group]
    return fold


def local_by_arrays(shares: np.ndarray, count: int, start: np.ndarray, trials: np.ndarray) -> np.ndarray:
    """Every swap and move is computed in full."""
    fold, sums = start.copy(), np.zeros((count, shares.shape[1]))
    np.add.at(sums, fold, shares)
    for group in trials:
        here, own, before = fold[group], shares[group], imbalance(sums)
        others = np.concatenate([np.flatnonzero(fold != here), -1 - np.arange(count)])  # negative: a move
        there = np.where(others >= 0, fold[others], -1 - others)
        theirs = np.where(others[:, None] >= 0, shares[others], 0)
        after_here = (((sums[here] - own + theirs) * count - 1) ** 2).sum(axis=1)
        after_there = (((sums[there] + own - theirs) * count - 1) ** 2).sum(axis=1)
        change = np.where(there == here, 0, after_here + after_there - before[here] - before[there])
        best = change.argmin()
        if change[best] < -1e-12:
            sums[here] += theirs[best] - own
            sums[there[best]] += own - theirs[best]
            fold[group] = there[best]
            if others[best] >= 0:
                fold[others[best]] = here
    return fold


def random_shares(groups: int, features: int, seed: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).gamma(0.3, 1, (groups, features)) + 1e-6
    return drawn / drawn.sum(axis=0)


def symmetric_shares(groups: int, features: int, seed: int) -> np.ndarray:
    """Each group is the one before it, moved by one feature, and its own mirror image: swaps tie up to rounding."""
    half = np.random.default_rng(seed).gamma(0.3, 1, groups)
    offset = (np.arange(features) - np.arange(groups)[:, None]) % groups
    drawn = half[offset] + half[(-offset) % groups]
    return drawn / drawn.sum(axis=0)


# Numbers of features around 8 and 128: NumPy sums up to 7, up to 128 and more numbers in three different ways.
@pytest.mark.parametrize("features", [1, 7, 8, 29, 128, 129, 300])
@pytest.mark.parametrize("make_shares", [random_shares, symmetric_shares])
def test_search_is_that_of_array_operations(features, make_shares):
    moved = 0
    for seed, (groups, count) in enumerate([(3, 2), (17, 3), (60, 5), (150, 4)]):
        shares = make_shares(groups, features, seed)
        rng = np.random.default_rng(seed)
        order, trials = rng.permutation(groups), rng.integers(groups, size=60)
        greedy = assign_greedily(shares, count, order)
        assert np.array_equal(greedy, greedy_by_arrays(shares, count, order))
        dealt = np.arange(groups) % count  # far from balanced: most trials find a swap
        for start in (greedy, dealt):
            improved = improve_locally(shares, count, start, trials)
            assert np.array_equal(improved, local_by_arrays(shares, count, start, trials))
            moved += np.count_nonzero(improved != start)
    assert moved > 20


def test_swaps_that_tie_up_to_rounding_are_decided_as_by_arrays():
    for seed in range(100):  # an estimate alone decides some of them otherwise
        rng = np.random.default_rng(seed)
        groups, features, count = int(rng.integers(5, 40)), int(rng.integers(3, 12)), int(rng.integers(2, 6))
        present = rng.integers(0, 2, (groups, features)) + (np.arange(groups)[:, None] == np.arange(features) % groups)
        shares, start, trials = present / present.sum(axis=0), np.arange(groups) % count, rng.integers(groups, size=40)
        expected = local_by_arrays(shares, count, start, trials)
        assert np.array_equal(improve_locally(shares, count, start, trials), expected)


def test_start_is_left_as_it_is():
    shares, start = random_shares(20, 9, seed=1), np.arange(20) % 2
    improve_locally(shares, 2, start, np.arange(20))
    assert np.array_equal(start, np.arange(20) % 2)


@pytest.mark.parametrize("features", [1, 7, 8, 29, 128, 129, 300, 600])
def test_imbalance_is_that_of_numpy_to_the_bit(features):
    for seed, shares in enumerate(random_shares(40, features, seed=2)):
        sums = np.random.default_rng(seed).random(features)
        assert _imbalance(sums, shares, 5) == imbalance(np.stack([sums + shares] * 5))[0]
