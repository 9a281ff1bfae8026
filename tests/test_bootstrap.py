"""The bootstrap: resamples by hand and by a loop, and the coverage of the intervals."""

import tracemalloc

import numpy as np
import pytest
from scipy.special import ndtri

from pipeline.metrics import Scores
from pipeline.statistics import bootstrap
from pipeline.statistics.bootstrap import (
    Difference,
    Interval,
    draw_scores,
    effective_groups,
    interval,
    paired,
    student_factor,
)


def loop_means(scores, groups, draws):
    """Means of resamples of groups, by a loop."""
    rng, names = np.random.default_rng(1), np.unique(groups)
    resamples = [rng.choice(names, len(names)) for _ in range(draws)]
    return np.array([np.concatenate([scores[groups == name] for name in each]).mean() for each in resamples])


def drawn_means(scores, groups, draws=2000):
    sums = Scores.from_values(scores).per_group(groups)
    return draw_scores([sums], len(sums), np.random.default_rng(0), draws)[:, 0]


def test_interval_of_equal_scores_is_that_score():
    assert interval(np.full(9, 0.25))[:3] == (0.25, 0.25, 0.25)


def test_mean_of_a_resample_is_the_sum_of_its_scores_over_its_number_of_images():
    # One image of group a has 0, three of b have 1. Drawn are aa (0), bb (1) and, half of the time, ab: 3 of 4 images,
    # not the .5 that a mean of groups would give.
    means = drawn_means(np.array([1.0, 0.0, 1.0, 1.0]), np.array(["b", "a", "b", "b"]))
    assert np.unique(means).tolist() == [0, 0.75, 1]
    assert np.mean(means == 0.75) == pytest.approx(0.5, abs=0.04)


def test_draws_equal_a_loop_over_resampled_groups():
    rng = np.random.default_rng(0)
    groups = rng.integers(12, size=60)
    scores = rng.normal(size=12)[groups] + rng.normal(size=60)
    expected = np.percentile(loop_means(scores, groups, 3000), [5, 95])
    assert np.percentile(drawn_means(scores, groups, 8000), [5, 95]) == pytest.approx(expected, abs=0.04)  # width 1


def test_interval_of_many_images_equals_the_normal_interval():
    scores = np.random.default_rng(0).normal(size=900)
    found = interval(scores)
    assert found.high - found.low == pytest.approx(2 * 1.96 * scores.std() / 30, rel=0.08)


@pytest.mark.parametrize("groups", [4, 8])
def test_interval_of_a_few_groups_is_as_wide_as_student_s(groups):
    # t of 3 degrees of freedom is 3.182, of 7 it is 2.365; the standard error has the variance with n - 1.
    scores = ndtri((np.arange(groups) + 0.5) / groups)
    t = {4: 3.182, 8: 2.365}[groups]
    found = interval(scores, draws=20_000)
    assert found.high - found.low == pytest.approx(2 * t * scores.std(ddof=1) / groups**0.5, rel=0.08)


def test_factor_of_few_groups_by_hand():
    # 5 groups: sqrt(5 / 4) · 2.776 / 1.960 = 1.584
    assert student_factor(5) == pytest.approx(1.584, abs=0.001)
    assert student_factor(1e6) == pytest.approx(1, abs=1e-5)


def test_effective_number_of_groups_by_hand():
    # Half of what counts is in one group, the other half in five equal ones: 1 / (1/4 + 5/100) = 3.33.
    assert effective_groups(Scores(np.zeros((6, 1)), np.array([[5.0], *[[1.0]] * 5]))) == pytest.approx(1 / 0.3)
    counting = np.array([[2.0, 0], [2.0, 0], [2.0, 0], [2.0, 0], [0, 0]])
    assert effective_groups(Scores(np.zeros((5, 2)), counting)) == 4, "a class and a group that do not count"
    assert effective_groups(Scores(np.zeros((5, 1)), np.zeros((5, 1)))) == 0


