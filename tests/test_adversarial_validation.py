"""Adversarial validation: known differences, none, groups that leak, and weights against the ratio of the densities."""

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_info, threadpool_limits

from benchmarks import adversarial_validation as benchmark
from pipeline.metrics import Scores
from pipeline.statistics import adversarial_validation
from pipeline.statistics.adversarial_validation import MAX_WEIGHT, MIN_GROUPS, compare_images, too_few, weight_scores


def draw(seed, count, *, shift=0.0, columns=6):
    """Normal statistics; the first one has mean `shift`."""
    values = np.random.default_rng(seed).normal(size=(count, columns))
    values[:, 0] += shift
    return pd.DataFrame(values, columns=[f"s{number}" for number in range(columns)])


def compare(train, test, **options):
    return compare_images(train, test, range(len(train)), range(len(train), len(train) + len(test)), **options)


def test_auc_of_repeated_images_equals_that_of_scikit_learn_with_ties():
    rng = np.random.default_rng(0)
    rank, label, counts = rng.integers(0, 9, 60), rng.integers(0, 2, 60), rng.integers(0, 3, 60)
    repeated = np.repeat(np.arange(60), counts)
    expected = roc_auc_score(label[repeated], rank[repeated])
    assert adversarial_validation._auc(rank, label, counts) == pytest.approx(expected)


def test_a_shifted_statistic_is_named_first_and_the_images_differ():
    found = compare(draw(0, 200), draw(1, 100, shift=1.5))
    assert found.differ
    first = found.differences[0]
    assert first.statistic == "s0"
    assert (first.train, first.test) == pytest.approx((0, 1.5), abs=0.3)
    assert first.distance == pytest.approx(0.55, abs=0.12)  # 2 Φ(.75) − 1
    assert found.auc.low < found.auc.mean < found.auc.high
    assert found.auc.mean == pytest.approx(0.856, abs=0.06)  # Φ(1.5 / √2), the best possible


def test_weights_follow_the_ratio_of_the_densities():
    # Of normal distributions with means 0 and 1 the ratio is exp(x − ½).
    train = draw(0, 600)
    weights = compare(train, draw(1, 600, shift=1)).weights
    assert weights.mean() == pytest.approx(1)
    assert np.corrcoef(np.log(weights), train["s0"])[0, 1] > 0.85
    assert np.polyfit(train["s0"], np.log(weights), 1)[0] == pytest.approx(1, abs=0.3)


def test_equal_sets_do_not_differ_and_all_images_count_alike():
    for seed in range(3):
        found = compare(draw(seed, 150), draw(100 + seed, 60))
        assert not found.differ
        assert found.effective > 0.8 * 150


def test_a_classifier_that_is_wrong_more_often_than_right_has_found_nothing():
    label = np.repeat([0, 1], 50)
    assert adversarial_validation._calibrate(np.where(label == 1, -1.0, 1.0), label).tolist() == [0.5] * 100


def test_groups_are_held_out_together():
    # Ten images of a group share a fingerprint. A classifier that has seen the group recognises its other images.
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(80), 5)
    values = pd.DataFrame(rng.normal(size=(80, 4))[groups] + 0.05 * rng.normal(size=(400, 4)))
    test, train = groups < 40, groups >= 40
    assert compare(values[train], values[test]).auc.mean > 0.9
    grouped = compare_images(values[train], values[test], groups[train].tolist(), groups[test].tolist())
    assert not grouped.differ


def test_a_copy_of_a_training_image_in_the_test_set_is_held_out_with_it():
    # Half of the test images are of the kind of the training images, and copies of some: those hide no shift.
    train, shifted = draw(0, 200), draw(1, 100, shift=1.5)
    test = pd.concat([train[:100] + 1e-3, shifted], ignore_index=True)
    apart = compare(train, test)
    together = compare_images(train, test, range(200), [*range(100), *range(200, 300)])
    assert not apart.differ
    assert together.differ
    assert together.auc.mean > apart.auc.mean + 0.1


def test_weights_have_a_largest_ratio_and_the_effective_number_is_kish_s():
    found = compare(draw(0, 100), draw(1, 100, shift=4))
    assert found.weights.max() / found.weights.min() <= MAX_WEIGHT**2 * (1 + 1e-9)
    weights = found.weights[found.weights > found.weights.min() * (1 + 1e-9)]  # the others are like no test image
    assert found.effective == pytest.approx(weights.sum() ** 2 / (weights**2).sum())
    assert 1 < found.effective < 50


def test_of_sets_that_are_told_apart_perfectly_no_image_counts():
    assert compare(draw(0, 100), draw(1, 100, shift=80)).effective == 0


def test_correlated_statistics_are_named_once():
    train, test = draw(0, 100), draw(1, 100, shift=2)
    train["copy"], test["copy"] = 3 * train["s0"] + 1, 3 * test["s0"] + 1
    assert {"s0", "copy"} & {each.statistic for each in compare(train, test).differences} == {"s0"}


def test_classifiers_are_trained_in_one_thread(monkeypatch):
    # Sums of several threads are rounded differently: folds by likeness would depend on the machine.
    found, fit = set(), HistGradientBoostingClassifier.fit

    def spy(self, *arguments):
        found.update(pool["num_threads"] for pool in threadpool_info())
        return fit(self, *arguments)

    monkeypatch.setattr(HistGradientBoostingClassifier, "fit", spy)
    with threadpool_limits(2):
        compare(draw(0, 40), draw(1, 40))
    assert found == {1}


def test_weighted_scores_by_hand():
    # Two classes; the second counts in one image only. (1 · .5 + 3 · 1) / 4 and .25.
    scores = Scores(np.array([[0.5, 0.25], [1.0, 0.0]]), np.array([[1.0, 1.0], [1.0, 0.0]]))
    assert weight_scores(scores, np.array([1.0, 3.0])).mean() == pytest.approx((0.875 + 0.25) / 2)
    assert weight_scores(scores, np.ones(2)).mean() == scores.mean()


def test_too_few_images_are_refused_with_their_number():
    assert (
        too_few("test", 3, 3)
        == f"3 test images are too few to tell whether they differ, at least {MIN_GROUPS} are needed"
    )
    in_groups = too_few("training", 900, 4)
    assert in_groups.startswith("900 training images in 4 groups are too few")
    assert in_groups.endswith("at least 30 groups are needed")
    assert too_few("test", MIN_GROUPS, MIN_GROUPS) is None
    with pytest.raises(ValueError, match="3 test images are too few"):
        compare(draw(0, 100), draw(1, 3))


@pytest.mark.slow
@pytest.mark.parametrize("name", benchmark.SHIFTS)
def test_the_weighted_score_is_closer_to_the_truth_and_the_plain_one_without_a_shift(name, monkeypatch):
    monkeypatch.setattr(benchmark, "TRUTH", 4000)
    shift = benchmark.SHIFTS[name]
    runs = pd.DataFrame([benchmark.run(shift, 200, 100, seed) for seed in range(5)])
    if name == "none":
        assert (runs["weighted"] - runs["plain"]).abs().mean() < 0.01  # the spread of the plain score is .03
        return
    errors = (runs[["plain", "weighted"]] - benchmark.true_score(shift)).abs()
    assert (errors["weighted"] < errors["plain"]).sum() >= 4