def test_luck_of_a_choice_adds_its_variance():
    # Optimism .4: the choice has a standard deviation of .2, the mean of 400 normal scores one of .05.
    scores = np.random.default_rng(0).normal(size=400)
    found = interval(scores, optimism=0.4)
    assert found.high - found.low == pytest.approx(2 * 1.96 * np.hypot(0.2, 0.05), rel=0.05)
    assert interval(scores, optimism=-0.4) == interval(scores)
    both = paired(scores, np.zeros(400), optimism=(0.4, 0.3))  # .3 · hypot(.4, .3) = .15
    assert both.high - both.low == pytest.approx(2 * 1.96 * np.hypot(0.15, 0.05), rel=0.05)


def test_interval_of_scores_between_0_and_1_stays_there():
    scores = np.array([1.0, 1.0, 1.0, 0.9])
    assert interval(scores).high == 1
    assert interval(scores * 2).high > 2


@pytest.mark.parametrize(("count", "size"), [(50, 1), (50, 4), (5, 4), (12, 2)])
def test_interval_covers_the_true_mean_in_about_95_of_100_samples(count, size):
    # Groups of `size` images that share most of what they differ by.
    rng = np.random.default_rng(size)
    groups, covered = np.repeat(np.arange(count), size), 0
    for _ in range(300):
        scores = 0.3 + rng.normal(size=count)[groups] + 0.2 * rng.normal(size=count * size)
        found = interval(scores, groups, draws=300)
        covered += found.low <= 0.3 <= found.high
    assert 0.92 <= covered / 300 <= 0.98


def test_interval_that_ignores_groups_is_too_narrow():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(30), 8)
    scores = rng.normal(size=30)[groups]
    width = [np.ptp(interval(scores, given)[1:3]) for given in (groups, None)]
    assert width[0] == pytest.approx(8**0.5 * student_factor(30) * width[1], rel=0.15)  # 8 equal images count once


def test_groups_of_one_image_give_the_interval_without_groups():
    scores = np.random.default_rng(0).normal(size=40)
    assert interval(scores, np.arange(40)) == pytest.approx(interval(scores))


def test_interval_does_not_depend_on_the_order_of_the_images():
    rng = np.random.default_rng(0)
    scores, groups, order = rng.normal(size=40), rng.integers(8, size=40), rng.permutation(40)
    assert interval(scores[order], groups[order]) == pytest.approx(interval(scores, groups))


def test_interval_depends_on_the_seed_and_not_on_the_block_size(monkeypatch):
    scores = np.random.default_rng(0).normal(size=50)
    expected = interval(scores, seed=3)
    assert interval(scores, seed=4) != expected
    monkeypatch.setattr(bootstrap, "BLOCK", 350)  # 7 draws at once: the last block is a rest
    assert interval(scores, seed=3) == pytest.approx(expected)


def test_memory_does_not_hold_all_resamples_of_20000_images():
    scores = np.random.default_rng(0).normal(size=20_000)
    tracemalloc.start()
    interval(scores, draws=150)  # 24 MB in one array of weights
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * 8 * bootstrap.BLOCK < 150 * 20_000 * 8 * 1.1


# ---------------------------------------------------------------------------------------------- pairs


def test_paired_interval_detects_a_difference_that_two_separate_intervals_miss():
    rng = np.random.default_rng(0)
    b = rng.normal(size=200)  # images differ by 1
    a = b + 0.05 + 0.1 * rng.normal(size=200)  # a is better by .05
    found = paired(a, b)
    assert found[:3] == pytest.approx(interval(a - b)[:3])
    assert found.low > 0
    assert interval(a).low < interval(b).high


def test_swapping_a_pair_negates_its_difference():
    rng = np.random.default_rng(0)
    a, b, groups = rng.normal(size=60), rng.normal(size=60), rng.integers(15, size=60)
    there = paired(a, b, groups, optimism=(0.1, 0.2))
    back = paired(b, a, groups, optimism=(0.2, 0.1))
    assert there[:4] == pytest.approx((-back.mean, -back.high, -back.low, 1 - back.p_better))


def test_p_better_by_hand():
    # a is better by 4 on one image and worse by .5 on two: better in all draws but the 8 of 27 without the first image.
    found = paired(np.array([4.0, 0.0, 0.0]), np.array([0.0, 0.5, 0.5]))
    assert found.p_better == pytest.approx(19 / 27, abs=0.03)


def test_resamples_with_equal_scores_count_half():
    assert paired(np.ones(5), np.ones(5))[:4] == (0, 0, 0, 0.5)


# ---------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("scores", "groups", "message"),
    [
        ([0.5, np.nan, 0.5], None, "of 3 images, 1 of 3 not finite"),
        ([[0.5, 0.5]], None, r"\(1, 2\)"),
        ([0.5, 0.5], ["a"], "1 groups for 2 scores"),
    ],
)
def test_scores_that_cannot_be_resampled_are_refused(scores, groups, message):
    with pytest.raises(ValueError, match=message):
        interval(np.array(scores), None if groups is None else np.array(groups))


def test_scores_of_different_images_are_not_paired():
    with pytest.raises(ValueError, match="3 scores of a and 2 of b"):
        paired(np.zeros(3), np.zeros(2))


def test_resamples_without_a_scored_image_are_left_out():
    scores = Scores(np.array([[1.0], [0.0], [0.5], *[[0.0]] * 17]), np.array([[1.0], [1.0], [1.0], *[[0.0]] * 17]))
    found = interval(scores)
    assert found.mean == 0.5
    assert 0 <= found.low < 0.5 < found.high <= 1
    worse = paired(scores, Scores(scores.numerator / 2, scores.denominator))
    assert worse.high > 0
    assert 0 < worse.p_better <= 1


@pytest.mark.parametrize(("counting", "number"), [(0, "0.0"), (1, "1.0"), (2, "2.0")])
def test_with_fewer_than_three_scored_groups_the_interval_is_missing_with_their_number(counting, number):
    possible = np.zeros((20, 1))
    possible[:counting] = 1
    scores = Scores(possible * 0.7, possible)
    found, difference = interval(scores), paired(scores, scores)
    assert np.isnan([found.low, found.high, difference.low, difference.high, difference.p_better]).all()
    assert str(found) == str(difference) == f"no interval: it needs 3 effective groups, here {number}"


@pytest.mark.parametrize(("scores", "groups"), [([0.5, 0.7, 0.9], ["a"] * 3), ([0.5], None), ([], None)])
def test_images_of_one_group_have_a_score_and_no_interval(scores, groups):
    found = interval(np.array(scores), None if groups is None else np.array(groups))
    assert found.mean == pytest.approx(np.mean(scores) if scores else np.nan, nan_ok=True)
    assert np.isnan([found.low, found.high]).all()
    assert found.groups == min(len(scores), 1)


def test_draws_without_a_score_are_counted():
    # 3 of 20 images count: (17 / 20)^20 = 3.9 % of the draws have none of them.
    possible = np.zeros((20, 1))
    possible[:3] = 1
    found = interval(Scores(possible * np.array([[0.2], [0.5], [0.8], *[[0]] * 17]), possible))
    assert found.undefined / bootstrap.DRAWS == pytest.approx(0.85**20, abs=0.012)
    assert str(found).endswith(f", without {found.undefined} draws that have no score")
    assert interval(np.arange(9.0)).undefined == 0


def test_an_interval_is_printed_with_its_bounds():
    assert str(Interval(0.5, np.nan, np.nan)) == "no interval: it needs 3 effective groups"
    assert str(Interval(0.5, 0.4, 0.61)) == "95% interval 0.4000 to 0.6100"
    assert str(Difference(0.1, -0.1, 0.3, 0.9)) == "95% interval -0.1000 to +0.3000"
